"""What goes wrong with files and releases on the hosts of a fleet."""

from __future__ import annotations

from sitebus.errors.base import EX_CANTCREAT, EX_NOINPUT, EX_NOPERM, EX_USAGE, SitebusError
from sitebus.errors.fleet import FleetError

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_of(count: float) -> str:
    """Answer a number of bytes for people."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"


class BadReleaseId(SitebusError):
    """A release cannot be called that."""

    status = EX_USAGE

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return (
            f"{self.id!r} cannot be the name of a release; letters, digits and . _ + - after the "
            "first, which is a letter or a digit; 100 at most"
        )


class NotATree(SitebusError):
    """What is to be sent is not there, or not what can be sent."""

    status = EX_NOINPUT

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot send {self.path}: {self.reason}"


class ProgramMissing(SitebusError):
    """A program of this machine is needed, and not there."""

    def __init__(self, program: str) -> None:
        super().__init__(program)
        self.program = program

    def __str__(self) -> str:
        return f"{self.program} is not installed on this machine; install it"


class ReleaseError(FleetError):
    """A release was not staged, activated or removed on a host; what was current is so still."""


class NoSuchRelease(ReleaseError):
    """The host has no such release."""

    status = EX_NOINPUT


class ReleaseNotWhole(ReleaseError):
    """A directory among the releases is none that was staged to its end."""


class ReleaseDiffers(ReleaseError):
    """The host has a release of that name, and it is another one."""

    status = EX_USAGE


class ReleaseBusy(ReleaseError):
    """Somebody else is at it."""


class ReleaseChanged(ReleaseError):
    """What arrived is not what was to be sent: somebody writes to it meanwhile."""


class NotALink(ReleaseError):
    """There is something in the place of a link."""


class CannotWrite(FleetError):
    """The host's system does not let this be written."""

    status = EX_CANTCREAT


class MayNotWrite(CannotWrite):
    """The user at the host may not write there."""

    status = EX_NOPERM


class DiskFull(CannotWrite):
    """There is not enough room on the host.

    Attributes:
        needed: How many bytes there should be.
        free: How many there are.
    """

    def __init__(self, host: str, what: str, needed: int, free: int, folder: str) -> None:
        room = f"it needs {size_of(needed)}, and {folder} has {size_of(free)} free"
        super().__init__(host, f"no room for {what}: {room}; nothing was changed")
        self.needed = needed
        self.free = free


class TransferFailed(FleetError):
    """A program that sends something to a host has failed.

    Attributes:
        code: Its exit status.
        output: What it said of it.
    """

    def __init__(self, host: str, program: str, code: int, output: str) -> None:
        lines = output.strip().splitlines()
        said = f": {lines[0].strip()}" if lines else ""
        super().__init__(host, f"{program} ended with status {code}{said}")
        self.code = code
        self.output = output
