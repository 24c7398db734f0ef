"""The bus of a process: it starts, stops, exits, restarts, and has the last word.

Adds to a bus what belongs to a process: commands with names, the main thread's loop, the exit
status, the listening sockets, and ways out of a shutdown that hangs. Signals are plugins'
business; they end up in `Engine.interrupt`.
"""

from __future__ import annotations

import atexit
import enum
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sitebus import reexec
from sitebus.bus import ERROR, HURRY, LOOK, Bus
from sitebus.errors import (
    EX_SOFTWARE,
    AlreadyRunning,
    CannotRestart,
    ChannelFailures,
    NotMainThread,
    Unreachable,
    status_of,
)
from sitebus.machine import MAGICBUS, WSPBUS, AnyState, Machine, State
from sitebus.mailbox import receive
from sitebus.walk import Command

if TYPE_CHECKING:
    import asyncio

    from sitebus.sockets import Address, Sockets

WARNING = 30

#: A failing ``main`` listener is tried again ever more slowly, up to this many intervals.
SLOWEST = 64

#: Threads that are about to end anyway are not worth a log line; seconds.
ABOUT_TO_END = 0.05

#: After the overall deadline, what is cut short has this long to come back; seconds.
LAST_GRACE = 5.0


class Priority(enum.IntEnum):
    """When things happen while a site starts, and, from `DRAIN` on, while it stops.

    Plugins written for wspbus and magicbus know these numbers: lower runs first.
    """

    BIND = 60
    DAEMONIZE = 65
    PIDFILE = 70
    DROP_PRIVILEGES = 72
    IMPORT = 74
    SERVE = 75
    READY = 90

    DRAIN = 24
    SERVER_STOP = 25
    DEFAULT = 50


