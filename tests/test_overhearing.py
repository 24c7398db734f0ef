"""Who overhears: a listener of every message on channels that match a pattern."""

from __future__ import annotations

import fnmatch
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitebus import Bus, ChannelFailures
from sitebus.errors import WouldDeadlock
from sitebus.listeners import Pattern

Heard = list[tuple[Any, ...]]


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus({"A": "B", "B": "A"}, None, "A", ("log", "news", "cache.all"))
    yield bus
    bus._loop.stop()


@pytest.fixture
def heard() -> Heard:
    return []


def noting(heard: Heard) -> Any:
    return lambda channel, *args, **kwargs: heard.append((channel, args, kwargs))


# Names.


@given(st.text("ab.*", max_size=8), st.text("ab.", max_size=12))
@example("*a*a*", "aba")
@example("ab*ba", "aba")
@example("*", "")
def test_a_star_is_any_run_of_characters(pattern: str, name: str) -> None:
    """As the shell has it, where nothing but the star means anything."""
    assert Pattern(pattern).matches(name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize("text", ["a?c", "[a]bc", "a.c", "abc "])
def test_nothing_else_in_a_pattern_means_anything(text: str) -> None:
    """A dot stands for a dot."""
    assert not Pattern(text).matches("abc")
    assert Pattern(text).matches(text)


def test_a_hostile_pattern_takes_no_time() -> None:
    """Patterns may come from other machines."""
    assert not Pattern("a*" * 2000 + "b").matches("a" * 200_000)


# Messages.


def test_a_channel_that_was_never_heard_of_is_overheard(bus: Bus, heard: Heard) -> None:
    """With its name, its values and its named values; and it is remembered nowhere."""
    bus.overhear("cache.*", noting(heard))
    assert bus.publish("cache.users", 1, two=2) == []
    assert bus.publish("cached", 3) == []
    assert heard == [("cache.users", (1,), {"two": 2})]
    assert "cache.users" not in bus.listeners


def test_listeners_and_who_overhears_run_in_order_of_priority(bus: Bus, heard: Heard) -> None:
    """Whichever came first; equal ones run in order of subscription."""
    bus.overhear("n*", lambda channel: heard.append(("late",)), 60)
    bus.subscribe("news", lambda: heard.append(("first",)))
    bus.overhear("*", lambda channel: heard.append(("second",)))
    bus.overhear("*", lambda channel: heard.append(("early",)), 1)
    bus.publish("news")
    assert heard == [("early",), ("first",), ("second",), ("late",)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=20))
def test_the_order_is_that_of_the_priorities(plan: list[tuple[bool, int]]) -> None:
    """On a channel that was there before, and on one that is declared afterwards."""
    bus = Bus({"A": "B"}, None, "A", ("log", "news"))
    ran: list[tuple[int, int]] = []

    def note(mark: tuple[int, int], *channel: str) -> None:
        ran.append(mark)

    for number, (overhears, priority) in enumerate(plan):
        listener = functools.partial(note, (priority, number))
        if overhears:
            bus.overhear("new*", listener, priority)
        else:
            bus.subscribe("news", listener, priority)
            bus.subscribe("newer", listener, priority)
    bus.publish("news")
    assert ran == sorted(ran)
    assert len(ran) == len(plan)
    before, ran[:] = list(ran), []
    bus.publish("newer")
    assert ran == before


def test_what_is_returned_overhearing_is_nobodys(bus: Bus) -> None:
    """Who publishes asks the channel's listeners."""
    bus.subscribe("news", lambda: "listener")
    bus.overhear("news", lambda channel: "spy")
    assert bus.publish("news") == ["listener"]


def test_a_failure_overhearing_is_a_failure(bus: Bus, heard: Heard) -> None:
    """The others run, and who publishes learns of it."""
    bus.subscribe("news", lambda: heard.append(("listener",)))
    bus.overhear("*ews", lambda channel: 1 // 0, 1)
    with pytest.raises(ChannelFailures, match="news") as caught:
        bus.publish("news")
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)
    assert heard == [("listener",)]


def test_who_overhears_by_several_patterns_hears_each_message_once(bus: Bus, heard: Heard) -> None:
    """Two patterns that overlap would double everything."""
    note = noting(heard)
    for pattern in ("cache.*", "*.all", "cache.all"):
        bus.overhear(pattern, note)
    bus.publish("cache.all")
    bus.publish("new.all")
    bus.forget("cache.*", note)
    bus.publish("cache.all")
    assert [channel for channel, _, _ in heard] == ["cache.all", "new.all", "cache.all"]


def test_overhearing_again_changes_the_priority(bus: Bus, heard: Heard) -> None:
    """As subscribing does."""
    note = noting(heard)
    bus.overhear("news", note, 90)
    bus.subscribe("news", lambda: heard.append(("listener",)))
    bus.overhear("news", note, 10)
    bus.publish("news")
    assert [each[0] for each in heard] == ["news", "listener"]


def test_a_decorator_overhears(bus: Bus, heard: Heard) -> None:
    """And the priority may be the listener's own."""

    @bus.overhear("cache.*")
    def note(channel: str) -> None:
        heard.append((channel,))

    bus.publish("cache.x")
    assert heard == [("cache.x",)]


