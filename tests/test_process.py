"""The engine: commands, their order under attack, and ways out of what hangs."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import re
import signal
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sitebus import ChannelFailures, Engine, ProcessBus, State, states
from sitebus.errors import (
    AlreadyRunning,
    CommandCancelled,
    Interrupted,
    NotEnded,
    NotMainThread,
    SitebusError,
    Unreachable,
    status_of,
)
from sitebus.machine import WSPBUS
from tests.helpers import Child, nothing_left, wait_for


@pytest.fixture
def logged(engine: Engine) -> list[str]:
    """What *engine* logs, line by line."""
    lines: list[str] = []
    engine.subscribe("log", lambda message, level: lines.append(message))
    return lines


def count(engine: Engine, *channels: str) -> list[str]:
    """Note each time one of *channels* is published."""
    heard: list[str] = []
    for channel in channels:
        engine.subscribe(channel, functools.partial(heard.append, channel))
    return heard


# What code written for wspbus relies on.


def test_start_and_exit_say_what_they_do(engine: Engine, logged: list[str]) -> None:
    engine.start()
    assert engine.state == states.STARTED
    engine.exit()
    assert engine.ended
    assert logged == [
        "Bus STARTING",
        "Bus STARTED",
        "Bus STOPPING",
        "Bus STOPPED",
        "Bus EXITING",
        "Bus EXITED",
    ]


def test_exit_runs_stop_then_exit_even_if_never_started(engine: Engine, logged: list[str]) -> None:
    """Listeners may hold what they made by themselves."""
    heard = count(engine, "exit", "stop")
    engine.exit()
    assert heard == ["stop", "exit"]
    assert logged == ["Bus STOPPING", "Bus STOPPED", "Bus EXITING", "Bus EXITED"]


def test_stop_runs_the_listeners_of_a_bus_that_never_started(engine: Engine) -> None:
    heard = count(engine, "stop")
    engine.stop()
    assert heard == ["stop"]
    assert engine.state is State.STOPPED


def test_the_same_shutdown_never_runs_twice(engine: Engine) -> None:
    heard = count(engine, "start", "stop", "exit")
    engine.start()
    engine.start()
    engine.stop()
    engine.stop()
    engine.exit()
    engine.exit()
    assert heard == ["start", "stop", "exit"]


def test_graceful_changes_no_state(engine: Engine, logged: list[str]) -> None:
    heard = count(engine, "graceful")
    engine.graceful()
    assert heard == ["graceful"]
    assert engine.state is State.STOPPED
    assert logged == ["Bus graceful"]


def test_builtin_channels_stand_any_listener(engine: Engine) -> None:
    """Upstream publishes on every channel, bare and with one value; ours may not interfere."""
    heard: list[tuple[str, object]] = []

    def listener(channel: str, arg: object = None) -> None:
        heard.append((channel, arg))

    for channel in engine.listeners:
        engine.subscribe(channel, functools.partial(listener, channel))
    for channel in engine.listeners:
        engine.publish(channel)
        engine.publish(channel, arg=79347)
    expected = [(channel, arg) for channel in engine.listeners for arg in (None, 79347)]
    assert heard == expected
    assert {"start", "stop", "exit", "graceful", "log", "main"} <= set(engine.listeners)
    engine.clear()


def test_the_callback_comes_after_all_start_listeners(engine: Engine) -> None:
    order: list[str] = []
    engine.subscribe("start", lambda: order.append("start"), 100)
    thread = engine.start_with_callback(
        lambda *args, **kwargs: order.append(f"{args} {kwargs}"), (1, 3), {"foo": "bar"}
    )
    thread.join(10)
    assert order == ["start", "(1, 3) {'foo': 'bar'}"]
    assert thread.name.startswith("Bus Callback ")


def test_the_callback_of_a_failed_start_is_not_called(engine: Engine) -> None:
    """Its thread ends instead of waiting for ever."""
    engine.subscribe("start", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.start_with_callback(pytest.fail)
    # The fixture finds a thread that did not end.


def test_block_waits_for_the_exit_and_the_threads(engine: Engine, logged: list[str]) -> None:
    slow = threading.Event()

    def linger() -> None:
        slow.wait(10)

    def exit_soon() -> None:
        wait_for(lambda: engine._blocking)
        engine.exit()

    lingering = threading.Thread(target=linger, name="lingering")
    for thread in (lingering, threading.Thread(target=exit_soon)):
        thread.start()
    engine.subscribe(
        "log", lambda message, level: slow.set() if "for thread lingering" in message else None
    )
    assert engine.block() == 0
    assert not lingering.is_alive()
    assert logged == [
        "Bus STOPPING",
        "Bus STOPPED",
        "Bus EXITING",
        "Bus EXITED",
        "Waiting for child threads to terminate...",
        "Waiting for thread lingering.",
    ]


def test_block_is_the_main_threads(engine: Engine) -> None:
    caught: list[BaseException] = []

    def block_elsewhere() -> None:
        try:
            engine.block()
        except NotMainThread as error:
            caught.append(error)

    thread = threading.Thread(target=block_elsewhere, name="other")
    thread.start()
    thread.join()
    assert "block() works only in the main thread, and was called in 'other'" in str(caught[0])


def test_block_in_a_listener_is_refused(engine: Engine) -> None:
    """What it would wait for cannot go on before the listener returns."""
    engine.subscribe("start", engine.block)
    with pytest.raises(AlreadyRunning, match="block\\(\\) was called while the engine is in"):
        engine.start()


def test_pool_threads_do_not_hold_the_exit(engine: Engine) -> None:
    """An idle executor's threads end when the interpreter does, not before."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        engine.exit()
        assert engine.block() == 0


