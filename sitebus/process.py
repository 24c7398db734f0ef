"""The bus of a process: it starts, stops, exits, restarts, and has the last word.

Adds to a bus what belongs to a process: commands with names, the main thread's loop, the exit
status, the listening sockets, and ways out of a shutdown that hangs. Signals are plugins'
business; they end up in `Engine.interrupt`.
"""

from __future__ import annotations

import atexit
import enum
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sitebus import reexec, trial
from sitebus.bus import Bus
from sitebus.channels import HURRY, LOOK
from sitebus.deadline import Deadline, join_others, leave_now, stacks
from sitebus.errors import (
    EX_SOFTWARE,
    AlreadyRunning,
    CannotRestart,
    ChannelFailures,
    CommandCancelled,
    NotEnded,
    NotMainThread,
    TrialFailed,
    Unreachable,
    status_of,
)
from sitebus.listeners import ERROR
from sitebus.loop import LoopThread
from sitebus.machine import MAGICBUS, WSPBUS, AnyState, Machine, State
from sitebus.mailbox import receive
from sitebus.mainloop import MainLoop
from sitebus.reload.named import Named
from sitebus.reload.opened import OPENED
from sitebus.restarts import Restarts
from sitebus.wakeup import waking
from sitebus.walk import Command

if TYPE_CHECKING:
    import asyncio

    from sitebus.serving import Registry, ThreadPicture
    from sitebus.sockets import Address, Sockets

#: What has not ended by then is named with its stack; seconds.
PATIENCE = 5.0


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


class Watched:
    """What a reloader shall watch besides the modules that are imported."""

    def __init__(self) -> None:
        self._files: set[str] = Named()

    @property
    def files(self) -> set[str]:
        """Paths of files; add to it whether or not anything is reloaded at all."""
        return self._files

    @files.setter
    def files(self, paths: set[str]) -> None:
        self._files = paths
        OPENED.tell()


