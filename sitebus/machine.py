"""Lives as data: the states a bus goes through, and what leads from one to the next.

A life is a table of rows (source, cause, target). The bus walks it and adds nothing of its own:
failure is a row too. This module decides which steps exist; `sitebus.bus` takes them.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

#: What every bus can say, whatever its states.
COMMON_CHANNELS = ("graceful", "log", "main")

AnyState = Hashable


class State(enum.Enum):
    """The five states of an `Engine`, the ones of ``cherrypy.process.wspbus``."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    STARTED = "STARTED"
    STOPPING = "STOPPING"
    EXITING = "EXITING"

    def __repr__(self) -> str:
        return f"states.{self.name}"

    __str__ = __repr__


#: The name wspbus has for them: ``bus.states.STARTED``.
states = State


class Cause(enum.Enum):
    """Why a bus goes from one state to the next."""

    START = "start"
    STOP = "stop"
    EXIT = "exit"
    MOVE = "move"  # rows made from a dict of transitions do not say why
    DONE = "done"
    FAILED = "failed"


class Edge(NamedTuple):
    """One row: in *source*, *cause* leads to *target*."""

    source: AnyState
    cause: Cause
    target: AnyState


Hop = tuple[AnyState, AnyState]


class Graph(dict[Hop, AnyState]):
    """The next state on the shortest way from one state to another.

    ``graph[source, target]`` is that next state; a missing pair has no way.
    """

    @classmethod
    def from_edges(cls, edges: Mapping[AnyState, AnyState | tuple[AnyState, ...]]) -> Graph:
        """Derive every next step from ``{source: target}`` or ``{source: (target, ...)}``.

        Ways of equal length go through the successor that was named first.
        """
        neighbours = {a: b if isinstance(b, (tuple, list)) else (b,) for a, b in edges.items()}
        graph = cls()
        for source in neighbours:
            graph._explore(source, neighbours)
        return graph

    @classmethod
    def from_rows(cls, rows: Iterable[Edge]) -> Graph:
        """Derive every next step from the rows that are not failures."""
        neighbours: dict[AnyState, tuple[AnyState, ...]] = {}
        for source, cause, target in rows:
            if cause is not Cause.FAILED:
                neighbours[source] = (*neighbours.get(source, ()), target)
        return cls.from_edges(neighbours)

    def _explore(self, source: AnyState, neighbours: Mapping[AnyState, Iterable[AnyState]]) -> None:
        """Breadth first: whoever reaches a state first came the shortest way."""
        frontier = [(target, target) for target in neighbours[source]]
        while frontier:
            reached: list[Hop] = []
            for state, first in frontier:
                if state != source and (source, state) not in self:
                    self[source, state] = first
                    reached += [(after, first) for after in neighbours.get(state, ())]
            frontier = reached

    @property
    def states(self) -> set[AnyState]:
        """Every state that some way starts from or leads to."""
        return {state for pair in self for state in pair}

    def reachable(self, source: AnyState) -> set[AnyState]:
        """Answer the states that *source* has a way to."""
        return {target for start, target in self if start == source}


#: The default of a mapping that a life may leave out.
NOTHING: Mapping[Any, Any] = MappingProxyType({})


class _Life(NamedTuple):
    """The fields of a `Machine`."""

    edges: tuple[Edge, ...]
    initial: AnyState
    channels: Mapping[AnyState, str]
    news: frozenset[AnyState] = frozenset()
    unwind: Mapping[AnyState, AnyState] = NOTHING
    preemptible: frozenset[AnyState] = frozenset()
    roles: Mapping[str, str] = NOTHING
    running: AnyState = None
    resting: AnyState = None
    extra_channels: tuple[str, ...] = COMMON_CHANNELS
    closing: str | None = None
    announcement: str = "Bus state: {}"
    closing_line: str = ""


