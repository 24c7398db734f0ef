"""The life of a worker process as its supervisor sees it, as data.

`sitebus.workers.pool` walks the rows; what is no row has no effect: a "ready" that arrives late
does not bring back a worker that has been told to drain.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class WorkerState(enum.StrEnum):
    """What a worker is to the site; a message to people says it in these words."""

    BOOTING = "BOOTING"
    READY = "READY"
    DRAINING = "DRAINING"
    #: Of no use any more, and its process has not ended yet.
    FAILED = "FAILED"
    GONE = "GONE"


class WorkerCause(enum.Enum):
    """Why a worker goes from one state to the next."""

    READY = "ready"
    DRAIN = "drain"
    UNFIT = "unfit"
    STUCK = "stuck"
    CUT_OFF = "cut off"  # its link has ended; its process may have, too
    ENDED = "ended"


class WorkerEdge(NamedTuple):
    """One row: in *source*, *cause* leads to *target*."""

    source: WorkerState
    cause: WorkerCause
    target: WorkerState


#: The only copy of the table; docs and tests read these rows.
WORKER_EDGES = (
    WorkerEdge(WorkerState.BOOTING, WorkerCause.READY, WorkerState.READY),
    WorkerEdge(WorkerState.BOOTING, WorkerCause.DRAIN, WorkerState.DRAINING),  # no need to wait
    WorkerEdge(WorkerState.BOOTING, WorkerCause.UNFIT, WorkerState.FAILED),
    WorkerEdge(WorkerState.BOOTING, WorkerCause.CUT_OFF, WorkerState.FAILED),
    WorkerEdge(WorkerState.BOOTING, WorkerCause.ENDED, WorkerState.GONE),
    WorkerEdge(WorkerState.READY, WorkerCause.DRAIN, WorkerState.DRAINING),
    WorkerEdge(WorkerState.READY, WorkerCause.STUCK, WorkerState.FAILED),
    WorkerEdge(WorkerState.READY, WorkerCause.CUT_OFF, WorkerState.FAILED),
    WorkerEdge(WorkerState.READY, WorkerCause.ENDED, WorkerState.GONE),
    WorkerEdge(WorkerState.DRAINING, WorkerCause.ENDED, WorkerState.GONE),
    WorkerEdge(WorkerState.FAILED, WorkerCause.ENDED, WorkerState.GONE),
)

#: In these a worker serves, or is about to.
LIVE = frozenset({WorkerState.BOOTING, WorkerState.READY})

_STEPS = {(edge.source, edge.cause): edge.target for edge in WORKER_EDGES}


def step(state: WorkerState, cause: WorkerCause) -> WorkerState | None:
    """Answer where *cause* leads from *state*, or None if it leads nowhere."""
    return _STEPS.get((state, cause))
