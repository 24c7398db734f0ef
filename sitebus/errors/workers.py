"""What goes wrong with worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from sitebus.errors.base import EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE, SitebusError


class RollRunning(SitebusError):
    """One job with workers at a time; this one was refused.

    Attributes:
        wish: What was asked for: "roll", "scale", "drain".
        job: The job that is running.
    """

    status = EX_UNAVAILABLE

    def __init__(self, wish: str, job: object) -> None:
        super().__init__(wish)
        self.wish = wish
        self.job = job

    def __str__(self) -> str:
        running = getattr(self.job, "id", "a job")
        cause = getattr(self.job, "cause", "")
        why = f" ({cause})" if cause else ""
        return f"cannot {self.wish}: {running} is running{why}; try again when it is done"


class WorkerUnfit(SitebusError):
    """A worker did not become ready, and the site did not start because of it."""

    def __init__(self, slot: int, reason: str, status: int = EX_SOFTWARE) -> None:
        super().__init__(slot, reason)
        self.slot = slot
        self.reason = reason
        self.status = status  # type: ignore[misc]  # each worker brings its own

    def __str__(self) -> str:
        return f"worker {self.slot} did not become ready: {self.reason}"


class UnknownWorker(SitebusError):
    """There is no worker of that number."""

    status = EX_USAGE

    def __init__(self, slot: int, count: int) -> None:
        super().__init__(slot)
        self.slot = slot
        self.count = count

    def __str__(self) -> str:
        there = f"they are numbered 1 to {self.count}" if self.count else "none are wanted now"
        return f"there is no worker {self.slot}; {there}"


class BadWorkerCount(SitebusError):
    """A supervisor has at least one worker."""

    status = EX_USAGE

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"cannot have {self.count} workers; 1 is the least, stop ends them all"


class NotWarm(SitebusError):
    """The libraries of a site cannot be kept between reloads.

    Attributes:
        reason: Why.
    """

    status = EX_CONFIG

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"reloads are not warm: {self.reason}; each imports everything anew, as with "
            "[reload] warm = no"
        )


class PreloadHasThreads(SitebusError):
    """Importing the applications has started threads, and a process with threads must not fork."""

    status = EX_CONFIG

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(tuple(names))
        self.names = tuple(names)

    def __str__(self) -> str:
        return (
            f"cannot preload: importing the applications has started {_threads(self.names)}; "
            "start threads on the bus's channel 'start', or set preload = no"
        )


class ProbeFailed(SitebusError):
    """A new worker asked the site for a path, and did not get it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the probe of {self.path} failed: {self.reason}"


class NoWorkerAnswer(SitebusError):
    """A worker did not answer what it was asked, or not in time."""

    status = EX_UNAVAILABLE

    def __init__(self, slot: int, what: str, reason: str) -> None:
        super().__init__(slot, what)
        self.slot = slot
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"worker {self.slot} did not answer {self.what}: {self.reason}"


class NotServing(SitebusError):
    """Something was asked of the workers while there are none."""

    status = EX_UNAVAILABLE

    def __init__(self, what: str, state: object) -> None:
        super().__init__(what)
        self.what = what
        self.state = state

    def __str__(self) -> str:
        state = getattr(self.state, "name", self.state)
        return f"cannot {self.what}: the bus is {state}; start it first"


def _threads(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names))
    return f"the thread {shown}" if len(names) == 1 else f"the threads {shown}"
