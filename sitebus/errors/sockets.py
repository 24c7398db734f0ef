"""What goes wrong with addresses, listening sockets and what is inherited."""

from __future__ import annotations

from typing import NamedTuple

from sitebus.errors.base import EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE, SitebusError


class BadAddress(SitebusError):
    """Something is no address to listen on."""

    status = EX_CONFIG

    def __init__(self, text: str, reason: str, remedy: str) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.text if self.text.startswith("(") else repr(self.text)
        return f"cannot listen on {text}: {self.reason}; write {self.remedy}"


class Holder(NamedTuple):
    """Another process that has what we wanted."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid}, {self.command}" if self.command else f"pid {self.pid}"


class BindError(SitebusError):
    """A listening socket could not be had; *errno* is set if it was the system that refused."""

    status = EX_UNAVAILABLE

    def __init__(
        self,
        address: str,
        reason: str,
        remedy: str,
        *,
        errno: int | None = None,
        holder: Holder | None = None,
    ) -> None:
        super().__init__(address)
        self.address = address
        self.reason = reason
        self.remedy = remedy
        self.errno = errno
        self.holder = holder

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}; {self.remedy}"


class BindNotPermitted(BindError):
    """This user may not listen there."""

    status = EX_NOPERM


class BadInheritance(SitebusError):
    """What was said about the descriptors passed to this process is not so."""

    status = EX_CONFIG

    def __init__(self, variable: str, value: str, reason: str) -> None:
        super().__init__(variable)
        self.variable = variable
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot take the sockets passed by {self.variable}={self.value}: {self.reason}; "
            f"{self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        if self.variable.startswith("LISTEN_"):
            return "start from the socket unit again, or unset LISTEN_PID"
        return f"unset {self.variable}"


class BadNetwork(SitebusError, ValueError):
    """A text that should say whom to believe names no address and no network."""

    status = EX_CONFIG

    def __init__(self, text: str, reason: str, remedy: str = "10.0.0.0/8, ::1, unix or *") -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot use {self.text!r} as a network: {self.reason}; write {self.remedy}"


class BadProxyHeader(SitebusError):
    """A connection did not begin with the PROXY header that it should begin with."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot read the PROXY header of a connection: {self.reason}; only a proxy that "
            "sends PROXY protocol v1 or v2 may connect here"
        )
