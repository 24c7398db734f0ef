"""Channels, listeners, publishing and walking, on a bus of any machine."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus import Bus, ChannelFailures, Graph
from sitebus.errors import Unreachable, WouldDeadlock
from sitebus.walk import Entered
from tests.helpers import wait_for


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus({"A": "B", "B": ("C", "A"), "C": "D"}, {"C": "BROKEN"}, "A", ("log", "news"))
    yield bus
    bus._loop.stop()


def messages(bus: Bus) -> list[str]:
    """Collect what is logged from here on."""
    logged: list[str] = []
    bus.subscribe("log", lambda message, level: logged.append(message))
    return logged


# Listening.


def test_lower_priorities_run_first(bus: Bus) -> None:
    for priority in (100, 50, 0, 51):
        bus.subscribe("news", functools.partial(int, priority), priority)
    assert bus.publish("news") == [0, 50, 51, 100]


def test_a_listener_may_carry_its_priority_and_the_caller_overrules_it(bus: Bus) -> None:
    def early() -> str:
        return "early"

    early.priority = 1  # type: ignore[attr-defined]
    bus.subscribe("news", lambda: "plain")
    bus.subscribe("news", early)
    assert bus.publish("news") == ["early", "plain"]
    bus.subscribe("news", early, 99)
    assert bus.publish("news") == ["plain", "early"]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_ties_run_in_order_of_subscription(priorities: list[int]) -> None:
    """Never by hash: the same program behaves the same in every process."""
    bus = Bus({"A": "B"}, initial_state="A")
    for number, priority in enumerate(priorities):
        bus.subscribe("x", functools.partial(lambda *pair: pair, priority, number), priority)
    assert bus.publish("x") == sorted(zip(priorities, range(len(priorities)), strict=True))


def test_subscribe_without_a_listener_decorates(bus: Bus) -> None:
    @bus.subscribe("news", priority=6)
    def listener() -> str:
        return "heard"

    assert listener() == "heard"
    assert bus.publish("news") == ["heard"]


def test_what_cannot_listen_is_refused_at_once(bus: Bus) -> None:
    """A decorator without its channel would quietly replace the function."""
    with pytest.raises(TypeError, match="needs the name of a channel"):
        bus.subscribe(print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="3 is not"):
        bus.subscribe("news", 3)  # type: ignore[call-overload]


def test_subscribing_twice_listens_once(bus: Bus) -> None:
    bus.subscribe("news", "x".upper)
    bus.subscribe("news", print)
    bus.subscribe("news", print, 3)
    assert len(bus.listeners["news"]) == 2


def test_unsubscribing_what_never_subscribed_is_no_error(bus: Bus) -> None:
    bus.unsubscribe("news", print)
    bus.unsubscribe("nowhere", print)
    assert "nowhere" not in bus.listeners


def test_listeners_is_the_mapping_that_wspbus_code_expects(bus: Bus) -> None:
    """ThreadManager uses setdefault, CherryPy assigns a set, SimplePlugin iterates."""
    bus.listeners.setdefault("acquire", set()).add(str)
    bus.listeners["before"] = {int}
    assert bus.publish("acquire") == [""]
    assert bus.publish("before") == [0]
    assert {"acquire", "before", "news", "A"} <= set(bus.listeners)
    assert int in bus.listeners["before"]
    bus.listeners["before"].discard(int)
    assert not bus.listeners["before"]


def test_clear_drops_everyone(bus: Bus) -> None:
    bus.subscribe("news", str)
    bus.clear()
    assert bus.publish("news") == []


# Publishing.


def test_an_unknown_channel_is_silent(bus: Bus) -> None:
    assert bus.publish("nobody declared this") == []


def test_all_listeners_run_although_some_fail(bus: Bus) -> None:
    logged = messages(bus)
    bus.subscribe("news", lambda: 1 / 0, 1)
    bus.subscribe("news", lambda: "fine", 2)
    bus.subscribe("news", lambda: os.environ["NO_SUCH_VARIABLE"], 3)
    ran: list[bool] = []
    bus.subscribe("news", lambda: ran.append(True), 4)

    with pytest.raises(ChannelFailures) as caught:
        bus.publish("news")

    assert ran
    failures = caught.value
    assert [type(error) for error in failures.get_instances()] == [ZeroDivisionError, KeyError]
    assert str(failures) == "ZeroDivisionError('division by zero')\nKeyError('NO_SUCH_VARIABLE')"
    assert all("on channel 'news'" in error.__notes__[0] for error in failures.exceptions)
    assert len([line for line in logged if line.startswith("Error in 'news' listener")]) == 2
    assert "Traceback" in logged[0]
    assert isinstance(failures.split(KeyError)[0], ChannelFailures)


def test_keyboard_interrupt_stops_the_publishing(bus: Bus) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ran: list[int] = []
    bus.subscribe("news", interrupt, 1)
    bus.subscribe("news", lambda: ran.append(1), 2)
    with pytest.raises(KeyboardInterrupt):
        bus.publish("news")
    assert not ran


@pytest.mark.parametrize(("code", "after"), [(0, 1), (None, 1), (3, 3), ("words", "words")])
@pytest.mark.parametrize("channel", ["news", "A"])
def test_nobody_leaves_with_success_after_a_failure(
    bus: Bus, channel: str, code: Any, after: Any
) -> None:
    """``sys.exit()`` after a failed listener would tell the service manager that all was well."""
    bus.subscribe(channel, lambda: 1 / 0, 1)
    bus.subscribe(channel, lambda: sys.exit(code), 2)
    with pytest.raises(SystemExit) as caught:
        bus.publish(channel)
    assert caught.value.code == after


def test_a_failing_log_listener_breaks_nothing(
    bus: Bus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk the site still starts, stops and exits."""
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)

    def full(message: str, level: int) -> None:
        raise OSError("no space left on device")

    bus.subscribe("log", full, 1)
    heard = messages(bus)
    bus.log("hello")
    assert heard == ["hello"]
    assert "no space left" in capsys.readouterr().err
    assert bus.transition("B") == [[]]


