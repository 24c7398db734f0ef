"""What goes wrong with a roll over several hosts, and with what is written down of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sitebus.errors.base import (
    EX_CANTCREAT,
    EX_NOINPUT,
    EX_SOFTWARE,
    EX_USAGE,
    SitebusError,
    did_you_mean,
)
from sitebus.errors.fleet import FleetError


class CannotJournal(SitebusError):
    """What happens in a roll cannot be written down."""

    status = EX_CANTCREAT

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot write the journal {self.path}: {self.reason}; "
            "name another directory with [fleet] journal"
        )


class BadJournal(SitebusError):
    """A journal is not one of ours, or was changed."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}; this roll cannot be read or resumed"


class NoSuchRoll(SitebusError):
    """There is no journal of that name, or none that could be taken up again."""

    status = EX_NOINPUT

    def __init__(self, id: str | None, known: Iterable[str]) -> None:
        super().__init__(id)
        self.id = id
        self.known = tuple(known)

    def __str__(self) -> str:
        if self.id is None:
            return "no roll is left to be resumed; sitebus-fleet rolls shows the past ones"
        return (
            f"there is no roll {self.id[:60]!r}{did_you_mean(self.id[:60], self.known)}; "
            "sitebus-fleet rolls shows them"
        )


class RollOver(SitebusError):
    """A roll that is to be resumed has come to its end."""

    status = EX_USAGE

    def __init__(self, id: str, result: str) -> None:
        super().__init__(id)
        self.id = id
        self.result = result

    def __str__(self) -> str:
        return f"roll {self.id} has ended ({self.result}), and nothing is left of it to be resumed"


class RollChanged(SitebusError):
    """A roll is to be resumed with hosts, a command or a release that are not its own."""

    status = EX_USAGE

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id)
        self.id = id
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot resume roll {self.id}: {self.reason}"


class AnotherRoll(FleetError):
    """Somebody else is at work on a host."""

    def __init__(self, host: str, since: str, by: str, id: str) -> None:
        super().__init__(
            host,
            f"another roll is running since {since} by {by} (roll {id}); "
            "try again when it has ended",
        )
        self.since = since
        self.by = by
        self.id = id


class RollRefused(SitebusError):
    """A roll was not begun: the hosts are not in a state for it.

    Attributes:
        why: What stands against it.
        hosts: A sentence for each host that is not as it should be.
    """

    status = EX_SOFTWARE

    def __init__(self, why: str, hosts: Mapping[str, str]) -> None:
        super().__init__(why)
        self.why = why
        self.hosts = dict(hosts)

    def __str__(self) -> str:
        return f"nothing was changed: {self.why}"


class GateClosed(FleetError):
    """A host is not as healthy as it has to be."""


class CannotLock(FleetError):
    """Nothing can be written on a host that would keep a second roll away."""


class NoPreviousRelease(FleetError):
    """There is no release on a host to go back to."""