class Engine(Bus):
    """The bus of a process, in the five states of ``cherrypy.process.wspbus``.

    ``with engine:`` starts it and exits it.

    Attributes:
        exit_code: The exit status the process should have: 0 unless something failed.
        stop_timeout: Seconds that stop, exit and the threads' end may take together; then every
            stack is logged and waits are cut short.
        stragglers: Threads that had not ended when `block` gave up on them.
    """

    stop_timeout: float = 60.0

    def __init__(self, machine: Machine = WSPBUS, id: str | None = None) -> None:
        super().__init__(machine, id=id)
        self.exit_code = 0
        self.stragglers: tuple[threading.Thread, ...] = ()
        self._sockets: Sockets | None = None
        self._successor: reexec.Command | None = None
        self._interrupts = 0
        self._leaving = False
        self._blocking = False
        self._main_work: deque[Callable[[], object]] = deque()

    @property
    def states(self) -> Any:
        """The states by name: ``bus.states.STARTED``."""
        return State

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.exit()

    # Commands.

    def start(self) -> None:
        """Start everything; return when the site serves.

        Raises:
            Exception: What the failing listener raised, after everything was stopped and exited;
                `ChannelFailures` if several failed.
            CommandCancelled: An exit came before the start was complete.
            Unreachable: The engine has exited; an exited engine is not started again.
        """
        atexit.unregister(self._exit_at_last)
        atexit.register(self._exit_at_last)
        try:
            self._command(Command(self.machine.running))
        except ChannelFailures as failures:
            if len(failures.exceptions) > 1:
                raise
            raise failures.exceptions[0]  # noqa: B904 - it is the original error

    def stop(self) -> None:
        """Stop everything and stay; `start` serves again on the same sockets.

        Raises:
            ChannelFailures: Listeners failed; the engine is stopped all the same.
        """
        self._command(Command(self.machine.resting, sweep=True))

    def exit(self) -> None:
        """Stop everything for good. A second exit waits for the first.

        Raises:
            ChannelFailures: Listeners failed; the engine has exited all the same.
        """
        self._successor = None
        self._command(self._exit_command())

    def restart(self) -> None:
        """Exit, and have `block` run the same command line again in this process.

        Process id, terminal and listening sockets stay. Any thread may ask.

        Raises:
            CannotRestart: The command line could not be run again; nothing was stopped.
            Unreachable: The engine is exiting already.
        """
        if self.state in self.machine.final:
            raise Unreachable(self.machine.running, self.state, ())
        successor = reexec.Command.of_this_process()
        successor.check()
        self._successor = successor
        self._command(self._exit_command())

    def graceful(self) -> None:
        """Tell everyone to reload in place: log files, certificates, worker processes."""
        self._command(Command(action=self._publish_graceful))

    def abort(self, error: BaseException) -> None:
        """Exit because of *error*; any thread may call it, and it waits for nothing."""
        self._troubled(error)
        self.log("Shutting down the bus", ERROR, traceback=error)
        self._post(self._exit_command())

    def interrupt(self) -> None:
        """Act on one SIGINT or SIGTERM; safe in a signal handler.

        The first exits in order, the second cuts every wait short, the third leaves the process at
        once with status 70.
        """
        self._interrupts += 1
        if self._interrupts == 1:
            self._successor = None
            self._post(self._exit_command())
        elif self._interrupts == 2:
            self.hurry()
        else:
            self._leave_now()

    def hurry(self) -> None:
        """Cut every wait short, from here on."""
        self.impatient = True
        self._mail.tell(HURRY)

    @property
    def execv(self) -> bool:
        """Whether the process runs its command line again once the engine has exited."""
        return self._successor is not None

    @execv.setter
    def execv(self, wanted: bool) -> None:
        self._successor = reexec.Command.of_this_process() if wanted else None

    # Waiting.

    def block(self, interval: float = 0.1) -> int:
        """Be the main thread's loop until the exit is complete; answer the exit status.

        Runs what others queued for the main thread, publishes ``main`` every *interval* seconds
        if somebody listens there, then waits for the remaining threads, and re-executes if a
        restart was asked for. KeyboardInterrupt exits in order; so does SystemExit, which is
        raised again at the end.

        Raises:
            NotMainThread: Called in another thread.
            AlreadyRunning: Called by a listener, while the bus is on its way.
        """
        if threading.current_thread() is not threading.main_thread():
            raise NotMainThread("block()", threading.current_thread().name)
        if self._is_walker:
            # From a listener: what it would wait for cannot go on before the listener returns.
            raise AlreadyRunning("block()", self.state)
        reexec.release_signals()
        leaving = self._loop_until_ended(interval)
        self._join_threads()
        if leaving is not None:
            raise leaving
        if self._successor is not None:
            self._reexec(self._successor)
            # Still here: it failed, or a signal at the last moment asked for the end instead.
            self.sockets.close()
        return self.exit_code

    def pause(self, seconds: float) -> bool:
        """Wait as a listener may: False, at once, when waits are cut short."""
        deadline = time.monotonic() + seconds
        with self._mail.open() as box:
            while not self.impatient:
                if receive(box, deadline) is None:
                    return True
        return False

    def call_in_main(self, work: Callable[[], object]) -> None:
        """Have `block` call *work* in the main thread, soon; failures are logged."""
        self._main_work.append(work)
        self._mail.tell(LOOK)

    def start_with_callback(
        self,
        func: Callable[..., object],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> threading.Thread:
        """Start, and call *func* in a thread of its own once everything has started.

        If the start fails, *func* is not called and the thread ends.
        """
        ready = threading.Event()

        def call() -> None:
            ready.wait()
            if self.state == self.machine.running:
                func(*(args or ()), **(kwargs or {}))

        thread = threading.Thread(target=call)
        thread.name = f"Bus Callback {thread.name}"
        thread.start()
        try:
            self.start()
        finally:
            ready.set()
        return thread

    # What belongs to the process.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The engine's event loop; asking for it starts it, in a thread of its own."""
        return self._loop.loop

    @property
    def sockets(self) -> Sockets:
        """The listening sockets, which outlive servers, stops and re-executions."""
        if self._sockets is None:
            from sitebus.sockets import Sockets

            self._sockets = Sockets()
        return self._sockets

    @property
    def leaving(self) -> bool:
        """Whether the process is on its way out and nobody will serve on its sockets after it."""
        return self._leaving and self._successor is None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the engine listens, with real ports."""
        return () if self._sockets is None else self._sockets.addresses

    def _exit_command(self) -> Command:
        return Command(self.machine.ended, sweep=True)

    def _publish_graceful(self) -> list[Any]:
        self.log("Bus graceful")
        return self.publish(self.machine.channel("graceful"))

    def _post(self, command: Command) -> None:
        if not self._blocking:
            super()._post(command)
            return
        self._commands.append(command)
        self._mail.tell(LOOK)

    def _execute(self, command: Command, own: Command | None) -> None:
        if command.target not in self.machine.final or self.state in self.machine.final:
            super()._execute(command, own)
            return
        self._leaving = True
        with self._deadline():
            super()._execute(command, own)

    def _troubled(self, error: BaseException) -> None:
        self.exit_code = self.exit_code or status_of(error)

    def _finish(self) -> None:
        atexit.unregister(self._exit_at_last)
        super()._finish()
        self._loop.stop()
        if self._sockets is not None and self._successor is None:
            self._sockets.close()

    def _exit_at_last(self) -> None:
        """The interpreter ends, and nobody has exited the engine."""
        import warnings

        if self.state in self.machine.final:
            return
        warnings.warn(
            f"The main thread is exiting, but the Bus is in the {self.state!r} state; shutting it "
            "down automatically now. You must either call bus.block() after start(), or call "
            "bus.exit() before the main thread exits.",
            RuntimeWarning,
            stacklevel=1,
        )
        self.exit()

    # The main thread's loop.

    def _loop_until_ended(self, interval: float) -> SystemExit | None:
        leaving: SystemExit | None = None
        self._blocking = True
        try:
            ticks = _Ticks(self, interval)
            while not self.ended:
                try:
                    self._take_turns(ticks)
                except KeyboardInterrupt:
                    self.log("Keyboard Interrupt: shutting down bus")
                    self.interrupt()
                except SystemExit as error:
                    leaving = leaving or error
                    self.log("SystemExit raised: shutting down bus")
                    self._troubled(error)
                    self._post(self._exit_command())
        finally:
            self._blocking = False
        return leaving

    def _take_turns(self, ticks: _Ticks) -> None:
        # What is told between two boxes is not lost: each turn first looks for itself.
        with self._mail.open() as box:
            while True:
                self._serve()
                while self._main_work:
                    self._call_here(self._main_work.popleft())
                if self.ended:
                    return
                if receive(box, ticks.due()) is None:
                    ticks.tick()

    def _call_here(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a stranger's work must not end the loop
            self.log(f"Error in {work!r}, called in the main thread", ERROR, traceback=error)

    def _reexec(self, successor: reexec.Command) -> None:
        if "execv" in self.listeners:
            self.publish("execv")
        self.log(f"Re-spawning {' '.join(successor.argv)}")
        try:
            with self.sockets.hand_down() as legacy:
                reexec.execute(successor, legacy, lambda: self._successor is not None)
        except CannotRestart as error:
            self._troubled(error)
            self.log(str(error), ERROR)

    # Ways out of what hangs.

    def _join_threads(self) -> None:
        self.log("Waiting for child threads to terminate...")
        began = time.monotonic()
        try:
            for thread in _others():
                thread.join(max(0.0, began + ABOUT_TO_END - time.monotonic()))
            for thread in _others():
                self.log(f"Waiting for thread {thread.name}.")
                self._join(thread, began)
        except KeyboardInterrupt:
            self.hurry()
        self.stragglers = tuple(_others())
        if self.stragglers:
            self.exit_code = self.exit_code or EX_SOFTWARE

    def _join(self, thread: threading.Thread, began: float) -> None:
        explained = False
        # In slices: a second interrupt only sets a flag, which `join` does not see.
        while thread.is_alive() and not self.impatient:
            thread.join(0.1)
            waited = time.monotonic() - began
            if waited > min(5.0, self.stop_timeout) and not explained:
                explained = True
                self.log(f"Still waiting for thread {thread.name}, which is at\n{_stack(thread)}")
            if waited > self.stop_timeout:
                return

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Bound what happens meanwhile by `stop_timeout`, from a thread that only waits."""
        done = threading.Event()

        def watch() -> None:
            if done.wait(self.stop_timeout):
                return
            self._explain_the_delay()
            self.hurry()
            if not done.wait(LAST_GRACE) and self._blocking:
                self._leave_now()

        watcher = threading.Thread(target=watch, name="sitebus deadline", daemon=True)
        try:
            watcher.start()
        except RuntimeError:
            # The interpreter is ending and makes no threads any more: without a bound, then.
            yield
            return
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _explain_the_delay(self) -> None:
        what = self.describe().running or "the shutdown"
        stacks = "\n".join(f"{each.name}:\n{_stack(each)}" for each in threading.enumerate())
        self.exit_code = self.exit_code or EX_SOFTWARE
        self.log(
            f"{what} did not end within {self.stop_timeout:g} s; all threads:\n{stacks}", ERROR
        )

    def _leave_now(self) -> None:
        """Nothing that could wait: no log, no lock, no buffer."""
        import faulthandler

        if sys.__stderr__ is not None:
            try:
                faulthandler.dump_traceback(sys.__stderr__)
            except (OSError, ValueError):
                pass  # no descriptor to write to; leaving matters more
        os._exit(EX_SOFTWARE)


class ProcessBus(Engine):
    """The bus of a process, in the states of magicbus, which are strings."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(MAGICBUS, id)

    @property
    def states(self) -> set[AnyState]:
        """The states of the table."""
        return self.machine.states

    def graceful(self) -> None:
        """Stop, and start again."""
        self._command(Command(self.machine.resting))
        self._command(Command(self.machine.running))


class _Ticks:
    """When ``main`` is due: not at all if nobody listens, ever later while listeners fail."""

    def __init__(self, bus: Bus, interval: float) -> None:
        self._bus = bus
        self._interval = interval
        self._slowness = 1
        self._due: float | None = None

    def due(self) -> float | None:
        self._due = self._bus._next_tick(self._due, self._interval * self._slowness, "main")
        return self._due

    def tick(self) -> None:
        self._due = None
        try:
            self._bus.publish("main")
            self._slowness = 1
        except ChannelFailures:  # logged already; the site goes on
            self._slowness = min(self._slowness * 2, SLOWEST)


def _others() -> list[threading.Thread]:
    """Non-daemon threads that the process has to wait for.

    Pool threads of `concurrent.futures` are left to the interpreter: they end when it tells them,
    and wait for ever before.
    """
    futures = sys.modules.get("concurrent.futures.thread")
    pooled = getattr(futures, "_threads_queues", {})
    here = (threading.current_thread(), threading.main_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in here and t not in pooled]


def _stack(thread: threading.Thread) -> str:
    import traceback

    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else "(gone)\n"