@pytest.mark.parametrize(("pattern", "listener"), [(print, None), ("a", 3), (None, print)])
def test_what_is_no_pattern_or_no_listener_is_refused(
    bus: Bus, pattern: Any, listener: Any
) -> None:
    """At once, not at the first message."""
    with pytest.raises(TypeError, match=r"overhear|callable"):
        bus.overhear(pattern, listener)


def test_the_log_is_overheard_and_cannot_be_broken(bus: Bus, heard: Heard) -> None:
    """Nor made to speak for ever."""

    def answer(channel: str, message: str, level: int) -> None:
        heard.append((message,))
        bus.log(f"heard {message}")
        raise ValueError(message)

    bus.overhear("*", answer)
    bus.log("hello")
    assert heard == [("hello",)]


def test_coroutines_overhear(bus: Bus, heard: Heard) -> None:
    """And are waited for, or a publisher on the loop's thread is told how to."""

    async def note(channel: str, number: int) -> None:
        heard.append((channel, number))

    async def inside() -> None:
        await bus.apublish("cache.y", 2)
        with pytest.raises(WouldDeadlock):
            bus.publish("cache.z", 3)

    bus.overhear("cache.*", note)
    bus.publish("cache.x", 1)
    bus._loop.submit(inside()).result(10).get()
    assert heard == [("cache.x", 1), ("cache.y", 2)]


# Coming and going.


def test_forgetting_from_inside_ends_it_after_this_message(bus: Bus, heard: Heard) -> None:
    """Whoever is publishing keeps those it began with."""

    def once(channel: str) -> None:
        heard.append((channel,))
        bus.forget("*", once)
        bus.forget("*", after)

    def after(channel: str) -> None:
        heard.append(("after", channel))

    bus.overhear("*", once)
    bus.overhear("*", after)
    bus.publish("news")
    bus.publish("news")
    bus.publish("unknown")
    assert heard == [("news",), ("after", "news")]


def test_overhearing_from_inside_begins_with_the_next_message(bus: Bus, heard: Heard) -> None:
    """On the channel itself as well as on any other."""

    def begin(channel: str) -> None:
        bus.overhear("*", noting(heard))

    bus.overhear("start*", begin)
    bus.publish("start it")
    bus.publish("start it")
    assert [each[0] for each in heard] == ["start it"]


def test_a_channel_nobody_overhears_any_more_is_as_quick_as_before(bus: Bus) -> None:
    """Its listeners are called without further ado."""
    bus.subscribe("news", print)
    quick = dict(bus._quick)
    bus.overhear("*", print)
    assert "news" not in bus._quick
    assert "cache.all" not in bus._quick
    bus.forget("*", print)
    bus.forget("never", print)
    assert bus._quick == quick


def test_clear_drops_who_overhears(bus: Bus, heard: Heard) -> None:
    """Every listener means every listener."""
    bus.overhear("*", noting(heard))
    bus.clear()
    bus.publish("news")
    bus.publish("unknown")
    assert heard == []


def test_a_channel_that_is_deleted_and_declared_again_is_overheard(bus: Bus, heard: Heard) -> None:
    """In any of these states."""
    bus.overhear("*", noting(heard))
    bus.publish("news")
    del bus.listeners["news"]
    bus.publish("news")
    bus.subscribe("news", lambda: None)
    bus.publish("news")
    assert len(heard) == 3


def test_no_message_is_missed_while_others_come_and_go(bus: Bus) -> None:
    """Whoever overhears all the time hears everything, once, from many threads."""
    counts = dict.fromkeys(range(4), 0)
    ends = threading.Event()

    def count(channel: str, publisher: int) -> None:
        counts[publisher] += 1

    def publish(publisher: int) -> None:
        for number in range(2000):
            bus.publish(("news", "cache.all", "unknown", f"new{number % 7}")[number % 4], publisher)

    def disturb() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            bus.overhear("*e*", other, number % 100)
            bus.subscribe(f"new{number % 7}", same)
            bus.forget("*e*", other)
            bus.listeners.pop(f"new{number % 7}", None)

    def other(channel: str, publisher: int) -> None:
        pass

    def same(publisher: int) -> None:
        pass

    bus.overhear("*", count)
    publishers = [threading.Thread(target=publish, args=(number,)) for number in counts]
    disturber = threading.Thread(target=disturb)
    disturber.start()
    for thread in publishers:
        thread.start()
    for thread in publishers:
        thread.join(60)
    ends.set()
    disturber.join(60)
    assert counts == dict.fromkeys(range(4), 2000)


def test_the_bus_tells_who_overhears(bus: Bus) -> None:
    """By pattern, in the order in which they run."""

    def late(channel: str) -> None: ...

    def early(channel: str) -> None: ...

    bus.overhear("cache.*", late)
    bus.overhear("cache.*", early, 1)
    bus.publish("cache.x")
    described = bus.describe()
    assert [each.name.rpartition(".")[2] for each in described.overhearing["cache.*"]] == [
        "early",
        "late",
    ]
    assert described.overhearing["cache.*"][0].last is not None
    assert described.channels["cache.all"] == ()