def test_log_appends_the_traceback_that_is_asked_for(bus: Bus) -> None:
    logged = messages(bus)
    try:
        raise NameError("mine")
    except NameError as error:
        bus.log("one", traceback=True)
        kept = error
    bus.log("two", traceback=kept)
    bus.log("three", traceback=(type(kept), kept, kept.__traceback__))
    for line in logged:
        assert "Traceback (most recent call last)" in line
        assert line.rstrip().endswith("NameError: mine")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_publishing_is_safe_while_others_subscribe(asynchronous: bool) -> None:
    """No lock in publish, and yet: no listener skipped, none called twice, no error."""
    bus = Bus({"A": "B"}, initial_state="A", extra_channels=("log", "x"))
    bus.subscribe("x", lambda: "first", 0)
    bus.subscribe("x", lambda: "last", 100)
    stop = threading.Event()
    wrong: list[list[Any]] = []

    def come_and_go(number: int) -> None:
        def passing() -> int:
            return number

        async def passing_async() -> int:
            return number

        while not stop.is_set():
            bus.subscribe("x", passing_async if asynchronous else passing, number)
            bus.unsubscribe("x", passing_async if asynchronous else passing)

    def publish() -> None:
        for _ in range(300 if asynchronous else 3000):
            got = bus.publish("x")
            between = got[1:-1]
            if got[0] != "first" or got[-1] != "last" or sorted(set(between)) != between:
                wrong.append(got)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        changers = [threading.Thread(target=come_and_go, args=(n,)) for n in range(1, 4)]
        publishers = [threading.Thread(target=publish) for _ in range(3)]
        for thread in changers + publishers:
            thread.start()
        for thread in publishers:
            thread.join()
        stop.set()
        for thread in changers:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        bus._loop.stop()
    assert not wrong


