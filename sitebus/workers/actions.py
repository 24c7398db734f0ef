"""What the pool asks of its supervisor: values that say what to do, and do nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from sitebus.errors import SitebusError
from sitebus.workers.jobs import Job

#: The numbers are those of every POSIX system; elsewhere the `signal` module has no SIGKILL.
TERM, KILL = 15, 9

#: The levels of `logging`.
DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50


class Spawn(NamedTuple):
    """Start a process; then tell `Pool.spawned` or `Pool.spawn_failed`."""

    serial: int
    slot: int


class Drain(NamedTuple):
    """Tell a worker to accept nothing new, finish what it has, and end.

    Attributes:
        timeout: How long it may take, in seconds; None for as long as ever.
    """

    serial: int
    reason: str
    timeout: float | None = None


class Dump(NamedTuple):
    """Get the stacks of a worker's threads, and log them."""

    serial: int


class Kill(NamedTuple):
    """Send a signal to a worker's process; it has been spawned."""

    serial: int
    signal: int


class Tell(NamedTuple):
    """Publish on the supervisor's bus; the arguments are JSON."""

    channel: str
    args: tuple[Any, ...]


class Say(NamedTuple):
    """Log a line for people."""

    text: str
    level: int


class Settle(NamedTuple):
    """A job has ended: it is done, or aborted for a reason."""

    job: Job


class Fail(NamedTuple):
    """The very start failed, and the workers that did start are being ended."""

    error: SitebusError


Action = Spawn | Drain | Dump | Kill | Tell | Say | Settle | Fail
