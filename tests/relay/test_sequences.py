"""Numbers and accounts: each message is delivered once or counted as lost once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.relay.sequences import (
    EARLY,
    MOST_READ,
    PASSED,
    Account,
    Books,
    Mark,
    Numbers,
    Positions,
)


def account(covered: Iterable[str] = ("*",), **marks: int) -> Account:
    """Answer one whose streams are known from where *marks* say."""
    made = Account("s", "e")
    made.begin({stream: Mark(number) for stream, number in marks.items()}, covered)
    return made


def test_claims_are_held_for_so_many_streams_only() -> None:
    """Whoever claims makes up names; beyond that each is believed at once."""
    reader = Account("s", "e", most=10)
    reader.begin({}, ["*"])
    lost = sum(reader.claim(f"c{number}", Mark(1), until=5.0) for number in range(15))
    assert lost == 5
    assert next(reader.due(5.0)) == ("c0", 1)


def test_what_is_left_out_is_lost() -> None:
    """Numbers are without holes, so a hole is a loss."""
    reader = account()
    assert [reader.take("c", number) for number in (1, 2, 5, 6)] == [0, 0, 2, 0]


def test_what_came_or_was_counted_is_not_delivered() -> None:
    """It came by two ways, or after something that was sent later."""
    reader = account()
    reader.take("c", 5)
    assert [reader.take("c", number) for number in (5, 3, 1, 6)] == [PASSED, PASSED, PASSED, 0]


def test_a_claim_counts_the_tail() -> None:
    """Nothing may follow for hours."""
    reader = account()
    reader.take("c", 1)
    assert reader.claim("c", Mark(4)) == 3
    assert reader.claim("c", Mark(4)) == 0
    assert reader.take("c", 4) == PASSED


def test_what_was_sent_before_somebody_joined_is_not_lost() -> None:
    """They did not ask for it."""
    reader = account(c=17)
    assert reader.take("c", 17) == PASSED
    assert reader.take("c", 18) == 0
    assert reader.claim("c", Mark(18)) == 0


def test_a_channel_that_was_not_named_begins_at_one() -> None:
    """It has no messages yet, so its first ones can be lost, too."""
    assert account(c=17).take("d", 3) == 2


def test_before_it_is_known_where_a_stream_begins_nothing_is_delivered_or_lost() -> None:
    """It may be on its way since the channel was wanted a first time."""
    reader = account(("a*",))
    assert reader.take("b", 9) == EARLY
    assert reader.claim("b", Mark(12)) == 0
    assert reader.begin({"b": Mark(12)}, ("b",)) == {}
    assert reader.take("b", 13) == 0


def test_a_retained_value_comes_before_that_and_once() -> None:
    """It is replayed before it is said where the streams begin."""
    reader = Account("s", "e")
    assert reader.take("c", 5, ret=True) == 0
    assert reader.take("c", 5, ret=True) == PASSED
    assert reader.begin({"c": Mark(9)}, ("c",)) == {}
    assert [reader.take("c", 9), reader.take("c", 10)] == [PASSED, 0]


def test_a_retained_value_may_be_newer_than_what_came() -> None:
    """After a connection broke: the value is had again, what was before it is lost."""
    reader = account()
    reader.take("c", 2)
    assert reader.take("c", 5, ret=True) == 2
    assert reader.begin({"c": Mark(6)}, ("*",)) == {"c": 1}


def test_what_was_sent_while_it_was_not_wanted_is_not_lost() -> None:
    """Who wants a channel again begins anew with it."""
    reader = account(("a*", "b"))
    reader.take("a1", 1)
    reader.take("b", 1)
    reader.forget(("a*",))
    assert reader.take("a1", 2) == EARLY
    assert reader.begin({"a1": Mark(50), "b": Mark(1)}, ("a*", "b")) == {}
    assert [reader.take("a1", 51), reader.take("b", 3)] == [0, 1]


def test_a_claim_is_held_while_it_may_come_another_way() -> None:
    """A hub is ahead of the source's own connection, say."""
    reader = account()
    assert reader.claim("c", Mark(3), until=5.0) == 0
    assert reader.claim("c", Mark(4), until=6.0) == 0
    assert reader.take("c", 1) == 0
    assert list(reader.due(4.9)) == []
    assert list(reader.due(5.0)) == [("c", 2)]
    assert reader.take("c", 4) == 0
    assert list(reader.due(9.0)) == []


def test_directed_streams_are_known_once_the_source_is() -> None:
    """They reach a node whether it wants the channel or not."""
    reader = Account("s", "e")
    assert reader.take("c\nme", 3) == EARLY
    reader.begin({"c\nme": Mark(3)}, ())
    assert [reader.take("c\nme", 5), reader.take("d\nme", 1)] == [1, 0]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "claim", "begin", "hold"]), st.integers(1, 30)
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 5))
def test_each_number_is_delivered_or_lost_exactly_once(
    steps: list[tuple[str, int]], base: int
) -> None:
    """Whatever order, however often, by messages or claims."""
    reader = account(c=base)
    delivered: list[int] = []
    lost = 0
    now = 0.0
    for what, number in steps:
        now += 1
        if what == "take":
            found = reader.take("c", number)
            if found >= 0:
                delivered.append(number)
                lost += found
        elif what == "begin":
            lost += sum(reader.begin({"c": Mark(number)}, ("*",)).values())
        else:
            lost += reader.claim("c", Mark(number), until=now + 3 if what == "hold" else 0.0)
        lost += sum(count for _, count in reader.due(now))
    lost += sum(count for _, count in reader.due(now + 3))
    lost += sum(count for _, count in reader.due(now + 9))
    lost += reader.claim("c", Mark(40))
    assert delivered == sorted(set(delivered))
    assert len(delivered) + lost == 40 - base


