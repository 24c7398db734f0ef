"""What goes wrong between an operator and the hosts of a fleet."""

from __future__ import annotations

from collections.abc import Iterable

from sitebus.errors.base import (
    EX_NOPERM,
    EX_UNAVAILABLE,
    EX_USAGE,
    SitebusError,
    did_you_mean,
)


class FleetError(SitebusError):
    """Something that was asked of a host was not done.

    Attributes:
        host: The host's name in the fleet's file.
        sentence: What happened, and what would work; nothing in it that moves a terminal's cursor,
            whatever the host has said.
    """

    status = EX_UNAVAILABLE

    def __init__(self, host: str, sentence: str) -> None:
        super().__init__(host, sentence)
        self.host = host
        self.sentence = "".join(each if each.isprintable() else " " for each in sentence)

    def __str__(self) -> str:
        return f"{self.host}: {self.sentence}"


class ConnectFailed(FleetError):
    """There is no way to the host, or nothing there to talk to."""


class HostKeyUnknown(ConnectFailed):
    """Nobody has said which key the host has."""

    status = EX_NOPERM


class HostKeyChanged(ConnectFailed):
    """The host has another key than the one that is known: it may be another host."""

    status = EX_NOPERM


class AccessDenied(ConnectFailed):
    """The host does not let this user in, or does not let it become another.

    Attributes:
        wants: Which password could help: ``ssh`` or ``become``; None if none could.
    """

    status = EX_NOPERM

    def __init__(self, host: str, sentence: str, *, wants: str | None = None) -> None:
        super().__init__(host, sentence)
        self.wants = wants


class NoPython(ConnectFailed):
    """The host has no Python where it should be."""


class HostLost(FleetError):
    """The link to the host broke; whether what was asked for was done is not known."""


class CallTimeout(FleetError):
    """The host did not answer in time; whether what was asked for was done is not known."""


class RemoteError(FleetError):
    """What ran on the host raised an exception.

    Attributes:
        kind: The name of its class.
        remote_traceback: Its traceback, as it was printed there.
        fields: What else is known of it, as JSON can say it.
    """

    def __init__(
        self,
        host: str,
        sentence: str,
        *,
        kind: str = "",
        remote_traceback: str = "",
        fields: dict[str, object] | None = None,
    ) -> None:
        super().__init__(host, sentence)
        self.kind = kind
        self.remote_traceback = remote_traceback
        self.fields = dict(fields or {})


class NoSite(RemoteError):
    """No site answers on the host."""


class SiteRefused(RemoteError):
    """The site on the host says no, or does not know what was asked for."""

    @property
    def code(self) -> int:
        """The status of HTTP for it."""
        code = self.fields.get("code", 0)
        return code if isinstance(code, int) else 0


class SiteDenied(SiteRefused):
    """The site on the host does not do this for this user."""

    status = EX_NOPERM


class VersionMismatch(RemoteError):
    """The site on the host speaks another protocol."""


class JobFailed(RemoteError):
    """What a site was asked for ended badly."""

    @property
    def job(self) -> dict[str, object]:
        """What the site tells of it; its ``state`` is ``failed`` or ``aborted``."""
        job = self.fields.get("job")
        return job if isinstance(job, dict) else {}


class UnknownHost(SitebusError):
    """A name is neither a host of the fleet nor a group."""

    status = EX_USAGE

    def __init__(self, name: str, path: object, known: Iterable[str]) -> None:
        super().__init__(name)
        self.name = name
        self.path = path
        self.known = tuple(known)

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        return f"{self.path} has no host or group {self.name!r}{near}"


class NotForwarded(SitebusError):
    """A function is not one that may be sent to hosts."""

    status = EX_USAGE

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot run {self.what} on a host: {self.reason}; {self.remedy}"


class NotPlain(SitebusError, TypeError):
    """A value cannot go to a host, which takes what JSON can say."""

    status = EX_USAGE

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} cannot be sent to a host: {self.reason}; hand over what JSON can say"


class FleetClosed(SitebusError):
    """A fleet is asked for something after it was closed."""

    status = EX_USAGE

    def __init__(self, path: object) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"the fleet of {self.path} is closed; open it again"
