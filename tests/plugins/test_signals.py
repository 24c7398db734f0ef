"""Signals reach the bus wherever the main thread is, and only while somebody wants them to."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus import assembly
from sitebus.errors import (
    CannotCatch,
    ConfigErrors,
    NotMainThread,
    NotOnThisPlatform,
    UnknownAction,
    UnknownSignal,
)
from sitebus.plugins.console import ConsoleCtrlHandler
from sitebus.plugins.signals import ACTIONS, DEFAULTS, ENDING, Pending, SignalHandler, told
from sitebus.process import Engine
from sitebus.serving import Registry
from sitebus.signalnames import ELSEWHERE, NAMES, NUMBERS, aliases, number_of
from tests.helpers import PATIENCE, ROOT, Child, wait_for


class Recorder(Engine):
    """An engine that notes what it is told, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupts = 0
        self.calls: list[str] = []
        self.work: list[Callable[[], object]] = []

    def interrupt(self) -> None:
        self.interrupts += 1

    def exit(self) -> None:
        self.calls.append("exit")

    def graceful(self) -> None:
        self.calls.append("graceful")

    def restart_soon(self, force: bool = False) -> None:
        self.calls.append("restart")

    def call_in_main(self, work: Callable[[], object]) -> None:
        self.work.append(work)

    def turn(self) -> None:
        """Do what the main loop would do now."""
        work, self.work = self.work, []
        for each in work:
            each()


class Plain:
    """A bus of the wspbus kind: no main thread's work, no interrupts."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[..., Any]]] = {}
        self.lines: list[str] = []
        self.calls: list[tuple[str, str]] = []

    def subscribe(
        self, channel: str, listener: Callable[..., Any], priority: float | None = None
    ) -> None:
        self.listeners.setdefault(channel, []).append(listener)

    def unsubscribe(self, channel: str, listener: Callable[..., Any]) -> None:
        self.listeners[channel].remove(listener)

    def publish(self, channel: str) -> None:
        for listener in tuple(self.listeners.get(channel, ())):
            listener()

    def log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        self.lines.append(msg)

    def exit(self) -> None:
        self.calls.append(("exit", threading.current_thread().name))

    def graceful(self) -> None:
        self.calls.append(("graceful", threading.current_thread().name))

    def restart(self) -> None:
        self.calls.append(("restart", threading.current_thread().name))


@contextmanager
def subscribed(bus: Any, **actions: str) -> Iterator[SignalHandler]:
    handler = SignalHandler(bus, actions=actions)
    handler.subscribe()
    try:
        yield handler
    finally:
        handler.unsubscribe()


@pytest.fixture
def bus() -> Recorder:
    return Recorder()


#: What every child begins with; it prints its log.
PRELUDE = """
import os, signal, sys, threading, time
from sitebus.errors import CommandCancelled
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine
from sitebus.serving import Registry

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

engine = Engine()
engine.subscribe("log", lambda msg, level: say(msg) if level >= 20 else None)
handler = SignalHandler(engine)
"""

SERVE = """
handler.subscribe()
engine.subscribe("started", lambda: engine.call_in_main(lambda: say("serving")))
try:
    engine.start()
except CommandCancelled:
    say("cancelled")
sys.exit(engine.block())
"""

STUCK = """
def stuck():
    say("stuck")
    threading.Event().wait()
engine.subscribe("stop", stuck)
"""

Run = Callable[..., Child]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Start a program as a child; what starts it can be set before it."""

    def run(program: str, before: Sequence[str] = (), after: Sequence[str] = ()) -> Child:
        path = tmp_path / "program.py"
        path.write_text(program)
        return Child([*before, sys.executable, path, *after])

    return run


def wait_for_times(process: Child, line: str, count: int) -> None:
    wait_for(lambda: process.output.count(f"\n{line}\n") >= count, PATIENCE, line)


def press(process: Child, number: int = signal.SIGTERM) -> int:
    """Send *number* again and again until the process is gone, as somebody impatient would."""

    def again() -> bool:
        process.signal(number)
        return process.process.poll() is not None

    wait_for(again, PATIENCE)
    return process.wait()


# What a signal does.


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_ends_is_an_interrupt_at_once(bus: Recorder, number: int) -> None:
    """The engine alone decides what an interrupt means, and the main loop may never come."""
    with subscribed(bus):
        for count in (1, 2, 3):
            signal.raise_signal(number)
            assert bus.interrupts == count
        bus.turn()
    assert bus.calls == []


