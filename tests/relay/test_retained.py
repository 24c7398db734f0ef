"""Last values: the last one of each source and channel, and not for ever more of them."""

from __future__ import annotations

from sitebus.relay.envelope import Envelope
from sitebus.relay.patterns import Patterns
from sitebus.relay.retained import Retained

ALL = Patterns(["*"])


def value(channel: str, number: int, src: str = "s") -> Envelope:
    return Envelope("i", src, "e", channel, number, 1.0)


def test_the_last_value_of_each_source_and_channel_is_kept() -> None:
    """Two sources may have a state of the same name."""
    retained = Retained()
    for each in (value("a", 1), value("a", 2), value("b", 1), value("a", 5, "t")):
        retained.put(each, 10)
    found = [(each.src, each.ch, each.seq) for each in retained.of(ALL)]
    assert found == [("s", "a", 2), ("s", "b", 1), ("t", "a", 5)]
    assert [each.seq for each in retained.of(Patterns(["a"]), "t")] == [5]


def test_the_oldest_goes_when_there_are_too_many() -> None:
    """Channels may be made up; what was put again is young."""
    retained = Retained(most=2)
    for each in (value("a", 1), value("b", 1), value("a", 2), value("c", 1)):
        retained.put(each, 10)
    assert [each.ch for each in retained.of(ALL)] == ["a", "c"]
    assert retained.forgotten == 1


def test_the_oldest_go_when_they_are_too_large() -> None:
    """A few values may have as many bytes as thousands."""
    retained = Retained(most_bytes=100)
    for number in range(20):
        retained.put(value("a", number), 60)
    retained.put(value("b", 1), 60)
    assert [each.ch for each in retained.of(ALL)] == ["b"]
    assert len(retained) == 1
