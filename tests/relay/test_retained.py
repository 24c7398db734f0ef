"""Last values: the last one of each source and channel, and not for ever more of them."""

from __future__ import annotations

from sitebus.relay.envelope import Envelope
from sitebus.relay.patterns import Patterns
from sitebus.relay.retained import Retained

ALL = Patterns(["*"])


def put(retained: Retained, channel: str, number: int, src: str = "s", size: int = 0) -> None:
    data = Envelope("i", src, "e", channel, number, 1.0, ["x" * size]).encode()
    retained.put(src, channel, data)


def found(retained: Retained) -> list[tuple[str, str, int]]:
    return [(each.src, each.ch, each.seq) for each in retained.of(ALL)]


def test_the_last_value_of_each_source_and_channel_is_kept() -> None:
    """Two sources may have a state of the same name."""
    retained = Retained()
    for channel, number, src in (("a", 1, "s"), ("a", 2, "s"), ("b", 1, "s"), ("a", 5, "t")):
        put(retained, channel, number, src)
    assert found(retained) == [("s", "a", 2), ("s", "b", 1), ("t", "a", 5)]
    assert [each.seq for each in retained.of(Patterns(["a"]), "t")] == [5]
    assert list(retained.of(ALL, "u")) == []
    assert len(retained) == 3


def test_each_is_answered_as_a_value_of_its_own() -> None:
    """Whoever has one may change it."""
    retained = Retained()
    put(retained, "a", 1, size=1)
    for _ in range(2):
        (value,) = retained.of(ALL)
        assert value.args == ["x"]
        value.args.clear()


def test_the_oldest_goes_when_there_are_too_many() -> None:
    """Channels may be made up; what was put again is young."""
    retained = Retained(most=2)
    for channel, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        put(retained, channel, number)
    assert [each.ch for each in retained.of(ALL)] == ["a", "c"]
    assert retained.forgotten == 1


def test_the_oldest_go_when_they_are_too_large() -> None:
    """A few values may have as many bytes as thousands."""
    retained = Retained(most_bytes=1000)
    for number in range(1, 21):
        put(retained, "a", number, size=500)
    put(retained, "b", 1, size=500)
    assert [each.ch for each in retained.of(ALL)] == ["b"]
    assert len(retained) == 1


def test_a_source_that_has_most_makes_room() -> None:
    """Nobody puts away the values of others, be it by their number or by their size."""
    many, large = Retained(most=10), Retained(most_bytes=3000)
    for retained, size in ((many, 0), (large, 400)):
        put(retained, "state", 1, "quiet")
        for number in range(50):
            put(retained, f"c{number}", 1, "loud", size)
        assert found(retained)[0] == ("quiet", "state", 1)
        assert found(retained)[-1] == ("loud", "c49", 1)
    assert len(many) == 10


def test_one_that_is_too_large_for_all_is_not_kept() -> None:
    """And leaves nothing behind."""
    retained = Retained(most_bytes=1000)
    put(retained, "a", 1, size=2000)
    assert len(retained) == 0
    put(retained, "a", 2)
    assert found(retained) == [("s", "a", 2)]