@pytest.mark.parametrize(
    ("name", "call"), [("SIGUSR1", "graceful"), ("SIGUSR2", "restart"), ("SIGHUP", "restart")]
)
def test_a_handler_only_notes_and_the_main_loop_works(
    bus: Recorder, name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with subscribed(bus):
        signal.raise_signal(NUMBERS[name])
        assert bus.calls == []
        bus.turn()
        assert bus.calls == [call]


def test_every_signal_has_a_channel_where_users_come_before_the_action(bus: Recorder) -> None:
    """Who wants to know that the log files will be opened again hears it before they are."""
    heard: list[str] = []
    bus.subscribe("SIGUSR1", lambda: heard.append(f"after {len(bus.calls)} actions"))
    with subscribed(bus):
        signal.raise_signal(signal.SIGUSR1)
        bus.turn()
    assert heard == ["after 0 actions"]
    assert bus.calls == ["graceful"]


def test_what_is_published_by_hand_does_what_the_signal_does(bus: Recorder) -> None:
    """A console without signals, or a test, can say the same."""
    with subscribed(bus):
        bus.publish("SIGTERM")
        bus.publish("SIGUSR1")
    assert bus.calls == ["exit", "graceful"]


def test_a_failing_listener_costs_nobody_else_the_signal(bus: Recorder) -> None:
    lines: list[str] = []
    bus.subscribe("log", lambda msg, level: lines.append(msg))

    @bus.subscribe("SIGUSR1")
    def fail() -> None:
        raise ValueError("a listener's own trouble")

    with subscribed(bus, SIGUSR2="publish"):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
        bus.turn()
    assert bus.calls == ["graceful"]
    assert lines.index("Caught signal SIGUSR1.") < lines.index("Caught signal SIGUSR2.")
    assert any("a listener's own trouble" in line for line in lines)


def test_the_picture_of_the_threads_needs_no_main_loop(bus: Recorder) -> None:
    """The main thread may be what is stuck."""
    lines: list[str] = []
    bus.subscribe("log", lambda msg, level: lines.append(msg))
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="the-culprit")
    thread.start()
    try:
        with subscribed(bus):
            signal.raise_signal(signal.SIGQUIT)
            wait_for(lambda: any("All threads" in line for line in lines))
    finally:
        release.set()
        thread.join()
    assert not bus.work
    (text,) = (line for line in lines if "All threads" in line)
    assert "the-culprit" in text
    assert "MainThread" in text
    assert "test_the_picture_of_the_threads_needs_no_main_loop" in text


def test_once_told_to_end_nothing_else_counts(bus: Recorder) -> None:
    """Log files that were closed must not be opened again; and a storm must not hold up the end."""
    with subscribed(bus):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGHUP)
        bus.turn()
    # Graceful was noted before; a real engine is leaving by now, and is not told.
    assert bus.calls == ["graceful"]
    assert bus.interrupts == 1


# Storms.


def test_a_burst_is_one_piece_of_work(bus: Recorder) -> None:
    """Neither recursion nor a queue of ten thousand."""
    counts = dict.fromkeys(("SIGUSR1", "SIGUSR2", "SIGWINCH"), 0)

    def count(name: str) -> None:
        counts[name] += 1

    for name in counts:
        bus.subscribe(name, lambda name=name: count(name))
    with subscribed(bus, SIGWINCH="publish"):
        for _ in range(3333):
            for name in counts:
                signal.raise_signal(NUMBERS[name])
        assert len(bus.work) == 1
        bus.turn()
        assert counts == dict.fromkeys(counts, 1)
        signal.raise_signal(signal.SIGWINCH)
        bus.turn()
    assert counts["SIGWINCH"] == 2


Steps = st.lists(st.one_of(st.sampled_from([1, 2, 3]), st.just("turn")), max_size=40)