class Machine(_Life):
    """A life: its rows, and what they mean for the bus that lives it.

    Attributes:
        edges: The only copy of the state machine; diagram, docs and tests read these rows.
        initial: Where a new bus begins.
        channels: What is published on arrival in a state.
        news: States whose listeners only hear of it: a failure there is logged and changes nothing.
        unwind: A failure on arrival in a key turns the walk towards its value.
        preemptible: States that a command to end the life need not wait for.
        roles: Which channel plays the part that plugins name, where its name is another.
        running: The state in which the site serves.
        resting: The state in which it does not, and from which it can start again.
        extra_channels: Channels that belong to no state.
        closing: The channel that tells that the last state's work is done, if there is one.
        announcement: The log line on arrival, with the state's name to fill in.
        closing_line: The log line once the last state's work is done.
    """

    @functools.cached_property
    def graph(self) -> Graph:
        """The next state on the shortest way between any two, failures left out."""
        return Graph.from_rows(self.edges)

    @functools.cached_property
    def final(self) -> frozenset[AnyState]:
        """The states that nothing leads out of."""
        return frozenset(self.states - {edge.source for edge in self.edges})

    @classmethod
    def from_dicts(
        cls,
        transitions: Mapping[AnyState, AnyState | tuple[AnyState, ...]],
        errors: Mapping[AnyState, AnyState] | None = None,
        initial: AnyState = None,
        extra_channels: Iterable[str] | None = None,
    ) -> Machine:
        """Turn magicbus' dict form into rows; every state is published on a channel of its name."""
        moves = [
            Edge(source, Cause.MOVE, target)
            for source, targets in transitions.items()
            for target in (targets if isinstance(targets, (tuple, list)) else (targets,))
        ]
        failures = [Edge(source, Cause.FAILED, target) for source, target in (errors or {}).items()]
        rows = (*moves, *failures)
        named = {state: str(state) for row in rows for state in (row.source, row.target)}
        extra = ("log",) if extra_channels is None else tuple(extra_channels)
        return cls(rows, initial, named, extra_channels=extra)

    @property
    def states(self) -> set[AnyState]:
        """Every state that a row names."""
        return {state for edge in self.edges for state in (edge.source, edge.target)}

    @property
    def ended(self) -> AnyState:
        """Where the life ends, if it ends in one place."""
        return next(iter(self.final)) if len(self.final) == 1 else None

    @property
    def error_states(self) -> set[AnyState]:
        """States that only failure leads to; their listeners are handed the error."""
        failed = {edge.target for edge in self.edges if edge.cause is Cause.FAILED}
        return failed - {edge.target for edge in self.edges if edge.cause is not Cause.FAILED}

    def step(self, state: AnyState, cause: Cause) -> AnyState | None:
        """Answer where *cause* leads from *state*, or None if it leads nowhere."""
        for edge in self.edges:
            if edge.source == state and edge.cause is cause:
                return edge.target
        return None

    def channel(self, role: str) -> str:
        """Answer the channel that plays *role*: "start" is "START" in magicbus' table."""
        return self.roles.get(role, role)

    def builtin_channels(self) -> tuple[str, ...]:
        """Answer the channels that a new bus declares, in the order of the table."""
        closing = (self.closing,) if self.closing else ()
        named = (*self.channels.values(), *closing, *self.extra_channels)
        return tuple(dict.fromkeys(named))


WSPBUS = Machine(
    edges=(
        Edge(State.STOPPED, Cause.START, State.STARTING),
        Edge(State.STOPPED, Cause.STOP, State.STOPPING),  # nobody started, but somebody may hold
        Edge(State.STARTING, Cause.DONE, State.STARTED),
        Edge(State.STARTING, Cause.FAILED, State.STOPPING),  # undo what did start
        Edge(State.STARTING, Cause.STOP, State.STOPPING),  # an exit need not wait for the rest
        Edge(State.STARTED, Cause.STOP, State.STOPPING),
        Edge(State.STOPPING, Cause.DONE, State.STOPPED),
        Edge(State.STOPPING, Cause.FAILED, State.STOPPED),  # reported, never retried
        Edge(State.STOPPED, Cause.EXIT, State.EXITING),
    ),
    initial=State.STOPPED,
    channels=MappingProxyType(
        {
            State.STARTING: "start",
            State.STARTED: "started",
            State.STOPPING: "stop",
            State.STOPPED: "stopped",
            State.EXITING: "exit",
        }
    ),
    news=frozenset({State.STARTED, State.STOPPED}),
    unwind=MappingProxyType({State.STARTING: State.EXITING}),
    preemptible=frozenset({State.STARTING}),
    running=State.STARTED,
    resting=State.STOPPED,
    closing="exited",
    announcement="Bus {}",
    closing_line="Bus EXITED",
)

_MAGICBUS_ROWS = Machine.from_dicts(
    {
        "INITIAL": "ENTER",
        "ENTER": "IDLE",
        "IDLE": ("START", "EXIT"),
        "START": ("RUN", "STOP"),
        "RUN": "STOP",
        "STOP": "IDLE",
        "EXIT": "EXITED",
        "START_ERROR": "STOP",
        "STOP_ERROR": "EXIT",
        "EXIT_ERROR": "EXITED",
    },
    {
        "ENTER": "STOP_ERROR",
        "START": "START_ERROR",
        "RUN": "START_ERROR",
        "STOP": "STOP_ERROR",
        "IDLE": "STOP_ERROR",
        "EXIT": "EXIT_ERROR",
    },
)

MAGICBUS = Machine(
    edges=_MAGICBUS_ROWS.edges,
    initial="INITIAL",
    channels=_MAGICBUS_ROWS.channels,
    news=frozenset({"EXITED", "START_ERROR", "STOP_ERROR", "EXIT_ERROR"}),
    unwind=MappingProxyType(
        dict.fromkeys(("ENTER", "START", "RUN", "STOP", "IDLE", "EXIT"), "EXITED")
    ),
    preemptible=frozenset({"START"}),
    roles=MappingProxyType(
        {
            "start": "START",
            "started": "RUN",
            "stop": "STOP",
            "stopped": "IDLE",
            "exit": "EXIT",
            "exited": "EXITED",
        }
    ),
    running="RUN",
    resting="IDLE",
    extra_channels=("log", "main", "execv", "graceful"),
)
