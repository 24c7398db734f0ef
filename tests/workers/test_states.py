"""The life of a worker: what every table of states must be, and what this one says."""

from __future__ import annotations

import json

import pytest

from sitebus.workers.states import LIVE, WORKER_EDGES, WorkerCause, WorkerState, step


@pytest.mark.parametrize("state", sorted(set(WorkerState) - {WorkerState.GONE}))
def test_a_process_may_end_at_any_time(state: WorkerState) -> None:
    """Whatever is expected of it, it can be killed."""
    assert step(state, WorkerCause.ENDED) is WorkerState.GONE


@pytest.mark.parametrize("cause", WorkerCause)
def test_who_is_gone_stays_gone(cause: WorkerCause) -> None:
    """Messages may be read after the process that sent them has ended."""
    assert step(WorkerState.GONE, cause) is None


@pytest.mark.parametrize("state", sorted(set(WorkerState) - LIVE))
def test_nothing_makes_a_worker_of_use_again(state: WorkerState) -> None:
    """A late "ready" must not bring back who was told to drain: its successor is there already."""
    assert not {edge.target for edge in WORKER_EDGES if edge.source is state} & LIVE


@pytest.mark.parametrize("state", sorted(LIVE))
def test_who_is_of_use_can_be_told_to_end(state: WorkerState) -> None:
    """A stop need not wait for a boot."""
    assert step(state, WorkerCause.DRAIN) is WorkerState.DRAINING


def test_a_cause_leads_to_one_state() -> None:
    """Two rows for the same would make the order of the table count."""
    pairs = [(edge.source, edge.cause) for edge in WORKER_EDGES]
    assert len(set(pairs)) == len(pairs)


def test_every_state_is_reached_from_the_first() -> None:
    assert {edge.target for edge in WORKER_EDGES} == set(WorkerState) - {WorkerState.BOOTING}


def test_a_state_is_its_name_to_json_and_to_people() -> None:
    assert json.dumps(WorkerState.READY) == '"READY"'
    assert f"{WorkerState.READY}" == "READY"