def test_a_with_block_starts_and_exits(engine: Engine) -> None:
    heard = count(engine, "start", "exit")
    with engine:
        assert heard == ["start"]
    assert heard == ["start", "exit"]


# Failure.


def test_a_failing_start_unwinds_and_raises_the_original_error(engine: Engine) -> None:
    heard = count(engine, "stop", "exit", "started")
    error = OSError("no")

    def fail() -> None:
        raise error

    engine.subscribe("start", fail)
    with pytest.raises(OSError, match="no") as caught:
        engine.start()
    assert caught.value is error
    assert heard == ["stop", "exit"]
    assert engine.ended
    assert engine.exit_code == 70


def test_several_failures_of_a_start_come_together(engine: Engine) -> None:
    engine.subscribe("start", lambda: 1 / 0)
    engine.subscribe("start", lambda: int("x"))
    with pytest.raises(ChannelFailures) as caught:
        engine.start()
    assert len(caught.value.exceptions) == 2


def test_a_failing_stop_is_reported_and_never_retried(engine: Engine) -> None:
    engine.subscribe("stop", lambda: 1 / 0)
    heard = count(engine, "stop", "exit")
    engine.start()
    with pytest.raises(ChannelFailures):
        engine.stop()
    assert engine.state is State.STOPPED
    engine.exit()
    assert heard == ["stop", "exit"]


def test_a_failing_exit_ends_all_the_same(engine: Engine) -> None:
    engine.subscribe("exit", lambda: 1 / 0)
    with pytest.raises(ChannelFailures):
        engine.exit()
    assert engine.ended
    assert engine.block() == 70


@pytest.mark.parametrize("channel", ["started", "stopped", "exited"])
def test_news_changes_nothing(engine: Engine, logged: list[str], channel: str) -> None:
    engine.subscribe(channel, lambda: 1 / 0)
    engine.start()
    engine.stop()
    engine.exit()
    assert any(f"Error in {channel!r} listener" in line for line in logged)


def test_system_exit_in_a_start_listener_unwinds_and_travels_up(engine: Engine) -> None:
    engine.subscribe("start", lambda: sys.exit(3))
    heard = count(engine, "stop", "exit")
    with pytest.raises(SystemExit):
        engine.start()
    assert heard == ["stop", "exit"]
    assert engine.exit_code == 3


def test_what_has_exited_is_not_started_again(engine: Engine) -> None:
    engine.exit()
    with pytest.raises(Unreachable, match="make a new bus"):
        engine.start()
    with pytest.raises(Unreachable):
        engine.restart()


def test_what_stays_after_a_failure_starts_again(engine: Engine) -> None:
    """On the same sockets, once what has failed is left out."""
    heard = count(engine, "start", "stop", "exit")

    def fail() -> None:
        raise OSError("not today")

    engine.subscribe("start", fail)
    with pytest.raises(OSError, match="not today"):
        engine.start(stay=True)
    assert engine.state == State.STOPPED
    engine.unsubscribe("start", fail)
    engine.start()
    engine.exit()
    assert heard == ["start", "stop", "start", "stop", "exit"]