def test_a_listener_may_subscribe_and_unsubscribe_while_it_is_called(bus: Bus) -> None:
    """Whoever publishes keeps the order it began with."""

    def once() -> str:
        bus.unsubscribe("news", once)
        bus.subscribe("news", lambda: "later")
        return "once"

    bus.subscribe("news", once)
    assert bus.publish("news") == ["once"]
    assert bus.publish("news") == ["later"]


def test_lifecycle_listeners_are_timed_and_others_on_request(bus: Bus) -> None:
    bus.subscribe("B", str)
    bus.subscribe("news", str)
    bus.transition("B")
    bus.publish("news")
    described = bus.describe().channels
    assert described["B"][0].longest is not None
    assert described["news"][0].last is None
    bus.timing = True
    bus.publish("news")
    assert bus.describe().channels["news"][0].last is not None


# Coroutines.


class Async:
    async def method(self) -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def __call__(self) -> str:
        return await self.method()


@pytest.mark.parametrize(
    "listener", [Async().method, Async(), functools.partial(Async.method, Async())]
)
def test_publish_waits_for_asynchronous_listeners(bus: Bus, listener: Callable[[], Any]) -> None:
    bus.subscribe("news", lambda: "sync", 60)
    bus.subscribe("news", listener, 50)
    assert bus.publish("news") == ["sitebus loop", "sync"]


def test_no_loop_is_made_before_it_is_needed(bus: Bus) -> None:
    bus.publish("news")
    assert not any(thread.name == "sitebus loop" for thread in threading.enumerate())


def test_publish_on_the_loop_refuses_and_names_apublish(bus: Bus) -> None:
    """Waiting there would wait for ever."""

    async def inner() -> str:
        return "inner"

    async def outer() -> list[Any]:
        with pytest.raises(WouldDeadlock, match=r"await bus\.apublish"):
            bus.publish("inner")
        return await bus.apublish("inner")

    bus.subscribe("inner", inner)
    bus.subscribe("news", outer)
    assert bus.publish("news") == [["inner"]]


def test_apublish_works_from_any_loop_and_collects_failures(bus: Bus) -> None:
    async def fails() -> None:
        raise ValueError("async")

    bus.subscribe("news", fails)
    bus.subscribe("news", lambda: "sync")
    with pytest.raises(ChannelFailures) as caught:
        asyncio.run(bus.apublish("news"))
    assert isinstance(caught.value.exceptions[0], ValueError)


def test_a_command_from_the_loop_is_queued(bus: Bus) -> None:
    async def move() -> None:
        assert bus.transition("B") == []

    bus.subscribe("news", move)
    bus.publish("news")
    bus.wait("B")
    wait_for(lambda: not bus._walking)


# Walking.


def test_a_transition_walks_the_shortest_way(bus: Bus) -> None:
    logged = messages(bus)
    for state in "ABCD":
        bus.subscribe(state, functools.partial(str, state))
    assert bus.transition("D") == [["B"], ["C"], ["D"]]
    assert logged == ["Bus state: B", "Bus state: C", "Bus state: D"]


def test_a_state_that_cannot_be_reached_is_said_so(bus: Bus) -> None:
    bus.transition("D")
    with pytest.raises(Unreachable, match="cannot go to A: the bus is in D"):
        bus.transition("A")
    with pytest.raises(Unreachable):
        bus.transition("NOWHERE")
    assert bus.state == "D"


def test_a_bus_takes_a_graph_as_well() -> None:
    bus = Bus(Graph.from_edges({"A": "B", "B": "C"}), initial_state="A")
    bus.transition("C")
    assert bus.states == {"A", "B", "C"}


def test_failure_takes_the_row_of_the_table(bus: Bus) -> None:
    """An error listener is handed the error, as in magicbus; the caller gets it too."""
    told: list[Any] = []
    bus.subscribe("C", lambda: 1 / 0)
    bus.subscribe("BROKEN", lambda *error: told.append(error))
    with pytest.raises(ChannelFailures):
        bus.transition("D")
    assert bus.state == "BROKEN"
    assert told[0][0] is ChannelFailures


