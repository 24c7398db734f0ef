"""Jobs as whoever wanted one sees them: how it goes, when it has ended, and why it failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from sitebus.relay import Poller
from sitebus.workers.jobs import Job

#: How many jobs that have ended are remembered.
REMEMBERED = 100


class JobTicket:
    """A job as whoever wanted it sees it; see `sitebus.control.crew.JobView`.

    Attributes:
        settled: Is set once the job has ended.
        fault: What the last worker that was started for it said of why it cannot serve; None if
            none did.
    """

    def __init__(self, job: Job, poller: Poller) -> None:
        self._job = job
        self._poller = poller
        self._callbacks: list[Callable[[], object]] = []
        self.settled = threading.Event()
        self.fault: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def kind(self) -> str:
        return str(self._job.kind)

    @property
    def state(self) -> str:
        return str(self._job.state)

    @property
    def reason(self) -> str:
        return self._job.reason

    @property
    def began(self) -> float:
        return self._job.began

    @property
    def ended(self) -> float | None:
        return self._job.ended

    @property
    def progress(self) -> tuple[int, int]:
        """How many of how many steps are done."""
        return self._job.total - self._job.left, self._job.total

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end, at most *timeout* seconds long; answer whether it has come."""
        return self.settled.wait(timeout)

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Call *callback* once it has ended, in the poller's thread; soon, if it has already."""
        self._poller.call_soon(lambda: self._add(callback))

    def _add(self, callback: Callable[[], object]) -> None:
        if self.settled.is_set():
            callback()
        else:
            self._callbacks.append(callback)

    def settle(self) -> None:
        """Tell everybody that it has ended; in the poller's thread."""
        self.settled.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._poller.guarded(callback)


class Tickets:
    """The ticket of each job of late."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._tickets: dict[str, JobTicket] = {}

    def of(self, job: Job) -> JobTicket:
        """Answer the ticket of *job*, its first or the one it has."""
        if job.id not in self._tickets:
            while len(self._tickets) >= REMEMBERED:
                del self._tickets[next(iter(self._tickets))]
            self._tickets[job.id] = JobTicket(job, self._poller)
        return self._tickets[job.id]

    def find(self, id: str) -> JobTicket | None:
        """Find a job; those that ended long ago are forgotten."""
        return self._tickets.get(id)

    def release(self) -> None:
        """Have nobody wait any more: the jobs end with this image, and are not settled."""
        for ticket in self._tickets.values():
            ticket.settled.set()