def test_what_is_to_stay_ends_if_that_is_what_was_raised(engine: Engine) -> None:
    """A listener that ends the process does so, whoever would start it again."""
    engine.subscribe("start", lambda: sys.exit(3))
    with pytest.raises(SystemExit):
        engine.start(stay=True)
    assert engine.ended


def test_a_renewed_engine_lives_again(engine: Engine) -> None:
    """With its listeners, and without what its last life came to."""
    heard = count(engine, "start", "stop", "exit")

    def boom() -> None:
        raise OSError("boom")

    engine.subscribe("start", boom, priority=90)
    with pytest.raises(OSError, match="boom"):
        engine.start()
    engine.unsubscribe("start", boom)
    engine.hurry()
    assert engine.exit_code == 70

    engine.renew()

    assert (engine.state, engine.exit_code, engine.impatient) == (State.STOPPED, 0, False)
    engine.start()
    engine.exit()
    assert heard == ["start", "stop", "exit"] * 2
    assert engine.block() == 0


def test_a_renewed_engine_has_a_loop_again() -> None:
    """The one of its last life was stopped for good."""
    engine = Engine()
    try:
        engine.start()
        assert engine.loop.is_running()
        engine.exit()
        engine.renew()
        engine.start()
        assert engine.loop.is_running()
    finally:
        engine.exit()


def test_a_renewed_engine_has_forgotten_a_restart(engine: Engine) -> None:
    """Nobody blocked, so that nothing was run again; nor will it be after the next exit."""
    engine.start()
    engine.restart(force=True)
    assert engine.execv
    engine.renew()
    engine.start()
    engine.exit()
    assert not engine.execv


@pytest.mark.parametrize("started", [False, True])
def test_only_what_has_exited_is_renewed(engine: Engine, started: bool) -> None:
    """What lives holds sockets and threads that a new life would know nothing of."""
    if started:
        engine.start()
    state = engine.state
    with pytest.raises(NotEnded, match="exit\\(\\) it first"):
        engine.renew()
    assert engine.state == state


def test_an_engine_is_not_renewed_under_who_blocks(engine: Engine) -> None:
    """The main thread is about to end the process, or to run it again."""
    refused: list[str] = []

    def renew() -> None:
        try:
            engine.renew()
        except NotEnded as error:
            refused.append(str(error))

    engine.start()
    engine.subscribe("exited", lambda: engine.call_in_main(renew))
    engine.exit()
    assert engine.block() == 0
    assert ["block() has not returned" in each for each in refused] == [True]


def test_abort_gives_the_process_a_truthful_status(engine: Engine) -> None:
    """A server thread that dies must not end in status 0."""
    engine.start()
    thread = threading.Thread(target=engine.abort, args=(RuntimeError("server died"),))
    thread.start()
    assert engine.block() == 70
    thread.join()


def test_a_command_that_comes_late_leaves_no_deadline() -> None:
    """Whoever was to walk an exit may find that it is over, and has nobody to bound."""
    looked, done = threading.Event(), threading.Event()

    class Late(Engine):
        def _serve_in_a_thread(self) -> None:
            super()._serve_in_a_thread()
            done.set()

        def _is_preempted(self) -> bool:
            found = super()._is_preempted()
            if threading.get_ident() != threading.main_thread().ident:
                looked.set()
                wait_for(lambda: self.ended and not self._blocking)
            return found

    with nothing_left(1):
        late = Late()
        late.start()
        late.abort(RuntimeError("server died"))
        assert looked.wait(5)
        assert late.block() == 70
        assert done.wait(5)


@pytest.mark.parametrize("blocked", [True, False])
def test_work_for_the_main_thread_is_done_before_the_end(engine: Engine, blocked: bool) -> None:
    """Listeners of the signal that ends the process are such work."""
    done: list[bool] = []

    def end() -> None:
        engine.call_in_main(lambda: done.append(True))
        engine.exit()

    engine.start()
    if blocked:
        engine.call_in_main(end)
    else:
        end()
    engine.block()
    assert done


