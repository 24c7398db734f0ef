"""The bus: channels around a life, and the one walker of its table.

One thread walks at a time. A command given meanwhile is queued, never nested: another thread waits
for its result, a listener returns at once. Which states exist and what failure leads to is the
table's business (`sitebus.machine`); what a process makes of it is `sitebus.process`'.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sitebus.channels import HURRY, LOOK, Channels
from sitebus.errors import Interrupted, SitebusError, Unreachable
from sitebus.listeners import ERROR, ListenerDescription, name_of
from sitebus.machine import AnyState, Cause, Graph, Machine
from sitebus.mailbox import receive
from sitebus.walk import Command, Entered, Walk


class Description(NamedTuple):
    """What a bus was like at one moment."""

    id: str
    state: AnyState
    states: frozenset[AnyState]
    channels: Mapping[str, tuple[ListenerDescription, ...]]
    running: str | None
    #: Who overhears, by pattern.
    overhearing: Mapping[str, tuple[ListenerDescription, ...]]


class Bus(Channels):
    """Publish and subscribe, around any declared state machine.

    Args:
        transitions: ``{state: next}`` or ``{state: (next, ...)}``, a `Graph`, or a `Machine`.
        errors: ``{state: error state}``; its listeners are handed ``(type, value, traceback)``.
        initial_state: Where it begins.
        extra_channels: Channels besides those named like the states; ("log",) if not given.
        id: A short name for log lines; made up if not given.
    """

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
        super().__init__(self.machine.builtin_channels(), self._lifecycle())
        self._commands: deque[Command] = deque()
        self._turn = threading.RLock()
        self._moved = False
        #: Identifiers of threads that answer requests. A command given in one is queued, as from a
        #: listener: a stop waits for the request that asks for it.
        self.serving_threads: set[int] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}>"

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
        try:
            _thread.start_new_thread(self._serve_in_a_thread, ())
        except RuntimeError:
            # The system gives no more threads; whoever walks or waits next serves it.
            self._mail.tell(LOOK)

    def _serve_in_a_thread(self) -> None:
        try:
            threading.Thread(target=self._serve, name="sitebus command", daemon=True).start()
        except RuntimeError:
            self._serve()  # that one was the last; this thread will do

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

    def _preempts(self, channel: str) -> bool:
        return (
            self._is_walker
            and self.state in self.machine.preemptible
            and self.machine.channels.get(self.state) == channel
            and self._is_preempted()
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
            overhearing=self._listeners.describe_overhearing(),
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


def _listed(states: Iterable[AnyState]) -> str:
    return " or ".join(sorted(map(str, states)))