@given(Steps, st.dictionaries(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3])))
def test_no_signal_is_lost_and_none_is_answered_twice(
    steps: list[int | str], while_answering: dict[int, int]
) -> None:
    """Whatever comes when, also in the midst of an answer: one answer after it, soon."""
    queue: list[Callable[[], object]] = []
    unanswered: set[int] = set()
    echoes = dict(while_answering)

    def answer(number: int) -> None:
        assert number in unanswered
        unanswered.discard(number)
        if (echo := echoes.pop(number, None)) is not None:
            come(echo)

    def come(number: int) -> None:
        unanswered.add(number)
        pending.add(number)
        assert len(queue) <= 1

    pending = Pending(queue.append, answer)
    for step in [*steps, "turn", "turn", "turn", "turn"]:
        if isinstance(step, int):
            come(step)
        elif queue:
            queue.pop(0)()
    assert not unanswered
    assert not queue


def test_a_signal_without_a_thread_to_be_had_is_answered_with_the_next() -> None:
    """At the limit of threads a handler must not raise into whatever it interrupted."""
    answered: list[int] = []
    refusing = True

    def call(work: Callable[[], object]) -> None:
        if refusing:
            raise RuntimeError("can't start new thread")
        work()

    pending = Pending(call, answered.append)
    pending.add(1)
    refusing = False
    pending.add(2)
    assert answered == [1, 2]


BURST = """
import logging, logging.handlers, queue
lines = queue.Queue()
log = logging.getLogger("site")
log.addHandler(logging.handlers.QueueHandler(lines))
log.setLevel(20)
lock = threading.Lock()
counts = {}
depth = 0

def note(name):
    global depth
    depth += 1
    assert depth == 1, "a listener inside a listener"
    with lock:
        log.info("caught %s", name)
    counts[name] = counts.get(name, 0) + 1
    depth -= 1
    if len(counts) == 5 and min(counts.values()) == 1 == counts[name]:
        say("all heard")

def work():
    # The main thread is nearly always inside one of these locks when a signal comes.
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        with lock:
            log.info("working")

for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGWINCH", "SIGCONT"):
    handler.handlers[name] = lambda name=name: note(name)
engine.subscribe("main", work)
engine.subscribe("log", lambda msg, level: log.info(msg))
engine.subscribe("exit", lambda: say("counts", len(counts), lines.qsize() > 10))
"""


