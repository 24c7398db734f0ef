"""A job: which workers are to go, which are to come instead, and how it went.

There is one at a time. What a job changes, and when it is done, is decided here; when each step
may be taken is decided in `sitebus.workers.plan`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Kind(enum.StrEnum):
    """What a job is for."""

    START = "start"
    STOP = "stop"
    ROLL = "roll"
    SCALE = "scale"
    DRAIN = "drain"
    #: A worker has come to a limit: requests, size, age, or that of a request's age.
    RECYCLE = "recycle"
    #: The code has changed: the last change is what counts, whatever is being done about others.
    RELOAD = "reload"


class JobState(enum.StrEnum):
    """How a job stands."""

    RUNNING = "running"
    DONE = "done"
    ABORTED = "aborted"


#: Nobody asked for these by name: a wish of somebody's waits for their end.
UNASKED = frozenset({Kind.START, Kind.RECYCLE, Kind.RELOAD})

#: These replace every worker, so that whoever they bring runs what is new.
WHOLE = frozenset({Kind.START, Kind.ROLL, Kind.RELOAD})


class Job:
    """A piece of work that has a result; only the pool changes it.

    Attributes:
        id: Names it, for ever.
        kind: What it is for.
        reason: Who wanted it, or why; once it is aborted, what went wrong.
        state: "running", "done" or "aborted"; one that is queued is "running", too.
        queued: It waits for the one before it.
        began: When it was wished for, or began if it had to wait; monotonic seconds.
        ended: When it was settled; None as long as it is not.
        cause: Why it was wanted, whatever became of it.
        slots: The slots whose workers it replaces or adds.
        total: How many steps it has.
    """

    def __init__(self, id: str, kind: Kind, reason: str, now: float) -> None:
        self.id = id
        self.kind = kind
        self.cause = self.reason = reason
        self.state = JobState.RUNNING
        self.queued = True
        self.began = now
        self.ended: float | None = None
        self.slots: frozenset[int] = frozenset()
        #: What is asked for: the count of a scale, the slot of a drain, the serial of a recycle.
        self.number = 0
        #: How many workers there were to be before it began.
        self.before = 0
        #: Slots without a new worker that was READY.
        self.todo: set[int] = set()
        #: Serials of who is to go, until they are gone.
        self.old: set[int] = set()
        #: Serials of who was started for it.
        self.fresh: set[int] = set()
        #: Slots in which a new worker died young.
        self.lost: set[int] = set()
        self.total = 0

    def begin(self, now: float, slots: Iterable[int], old: Iterable[int], before: int) -> None:
        """Fix what there is to do."""
        self.queued = False
        self.began = now
        self.slots = frozenset(slots)
        self.todo = set(self.slots)
        self.old = set(old)
        self.before = before
        self.total = self.left

    def end(self, now: float, state: JobState, reason: str = "") -> None:
        self.queued = False
        self.ended = now
        self.state = state
        self.reason = reason or self.reason

    @property
    def left(self) -> int:
        """How many steps are left: workers to come, and workers to go."""
        return len(self.todo) + len(self.old)

    @property
    def whole(self) -> bool:
        """It replaces every worker."""
        return self.kind in WHOLE

    @property
    def proven(self) -> bool:
        """A worker of the new kind has become READY."""
        return len(self.todo) < len(self.slots)

    def covers(self, slot: int) -> bool:
        """Answer whether a worker that is started in *slot* now belongs to this job."""
        return self.whole or slot in self.todo

    def like(self, other: Job) -> bool:
        """Answer whether both were the same wish; the count of a scale may differ."""
        same = self.kind is other.kind
        return same and (self.kind is Kind.SCALE or self.number == other.number)

    def take_over(self, other: Job) -> None:
        """Be what *other*, a wish like this one, asks for; for a job that is queued."""
        if self.kind is Kind.SCALE:
            self.number, self.cause, self.reason = other.number, other.cause, other.reason

    def __repr__(self) -> str:
        state = "queued" if self.queued else str(self.state)
        return f"<Job {self.id} {state}: {self.reason}>"
