"""The bus: channels, listeners, publishing, and the one walker of a life's table.

One thread walks at a time. A command given meanwhile is queued, never nested: another thread waits
for its result, a listener returns at once. Which states exist and what failure leads to is the
table's business (`sitebus.machine`); what a process makes of it is `sitebus.process`'.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from sitebus.errors import (
    ChannelFailures,
    CommandCancelled,
    Interrupted,
    LoopEnded,
    SitebusError,
    Unreachable,
    WouldDeadlock,
)
from sitebus.listeners import (
    ERROR,
    INFO,
    Listener,
    ListenerDescription,
    Listeners,
    Subscription,
    name_of,
    shown,
)
from sitebus.loop import LoopThread
from sitebus.machine import AnyState, Cause, Graph, Machine
from sitebus.mailbox import Mailboxes, receive
from sitebus.walk import Command, Entered, Walk

AnyListener = TypeVar("AnyListener", bound=Listener)

#: Told when there is reason to look again, without more to say.
LOOK = object()

#: Told when waits are cut short.
HURRY = object()


@dataclass(frozen=True)
class Description:
    """What a bus was like at one moment."""

    id: str
    state: AnyState
    states: frozenset[AnyState]
    channels: Mapping[str, tuple[ListenerDescription, ...]]
    running: str | None


class Bus:
    """Publish and subscribe, around any declared state machine.

    Args:
        transitions: ``{state: next}`` or ``{state: (next, ...)}``, a `Graph`, or a `Machine`.
        errors: ``{state: error state}``; its listeners are handed ``(type, value, traceback)``.
        initial_state: Where it begins.
        extra_channels: Channels besides those named like the states; ("log",) if not given.
        id: A short name for log lines; made up if not given.
    """

    publish_exception_class = ChannelFailures

    def __init__(
        self,
        transitions: Machine | Graph | Mapping[AnyState, Any] | None = None,
        errors: Mapping[AnyState, AnyState] | None = None,
        initial_state: AnyState = None,
        extra_channels: Iterable[str] | None = None,
        id: str | None = None,
    ) -> None:
        self.machine = _machine(transitions, errors, initial_state, extra_channels)
        self.id = id or f"{time.time_ns() & 0xFFFFFFFF:08x}"
        self.state: AnyState = self.machine.initial
        self._mail = Mailboxes()
        self._listeners = Listeners(
            self.machine.builtin_channels(), self._lifecycle(), lambda: self._mail.tell(LOOK)
        )
        self._quick = self._listeners.quick
        self._logging: set[int] = set()
        self._loop = LoopThread()
        self._commands: deque[Command] = deque()
        self._turn = threading.RLock()
        self._walker: int | None = None
        self._moved = False
        self._running: Subscription | None = None
        self.impatient = False
        #: Identifiers of threads that answer requests. A command given in one is queued, as from a
        #: listener: a stop waits for the request that asks for it.
        self.serving_threads: set[int] = set()
        self._timing = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}>"

    # Listening and publishing.

    @property
    def states(self) -> Any:
        """The states of the table."""
        return self.machine.states

    @property
    def transitions(self) -> Graph:
        """The next step of the shortest way between any two states."""
        return self.machine.graph

    @property
    def errors(self) -> Mapping[AnyState, AnyState]:
        """Where failure leads from each state."""
        failed = (edge for edge in self.machine.edges if edge.cause is Cause.FAILED)
        return {edge.source: edge.target for edge in failed}

    @property
    def listeners(self) -> Listeners:
        """The channels and who listens on each: a mapping of names to live sets."""
        return self._listeners

    @listeners.setter
    def listeners(self, channels: Mapping[str, Iterable[Listener]]) -> None:
        for channel, listeners in channels.items():
            self._listeners[channel] = listeners

    @property
    def timing(self) -> bool:
        """Whether listeners of every channel are timed, not only those of the lifecycle."""
        return self._timing

    @timing.setter
    def timing(self, wanted: bool) -> None:
        self._timing = wanted
        self._listeners.time_all(wanted)

    @overload
    def subscribe(
        self, channel: str, listener: None = None, priority: float | None = None
    ) -> Callable[[AnyListener], AnyListener]: ...

    @overload
    def subscribe(
        self, channel: str, listener: Listener, priority: float | None = None
    ) -> None: ...

    def subscribe(
        self, channel: str, listener: Listener | None = None, priority: float | None = None
    ) -> Any:
        """Run *listener* for every message on *channel*; lower priorities run first.

        Without a listener, answer a decorator. The default priority is ``listener.priority`` or
        50; equal ones run in order of subscription. Subscribing again changes the priority.
        """
        if listener is None:
            return functools.partial(self._decorate, channel, priority)
        self._listeners.subscribe(channel, listener, priority)
        return None

    def _decorate(self, channel: str, priority: float | None, listener: AnyListener) -> AnyListener:
        self.subscribe(channel, listener, priority)
        return listener

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Stop running *listener* for *channel*; no harm if it never did."""
        self._listeners.unsubscribe(channel, listener)

    def clear(self) -> None:
        """Drop every listener of every channel."""
        self._listeners.clear()

    def publish(self, channel: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the listeners of *channel* in order and answer what each returned.

        Every listener runs even if another fails; asynchronous ones are waited for.

        Raises:
            ChannelFailures: Some failed; each failure was logged with its traceback.
            KeyboardInterrupt, SystemExit: A listener raised it; the rest did not run.
            WouldDeadlock: Called on the event loop's thread for asynchronous listeners.
        """
        calls = self._quick.get(channel)
        if calls is None:
            return self._deliver(channel, args, kwargs)
        results: list[Any] = []
        failures: list[Exception] | None = None
        remaining = iter(calls)
        while True:
            try:
                # Most messages carry nothing, and a bare call is the cheapest there is.
                if not args and not kwargs:
                    for call in remaining:
                        results.append(call())  # noqa: PERF401 - what went before a failure counts
                else:
                    for call in remaining:
                        results.append(call(*args, **kwargs))
                break
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, call, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    async def apublish(self, channel: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Do as `publish` does, from any event loop, without blocking it on asynchronous ones."""
        results = []
        failures: list[Exception] | None = None
        for each in self._listeners.of(channel):
            try:
                results.append(await self._call_async(each, args, kwargs))
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, each.listener, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    def log(self, msg: str = "", level: int = INFO, traceback: Any = False) -> None:
        """Publish *msg* on the channel ``log``; a failing listener there breaks nothing.

        Args:
            msg: One line, mostly.
            level: As in `logging`.
            traceback: True appends the exception being handled; an exception or an ``exc_info``
                tuple appends that one.
        """
        if traceback:
            msg = "\n".join(filter(None, (msg, _format_exception(traceback))))
        me = threading.get_ident()
        if me in self._logging:
            _print_to_stderr(msg)  # from a log listener: it would hear itself for ever
            return
        self._logging.add(me)
        try:
            self.publish("log", msg, level)
        finally:
            self._logging.discard(me)

    def _deliver(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Publish with all that the quick way leaves out: time, coroutines, being cut short."""
        results = []
        failures: list[Exception] | None = None
        preemptible = self._is_preemptible(channel)
        subscriptions = self._listeners.of(channel)
        on_loop = self._loop.is_current and channel != "log"
        if on_loop and any(each.asynchronous for each in subscriptions):
            raise WouldDeadlock("publish(...)", "await bus.apublish(...)")
        for each in subscriptions:
            if preemptible and self._is_preempted():
                if failures:
                    break
                raise CommandCancelled(self.machine.running, self.state)
            try:
                results.append(self._call(channel, each, args, kwargs))
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, each.listener, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    def _call(
        self, channel: str, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        outer = self._running
        if self._is_walker and channel != "log":
            self._running = each
        began = time.perf_counter()
        try:
            if not each.asynchronous:
                return each.listener(*args, **kwargs)
            if channel == "log":
                return self._log_later(each, args, kwargs)
            return self._wait_for(each, args, kwargs)
        finally:
            each.took(time.perf_counter() - began)
            self._running = outer

    def _log_later(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Nobody waits for a log line; after the loop's end it is not written any more."""
        try:
            future = self._loop.submit(each.listener(*args, **kwargs))
        except LoopEnded:
            return
        future.add_done_callback(functools.partial(_watch_log, each.listener))

    def _wait_for(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run an asynchronous listener on the loop and wait, unless waits are cut short."""
        with self._mail.open() as box:
            future = self._loop.submit(each.listener(*args, **kwargs))
            future.add_done_callback(box.put)
            while not future.done():
                if self.impatient or box.get() is HURRY:
                    future.cancel()
                    raise Interrupted(name_of(each.listener))
        return future.result().get()

    async def _call_async(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        began = time.perf_counter()
        try:
            if not each.asynchronous:
                return each.listener(*args, **kwargs)
            if self._loop.is_current:
                return await each.listener(*args, **kwargs)
            import asyncio

            future = self._loop.submit(each.listener(*args, **kwargs))
            return (await asyncio.wrap_future(future)).get()
        finally:
            each.took(time.perf_counter() - began)

    def _failed(
        self, channel: str, listener: Listener, error: Exception, failures: list[Exception] | None
    ) -> list[Exception]:
        """Log one listener's failure and add it to the others."""
        if channel == "log":
            _report_broken_log(listener, error)
            return []
        note = f"listener {name_of(listener)} on channel {channel!r}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        message = f"Error in {channel!r} listener {shown(listener)}"
        if isinstance(error, SitebusError):
            # What we raise on purpose says all there is to say.
            self.log(f"{message}: {error}", ERROR)
        else:
            self.log(message, ERROR, traceback=error)
        return [*(failures or ()), error]

    # Walking.

    def transition(self, target: AnyState) -> list[Any]:
        """Go to *target* the shortest way and answer what each channel on it returned.

        From a listener, from a request, and on the event loop's thread, it is queued and returns []
        at once.

        Raises:
            Unreachable: No way leads there; nothing was done.
            ChannelFailures, Exception: What a listener raised, after the table's way out.
        """
        return self._command(Command(target))

    def _command(self, command: Command) -> list[Any]:
        """Queue *command*; walk, or wait for the one who walks."""
        if self._loop.is_current or threading.get_ident() in self.serving_threads:
            self._post(command)
            return []
        command.unwatched = self._is_walker
        self._commands.append(command)
        with self._mail.open() as box:
            while True:
                self._serve(command)
                if command.done:
                    return command.outcome()
                if self._is_walker:
                    return []
                if self.impatient or box.get() is HURRY:
                    raise Interrupted(f"the bus to go to {command.target}")

    def _post(self, command: Command) -> None:
        """Queue *command* and wait for nothing; safe in a signal handler."""
        import _thread

        command.unwatched = True
        self._commands.append(command)
        # `Thread.start` takes a lock that the interrupted code may hold; this does not. And the
        # thread that walks must be known to `threading`, or it stays in its books when it is gone.
        _thread.start_new_thread(self._serve_in_a_thread, ())

    def _serve_in_a_thread(self) -> None:
        threading.Thread(target=self._serve, name="sitebus command", daemon=True).start()

    def _serve(self, own: Command | None = None) -> None:
        """Walk what is queued, unless somebody does.

        A signal handler may come between any two of these lines and walk by itself: the lock is
        reentrant, and only who holds it says that it walks. Whoever queues a command and finds the
        lock taken can leave it: its holder looks once more after letting go.
        """
        while self._commands and not self._is_walker and self._turn.acquire(blocking=False):
            try:
                self._walk_queue(own)
            finally:
                self._turn.release()
                self._mail.tell(LOOK)

    def _walk_queue(self, own: Command | None) -> None:
        self._walker = threading.get_ident()
        try:
            while self._commands:
                self._execute(self._commands.popleft(), own)
        finally:
            self._walker = None

    @property
    def _walking(self) -> bool:
        return self._walker is not None

    def _execute(self, command: Command, own: Command | None) -> None:
        try:
            command.results = self._perform(command)
        except BaseException as error:  # handed to whoever gave the command
            command.error = error
            if command.unwatched and isinstance(error, SitebusError):
                self.log(str(error), ERROR)
            # An interrupt belongs to the thread it hit, whoever gave the command.
            if command is not own and not isinstance(error, Exception):
                raise
        finally:
            command.done = True
            self._mail.tell(command)

    def _perform(self, command: Command) -> list[Any]:
        return Walk(self, command).run() if command.action is None else command.action()

    @property
    def _is_walker(self) -> bool:
        return self._walker == threading.get_ident()

    def _arrive(self, state: AnyState) -> None:
        self.state = state
        self._moved = True
        self._mail.tell(Entered(state))

    def _finish(self) -> None:
        """The work of the last state is done."""
        if self.machine.closing_line:
            self.log(self.machine.closing_line)
        if self.machine.closing:
            self.publish(self.machine.closing)

    def _troubled(self, error: BaseException, state: AnyState = None) -> None:
        """Hear of a failure, on arrival in *state*, that changes the way of a walk."""

    def _is_preemptible(self, channel: str) -> bool:
        return (
            self._is_walker
            and self.state in self.machine.preemptible
            and self.machine.channels.get(self.state) == channel
        )

    def _is_preempted(self) -> bool:
        return any(command.target in self.machine.final for command in tuple(self._commands))

    def _lifecycle(self) -> tuple[str, ...]:
        named = self.machine.channels.values()
        return (*named, *filter(None, (self.machine.closing, self.machine.channel("graceful"))))

    # Waiting and looking.

    @property
    def ended(self) -> bool:
        """Whether the last state is reached and its work is done."""
        return self.state in self.machine.final and not self._walking

    def wait(
        self,
        state: AnyState | Iterable[AnyState],
        interval: float = 0.1,
        channel: str | None = None,
    ) -> None:
        """Return as soon as the bus is in *state*, or in one of several.

        States that last but a moment are not missed. While somebody listens on *channel*, publish
        there every *interval* seconds; otherwise nothing happens until the bus moves.

        Raises:
            Unreachable: The bus has ended, and will be in none of the states any more.
        """
        wanted = self._states_in(state)
        due: float | None = None
        with self._mail.open() as box:
            while self.state not in wanted:
                if self.ended and box.empty():
                    raise Unreachable(_listed(wanted), self.state, ())
                due = self._next_tick(due, interval, channel)
                message = receive(box, due)
                if isinstance(message, Entered) and message.state in wanted:
                    return
                if message is None and channel is not None:
                    due = None
                    self.publish(channel)

    async def await_state(self, state: AnyState | Iterable[AnyState]) -> None:
        """Do as `wait` does, on any event loop."""
        import asyncio

        wanted = self._states_in(state)
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        class Wakes:
            def put(self, message: object, /) -> None:
                if isinstance(message, Entered) and message.state in wanted:
                    loop.call_soon_threadsafe(arrived.set)

        with self._mail.deliver_to(Wakes()):
            if self.state not in wanted:
                await arrived.wait()

    def _states_in(self, state: Any) -> frozenset[AnyState]:
        if isinstance(state, str) or not isinstance(state, Iterable):
            return frozenset((state,))
        return frozenset(state)

    def _next_tick(self, due: float | None, interval: float, channel: str | None) -> float | None:
        """Nobody who listens, nothing to wake for."""
        if channel is None or not self._listeners.of(channel):
            return None
        return due if due is not None else time.monotonic() + interval

    def describe(self) -> Description:
        """Answer what the bus is like now: state, channels, who listens and how long each took."""
        running = self._running
        return Description(
            id=self.id,
            state=self.state,
            states=frozenset(self.machine.states),
            channels=self._listeners.describe(),
            running=name_of(running.listener) if running else None,
        )


def _machine(
    transitions: Machine | Graph | Mapping[AnyState, Any] | None,
    errors: Mapping[AnyState, AnyState] | None,
    initial_state: AnyState,
    extra_channels: Iterable[str] | None,
) -> Machine:
    if isinstance(transitions, Machine):
        return transitions
    if isinstance(transitions, Graph):
        steps: dict[AnyState, Any] = {}
        for (source, target), following in transitions.items():
            if target == following:
                steps[source] = (*steps.get(source, ()), target)
        transitions = steps
    return Machine.from_dicts(transitions or {}, errors, initial_state, extra_channels)


def _truthful(leaving: SystemExit, failures: list[Exception] | None) -> SystemExit:
    """After a failure, a listener that leaves cannot claim success."""
    if failures and not leaving.code:
        leaving.code = 1
    return leaving


def _format_exception(traceback: Any) -> str:
    import traceback as formatter

    if isinstance(traceback, BaseException):
        return "".join(formatter.format_exception(traceback))
    if isinstance(traceback, tuple):
        return "".join(formatter.format_exception(*traceback))
    return "".join(formatter.format_exception(*sys.exc_info()))


def _listed(states: Iterable[AnyState]) -> str:
    return " or ".join(sorted(map(str, states)))


def _watch_log(listener: Listener, future: Any) -> None:
    """An asynchronous log listener has ended; tell if that was a failure."""
    if not future.cancelled() and isinstance(error := future.exception(), Exception):
        _report_broken_log(listener, error)


def _report_broken_log(listener: Listener, error: Exception) -> None:
    """The log cannot tell that it is broken."""
    _print_to_stderr(f"sitebus: log listener {name_of(listener)} failed: {error!r}")


def _print_to_stderr(line: str) -> None:
    """Use what the interpreter started with, if it is there."""
    if sys.__stderr__ is None:
        return
    try:
        print(line, file=sys.__stderr__)
    except (OSError, ValueError):
        pass  # standard error is closed as well; there is nobody left to tell