def test_a_command_is_walked_though_no_thread_is_to_be_had(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that the system gave is enough."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine.start()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    engine.abort(RuntimeError("server died"))
    wait_for(lambda: engine.ended)
    monkeypatch.undo()


def test_the_status_of_an_error_is_the_errors_own() -> None:
    class Special(SitebusError):
        status = 66

    assert status_of(Special()) == 66
    assert status_of(SystemExit(None)) == 0
    assert status_of(SystemExit(5)) == 5
    assert status_of(KeyboardInterrupt()) == 0
    assert status_of(ValueError()) == 70
    assert status_of(ChannelFailures("start", [Special(), ValueError()])) == 66


# One walker.


def test_exit_preempts_a_start_at_the_next_listener(engine: Engine) -> None:
    heard = count(engine, "stop", "exit")
    engine.subscribe("start", lambda: engine.exit(), 10)
    late: list[int] = []
    engine.subscribe("start", lambda: late.append(1), 20)
    with pytest.raises(CommandCancelled):
        engine.start()
    assert not late
    assert heard == ["stop", "exit"]
    assert engine.exit_code == 0


def test_a_stop_does_not_preempt_a_start(engine: Engine) -> None:
    heard = count(engine, "started", "stop")
    engine.subscribe("start", lambda: engine.stop())
    engine.start()
    assert heard == ["started", "stop"]
    assert engine.state is State.STOPPED


class Commands(RuleBasedStateMachine):
    """Commands from many threads at once, in any order: the life stays a life."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()
        self.steps: list[str] = []
        self.inside = 0
        self.overlaps = 0
        self.wrong: list[BaseException] = []
        for channel in ("start", "stop", "exit"):
            self.engine.subscribe(channel, functools.partial(self.listen, channel))

    def listen(self, channel: str) -> None:
        self.inside += 1
        self.overlaps += self.inside > 1
        self.steps.append(channel)
        time.sleep(0)  # let another thread have its turn here
        self.inside -= 1

    def command(self, name: str) -> None:
        try:
            getattr(self.engine, name)()
        except (Unreachable, CommandCancelled):
            pass  # an exit came first
        except BaseException as error:  # whatever else it is, it is wrong
            self.wrong.append(error)

    @rule(names=st.lists(st.sampled_from(["start", "stop", "graceful"]), min_size=1, max_size=6))
    def many_at_once(self, names: list[str]) -> None:
        self.run(names)

    @rule(names=st.lists(st.sampled_from(["start", "stop", "exit"]), min_size=1, max_size=6))
    def many_and_an_exit(self, names: list[str]) -> None:
        self.run([*names, "exit"])
        assert self.engine.ended

    def run(self, names: list[str]) -> None:
        threads = [threading.Thread(target=self.command, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a command never came back"

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert not self.wrong
        assert not self.overlaps
        assert not self.engine._commands
        assert not self.engine._walking

    @invariant()
    def it_rests_where_a_life_can_rest(self) -> None:
        assert self.engine.state in {State.STOPPED, State.STARTED, State.EXITING}

    @invariant()
    def the_steps_are_a_life(self) -> None:
        """Starts and stops alternate, exit is last and comes once.

        A start that was cut short before its first listener still unwinds: a stop without a start.
        """
        story = " ".join(self.steps)
        assert re.fullmatch(r"(stop ?)?(start stop ?)*(start ?)?(stop exit)?", story), story

    def teardown(self) -> None:
        self.engine.exit()


TestCommands = Commands.TestCase
TestCommands.settings = settings(max_examples=60, stateful_step_count=8, deadline=None)


@pytest.mark.parametrize("seed", range(8))
def test_signals_and_threads_together_end_in_one_exit(seed: int) -> None:
    """Interrupts hit the walker anywhere; the listeners still run once each, and it ends."""
    chance = random.Random(seed)
    with nothing_left():
        engine = Engine()
        heard = count(engine, "stop", "exit")

        def poke() -> None:
            for _ in range(50):
                signal.raise_signal(signal.SIGUSR1)
                threading.Event().wait(chance.random() / 1000)
            engine.exit()

        previous = signal.signal(signal.SIGUSR1, lambda *_: engine._post(engine._exit_command()))
        try:
            thread = threading.Thread(target=poke)
            thread.start()
            try:
                engine.start()
            except (CommandCancelled, Unreachable):
                pass  # the first signal was faster
            engine.block()
            thread.join()
        finally:
            signal.signal(signal.SIGUSR1, previous)
    assert heard == ["stop", "exit"]


# Waiting.


def test_block_ticks_main_only_for_listeners_and_survives_their_failure(
    engine: Engine, logged: list[str]
) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            engine.exit()
        raise ValueError("a listener's own trouble")

    engine.subscribe("main", tick)
    engine.start()
    assert engine.block(interval=0.001) == 0
    assert len(ticks) == 3


def test_block_runs_work_for_the_main_thread(engine: Engine, logged: list[str]) -> None:
    engine.start()
    names: list[str] = []
    engine.call_in_main(lambda: 1 / 0)
    engine.call_in_main(lambda: names.append(threading.current_thread().name))
    engine.call_in_main(engine.exit)
    engine.block()
    assert names == ["MainThread"]
    assert any("called in the main thread" in line for line in logged)


def test_pause_is_cut_short_by_hurry(engine: Engine) -> None:
    assert engine.pause(0.001)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(engine.pause(60)))
    thread.start()
    wait_for(lambda: engine._mail._boxes)
    engine.hurry()
    thread.join(5)
    assert answers == [False]
    assert engine.pause(60) is False


def test_hurry_cuts_an_asynchronous_listener_short(engine: Engine) -> None:
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    engine.subscribe("stop", hang)
    engine.start()
    hurry = threading.Timer(0.05, engine.hurry)
    hurry.start()
    with pytest.raises(ChannelFailures) as caught:
        engine.exit()
    hurry.join()
    assert isinstance(caught.value.exceptions[0], Interrupted)
    assert cancelled.wait(5)


def test_the_deadline_names_what_hangs_and_cuts_it_short(engine: Engine, logged: list[str]) -> None:
    engine.stop_timeout = 0.05

    explained = threading.Event()

    def listen(message: str, level: int) -> None:
        if "did not end" in message:
            explained.set()

    engine.subscribe("log", listen)

    def hang() -> None:
        engine.pause(60)
        explained.wait(10)

    engine.subscribe("stop", hang)
    engine.start()
    engine.exit()
    [line] = wait_for(lambda: [line for line in logged if "did not end within 0.05 s" in line])
    assert "hang" in line
    assert engine.exit_code == 70


def test_threads_that_never_end_are_named_and_left(engine: Engine, logged: list[str]) -> None:
    engine.stop_timeout = 0.1
    release = threading.Event()
    stuck = threading.Thread(target=lambda: release.wait(30), name="stuck")
    stuck.start()
    engine.exit()
    assert engine.block() == 70
    assert [thread.name for thread in engine.stragglers] == ["stuck"]
    assert any("Leaving thread stuck behind" in line for line in logged)
    release.set()
    stuck.join()


def test_describe_shows_listeners_in_order_with_their_durations(engine: Engine) -> None:
    engine.subscribe("start", print, 60)
    engine.subscribe("start", engine.hurry, 10)
    engine.start()
    described = engine.describe()
    assert described.state is State.STARTED
    assert described.states == frozenset(WSPBUS.states)
    assert [each.name for each in described.channels["start"]] == ["Engine.hurry", "print"]
    assert all(each.last is not None for each in described.channels["start"])


# The whole process.


def run(tmp_path: Path, text: str) -> Child:
    """Run *text* as a program of its own, with an engine that logs to standard output."""
    script = tmp_path / "program.py"
    preamble = """
        import os, signal, sys, threading, time
        import sitebus
        engine = sitebus.engine
        engine.subscribe("log", lambda message, level: print(message, flush=True))
    """
    script.write_text(textwrap.dedent(preamble) + textwrap.dedent(text))
    return Child([sys.executable, script])


def test_ctrl_c_ends_a_program_quietly(tmp_path: Path) -> None:
    text = """
        engine.start()
        engine.call_in_main(lambda: print("up", flush=True))
        sys.exit(engine.block())
    """
    with run(tmp_path, text) as child:
        child.wait_for_output("^up$")
        child.signal(signal.SIGINT)
        assert child.wait() == 0
        assert "Traceback" not in child.output
        assert "Bus EXITED" in child.output


def test_the_third_interrupt_leaves_with_seventy(tmp_path: Path) -> None:
    """A listener that never comes back cannot hold the process."""
    # The naps are short, for a handler of one's own hears late of a signal that came just before
    # the main thread went back to sleep (see sitebus.wakeup, which the plugin uses).
    text = """
        def hang():
            print("hanging", flush=True)
            while True:
                time.sleep(0.05)
        engine.subscribe("stop", hang)
        signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"caught\\n"), engine.interrupt()))
        engine.start()
        engine.block()
    """
    with run(tmp_path, text) as child:
        child.wait_for_output("Bus STARTED")
        child.signal()
        child.wait_for_output("hanging")
        child.signal()
        child.wait_for_output("caught\\n(.|\\n)*caught")
        child.signal()
        assert child.wait() == 70
        assert "in hang" in child.output


def test_an_unstopped_engine_is_stopped_at_exit_with_a_warning(tmp_path: Path) -> None:
    text = """
        engine.subscribe("exit", lambda: print("exit ran"))
        engine.start()
        engine.stop()
        engine.start()
    """
    with run(tmp_path, text) as child:
        assert child.wait() == 0
        assert "RuntimeWarning: The main thread is exiting, but the Bus is in the" in child.output
        assert child.output.count("exit ran") == 1


def test_system_exit_from_main_keeps_its_status(tmp_path: Path) -> None:
    text = """
        engine.subscribe("main", lambda: sys.exit(9))
        engine.start()
        engine.block()
    """
    with run(tmp_path, text) as child:
        assert child.wait() == 9
        assert "Bus EXITED" in child.output


def test_a_restart_runs_the_same_program_in_the_same_process(tmp_path: Path) -> None:
    text = """
        print("pid", os.getpid(), flush=True)
        runs = int(os.environ.get("RUNS", "0")) + 1
        os.environ["RUNS"] = str(runs)
        os.chdir("/")
        engine.start()
        if runs < 3:
            threading.Thread(target=engine.restart).start()
        else:
            threading.Thread(target=engine.exit).start()
        sys.exit(engine.block())
    """
    with run(tmp_path, text) as child:
        assert child.wait() == 0
        assert child.output.count(f"pid {child.pid}\n") == 3


def test_an_exit_during_a_restart_wins(tmp_path: Path) -> None:
    """SIGTERM while a restart is on its way must not be lost in the new image."""
    text = """
        print("run", flush=True)
        engine.subscribe("stop", engine.interrupt)
        engine.start()
        engine.restart()
        sys.exit(engine.block())
    """
    with run(tmp_path, text) as child:
        assert child.wait() == 0
        assert child.output.count("run\n") == 1


# The other vocabulary.


@pytest.fixture
def process_bus() -> Iterator[ProcessBus]:
    with nothing_left():
        bus = ProcessBus()
        yield bus
        bus.exit()


def test_a_process_bus_walks_through_magicbus_states(process_bus: ProcessBus) -> None:
    lines: list[str] = []
    process_bus.subscribe("log", lambda message, level: lines.append(message))
    process_bus.transition("RUN")
    process_bus.transition("EXITED")
    expected = ["ENTER", "IDLE", "START", "RUN", "STOP", "IDLE", "EXIT", "EXITED"]
    assert lines == [f"Bus state: {state}" for state in expected]


def test_a_failing_run_ends_exited_and_is_told(process_bus: ProcessBus) -> None:
    told: list[object] = []
    process_bus.subscribe("START", lambda: 1 / 0)
    process_bus.subscribe("START_ERROR", lambda *error: told.append(error[0]))
    process_bus.subscribe("STOP", lambda: told.append("stop"))
    with pytest.raises(ChannelFailures):
        process_bus.transition("RUN")
    assert told == [ChannelFailures, "stop"]
    assert process_bus.state == "EXITED"
    assert process_bus.exit_code == 70


def test_graceful_stops_and_starts_a_process_bus(process_bus: ProcessBus) -> None:
    process_bus.start()
    heard = count(process_bus, "STOP", "START", "RUN")
    process_bus.graceful()
    assert heard == ["STOP", "START", "RUN"]


def test_the_callback_of_a_process_bus_comes_after_run(process_bus: ProcessBus) -> None:
    """Seen before the listeners of RUN had run, in the original."""
    order: list[str] = []
    process_bus.subscribe("RUN", lambda: order.append("run"))
    process_bus.start_with_callback(lambda: order.append("callback")).join(10)
    assert order == ["run", "callback"]


# Interrupts, refusals and ends, where they hurt most.


def test_an_interrupt_while_logging_costs_no_listener(engine: Engine) -> None:
    """Ctrl-C may hit between the lines of a walk; stop and exit listeners run all the same."""
    heard = count(engine, "stop", "exit")

    def interrupted(message: str, level: int) -> None:
        if message == "Bus STOPPING":
            raise KeyboardInterrupt

    engine.start()
    engine.subscribe("log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.exit()
    assert heard == ["stop", "exit"]
    assert engine.ended


def test_a_second_interrupt_asks_for_the_exit_again(engine: Engine) -> None:
    """The first one's exit may have been cut off before it began."""
    engine.start()
    engine._blocking = True  # as if the main loop were about to serve
    engine.interrupt()
    engine._commands.clear()
    engine.interrupt()
    engine._blocking = False
    assert engine.block() == 0


