"""The tables of a life: invariants first, then a few told stories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.machine import MAGICBUS, WSPBUS, Cause, Graph, Machine, State, states

MACHINES = pytest.mark.parametrize("machine", [WSPBUS, MAGICBUS], ids=["wspbus", "magicbus"])


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPING])
def test_a_passing_state_knows_both_its_outcomes(state: State) -> None:
    """No listener result, good or bad, can leave the bus stuck half way."""
    assert WSPBUS.step(state, Cause.DONE) is not None
    assert WSPBUS.step(state, Cause.FAILED) is not None


@MACHINES
def test_every_state_has_a_way_to_the_end(machine: Machine) -> None:
    """Wherever a process is, it can be told to leave."""
    for state in machine.states - machine.final:
        assert (state, machine.ended) in machine.graph


@MACHINES
def test_the_end_is_the_end(machine: Machine) -> None:
    """A bus that has exited is not started again by mistake."""
    assert machine.graph.reachable(machine.ended) == set()


@MACHINES
def test_a_step_of_the_graph_is_a_row(machine: Machine) -> None:
    """The graph adds no way that the table does not have."""
    rows = {(edge.source, edge.target) for edge in machine.edges if edge.cause is not Cause.FAILED}
    assert {(source, step) for (source, _), step in machine.graph.items()} <= rows


@MACHINES
def test_every_state_is_published_somewhere(machine: Machine) -> None:
    """A plugin can hear of everything that happens to the site."""
    assert set(machine.channels) == machine.states
    assert set(machine.channels.values()) <= set(machine.builtin_channels())


@MACHINES
def test_failure_leads_towards_the_end_of_the_unwinding(machine: Machine) -> None:
    """What unwinds can be reached from where failure leads."""
    for state, goal in machine.unwind.items():
        fallback = machine.step(state, Cause.FAILED)
        assert fallback is not None
        assert (fallback, goal) in machine.graph


def test_a_graph_holds_the_next_step_of_the_shortest_way() -> None:
    graph = Graph.from_edges({"a": "b", "b": ("c", "d"), "c": "d"})
    assert graph == {
        ("a", "b"): "b",
        ("a", "c"): "b",
        ("a", "d"): "b",
        ("b", "c"): "c",
        ("b", "d"): "d",
        ("c", "d"): "d",
    }
    assert graph.states == {"a", "b", "c", "d"}


def test_magicbus_has_its_forty_three_ways() -> None:
    """As many as the original table; plugins count on where they lead."""
    assert len(MAGICBUS.graph) == 43
    assert MAGICBUS.graph["RUN", "START"] == "STOP"
    assert ("RUN", "INITIAL") not in MAGICBUS.graph


def test_equal_ways_go_through_the_successor_named_first() -> None:
    """The way must not depend on the hash seed."""
    assert Graph.from_edges({"a": ("x", "y"), "x": "z", "y": "z"})["a", "z"] == "x"
    assert Graph.from_edges({"a": ("y", "x"), "x": "z", "y": "z"})["a", "z"] == "y"


def test_states_are_named_as_wspbus_names_them() -> None:
    assert repr(states.STARTED) == "states.STARTED"
    assert states.STARTED.name == "STARTED"
    assert states is State


def test_roles_have_a_name_in_every_vocabulary() -> None:
    assert WSPBUS.channel("start") == "start"
    assert MAGICBUS.channel("start") == "START"
    assert MAGICBUS.channel("graceful") == "graceful"


EDGES = st.dictionaries(
    st.integers(0, 7), st.lists(st.integers(0, 7), min_size=1, unique=True).map(tuple), max_size=8
)


@given(EDGES)
def test_following_the_graph_arrives(edges: dict[int, tuple[int, ...]]) -> None:
    """Any declared machine: each step comes closer, so no walk goes round in circles."""
    graph = Graph.from_edges(edges)  # type: ignore[arg-type]
    for source, target in graph:
        state, steps = source, 0
        while state != target:
            state = graph[state, target]
            steps += 1
            assert steps <= 8


@given(EDGES)
def test_the_graph_misses_no_way(edges: dict[int, tuple[int, ...]]) -> None:
    graph = Graph.from_edges(edges)  # type: ignore[arg-type]
    for source in edges:
        seen: set[int] = set()
        frontier = set(edges[source])
        while frontier:
            seen |= frontier
            frontier = {after for state in frontier for after in edges.get(state, ())} - seen
        assert graph.reachable(source) == seen - {source}
