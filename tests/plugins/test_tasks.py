"""What repeats goes on through failures, keeps its beat, and ends at once when told to."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import pytest

from sitebus.plugins import tasks
from sitebus.plugins.tasks import BackgroundTask, Monitor, PerpetualTimer
from sitebus.process import Engine
from tests.helpers import environment, nothing_left, wait_for

#: Nothing in these tests lasts that long: who waits for it has failed.
AGES = 3600.0


class Log:
    """A bus as far as a task knows one."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, object]] = []

    def log(self, msg: str, level: int = 20, traceback: object = False) -> None:
        error = sys.exc_info()[1] if traceback is True else traceback
        self.lines.append((msg, level, error))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.mark.parametrize("kind", [BackgroundTask, PerpetualTimer])
def test_it_calls_with_its_arguments_until_cancelled(
    kind: type[BackgroundTask | PerpetualTimer],
) -> None:
    """From outside, and by its own call as well."""
    calls: SimpleQueue[tuple[int, int]] = SimpleQueue()
    task = kind(0.005, lambda a, b: calls.put((a, b)), (1,), {"b": 2})
    task.start()
    assert [calls.get(timeout=5) for _ in range(3)] == [(1, 2)] * 3
    task.cancel()
    task.join(5)
    assert not task.is_alive()

    own: list[int] = []

    def once() -> None:
        own.append(1)
        second.cancel()

    second = kind(0.005, once)
    second.start()
    second.join(5)
    assert own == [1]


@pytest.mark.parametrize("kind", [BackgroundTask, PerpetualTimer])
def test_a_cancel_is_felt_at_once(kind: type[BackgroundTask | PerpetualTimer]) -> None:
    """A stop of the bus must not wait out the interval."""
    task = kind(AGES, list)
    task.start()
    began = time.monotonic()
    task.cancel()
    task.join(5)
    assert time.monotonic() - began < 1
    assert not task.is_alive()


def test_a_task_cancelled_before_it_starts_calls_nothing() -> None:
    """A stop may come before the thread gets its turn."""
    calls: list[int] = []
    task = BackgroundTask(0, calls.append, [1])
    task.cancel()
    task.start()
    task.join(5)
    assert calls == []


def test_a_timer_is_one_of_the_standard_library() -> None:
    """Code that was handed a timer asks what it is; and it holds the process, as timers do."""
    timer = PerpetualTimer(AGES, list)
    assert isinstance(timer, threading.Timer)
    assert not timer.daemon
    assert BackgroundTask(AGES, list).daemon