def test_a_stop_has_a_deadline_too(engine: Engine, logged: list[str]) -> None:
    engine.stop_timeout = 0.05
    engine.subscribe("stop", functools.partial(engine.pause, 60))
    engine.start()
    engine.stop()
    wait_for(lambda: any("did not end within 0.05 s" in line for line in logged))
    assert engine.state is State.STOPPED
    assert engine.pause(0), "the next start would have no patience"


def test_an_exit_bounds_a_start_that_hangs(engine: Engine) -> None:
    engine.stop_timeout = 0.05

    async def hang() -> None:
        await asyncio.sleep(60)

    engine.subscribe("start", hang)
    asking = threading.Timer(0.05, engine.interrupt)
    asking.start()
    with pytest.raises((CommandCancelled, Interrupted)):
        engine.start()
    asking.join()
    assert engine.ended


def test_an_async_listener_that_leaves_does_not_end_the_loop(engine: Engine) -> None:
    """Asyncio lets SystemExit out of the loop; the publisher would wait for ever."""

    async def leave() -> None:
        sys.exit(3)

    async def answer() -> int:
        return 42

    engine.subscribe("leave", leave)
    engine.subscribe("answer", answer)
    with pytest.raises(SystemExit) as caught:
        engine.publish("leave")
    assert caught.value.code == 3
    assert engine.publish("answer") == [42]


