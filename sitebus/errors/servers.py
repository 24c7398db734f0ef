"""What goes wrong with a server and its certificates."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from sitebus.errors.base import EX_CONFIG, SitebusError, did_you_mean


class ServerMissing(SitebusError, ValueError):
    """An adapter was started that has no server to run."""

    def __init__(self, adapter: str) -> None:
        super().__init__(adapter)
        self.adapter = adapter

    def __str__(self) -> str:
        return f"{self.adapter} has no HTTP server to start; set its httpserver first"


class ServerEnded(SitebusError):
    """A server's ``start`` returned when it should have been serving."""

    def __init__(self, server: str, when: str) -> None:
        super().__init__(server)
        self.server = server
        self.when = when

    def __str__(self) -> str:
        return f"the {self.server} ended {self.when}; its start() must serve until stop() is called"


class CannotAccept(SitebusError, OSError):
    """A server has its listening sockets, and the system lets nobody in through them."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason.errno, reason.strerror)
        self.reason = reason

    def __str__(self) -> str:
        text = f"cannot accept connections: {self.reason.strerror or self.reason}"
        if self.errno in (errno.EMFILE, errno.ENFILE):
            text += "; allow more open files (ulimit -n, or LimitNOFILE= in a systemd unit)"
        return text


class PortNotFreed(SitebusError):
    """A server that binds by itself says it has stopped, and its port is still taken."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return (
            f"the server on {self.host}:{self.port} was stopped but something still listens there; "
            "its stop() must return when its socket is closed"
        )


class UnknownServer(SitebusError):
    """No server adapter has this name."""

    status = EX_CONFIG

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = did_you_mean(self.name, self.known) or f"; there is {', '.join(self.known)}"
        return f"no server adapter is named {self.name!r}{hint}"


class BadServerOption(SitebusError):
    """A server's option has a value that it cannot have."""

    status = EX_CONFIG

    def __init__(self, option: str, value: object, reason: str) -> None:
        super().__init__(option)
        self.option = option
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"server option {self.option} cannot be {self.value!a:.80}: {self.reason}"


class UnknownNativeOption(SitebusError):
    """A server library has no option of that name."""

    status = EX_CONFIG

    def __init__(self, library: str, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.library = library
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = did_you_mean(self.name, self.known)
        if not self.known:
            hint = f"; the adapter {self.library!r} takes none"
        return f"{self.library} has no option {self.name!r}{hint}"


class ServerNotInstalled(SitebusError):
    """The library that a server adapter needs cannot be imported."""

    def __init__(self, name: str, missing: str) -> None:
        super().__init__(name)
        self.name = name
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"the server adapter {self.name!r} needs {self.missing}, which is not installed; "
            f"run: pip install 'sitebus[{self.name}]'"
        )


class BadCertificate(SitebusError):
    """The files of a certificate can be read but are of no use."""

    status = EX_CONFIG

    def __init__(self, certificate: object, key: object, reason: str) -> None:
        super().__init__(certificate)
        self.certificate = certificate
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        files = f"{self.certificate}"
        if self.key != self.certificate:
            files += f" and key {self.key}"
        return f"cannot use certificate {files}: {self.reason}"


class BadClientAuthority(SitebusError):
    """The file that should tell by whom client certificates are signed is of no use."""

    status = EX_CONFIG

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot check client certificates by {self.path}: {self.reason}"