def test_a_command_of_a_listener_is_queued_not_nested(bus: Bus) -> None:
    order: list[str] = []

    def go_on() -> None:
        order.append("B begins")
        assert bus.transition("C") == []
        order.append("B ends")

    bus.subscribe("B", go_on)
    bus.subscribe("C", lambda: order.append("C"))
    bus.transition("B")
    assert order == ["B begins", "B ends", "C"]
    assert bus.state == "C"


def test_another_thread_waits_for_its_result(bus: Bus) -> None:
    entered, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    def hold() -> None:
        entered.set()
        go_on.wait(10)

    bus.subscribe("B", hold)
    bus.subscribe("C", lambda: "C ran")
    first = threading.Thread(target=bus.transition, args=("B",))
    first.start()
    entered.wait(10)
    second = threading.Thread(target=lambda: results.append(bus.transition("C")))
    second.start()
    wait_for(lambda: bus._commands)
    assert not results
    go_on.set()
    first.join(10)
    second.join(10)
    assert results == [[["C ran"]]]


def test_no_command_is_lost_between_walkers() -> None:
    """Whoever finds the lock taken leaves its command to the holder, who looks once more."""
    bus = Bus({"A": "B", "B": "A"}, initial_state="A")
    arrivals: list[int] = []
    bus.subscribe("A", lambda: arrivals.append(1))
    bus.subscribe("B", lambda: arrivals.append(1))

    def command(seed: int) -> None:
        for turn in range(200):
            bus.transition("AB"[(turn + seed) % 2])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=command, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert not bus._commands
    assert not bus._walking
    assert arrivals


# Waiting.


def test_waiting_for_the_present_state_returns_at_once(bus: Bus) -> None:
    bus.wait("A")
    bus.wait({"A", "D"})
    bus.wait(iter(["A"]))


def test_a_state_that_lasts_a_moment_is_not_missed(bus: Bus) -> None:
    """C is left as soon as it is entered; a sampling waiter would never see it."""
    waiting = threading.Thread(target=bus.wait, args=("C",))
    waiting.start()
    wait_for(lambda: bus._mail._boxes)
    bus.transition("D")
    waiting.join(10)
    assert not waiting.is_alive()


def test_waiting_ticks_only_for_those_who_listen(bus: Bus) -> None:
    """A listener that comes later is ticked as well; nobody is woken for nobody."""
    ticks: list[int] = []
    waiting = threading.Thread(target=bus.wait, args=("B", 0.005, "news"))
    waiting.start()
    wait_for(lambda: bus._mail._boxes)
    bus.subscribe("news", lambda: ticks.append(1))
    wait_for(lambda: len(ticks) > 3)
    bus.unsubscribe("news", bus.listeners["news"].pop())
    bus.transition("B")
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_task_can_await_a_state(bus: Bus) -> None:
    async def watch() -> str:
        moving = asyncio.get_running_loop().run_in_executor(None, bus.transition, "B")
        await bus.await_state(["B", "C"])
        await moving
        await bus.await_state("B")
        return "seen"

    assert asyncio.run(watch()) == "seen"


def test_everyone_who_waits_hears_every_state(bus: Bus) -> None:
    with bus._mail.open() as box:
        bus.transition("D")
        seen = []
        while not box.empty():
            if isinstance(message := box.get(), Entered):
                seen.append(message.state)
    assert seen == ["B", "C", "D"]


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_a_task_that_leaves_the_interpreter_ends_only_itself(
    leaving: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else on the loop, a whole site perhaps, would stand still for ever."""
    import asyncio

    from sitebus.loop import LoopThread

    async def leave() -> None:
        raise leaving

    async def parent() -> str:
        task = asyncio.create_task(leave())
        await asyncio.wait({task})
        return "here"

    thread = LoopThread()
    try:
        assert thread.submit(parent()).result(5).get() == "here"
        assert thread.submit(asyncio.sleep(0, "still here")).result(5).get() == "still here"
        assert "the loop goes on" in caplog.text
    finally:
        thread.stop()
