"""What a roll over several hosts does next, decided from what became of each host so far.

Nothing here waits, calls or writes: `Roll` is told what happened and answers which hosts are next.
Going forward, hosts that are worked on, have failed or are out of reach are *unavailable*, and
there are never more of them than the plan allows. The first failure ends the way forward. On the
way back every host that was touched is undone once, in reverse order; that goes on, one host at a
time, also where hosts stay out of reach: a fleet left half way is worse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How a host stands in a roll."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    #: Nobody knows what became of it: the connection was lost, or no answer came in time.
    LOST = "lost"
    UNDOING = "undoing"
    UNDONE = "undone"
    #: It answers, and could not be undone.
    STUCK = "stuck"
    #: It is out of reach.
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """What happens to a host."""

    BEGIN = "begin"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    #: Its roll is taken up again, by somebody who knows only what was written down.
    RESUME = "resume"
    #: It cannot be reached before anything began.
    ABSENT = "absent"


class Edge(NamedTuple):
    source: State
    cause: Cause
    target: State


#: The only copy of a host's life in a roll.
EDGES = (
    Edge(State.WAITING, Cause.BEGIN, State.RUNNING),
    Edge(State.WAITING, Cause.ABSENT, State.UNKNOWN),
    Edge(State.RUNNING, Cause.DONE, State.DONE),
    Edge(State.RUNNING, Cause.FAILED, State.FAILED),
    Edge(State.RUNNING, Cause.LOST, State.LOST),
    Edge(State.DONE, Cause.BEGIN, State.UNDOING),
    Edge(State.FAILED, Cause.BEGIN, State.UNDOING),
    Edge(State.LOST, Cause.BEGIN, State.UNDOING),
    Edge(State.UNDOING, Cause.DONE, State.UNDONE),
    Edge(State.UNDOING, Cause.FAILED, State.STUCK),
    Edge(State.UNDOING, Cause.LOST, State.UNKNOWN),
)

#: Taken up again on the way forward, what has not succeeded is tried again.
RETRIES = (
    Edge(State.RUNNING, Cause.RESUME, State.WAITING),
    Edge(State.FAILED, Cause.RESUME, State.WAITING),
    Edge(State.LOST, Cause.RESUME, State.WAITING),
    Edge(State.UNKNOWN, Cause.RESUME, State.WAITING),
)

#: Taken up again on the way back, what is not known to be undone is undone.
RETURNS = (
    Edge(State.RUNNING, Cause.RESUME, State.LOST),
    Edge(State.UNDOING, Cause.RESUME, State.LOST),
    Edge(State.UNKNOWN, Cause.RESUME, State.LOST),
    Edge(State.STUCK, Cause.RESUME, State.FAILED),
)

_NEXT = {(edge.source, edge.cause): edge.target for edge in EDGES}

_AT_WORK = frozenset({State.RUNNING, State.UNDOING})
_DOWN = frozenset({State.FAILED, State.LOST, State.STUCK, State.UNKNOWN})
_TO_UNDO = frozenset({State.DONE, State.FAILED, State.LOST})


class Result(StrEnum):
    """What became of a roll."""

    RUNNING = "running"
    DONE = "done"
    #: Somebody asked it to stop; the rest can be done later.
    STOPPED = "stopped"
    #: A host failed, and nothing was undone.
    FAILED = "failed"
    ROLLED_BACK = "rolled back"
    #: Some hosts could not be undone.
    BROKEN = "broken"


#: What can be taken up again.
OPEN = frozenset({Result.RUNNING, Result.STOPPED, Result.FAILED, Result.BROKEN})


class Share(NamedTuple):
    """A number of hosts: so many, or so many of a hundred."""

    number: int
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``2`` or ``25%``.

        Raises:
            ValueError: It is neither, or nothing.
        """
        match = re.fullmatch(r"([0-9]{1,6})(%?)", text.strip())
        share = cls(int(match[1]), bool(match[2])) if match else cls(0)
        if not share.number or (share.percent and share.number > 100):
            raise ValueError(f"{text[:40]!r} is neither a number of hosts from 1 nor 1% to 100%")
        return share

    def of(self, count: int) -> int:
        """Answer how many of *count* hosts that is: rounded down, and one at least."""
        return max(1, count * self.number // 100) if self.percent else self.number


class Plan(NamedTuple):
    """Which hosts, in which order, and how many at once.

    Attributes:
        hosts: In the order in which they come.
        max_unavailable: So many may be unavailable at once.
        batch: So many are worked on at once.
        canaries: These of them come first, and by themselves.
        down: These are not available before anything begins.
    """

    hosts: tuple[str, ...]
    max_unavailable: int = 1
    batch: int = 1
    canaries: tuple[str, ...] = ()
    down: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        hosts: Sequence[str],
        max_unavailable: Share | None = None,
        batch: int | None = None,
        canaries: Collection[str] = (),
    ) -> Plan:
        """Put canaries first; a batch is as large as is allowed if left out."""
        first = tuple(host for host in hosts if host in canaries)
        rest = tuple(host for host in hosts if host not in canaries)
        most = max_unavailable.of(len(hosts)) if max_unavailable else 1
        return cls((*first, *rest), most, min(batch or most, most), first)

    def batches(self) -> tuple[tuple[str, ...], ...]:
        """Answer who comes together if nothing fails."""
        roll, found = Roll(self), []
        while (wave := roll.wave()) is not None:
            found.append(wave.hosts)
            for host in wave.hosts:
                roll.apply(host, Cause.BEGIN)
                roll.apply(host, Cause.DONE)
        return tuple(found)