class Engine(Bus):
    """The bus of a process, in the five states of ``cherrypy.process.wspbus``.

    ``with engine:`` starts it and exits it.

    Attributes:
        exit_code: The exit status the process should have: 0 unless something failed.
        stop_timeout: Seconds that stop, exit and the threads' end may take together. After them
            every stack is logged and waits are cut short, and if that does not help, a process
            that is in `block` leaves with status 70.
        try_timeout: Seconds that the trial before a restart may take.
        stragglers: Threads that had not ended when `block` gave up on them.
        legacies: Descriptors to leave to the next image at a restart, by name; it takes them with
            ``engine.sockets.claim(name)``.
        autoreload: What a reloader watches: ``engine.autoreload.files.add(path)``.
        relieved: Whether another process goes on serving on the same sockets when this one leaves;
            whoever arranges that sets it.
        workers: The worker processes, in the supervisor of a site that has some; None otherwise.
        relay: What joins this bus with those of other nodes; None without ``[relay]``.
    """

    stop_timeout: float = 60.0
    try_timeout: float = 60.0

    def __init__(self, machine: Machine = WSPBUS, id: str | None = None) -> None:
        super().__init__(machine, id=id)
        self._begin_life()
        self.legacies: dict[str, int] = {}
        self.autoreload: Any = Watched()
        self.workers: Any = None
        self.relay: Any = None
        self._sockets: Sockets | None = None
        self._serving: Registry | None = None
        self._restarts = Restarts(self)
        self._bounding = threading.RLock()
        ends = (machine.channel("stop"), machine.channel("exit"))
        ending = {state for state, channel in machine.channels.items() if channel in ends}
        self._ending = ending | machine.error_states
        self._last_resort = _at_last(self)
        self._lodges = False
        self._blocking = False
        self._main_work: deque[Callable[[], object]] = deque()

    def _begin_life(self) -> None:
        """Set what one life uses up, from the first start to the exit."""
        self.exit_code = 0
        self.stragglers: tuple[threading.Thread, ...] = ()
        self._successor: reexec.Command | None = None
        self.relieved = False
        self._interrupts = 0
        self._leaving = False
        self._deadline: Deadline | None = None

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

    def start(self, stay: bool = False) -> None:
        """Start everything; return when the site serves.

        In a trial of a `restart` it publishes ``trial`` instead, and ends the process. Another
        engine that is started meanwhile does nothing.

        Args:
            stay: Only stop after a failure, and keep the sockets: to start again without what
                has failed. Otherwise the engine exits.

        Raises:
            Exception: What the failing listener raised, after everything was stopped and exited;
                `ChannelFailures` if several failed.
            CommandCancelled: An exit came before the start was complete.
            Unreachable: The engine has exited; an exited engine is not started again, unless it
                is renewed first.
        """
        if trial.is_one():
            self._restarts.prove()
            return
        atexit.unregister(self._last_resort)
        if not self._lodges:
            atexit.register(self._last_resort)
        if threading.current_thread() is threading.main_thread():
            # Before there are other threads and children: they would inherit the block.
            reexec.release_signals()
        had_ended = self.state in self.machine.final
        try:
            self._command(Command(self.machine.running, stay=stay))
            return
        except Unreachable:
            if had_ended:
                raise
            # A signal came first, and the exit it asked for.
            raise CommandCancelled(self.machine.running, self.state) from None
        except ChannelFailures as failures:
            if len(failures.exceptions) > 1:
                raise
            original = failures.exceptions[0]
        # Out here: the group would be told as what led to it.
        raise original

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

    def renew(self) -> None:
        """Make an engine that has exited as if it were new, so that it can be started again.

        Listeners and settings stay; exit status, stragglers, interrupts and a restart that was
        asked for are forgotten. For test suites, and for hosts that serve one site after another;
        what is to serve again after a pause is better stopped than exited.

        Raises:
            NotEnded: It has not exited, or `block` has not returned yet.
        """
        self._command(Command(action=self._renew))

    def _renew(self) -> list[Any]:
        if self.state not in self.machine.final or self._blocking:
            raise NotEnded(self.state, blocking=self._blocking and self._leaving)
        self._begin_life()
        self._loop = LoopThread()
        self.impatient = False
        self._moved = False
        self.state = self.machine.initial
        return []

    def lodge(self, restarts: Restarts, loop: LoopThread | None = None) -> None:
        """Leave to whoever runs this process what is theirs; before a start.

        No socket that was passed to the process is taken, and its end is for others to tell.

        Args:
            restarts: What becomes of a wish to restart.
            loop: Where asynchronous listeners and applications run; a loop of the engine's own if
                not given.
        """
        from sitebus.sockets import Sockets

        self._lodges = True
        self._sockets = Sockets({})
        self._restarts = restarts
        if loop is not None:
            self._loop = loop

    def disown(self) -> None:
        """Leave what runs to the process from which this one was forked: nothing of it is here.

        The engine has exited then, without a word to its listeners, and can be renewed.
        """
        # Whoever held them has no thread here.
        self._turn, self._bounding = threading.RLock(), threading.RLock()
        self._walker = self._running = None
        self._commands.clear()
        self._blocking = False
        self.state = self.machine.ended

    def restart(self, force: bool = False) -> None:
        """Exit, and have `block` run the same command line again in this process.

        Process id, terminal and listening sockets stay. Any thread may ask.
        The command line is first tried in a child process, which runs it up to where it would
        start; if that fails, nothing is stopped, and channel ``restart_refused`` gets the error.

        Args:
            force: Skip the trial.

        Raises:
            CannotRestart: The command line could not be run again.
            TrialFailed: The program could not start.
            Unreachable: The engine is exiting already.
        """
        if self._loop.is_current:
            self.restart_soon(force)  # the loop must not stand still for that long
            return
        try:
            successor = self._restarts.grant(force)
        except (CannotRestart, TrialFailed) as error:
            with suppress(ChannelFailures):  # logged already; who asked wants to know why
                self.publish("restart_refused", error)
            raise
        self._command(self._exit_command(successor))

    def restart_soon(self, force: bool = False) -> None:
        """Do as `restart` does in a thread of its own; a refusal is logged."""
        self._restarts.ask(force)

    def _check_staying(self) -> None:
        if self._leaving or self._interrupts:
            raise Unreachable(self.machine.running, self.state, ())

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
        if self._interrupts > 2:
            leave_now()
        if self._interrupts == 2:
            self.hurry()
        self._restarts.call_off()  # the main thread may be what waits for it
        self._successor = None
        # The second time as well: the first exit may have been cut off before it began.
        self._post(self._exit_command())

    def hurry(self) -> None:
        """Cut every wait of a start or a shutdown short, from here on."""
        self.impatient = True
        self._mail.tell(HURRY)

    @property
    def called_off(self) -> bool:
        """Whether an exit waits for what runs: a listener of the start had better give up."""
        return self._is_preempted()

    @property
    def execv(self) -> bool:
        """Whether the process runs its command line again once the engine has exited."""
        return self._successor is not None

    # Waiting.

    def block(self, interval: float = 0.1) -> int:
        """Be the main thread's loop until the exit is complete; answer the exit status.

        Runs what others queued for the main thread, publishes ``main`` every *interval* seconds
        if somebody listens there, then waits for the remaining threads, and re-executes if a
        restart was asked for. Signal handlers of anybody's run at once meanwhile.
        KeyboardInterrupt exits in order; so does SystemExit, which is raised again at the end.
        Threads that do not end within `stop_timeout` are left as `stragglers`; the interpreter
        waits for them, so a program should ``os._exit`` then.

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
        leaving: SystemExit | None = None
        self._blocking = True
        try:
            while True:
                try:
                    with waking(lambda: self._mail.tell(LOOK)):
                        leaving = MainLoop(self, interval).run() or leaving
                        self._join_threads()
                    break
                except KeyboardInterrupt:
                    self.interrupt()
        finally:
            self._blocking = False
            if self._deadline is not None:
                self._deadline.met()
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
    def serving(self) -> Registry:
        """Which thread serves which request, as far as the site is served through its ``watch``."""
        if self._serving is None:
            from sitebus.serving import Registry

            self._serving = Registry()
        return self._serving

    def threads(self) -> tuple[ThreadPicture, ...]:
        """Answer every thread of the process: what it serves, since when, and where it is."""
        return self.serving.threads()

    @property
    def trying(self) -> bool:
        """Whether this process is the trial of a restart: it will not serve."""
        return trial.is_one()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The engine's event loop; asking for it starts it, in a thread of its own."""
        return self._loop.loop

    @property
    def present_loop(self) -> asyncio.AbstractEventLoop | None:
        """The engine's event loop if it runs; None as long as nobody has needed it."""
        return self._loop.present

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
        return self._leaving and not self.succeeded

    @property
    def succeeded(self) -> bool:
        """Whether who comes after serves on the same sockets: the next image, or another worker."""
        return self._successor is not None or self.relieved

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the engine listens, with real ports."""
        return () if self._sockets is None else self._sockets.addresses

    def _exit_command(self, successor: reexec.Command | None = None) -> Command:
        return Command(self.machine.ended, sweep=True, successor=successor)

    def _publish_graceful(self) -> list[Any]:
        self.log("Bus graceful")
        return self.publish(self.machine.channel("graceful"))

    def _post(self, command: Command) -> None:
        if not self._blocking:
            super()._post(command)
            return
        command.unwatched = True
        self._commands.append(command)
        self._mail.tell(LOOK)

    def _serve_in_a_thread(self) -> None:
        if self._is_preempted():
            self._bound()
        super()._serve_in_a_thread()

    def _perform(self, command: Command) -> list[Any]:
        if command.target in self.machine.final:
            self._begin_to_leave(command)
        try:
            return super()._perform(command)
        except BaseException:
            if self.state in self.machine.final:
                self._successor = None  # what did not end well is not run again
            raise
        finally:
            self._come_to_rest()

    def _begin_to_leave(self, command: Command) -> None:
        if self._leaving or self.state in self.machine.final:
            if command.successor is not None:
                raise Unreachable(self.machine.running, self.state, ())
            return
        self._leaving = True
        self._restarts.call_off()
        # An exit that waits behind a restart outranks it.
        self._successor = None if self._is_preempted() else command.successor

    def _come_to_rest(self) -> None:
        if self.state in self.machine.final:
            if self._sockets is not None and self._successor is None:
                self._sockets.close()
            if self._deadline is not None and not self._blocking:
                self._deadline.met()
        elif self.state not in self._ending and self._deadline is not None:
            self._deadline.met()
            self._deadline = None
            # What one slow stop cut short is no reason to cut the next start short.
            self.impatient = self._interrupts > 1

    def _arrive(self, state: AnyState) -> None:
        super()._arrive(state)
        if state in self._ending:
            self._bound()

    def _bound(self) -> None:
        """From here on the shutdown has `stop_timeout` seconds, unless they run already."""
        with self._bounding:
            # Whoever wanted it may come late, when nothing is left to bound, nor anybody to end it.
            over = self.state in self.machine.final and not self._blocking
            if self._deadline is None or (self._deadline.is_met and not over):
                self._deadline = Deadline(
                    self.stop_timeout,
                    hurry=self.hurry,
                    explain=self._explain_the_delay,
                    give_up=self._give_up,
                )

    def _explain_the_delay(self) -> None:
        what = self.describe().running or "the shutdown"
        self.exit_code = self.exit_code or EX_SOFTWARE
        message = f"{what} did not end within {self.stop_timeout:g} s; all threads:"
        self.log(f"{message}\n{stacks()}", ERROR)

    def _give_up(self) -> None:
        if self._blocking:
            leave_now()

    def _troubled(self, error: BaseException, state: AnyState = None) -> None:
        status = status_of(error)
        if isinstance(error, KeyboardInterrupt) and state in self._ending:
            status = EX_SOFTWARE  # listeners were cut off that had something to end
        self.exit_code = self.exit_code or status

    def _finish(self) -> None:
        try:
            super()._finish()
        finally:
            atexit.unregister(self._last_resort)
            self._loop.stop(for_good=True)

    def _exit_at_last(self) -> None:
        """The interpreter ends, and nobody has exited the engine."""
        import warnings

        if self.state in self.machine.final:
            return
        try:
            warnings.warn(
                f"The main thread is exiting, but the Bus is in the {self.state!r} state; shutting "
                "it down automatically now. You must either call bus.block() after start(), or "
                "call bus.exit() before the main thread exits.",
                RuntimeWarning,
                stacklevel=1,
            )
        finally:
            self.exit()

    def _reexec(self, successor: reexec.Command) -> None:
        with suppress(ChannelFailures):  # logged already; too late to stay
            self.publish("execv")
        self.log(f"Re-spawning {' '.join(successor.argv)}")
        try:
            with self.sockets.hand_down(self.legacies) as legacy:
                reexec.execute(successor, legacy, lambda: self._successor is not None)
        except CannotRestart as error:
            self._troubled(error)
            self.log(str(error), ERROR)

    def _join_threads(self) -> None:
        self._bound()
        self.log("Waiting for child threads to terminate...")
        patience = min(PATIENCE, self.stop_timeout)
        self.stragglers = join_others(self.log, patience, lambda: self.impatient)
        if self.stragglers:
            self.exit_code = self.exit_code or EX_SOFTWARE


class ProcessBus(Engine):
    """The bus of a process, in the states of magicbus, which are strings."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(MAGICBUS, id)

    @property
    def states(self) -> set[AnyState]:
        """The states of the table."""
        return self.machine.states

    def wait(
        self,
        state: AnyState | Iterable[AnyState],
        interval: float = 0.1,
        channel: str | None = None,
        sleep: bool = False,
    ) -> None:
        """Do as `Bus.wait` does; *sleep* is magicbus' and changes nothing there either."""
        super().wait(state, interval, channel)

    def block(self, interval: float = 0.1, sleep: bool = False) -> int:
        """Do as `Engine.block` does; *sleep* is magicbus' and changes nothing there either."""
        return super().block(interval)

    def transition(self, target: AnyState) -> list[Any]:
        """Do as `Bus.transition` does; in a trial of a `restart`, tell how it went and end."""
        # Programs written for magicbus start with this, and not with `start`.
        if trial.is_one():
            self._restarts.prove()
            return []
        return super().transition(target)

    def graceful(self) -> None:
        """Stop, and start again."""
        self._command(Command(self.machine.resting))
        self._command(Command(self.machine.running))


def _at_last(engine: Engine) -> Callable[[], None]:
    """Answer what exits *engine* when the interpreter ends, without keeping it alive."""

    def exit_at_last() -> None:
        if (engine := reference()) is not None:
            engine._exit_at_last()

    reference = weakref.ref(engine, lambda _: atexit.unregister(exit_at_last))
    return exit_at_last