@pytest.mark.slow
def test_ten_thousand_signals_under_locks(run: Run) -> None:
    """Where handlers do the work, one SIGTERM in eighty hangs for ever in a queue's lock."""
    with run(PRELUDE + BURST + SERVE) as process:
        process.wait_for_output("serving")
        numbers = [NUMBERS[n] for n in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGWINCH", "SIGCONT")]
        for each in range(10_000):
            process.signal(numbers[each % len(numbers)])
            pause(0.0001)
        process.wait_for_output("all heard")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "counts 5 True" in process.output
        assert "Traceback" not in process.output
        assert "Error" not in process.output


@pytest.mark.slow
def test_one_sigterm_at_any_moment_under_locks_is_enough(run: Run) -> None:
    choose = random.Random(3)
    for _ in range(20):
        with run(PRELUDE + BURST + SERVE) as process:
            process.wait_for_output("serving")
            pause(choose.uniform(0, 0.03))
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


PAIRS = """
for name in ("SIGUSR1", "SIGUSR2"):
    handler.handlers[name] = lambda name=name: say(name)
for _ in range(10):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.slow
def test_the_second_of_two_is_heard_as_soon(run: Run) -> None:
    """The system gives it to any thread, and then nothing wakes the one that runs handlers.

    Without anything against that, 69 of 2,000 pairs on a busy machine were not heard.
    """
    with ExitStack() as busy:
        for _ in range(2 * (os.cpu_count() or 1)):
            busy.enter_context(Child([sys.executable, "-c", "while True: pass"]))
        process = busy.enter_context(run(PRELUDE + PAIRS + SERVE))
        process.wait_for_output("^serving")
        for count in range(1, 201):
            process.signal(signal.SIGUSR1)
            process.signal(signal.SIGUSR2)
            for name in ("SIGUSR1", "SIGUSR2"):
                wait_for_times(process, name, count)
        assert process.stop() == 0


@pytest.mark.parametrize("when", ["before", "while starting", "after"])
def test_other_threads_are_listened_to_from_the_start_on(when: str) -> None:
    """Before it there must be no thread: the process may become a daemon."""

    def watchers() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name == "sitebus wakeup"]

    bus = Engine()
    handler = SignalHandler(bus)
    try:
        if when == "before":
            handler.subscribe()
        elif when == "while starting":
            bus.subscribe("start", handler.subscribe, 70)
        assert not watchers()
        bus.start()
        if when == "after":
            handler.subscribe()
        assert watchers()
    finally:
        handler.unsubscribe()
        bus.exit()
    assert not watchers()


# Its time: before, during and after everything.


def test_a_real_signal_ends_a_blocked_engine() -> None:
    """From the handler through the main loop to the exit, with status 0."""
    bus = Engine()
    with subscribed(bus):
        bus.start()
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert bus.block() == 0
        timer.join()


def test_a_sigterm_during_the_start_ends_it_in_order(run: Run) -> None:
    program = """
import queue
told = queue.SimpleQueue()
interrupt = engine.interrupt
engine.interrupt = lambda: (interrupt(), told.put(1))
engine.subscribe("start", lambda: (say("starting"), told.get(timeout=30)))
engine.subscribe("start", lambda: say("never started"), 60)
engine.subscribe("stop", lambda: say("stopped"))
"""
    with run(PRELUDE + program + SERVE) as process:
        process.wait_for_output("^starting")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "stopped" in process.output
        assert "never started" not in process.output
        assert "cancelled" in process.output


def test_a_graceful_during_the_start_comes_after_it(run: Run) -> None:
    program = """
def start():
    os.kill(os.getpid(), signal.SIGUSR1)
    say("start")
engine.subscribe("start", start)
engine.subscribe("graceful", lambda: (say("graceful", engine.state.name), engine.exit()))
"""
    with run(PRELUDE + program + SERVE) as process:
        assert process.wait() == 0
        assert process.output.index("start\n") < process.output.index("graceful STARTED")


def test_signals_during_the_stop_do_no_harm(run: Run) -> None:
    program = """
def stop():
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(os.getpid(), number)
    say("stopping")
engine.subscribe("stop", stop)
engine.subscribe("graceful", lambda: say("too late"))
"""
    with run(PRELUDE + program + SERVE) as process:
        process.wait_for_output("serving")
        process.signal()
        assert process.wait() == 0
        assert process.output.count("stopping") == 1
        assert "too late" not in process.output


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("also", ["", 'engine.subscribe("SIGTERM", lambda: say("heard"))\n'])
def test_three_of_them_leave_a_stop_that_is_stuck(also: str, number: int, run: Run) -> None:
    """Status 70, and where it was stuck is on standard error."""
    with run(PRELUDE + also + STUCK + SERVE) as process:
        process.wait_for_output("serving")
        process.signal()
        process.wait_for_output("^stuck")
        assert press(process, number) == 70
        assert "in stuck" in process.output


def test_three_of_them_leave_a_listener_of_the_signal_that_is_stuck(run: Run) -> None:
    program = """
def stuck():
    say("stuck")
    threading.Event().wait()
engine.subscribe("SIGTERM", stuck)
"""
    with run(PRELUDE + program + SERVE) as process:
        process.wait_for_output("serving")
        process.signal()
        process.wait_for_output("^stuck")
        assert press(process) == 70


def test_a_signal_between_start_and_block_has_its_listeners(run: Run) -> None:
    """The exit that it asks for may be complete before the main thread gets to them."""
    program = """
engine.subscribe("SIGTERM", lambda: say("heard"))
handler.subscribe()
engine.start()
os.kill(os.getpid(), signal.SIGTERM)
while not engine.ended:
    time.sleep(0.01)
sys.exit(engine.block())
"""
    with run(PRELUDE + program) as process:
        assert process.wait() == 0
        assert "heard" in process.output


def test_ones_own_handler_cannot_be_in_the_way_of_the_end(run: Run) -> None:
    """The main loop that would run it is stopping, and stuck."""
    program = """
handler.handlers["SIGTERM"] = lambda: (say("own"), engine.exit())
"""
    with run(PRELUDE + STUCK + program + SERVE) as process:
        process.wait_for_output("serving")
        process.signal()
        process.wait_for_output("^stuck")
        assert press(process) == 70
        assert process.output.count("own\n") == 1


def test_a_dump_needs_no_more_than_one_thread(
    bus: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has too many is one to look into; and the next one is answered, too."""
    heard: list[int] = []
    bus.subscribe("SIGQUIT", lambda: heard.append(threading.get_ident()))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with subscribed(bus):
        for refused in (True, False):
            with monkeypatch.context() as patched:
                if refused:
                    patched.setattr(threading.Thread, "start", refuse)
                os.kill(os.getpid(), signal.SIGQUIT)
                wait_for(lambda: heard)
                heard.clear()


def test_a_dump_while_the_stop_is_stuck_shows_where(run: Run) -> None:
    with run(PRELUDE + STUCK + SERVE) as process:
        process.wait_for_output("serving")
        process.signal()
        process.wait_for_output("^stuck")
        process.signal(signal.SIGQUIT)
        process.wait_for_output("All threads:")
        process.wait_for_output("in stuck")


# Restarting.

#: Runs itself again for ever, as fast as it can, until it is told to end.
ENDLESS = """
def again():
    threading.Thread(target=lambda: engine.restart(force=True), daemon=True).start()
engine.subscribe("started", again)
engine.subscribe("graceful", lambda: say("graceful"))
"""


@pytest.mark.slow
def test_one_sigterm_at_any_moment_of_a_restart_ends_the_process(run: Run) -> None:
    """In CherryPy 37 of 40 such processes went on serving."""
    choose = random.Random(11)
    for _ in range(20):
        with run(PRELUDE + ENDLESS + SERVE) as process:
            process.wait_for_output("serving")
            pause(choose.uniform(0, 0.4))
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


@pytest.mark.slow
def test_no_signal_is_fatal_between_an_exec_and_the_handlers(run: Run) -> None:
    """SIGUSR1 killed 4 of 40 such processes in CherryPy."""
    with run(PRELUDE + ENDLESS + SERVE) as process:
        process.wait_for_output("serving")
        for _ in range(300):
            process.signal(signal.SIGUSR1)
            pause(0.003)
        lives = process.output.count("serving\n")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert lives > 2


RESTARTABLE = """
from pathlib import Path
life = int(os.environ.get("LIFE", "0"))
os.environ["LIFE"] = str(life + 1)
say("pid", os.getpid(), "life", life)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PRELUDE + RESTARTABLE + SERVE)
    return path


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_a_restart_keeps_the_process(program: Path, number: int) -> None:
    """Standard input is no terminal, so SIGHUP restarts as SIGUSR2 does."""
    with Child([sys.executable, program]) as process:
        process.wait_for_output("serving")
        process.signal(number)
        process.wait_for_output(f"pid {process.pid} life [12]")
        wait_for(lambda: process.output.count("serving\n") == 2, PATIENCE)
        assert process.stop() == 0


@pytest.mark.parametrize("closing", [False, True], ids=["by kill", "by closing"])
def test_a_terminal_that_hangs_up_ends_the_process(program: Path, closing: bool) -> None:
    """The system says of a terminal that is gone that it is none: that must not be believed."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, str(program)])
    printed = b""
    while b"serving" not in printed:
        printed += os.read(terminal, 4096)
    if closing:
        os.close(terminal)
    else:
        os.kill(pid, signal.SIGHUP)
    try:
        ended = wait_for(lambda: os.waitpid(pid, os.WNOHANG), PATIENCE)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        if not closing:
            os.close(terminal)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_nohup_is_respected(run: Run) -> None:
    with run(PRELUDE + SERVE, before=["nohup"]) as process:
        process.wait_for_output("serving")
        process.signal(signal.SIGHUP)
        process.signal(signal.SIGUSR1)
        process.wait_for_output("Bus graceful")
        assert process.stop() == 0
        assert "SIGHUP" not in process.output


def test_the_background_of_a_shell_is_respected(run: Run) -> None:
    """A shell ignores SIGINT in what it starts with &; Ctrl-C is meant for somebody else."""
    with run(PRELUDE + SERVE, before=["sh", "-c", '"$@" & wait', "sh"]) as shell:
        shell.wait_for_output("serving")
        os.killpg(shell.pid, signal.SIGINT)
        shell.process.wait(PATIENCE)
        assert "Bus STOPPING" not in shell.output
        # The shell is gone, what it started is not.
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait_for_output("Bus EXITED")


def test_what_is_set_on_purpose_is_not_left_ignored(bus: Recorder) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        for handler in (
            SignalHandler(bus, actions={"SIGUSR1": "graceful"}),
            with_handler(bus, "SIGUSR1", bus.graceful),
        ):
            bus.calls.clear()
            handler.subscribe()
            signal.raise_signal(signal.SIGUSR1)
            bus.turn()
            handler.unsubscribe()
            assert bus.calls == ["graceful"]
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        with subscribed(bus):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def with_handler(bus: Any, name: str, function: Callable[[], object]) -> SignalHandler:
    handler = SignalHandler(bus)
    handler.handlers[name] = function
    return handler


def test_ignoring_is_not_inherited(bus: Recorder) -> None:
    """A restart after the line was taken out of the configuration must bring the signal back."""
    with subscribed(bus, SIGUSR1="ignore"):
        signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN
        bus.turn()
    assert bus.calls == []


def test_a_worker_of_multiprocessing_can_be_terminated(run: Run) -> None:
    """It has a copy of the handlers, of a site that is not its own."""
    program = """
import multiprocessing
engine.subscribe("stop", lambda: say("stopping", os.getpid()))
def work():
    say("working")
    threading.Event().wait()
def start():
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, ())
    started.wait(1)
    worker.terminate()
    worker.join()
    say("worker ended with", worker.exitcode)
    engine.exit()
started = threading.Event()
engine.subscribe("started", lambda: engine.call_in_main(start))
"""
    with run(PRELUDE + program + SERVE) as process:
        assert process.wait() == 0
        assert "worker ended with -15" in process.output
        assert process.output.count("stopping") == 1


# Coming and going.


def test_the_handlers_before_are_put_back() -> None:
    """Whoever lent us the process gets it back as it was."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    handler = SignalHandler(Recorder())
    handler.subscribe()
    handler.subscribe()
    handler.set_handler("SIGWINCH", print)
    assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    handler.unsubscribe()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_a_handler_that_came_later_is_left_alone() -> None:
    """Giving back what somebody else took since would take it from them."""
    before = signal.getsignal(signal.SIGTERM)
    handler = SignalHandler(Recorder())
    handler.subscribe()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handler.unsubscribe()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_came_between_gets_it_back() -> None:
    first = signal.getsignal(signal.SIGTERM)
    handler = SignalHandler(Recorder())
    handler.subscribe()
    signal.signal(signal.SIGTERM, stranger)
    handler.subscribe()
    try:
        assert signal.getsignal(signal.SIGTERM) is not stranger
        handler.unsubscribe()
        assert signal.getsignal(signal.SIGTERM) is stranger
    finally:
        signal.signal(signal.SIGTERM, first)


def stranger(number: int, frame: object) -> None:
    """Somebody else's handler."""


def test_another_thread_is_told_why_it_cannot() -> None:
    """Python itself says only ``signal only works in main thread``."""
    raised: list[Exception] = []
    handler = SignalHandler(Recorder())

    def try_all() -> None:
        for call in (handler.subscribe, handler.unsubscribe, lambda: handler.set_handler("SIGHUP")):
            try:
                call()
            except NotMainThread as error:
                raised.append(error)

    thread = threading.Thread(target=try_all, name="worker-1")
    thread.start()
    thread.join()
    assert "SignalHandler.subscribe() works only in the main thread" in str(raised[0])
    assert "'worker-1'" in str(raised[0])
    assert len(raised) == 3


# What code written for wspbus does.


def test_handlers_are_editable_and_may_be_none(bus: Recorder) -> None:
    handler = SignalHandler(bus)
    heard: list[str] = []
    del handler.handlers["SIGUSR2"]
    handler.handlers.update({"SIGUSR1": lambda: heard.append("own"), "SIGWINCH": None})
    before = signal.getsignal(signal.SIGUSR2)
    handler.subscribe()
    try:
        assert signal.getsignal(signal.SIGUSR2) == before
        bus.subscribe("SIGWINCH", lambda: heard.append("window"))
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGWINCH)
        bus.turn()
    finally:
        handler.unsubscribe()
    assert heard == ["own", "window"]
    assert bus.calls == []


