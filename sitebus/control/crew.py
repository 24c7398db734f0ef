"""The worker processes of a site, as whoever controls or watches it sees them.

``engine.workers`` is a `Crew` in a supervisor, and None where the site is one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sitebus.process import Engine


class BeatPicture(Protocol):
    """What a worker last said of itself; ages and lag in seconds, memory in bytes."""

    @property
    def requests(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def oldest(self) -> float: ...
    @property
    def lag(self) -> float: ...
    @property
    def rss(self) -> int: ...


class WorkerPicture(Protocol):
    """One worker process at one moment; *since* is in seconds of `time.monotonic`."""

    @property
    def slot(self) -> int: ...
    @property
    def serial(self) -> int: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def state(self) -> object: ...
    @property
    def since(self) -> float: ...
    @property
    def beat(self) -> BeatPicture | None: ...
    @property
    def restarts(self) -> int: ...
    @property
    def fatal(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class JobView(Protocol):
    """Something that takes time: ``running``, then ``done`` or ``aborted`` for a reason.

    *began* and *ended* are in seconds of `time.monotonic`; *ended* is None while it runs.
    """

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def began(self) -> float: ...
    @property
    def ended(self) -> float | None: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; answer whether it has come."""


class Crew(Protocol):
    """The workers of a supervisor, and what can be asked of them.

    An error that has an attribute ``job`` tells which job has to end first.
    """

    @property
    def inplace(self) -> bool:
        """Whether a graceful is passed on to the workers, rather than a replacement of all."""

    def pictures(self) -> Sequence[WorkerPicture]:
        """Answer every worker there is now, and every slot that has none."""

    def roll(self, reason: str) -> JobView:
        """Replace every worker, one by one."""

    def reload_in_place(self) -> None:
        """Have each worker reload in place: log files, certificates, and what plugins do."""

    def scale(self, count: int, /) -> JobView:
        """Have that many workers."""

    def drain(self, slot: int, /) -> JobView:
        """Replace one worker."""

    def kill(self, slot: int, /) -> None:
        """End one worker at once; another takes its place."""

    def dump(self, slot: int, timeout: float = 5.0) -> str:
        """Answer the stacks of one worker's threads."""

    def call(
        self, channel: str, /, *args: Any, timeout: float = 5.0, **kwargs: Any
    ) -> Mapping[str, Any]:
        """Publish in each worker; answer what the listeners of each returned."""

    def metrics(self) -> Sequence[Any]:
        """Answer a snapshot of each worker's metrics."""

    def job(self, id: str, /) -> JobView | None:
        """Find a job."""


def crew_of(engine: Engine) -> Crew | None:
    """Answer the workers of *engine*, if it is a supervisor."""
    crew: Crew | None = getattr(engine, "workers", None)
    return crew


def state_name(state: object) -> str:
    """Answer a state in capitals, whether it is an enumeration's or a text."""
    return str(getattr(state, "name", state)).upper()


def is_ready(worker: WorkerPicture) -> bool:
    """Tell whether a worker accepts requests."""
    return state_name(worker.state) == "READY"
