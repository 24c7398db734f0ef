"""One way through a table, from where a bus is to where a command sends it.

Failure is a row of the table, not an exception's business: a walk takes it, goes where the table
unwinds to, and only then raises what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import CommandCancelled, Unreachable
from sitebus.listeners import ERROR
from sitebus.machine import AnyState, Cause

if TYPE_CHECKING:
    from sitebus.bus import Bus


class Entered(NamedTuple):
    """Told on arrival in a state, before its listeners run."""

    state: AnyState


class Settled(NamedTuple):
    """Told when the listeners of a state have run."""

    state: AnyState


class Command:
    """Something asked of a bus: go to *target*, or do *action* when its turn comes.

    With *sweep*, a bus that never moved first runs what would stop it: nobody started it, but
    listeners may hold what they made by themselves. With *stay*, what fails on the way is undone as
    far as to where the bus rests, and not to its end.
    """

    __slots__ = (
        *("action", "done", "error", "results", "stay", "successor", "sweep", "target"),
        "unwatched",
    )

    def __init__(
        self,
        target: AnyState = None,
        *,
        sweep: bool = False,
        stay: bool = False,
        action: Callable[[], list[Any]] | None = None,
        successor: Any = None,
    ) -> None:
        self.target = target
        #: What the process becomes after this exit, for a restart.
        self.successor = successor
        #: Nobody waits for it: a refusal has to be logged.
        self.unwatched = False
        self.sweep = sweep
        self.stay = stay
        self.action = action
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.done = False

    def outcome(self) -> list[Any]:
        """Answer the results, or raise what went wrong."""
        if self.error is not None:
            raise self.error
        return self.results


class Walk:
    """One way through the table, from where the bus is to where it was sent."""

    def __init__(self, bus: Bus, command: Command) -> None:
        self.bus = bus
        self.machine = bus.machine
        self.target = command.target
        self.stay = command.stay
        self.sweep = command.sweep and not bus._moved
        self.results: list[Any] = []
        self.failure: BaseException | None = None

    def run(self) -> list[Any]:
        stopping = self.machine.step(self.bus.state, Cause.STOP)
        if self.sweep and stopping is not None:
            self._try(stopping)
        while self.bus.state != self.target:
            self._try(self._next())
        if self.failure is not None:
            raise self.failure
        return self.results

    def _try(self, state: AnyState) -> None:
        try:
            self._enter(state)
        except (KeyboardInterrupt, SystemExit) as leaving:
            # It came between two lines of ours, when the state was set already: go on from there.
            self.failure = self.failure or leaving

    def _next(self) -> AnyState:
        state, graph = self.bus.state, self.machine.graph
        if (state, self.target) not in graph:
            raise self.failure or Unreachable(self.target, state, graph.reachable(state))
        return graph[state, self.target]

    def _enter(self, state: AnyState, *error: Any) -> None:
        bus = self.bus
        bus._arrive(state)
        channel = self.machine.channels.get(state, str(state))
        try:
            try:
                bus.log(self.machine.announcement.format(getattr(state, "name", state)))
            finally:
                # An interrupt while logging must not cost the state its listeners.
                self.results.append(bus.publish(channel, *error))
        except CommandCancelled as cut:
            self.failure = self.failure or cut
            self.target = self.machine.ended
        except BaseException as failure:  # noqa: BLE001 - failure is a row of the table
            self._take_the_failed_row(state, failure)
        bus._mail.tell(Settled(state))
        if state in self.machine.final:
            self._close()

    def _take_the_failed_row(self, state: AnyState, error: BaseException) -> None:
        machine, bus = self.machine, self.bus
        is_news = state in machine.news
        if is_news and isinstance(error, Exception):
            return
        self.failure = self.failure or error
        bus._troubled(error, state)
        if is_news:
            return
        fallback = machine.step(state, Cause.FAILED)
        unwinding = state in machine.unwind
        if unwinding:
            # What is no Exception asks for the process's end.
            stays = self.stay and isinstance(error, Exception)
            self.target = machine.resting if stays else machine.unwind[state]
        elif fallback is None:
            self.target = state
        elif fallback in machine.error_states:
            self.target = fallback
        try:
            if unwinding:
                bus.log(f"Shutting down due to error in {machine.channels[state]} listener:", ERROR)
        finally:
            if fallback is not None:
                told = (type(error), error, error.__traceback__)
                self._enter(fallback, *(told if fallback in machine.error_states else ()))

    def _close(self) -> None:
        try:
            self.bus._finish()
        except Exception:  # noqa: BLE001 - news: it was logged, and changes nothing
            pass