def test_the_exit_of_the_bus_is_known_as_such(bus: Recorder) -> None:
    """Old code says ``handlers["SIGTERM"] = bus.exit``: a second one must get out of it."""
    handler = with_handler(bus, "SIGUSR1", bus.exit)
    handler.subscribe()
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert bus.interrupts == 1
    finally:
        handler.unsubscribe()


def test_set_handler_adds_a_listener_by_name_or_number(bus: Recorder) -> None:
    handler = SignalHandler(bus)
    heard: list[str] = []
    handler.set_handler("SIGUSR1", lambda: heard.append("name"))
    handler.set_handler(signal.SIGWINCH, lambda: heard.append("number"))
    handler.subscribe()
    handler.set_handler("SIGTERM", lambda: heard.append("term"))
    try:
        for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGTERM):
            signal.raise_signal(number)
        bus.turn()
    finally:
        handler.unsubscribe()
    assert heard == ["name", "number", "term"]
    # What was there stays there.
    assert bus.calls == ["graceful"]
    assert bus.interrupts == 1
    assert not bus.listeners["SIGUSR1"]


@pytest.mark.parametrize("name", ["SIGIO", "SIGPOLL"])
def test_a_signal_is_heard_by_each_of_its_names(bus: Recorder, name: str) -> None:
    """In wspbus a handler for SIGIO is never called."""
    heard: list[str] = []
    with subscribed(bus) as handler:
        handler.set_handler(name, lambda: heard.append(name))
        signal.raise_signal(signal.SIGIO)
        bus.turn()
    assert heard == [name]