def test_a_failing_exited_listener_changes_nothing(engine: Engine) -> None:
    engine.subscribe("exited", lambda: 1 / 0)
    engine.sockets.bind("127.0.0.1:0")
    engine.start()
    assert engine.loop.is_running()
    engine.exit()
    assert engine.exit_code == 0
    assert engine.addresses == ()


def test_a_restart_is_refused_while_the_exit_runs(engine: Engine) -> None:
    """An operator's exit is not turned into a restart by somebody who comes later."""
    refused: list[BaseException] = []

    def restart_now() -> None:
        try:
            engine.restart()
        except Unreachable as error:
            refused.append(error)

    engine.subscribe("stop", restart_now)
    engine.exit()
    assert refused
    assert not engine.execv


def test_what_failed_to_stop_is_not_run_again(engine: Engine) -> None:
    engine.subscribe("stop", lambda: 1 / 0)
    engine.start()
    with pytest.raises(ChannelFailures):
        engine.restart(force=True)
    assert not engine.execv


def test_a_log_listener_that_logs_does_not_hear_itself(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    engine.subscribe("log", lambda message, level: engine.log(f"heard {message}"))
    engine.log("this")
    assert capsys.readouterr().err == "heard this\n"


def test_an_async_log_listener_holds_nobody(engine: Engine) -> None:
    """Not on the loop itself, and not after its end."""
    heard: list[str] = []

    async def log(message: str, level: int) -> None:
        heard.append(message)

    async def work() -> None:
        engine.log("from the loop")

    engine.subscribe("log", log)
    engine.subscribe("work", work)
    engine.publish("work")
    wait_for(lambda: "from the loop" in heard)
    engine.exit()
    engine.block()


def test_a_listener_whose_repr_fails_is_one_failure(engine: Engine) -> None:
    class Awkward:
        def __call__(self) -> None:
            raise ValueError("mine")

        def __repr__(self) -> str:
            raise AttributeError("not mine")

    ran: list[int] = []
    engine.subscribe("news", Awkward())
    engine.subscribe("news", lambda: ran.append(1))
    with pytest.raises(ChannelFailures) as caught:
        engine.publish("news")
    assert ran
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


def test_an_interrupted_stop_is_no_success(engine: Engine) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    engine.start()
    engine.subscribe("stop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.exit()
    assert engine.exit_code == 70


def test_leaving_from_news_still_goes_all_the_way(engine: Engine) -> None:
    heard = count(engine, "exit")
    engine.start()
    engine.subscribe("stopped", lambda: sys.exit(3))
    with pytest.raises(SystemExit):
        engine.exit()
    assert heard == ["exit"]
    assert engine.exit_code == 3


def test_a_refused_command_of_a_listener_is_logged(engine: Engine, logged: list[str]) -> None:
    """Nobody waits for its result, and nothing is a silent no-op."""
    engine.subscribe("exit", engine.start)
    engine.exit()
    assert any("cannot go to states.STARTED" in line for line in logged)


def test_waiting_for_what_will_never_come_is_refused(engine: Engine) -> None:
    engine.exit()
    with pytest.raises(Unreachable):
        engine.wait(states.STARTED)


def test_a_dropped_engine_is_not_kept_for_the_end() -> None:
    reference = weakref.ref(engine := Engine())
    engine.start()
    engine.stop()
    del engine
    gc.collect()
    assert reference() is None


def test_a_main_listener_added_to_the_mapping_is_ticked(engine: Engine) -> None:
    engine.call_in_main(lambda: engine.listeners["main"].add(engine.exit))
    engine.start()
    assert engine.block(interval=0.001) == 0


def test_a_loop_is_made_anew_in_a_forked_child(engine: Engine) -> None:
    async def answer() -> int:
        return 42

    engine.subscribe("answer", answer)
    assert engine.publish("answer") == [42]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is the point
        child = os.fork()
    if child == 0:
        os._exit(0 if engine.publish("answer") == [42] else 1)
    assert wait_for(lambda: os.waitpid(child, os.WNOHANG), 10)[1] == 0


def test_the_third_interrupt_is_not_held_by_a_full_pipe(tmp_path: Path) -> None:
    """Nobody reads standard error; the process leaves all the same."""
    text = """
        def hang():
            print("hanging", flush=True)
            while True:
                time.sleep(60)
        engine.subscribe("stop", hang)
        signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x" * 65536)
        except BlockingIOError:
            os.set_blocking(writing, True)
        os.dup2(writing, 2)
        engine.start()
        engine.block()
    """
    with run(tmp_path, text) as child:
        child.wait_for_output("Bus STARTED")
        child.signal()
        child.wait_for_output("hanging")
        while child.process.poll() is None:
            child.signal()
            threading.Event().wait(0.05)
        assert child.wait() == 70


def test_signals_are_not_blocked_in_what_a_restarted_program_starts(tmp_path: Path) -> None:
    """A child that cannot be terminated would be the first sign of a restart."""
    text = """
        import subprocess
        runs = int(os.environ.get("RUNS", "0")) + 1
        os.environ["RUNS"] = str(runs)

        def spawn():
            child = subprocess.Popen(["sleep", "30"])
            child.terminate()
            print("ended by", child.wait(10), flush=True)

        engine.subscribe("start", spawn)
        engine.start()
        threading.Thread(target=engine.restart if runs < 2 else engine.exit).start()
        sys.exit(engine.block())
    """
    with run(tmp_path, text) as child:
        assert child.wait() == 0
        assert child.output.count("ended by -15") == 2


# What Python warns of is what this is about.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_disowned_engine_can_be_renewed_while_another_thread_walks(engine: Engine) -> None:
    """A fork copies that somebody starts the bus, and not who."""
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        go.wait(5)

    engine.subscribe("start", hold)
    walker = threading.Thread(target=engine.start)
    walker.start()
    assert inside.wait(5)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        go.set()
        engine.disown()
        engine.renew()
        engine.start()
        engine.exit()
        os._exit(42 if engine.state == states.EXITING else 1)
    status = os.waitpid(child, 0)[1]
    go.set()
    walker.join(5)

    assert os.waitstatus_to_exitcode(status) == 42
    assert engine.state == states.STARTED