@given(st.lists(st.integers(0, 30), max_size=300), st.sets(st.integers(0, 300)))
def test_nothing_is_lost_by_being_forgotten(uses: list[int], losses: set[int]) -> None:
    """A node has room for four channels and its reader for eight, and thirty are used."""
    numbers, positions = Numbers(4), Positions(4)
    reader = Account("s", "e", most=8)
    reader.begin({}, ("*",))
    lost = 0
    for step, channel in enumerate(uses):
        stream = f"c{channel}"
        mark = numbers.following(stream)
        numbers.use(stream, mark)
        positions.move(stream, mark)
        if step not in losses:
            found = reader.take(stream, mark.number, mark.base)
            assert found >= 0
            lost += found
        elif step % 2:
            lost += sum(
                reader.claim(each, each_mark) for each, each_mark in positions.news().items()
            )
            positions.settle()
    # A reader that is told too late, of more than it has room for, may miss a loss. It never
    # counts one that was none.
    assert lost <= len(losses)
    lost += sum(reader.claim(each, mark) for each, mark in positions.marks.items())
    assert lost <= len(losses)
    assert len(reader) <= 8
    assert len(numbers) <= 4


@given(st.lists(st.integers(0, 30), max_size=300), st.sets(st.integers(0, 300)))
def test_forgotten_channels_are_counted_exactly_with_every_claim(
    uses: list[int], losses: set[int]
) -> None:
    """When each step's position is told, nothing is missed at all."""
    numbers, positions = Numbers(4), Positions(4)
    reader = Account("s", "e", most=8)
    reader.begin({}, ("*",))
    delivered = lost = 0
    for step, channel in enumerate(uses):
        stream = f"c{channel}"
        mark = numbers.following(stream)
        numbers.use(stream, mark)
        positions.move(stream, mark)
        if step not in losses:
            lost += reader.take(stream, mark.number, mark.base)
            delivered += 1
        lost += sum(reader.claim(each, each_mark) for each, each_mark in positions.news().items())
        positions.settle()
    assert delivered + lost == len(uses)


def test_a_reader_remembers_a_bounded_number_of_streams() -> None:
    """A peer that makes up channels costs some memory and no more."""
    reader = account()
    for number in range(MOST_READ + 5000):
        reader.take(f"c{number}", 1)
    assert len(reader) == MOST_READ


def test_positions_are_told_twice() -> None:
    """Once may be in vain."""
    positions = Positions()
    positions.move("c", Mark(1))
    assert positions.news() == {"c": Mark(1)}
    positions.settle()
    assert positions.news() == {"c": Mark(1)}
    positions.settle()
    assert positions.news() == {}


class TestBooks:
    def test_an_epoch_follows_another(self) -> None:
        """A process that starts anew counts from one."""
        books = Books()
        old = books.open("s", "1")
        old.begin({}, ("*",))
        old.take("c", 9)
        new = books.open("s", "2")
        assert books.of("s") is new
        assert books.is_over("s", "1")
        assert books.open_over("s", "1") is old

    def test_an_epoch_that_comes_again_is_known(self) -> None:
        """Of two nodes with one name the first may outlive the other."""
        books = Books()
        old = books.open("s", "1")
        books.open("s", "2")
        assert books.open("s", "1") is old
        assert not books.is_over("s", "1")

    def test_sources_are_bounded(self) -> None:
        """A hub may speak of any number of them."""
        books = Books(most=10)
        for number in range(50):
            books.open(f"s{number}", "1")
        assert len(books) <= 10

    def test_who_is_connected_is_not_forgotten_for_who_is_not(self) -> None:
        """Losses of those who are there are what counts."""
        books = Books(most=3)
        books.open("here", "1").paths["here"] = 2
        for number in range(50):
            books.open(f"s{number}", "1")
        assert books.of("here") is not None

    def test_former_epochs_are_bounded(self) -> None:
        """A process that crashes at each start has a new one each time."""
        books = Books()
        for number in range(2000):
            books.open("s", str(number))
        assert len(books) < 300


@pytest.mark.parametrize("number", [1, 57])
def test_a_forgotten_channel_begins_above_all_that_were(number: int) -> None:
    """So that whoever remembers it takes its messages for new ones, and knows none to be lost."""
    numbers = Numbers(1)
    for _ in range(number):
        numbers.use("c", numbers.following("c"))
    numbers.use("d", numbers.following("d"))
    assert numbers.following("c") == Mark(number + 1, number)