def test_the_names_of_signals() -> None:
    assert SignalHandler.signals[15] == "SIGTERM"
    assert NAMES[signal.SIGCHLD] == "SIGCHLD"
    assert set(aliases(signal.SIGCHLD)) >= {"SIGCHLD", "SIGCLD"}
    assert NUMBERS["SIGRTMIN+3"] == signal.SIGRTMIN + 3
    assert set(NAMES) == set(signal.valid_signals())
    assert all(NUMBERS[name] == number for number, name in NAMES.items())
    assert not ELSEWHERE & set(NUMBERS)


def test_hanging_up_tolerates_any_standard_input(
    bus: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = (tmp_path / "closed").open("w+")
    closed.close()
    for stdin in (None, closed, object()):
        monkeypatch.setattr(sys, "stdin", stdin)
        SignalHandler(bus).handle_SIGHUP()
    assert bus.calls == ["restart"] * 3


def test_hanging_up_counts_once(bus: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shell and system both tell of a closed terminal; nobody is in a hurry."""
    master, slave = os.openpty()
    with open(slave) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with subscribed(bus):
            for _ in range(3):
                signal.raise_signal(signal.SIGHUP)
            bus.turn()
            assert bus.interrupts == 1
    os.close(master)


# A bus of another kind.


def test_a_plain_bus_hears_in_a_thread() -> None:
    plain = Plain()
    with subscribed(plain):
        signal.raise_signal(signal.SIGUSR1)
        wait_for(lambda: len(plain.calls) == 1)
        signal.raise_signal(signal.SIGTERM)
        wait_for(lambda: len(plain.calls) == 2)
        wait_for(lambda: not threads_of_signals())
    assert plain.calls == [("graceful", "sitebus signals"), ("exit", "sitebus signals")]
    assert not any(plain.listeners.values())


def test_a_plain_bus_gets_a_picture_too() -> None:
    plain = Plain()
    with subscribed(plain):
        signal.raise_signal(signal.SIGQUIT)
        wait_for(lambda: any("MainThread" in line for line in plain.lines))
        wait_for(lambda: not threads_of_signals())


def threads_of_signals() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "sitebus signals"]


CHERRYPY = """
import cherrypy.process.wspbus
bus = cherrypy.process.wspbus.Bus()
bus.subscribe("log", lambda msg, level: say(msg))
if "stuck" in sys.argv:
    bus.subscribe("stop", lambda: (say("stuck"), threading.Event().wait()))
handler = SignalHandler(bus)
handler.subscribe()
bus.start()
say("serving")
bus.block()
"""


@pytest.mark.parametrize("stuck", [False, True])
def test_the_bus_of_cherrypy_is_served_as_well(stuck: bool, run: Run) -> None:
    pytest.importorskip("cherrypy")
    with run(PRELUDE + CHERRYPY, after=["stuck"] if stuck else []) as process:
        process.wait_for_output("^serving")
        process.signal(signal.SIGUSR1)
        process.wait_for_output("Bus graceful")
        process.signal()
        if stuck:
            process.wait_for_output("^stuck")
            assert press(process) == 70
        else:
            assert process.wait() == 0


# What is wrong is said.


def test_an_unknown_signal_gets_its_nearest_name(bus: Recorder) -> None:
    handler = SignalHandler(bus)
    handler.handlers["SIGTREM"] = None
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="no signal SIGTREM; did you mean 'SIGTERM'"):
        handler.subscribe()
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(UnknownSignal, match="there is no signal 4711"):
        handler.set_handler(4711)
    with pytest.raises(UnknownSignal) as caught:
        SignalHandler(bus, actions={"SIGUSR": "exit"})
    assert caught.value.status == 78


def test_a_signal_of_another_platform(bus: Recorder) -> None:
    """A handler for it has no effect, as wspbus promised; a setting for it is refused."""
    handler = with_handler(bus, "SIGBREAK", bus.exit)
    handler.subscribe()
    handler.unsubscribe()
    with pytest.raises(UnknownSignal, match="no SIGBREAK on this platform"):
        SignalHandler(bus, actions={"SIGBREAK": "exit"})
    with pytest.raises(ValueError, match="no SIGBREAK on this platform"):
        handler.set_handler("SIGBREAK")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGSEGV"])
def test_what_cannot_be_answered_is_refused(bus: Recorder, name: str) -> None:
    with pytest.raises(CannotCatch, match=f"cannot answer {name}: ") as caught:
        SignalHandler(bus, actions={name: "publish"})
    assert caught.value.status == 78
    with pytest.raises(ValueError, match=name):
        SignalHandler(bus).set_handler(name)
    with pytest.raises(ValueError, match=name):
        number_of(NUMBERS[name])


@pytest.mark.parametrize("name", ["SIGKILL", "sigstop", "SIGSEGV"])
def test_what_cannot_be_answered_is_refused_in_a_file_too(tmp_path: Path, name: str) -> None:
    """With why, rather than as a name that nobody knows."""
    file = tmp_path / "site.ini"
    file.write_text(f"[signals]\n{name} = exit\n")
    with pytest.raises(ConfigErrors) as caught:
        assembly.read(file, environ={})
    text = str(caught.value)
    assert f"site.ini:2: {name} = 'exit': cannot answer {name.upper()}: " in text
    assert "did you mean" not in text


def test_an_unknown_action_is_refused(bus: Recorder) -> None:
    with pytest.raises(UnknownAction) as caught:
        SignalHandler(bus, actions={"SIGHUP": "reload"})
    assert caught.value.status == 78
    text = str(caught.value)
    assert text.startswith("cannot answer SIGHUP with 'reload'")
    assert all(action in text for action in ACTIONS)


def test_every_action_can_be_chosen(bus: Recorder) -> None:
    for action in ACTIONS:
        with subscribed(bus, SIGWINCH=action):
            pass
    assert set(DEFAULTS.values()) <= set(ACTIONS)


def test_the_reference_names_every_action_and_default() -> None:
    page = (ROOT / "docs" / "reference" / "signals.rst").read_text()
    for name, action in DEFAULTS.items():
        assert name in page
        assert f"``{action}``" in page
    for action, help_text in ACTIONS.items():
        assert f"``{action}``\n    {help_text[0].upper()}{help_text[1:]}." in page


# Consoles of Windows.


def test_a_console_event_is_an_interrupt(bus: Recorder) -> None:
    handler = ConsoleCtrlHandler(bus)
    assert [handler.handle(event) for event in (0, 1)] == [1, 1]
    assert handler.handle(77) == 0
    assert bus.interrupts == 2


@pytest.mark.skipif(sys.platform == "win32", reason="it works there")
def test_there_is_no_console_elsewhere(bus: Recorder) -> None:
    with pytest.raises(NotOnThisPlatform, match="works only on Windows; here, use SignalHandler"):
        ConsoleCtrlHandler(bus).subscribe()


def pause(seconds: float) -> None:
    """Let a chosen moment come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_threads_that_wait_alike_are_written_once(bus: Recorder) -> None:
    """Ten idle workers would bury the one that matters."""
    release = threading.Event()
    threads = [threading.Thread(target=release.wait, name=f"idle-{n}") for n in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        registry = Registry()
        names = {"idle-1", "idle-2"}
        wait_for(lambda: len({p.frames for p in registry.threads() if p.name in names}) == 1)
        text = told(each for each in registry.threads() if each.name in names)
    finally:
        release.set()
        for thread in threads:
            thread.join()
    assert text.count("self._cond.wait") == 1
    assert text.startswith(("idle-1, and idle-2", "idle-2, and idle-1"))