class Wave(NamedTuple):
    """The hosts to begin with now, and in which direction."""

    hosts: tuple[str, ...]
    back: bool = False


class Roll:
    """Follow a plan.

    Args:
        plan: It.
        undoes: Whether a failure is answered by undoing what was done.
    """

    def __init__(self, plan: Plan, undoes: bool = True) -> None:
        self.plan = plan
        self.undoes = undoes
        self.states = dict.fromkeys(plan.hosts, State.WAITING)
        #: Whatever was begun with, in that order.
        self.touched: list[str] = []
        self._down = {host for host in plan.down if host in self.states}
        self._excused: set[str] = set()
        self._stopped = False
        self._turned = False

    def apply(self, host: str, cause: Cause) -> State:
        """Note what happened to a host, and answer how it stands now.

        Raises:
            ValueError: That cannot happen to it now.
        """
        state = self.states[host]
        target = _NEXT.get((state, cause))
        if target is None:
            raise ValueError(f"{host} is {state}: {cause} cannot happen to it")
        self.states[host] = target
        if target is State.RUNNING and host not in self.touched:
            self.touched.append(host)
        if target in (State.DONE, State.UNDONE):
            self._down.discard(host)
        if target in (State.FAILED, State.LOST):
            self._turned = True
        return target

    def stop(self) -> None:
        """Go forward no more, once what runs has ended."""
        self._stopped = True

    def expect(self, down: Iterable[str]) -> None:
        """Count these as unavailable until they are done with."""
        self._down.update(down)

    def excuse(self, absent: Iterable[str]) -> None:
        """Count these not as unavailable, whatever is known of them: somebody insists."""
        self._excused.update(absent)

    @property
    def is_back(self) -> bool:
        """Whether it undoes what was done."""
        return self._turned and self.undoes

    def wave(self) -> Wave | None:
        """Answer whom to begin with now; nobody while hosts are worked on, or when it is over."""
        if self._any(_AT_WORK):
            return None
        if self._turned:
            return self._back() if self.is_back else None
        if self._stopped:
            return None
        hosts = self._fitting(self._waiting())
        return Wave(hosts) if hosts else None

    @property
    def unavailable(self) -> frozenset[str]:
        """The hosts that may not be serving."""
        busy = {host for host, at in self.states.items() if at in _DOWN | _AT_WORK}
        return frozenset(busy.union(self._down) - self._excused)

    @property
    def result(self) -> Result:
        """What became of it."""
        if self._any(_AT_WORK) or self.wave() is not None:
            return Result.RUNNING
        if self.is_back:
            bad = any(self.states[host] is not State.UNDONE for host in self.touched)
            return Result.BROKEN if bad else Result.ROLLED_BACK
        if self._turned:
            return Result.FAILED
        return Result.STOPPED if self._any({State.WAITING}) else Result.DONE

    def resume(self) -> None:
        """Take it up again, after `apply` was told all that was written down."""
        back = self.is_back
        table = {edge.source: edge.target for edge in (RETURNS if back else RETRIES)}
        for host, state in self.states.items():
            # Who was out of reach before anything began has nothing to be undone.
            if not back or host in self.touched:
                self.states[host] = table.get(state, state)
        self._turned, self._stopped = back, False

    def of(self, *states: State) -> tuple[str, ...]:
        """Answer the hosts in one of these states."""
        return tuple(host for host, state in self.states.items() if state in states)

    def _any(self, states: Collection[State]) -> bool:
        return any(state in states for state in self.states.values())

    def _waiting(self) -> Iterable[str]:
        waiting = [host for host in self.plan.hosts if self.states[host] is State.WAITING]
        return [host for host in waiting if host in self.plan.canaries] or waiting

    def _back(self) -> Wave | None:
        left = [host for host in reversed(self.touched) if self.states[host] in _TO_UNDO]
        return Wave(self._fitting(left) or (left[0],), back=True) if left else None

    def _fitting(self, hosts: Iterable[str]) -> tuple[str, ...]:
        """Answer the first of *hosts* that may be worked on at once."""
        down = self.unavailable
        slots = self.plan.max_unavailable - len(down)
        chosen: list[str] = []
        for host in hosts:
            slots -= host not in down
            if slots < 0 or len(chosen) == self.plan.batch:
                break
            chosen.append(host)
        return tuple(chosen)