def test_a_background_task_does_not_hold_the_process() -> None:
    """A script that forgot one has to end."""
    program = (
        "from sitebus.plugins.tasks import BackgroundTask; BackgroundTask(3600, print).start()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20, env=environment())


def test_running_can_be_set_as_in_wspbus() -> None:
    """Subclasses there end themselves that way."""
    task = BackgroundTask(AGES, list)
    assert not task.running
    task.start()
    assert task.running
    task.running = True
    assert task.running
    task.running = False
    task.join(5)
    assert not task.running


def test_a_failure_is_logged_and_the_calls_go_on() -> None:
    """In wspbus one bad call ended a monitor for good, with a single line in the log."""
    log, worked = Log(), threading.Event()
    answers: Iterator[Exception | None] = iter([KeyError("first"), ValueError("second"), None])

    def check() -> None:
        answer = next(answers, None)
        if answer is not None:
            raise answer
        worked.set()

    task = BackgroundTask(0.005, check, bus=log)
    task.name = "checker"
    task.start()
    assert worked.wait(5)
    task.cancel()
    task.join(5)
    assert task.failures == 2
    (first, second) = log.lines
    assert "check" in first[0]
    assert "called by thread 'checker'; next call in 0.01 s" in first[0]
    assert "next call in 0.02 s" in second[0]
    assert (first[1], repr(first[2])) == (40, "KeyError('first')")


def test_failures_put_off_the_next_call_up_to_a_limit() -> None:
    """A broken check must neither fill the log nor be forgotten."""
    log = Log()
    task = BackgroundTask(60.0, lambda: [][0], bus=log)
    steps = [step := 60.0]
    while len(steps) < 6:
        steps.append(step := task._call(step))
    assert steps == [60, 120, 240, 300, 300, 300]
    task.function = list
    assert task._call(step) == 60
    task.function, task.interval = (lambda: [][0]), 900
    assert task._call(900) == 900
    task.interval = 0
    assert task._call(0) == 1, "without an interval, there is a pause after all"


def test_a_long_call_does_not_shift_the_beat() -> None:
    """Nor are the calls that it missed made up for."""
    now = time.monotonic()
    assert tasks._next(now - 0.5, 10.0) == now + 9.5
    assert tasks._next(now - 34.0, 10.0) == pytest.approx(now + 6.0)
    assert tasks._next(now + 1.0, 10.0) == now + 11.0, "woken early"
    assert tasks._next(now, 0.0) == now


def test_calls_do_not_pile_up_behind_a_long_one() -> None:
    """A check that hung for a minute must not run sixty times when it comes back."""
    calls, lengths = SimpleQueue[float](), iter([0.3])

    def call() -> None:
        calls.put(time.monotonic())
        threading.Event().wait(next(lengths, 0))

    task = BackgroundTask(0.05, call)
    task.start()
    first, second, third = (calls.get(timeout=5) for _ in range(3))
    task.cancel()
    task.join(5)
    assert second - first >= 0.3
    assert third - second > 0.02


def test_a_changed_interval_counts_after_the_next_call() -> None:
    """Nothing has to be started anew for it."""
    called = SimpleQueue[None]()
    task = BackgroundTask(0.01, lambda: called.put(None))
    task.start()
    called.get(timeout=5)
    task.interval = AGES
    wait_for(lambda: _is_silent(called))
    task.cancel()
    task.join(5)


def _is_silent(calls: SimpleQueue[None]) -> bool:
    try:
        calls.get(timeout=0.1)
    except Empty:
        return True
    return False


def test_without_a_bus_a_failure_is_told_as_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not vanish."""
    told: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", told.put)
    task = BackgroundTask(0.01, lambda: [][0])
    task.start()
    args = told.get(timeout=5)
    task.cancel()
    task.join(5)
    assert (args.exc_type, args.thread) == (IndexError, task)


def test_a_log_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On wspbus' bus a full disk makes `log` raise."""
    told: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", told.put)

    class Full(Log):
        def log(self, msg: str, level: int = 20, traceback: object = False) -> None:
            raise OSError(28, "disk full")

    task = BackgroundTask(0.005, lambda: [][0], bus=Full())
    task.start()
    assert [told.get(timeout=5).exc_type for _ in range(2)] == [OSError, OSError]
    task.cancel()
    task.join(5)


def test_sys_exit_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it says; the process goes on."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # pytest's makes it an error
    task = BackgroundTask(0.005, sys.exit)
    task.start()
    task.join(5)
    assert not task.is_alive()


class TestMonitor:
    """The same, from the start of a bus to its stop."""

    def test_it_calls_while_the_bus_is_started(self, bus: Engine) -> None:
        """Its thread has its name, for whoever looks at the stacks."""
        called = SimpleQueue[str]()
        monitor = Monitor(bus, lambda: called.put(threading.current_thread().name), 0.01, "pulse")
        monitor.subscribe()
        bus.start()
        assert called.get(timeout=5) == "pulse"
        assert monitor.thread is not None
        assert monitor.thread.name == "pulse"
        bus.stop()
        assert monitor.thread is None
        bus.start()
        assert called.get(timeout=5) == "pulse"

    def test_it_starts_and_stops_where_wspbus_has_it(self, bus: Engine) -> None:
        """Other plugins have been written around these numbers."""
        Monitor(bus, list).subscribe()
        channels = bus.describe().channels
        assert [each.priority for each in channels["start"]] == [70]
        assert [each.priority for each in channels["stop"]] == [50]
        assert [each.priority for each in channels["graceful"]] == [50]

    def test_its_name_is_that_of_its_class(self, bus: Engine) -> None:
        """As subclasses of others count on."""

        class Sweeper(Monitor):
            pass

        sweeper = Sweeper(bus, list, AGES)
        sweeper.subscribe()
        bus.start()
        assert sweeper.thread is not None
        assert sweeper.thread.name == "Sweeper"

    def test_without_a_frequency_there_is_no_thread(self, bus: Engine) -> None:
        """That is how configurations turn one off; the line about it names the monitor."""
        lines: list[str] = []
        bus.subscribe("log", lambda line, level: lines.append(line))
        monitor = Monitor(bus, list, frequency=0, name="idle")
        monitor.subscribe()
        bus.start()
        assert monitor.thread is None
        bus.stop()
        assert "No thread running for idle." in lines

    def test_a_new_frequency_counts_from_graceful(self, bus: Engine) -> None:
        """From none to often, and back."""
        called = threading.Event()
        monitor = Monitor(bus, called.set, frequency=-1)
        monitor.subscribe()
        bus.start()
        monitor.frequency = 0.01
        bus.graceful()
        assert called.wait(5)
        before = monitor.thread
        monitor.frequency = AGES
        bus.graceful()
        assert monitor.thread is not None
        assert monitor.thread is not before
        assert monitor.thread.interval == AGES
        monitor.frequency = 0
        bus.graceful()
        assert monitor.thread is None

    def test_graceful_starts_nothing_on_a_stopped_bus(self, bus: Engine) -> None:
        """Nobody would stop it again."""
        monitor = Monitor(bus, list, AGES)
        monitor.subscribe()
        bus.graceful()
        assert monitor.thread is None
        bus.start()
        bus.stop()
        bus.graceful()
        assert monitor.thread is None

    def test_starting_twice_makes_one_thread(self, bus: Engine) -> None:
        """A subclass may start itself before the bus does."""
        monitor = Monitor(bus, list, AGES)
        monitor.subscribe()
        monitor.start()
        thread = monitor.thread
        bus.start()
        assert monitor.thread is thread

    def test_its_own_call_may_stop_the_bus(self, bus: Engine) -> None:
        """As a reloader's does; a thread cannot wait for itself."""
        monitor = Monitor(bus, bus.exit, 0.01)
        monitor.subscribe()
        bus.start()
        bus.wait(bus.machine.ended)
        wait_for(lambda: monitor.thread is None)
        assert bus.exit_code == 0

    def test_a_stop_does_not_wait_for_ever(self, bus: Engine) -> None:
        """A call that hangs may never come back; it is a daemon's."""
        gate, busy, lines = threading.Event(), threading.Event(), list[str]()
        bus.subscribe("log", lambda line, level: lines.append(line))

        def hang() -> None:
            busy.set()
            gate.wait(10)

        monitor = Monitor(bus, hang, 0.01, "hanger")
        monitor.patience = 0.05
        monitor.subscribe()
        bus.start()
        assert busy.wait(5)
        bus.stop()
        assert "Stopped thread 'hanger', which is still busy with a last call." in lines
        gate.set()

    def test_failures_are_counted_through_reloads(self, bus: Engine) -> None:
        """A health check looks at the monitor, not at its thread of the moment."""
        monitor = Monitor(bus, lambda: [][0], 0.005)
        monitor.subscribe()
        bus.start()
        wait_for(lambda: monitor.failures >= 2)
        before = monitor.failures
        bus.graceful()
        wait_for(lambda: monitor.failures > before)

    def test_it_works_on_the_bus_of_cherrypy(self) -> None:
        """The one it was written for."""
        wspbus = pytest.importorskip("cherrypy.process.wspbus")
        bus, called = wspbus.Bus(), threading.Event()
        monitor = Monitor(bus, called.set, 0.01)
        monitor.subscribe()
        bus.publish("start")
        assert called.wait(5)
        bus.publish("stop")
        assert monitor.thread is None
