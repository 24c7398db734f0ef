"""What goes wrong between the site, its applications and their clients."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from sitebus.errors.base import EX_CONFIG, EX_NOINPUT, EX_SOFTWARE, SitebusError, did_you_mean


class BadPrefix(SitebusError):
    """A mount's path prefix is not in its one normal form."""

    status = EX_CONFIG

    def __init__(self, prefix: object, reason: str) -> None:
        super().__init__(prefix)
        self.prefix = prefix
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot mount at {self.prefix!r}: {self.reason}"


class BadHost(SitebusError):
    """A mount's host or port is not one that a request could have."""

    status = EX_CONFIG

    def __init__(self, host: object, reason: str) -> None:
        super().__init__(host)
        self.host = host
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot mount on host {self.host!r}: {self.reason}"


class BadMountOption(SitebusError):
    """A mount's option has a value that it cannot have."""

    status = EX_CONFIG

    def __init__(self, option: str, value: object, allowed: Iterable[str]) -> None:
        super().__init__(option)
        self.option = option
        self.value = value
        self.allowed = tuple(allowed)

    def __str__(self) -> str:
        hint = did_you_mean(str(self.value), self.allowed)
        return f"mount option {self.option}={self.value!r} is not one of {self.allowed}{hint}"


class BadPlace(SitebusError):
    """A key of a PasteDeploy composite is no place for an application."""

    status = EX_CONFIG

    def __init__(self, key: str, options: tuple[str, ...] = ()) -> None:
        super().__init__(key)
        self.key = key
        self.options = options

    def __str__(self) -> str:
        hint = did_you_mean(self.key, self.options)
        return (
            f"{self.key!r} is no place to mount an application: expected /PATH, HOST/PATH or "
            f"domain HOST port PORT /PATH, where a colon ends a key{hint}"
        )


class GuestFailed(SitebusError):
    """The engine that a mounted application has of its own does not start."""

    def __init__(self, engine: str, mount: str, error: Exception) -> None:
        super().__init__(engine)
        self.engine = engine
        self.mount = mount
        self.error = error

    def __str__(self) -> str:
        reason = f"{type(self.error).__name__}: {self.error}"
        return f"{self.engine} of the application at {self.mount} does not start: {reason}"


class DuplicateMount(SitebusError):
    """Two mounts want the same host, port and prefix."""

    status = EX_CONFIG

    def __init__(self, place: str, new: str, old: str) -> None:
        super().__init__(place)
        self.place = place
        self.new = new
        self.old = old

    def __str__(self) -> str:
        return (
            f"two mounts want {self.place}: {self.old} has it and {self.new} was asked for; "
            "mount one elsewhere, or pass replace=True to put the new one in its place"
        )


class NotAnApplication(SitebusError):
    """An object cannot be served, whatever interface it is taken for."""

    status = EX_CONFIG

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} is not an application: {self.reason}"


class UnclearInterface(SitebusError):
    """An object could be an application of more than one kind."""

    status = EX_CONFIG

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"cannot tell which interface {self.what} has; "
            "say it: wsgi: or factory: before the reference, or interface= in code"
        )


class WrongInterface(SitebusError):
    """An application was said to have one interface, and certainly has another."""

    status = EX_CONFIG

    def __init__(self, what: str, said: str, found: str, framework: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.said = said
        self.found = found
        self.framework = framework

    def __str__(self) -> str:
        known = f"is {self.framework} and " if self.framework else ""
        return (
            f"{self.what} was said to speak {_spelt(self.said)}, but it {known}"
            f"speaks {_spelt(self.found)}; say that, or leave it to be found out"
        )


def _spelt(interface: str) -> str:
    return {"wsgi": "WSGI", "asgi3": "ASGI", "asgi2": "ASGI 2"}.get(interface, interface)


class InterfaceNotServed(SitebusError):
    """An application has an interface that this face of the site does not speak."""

    status = EX_CONFIG

    def __init__(self, what: str, interface: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.interface = interface
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} is of interface {self.interface}; {self.instead}"


class BadReference(SitebusError):
    """The text that should say where an application is says nothing that could be one."""

    status = EX_CONFIG

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.reference!r}: {self.reason}"


class AppNotFound(SitebusError):
    """A reference names a module or an attribute that does not exist."""

    status = EX_CONFIG

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot load {self.reference!r}: {self.reason}"


class AppFileNotFound(AppNotFound):
    """A reference names a file or a directory that does not exist or cannot be read."""

    status = EX_NOINPUT


class AppImportError(SitebusError):
    """The application's own code failed while it was imported or made."""

    status = EX_SOFTWARE

    def __init__(self, reference: str, error: BaseException, traceback_text: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.error = error
        #: The traceback as the application's author wants it: none of our frames.
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        kind = type(self.error).__name__
        message = str(self.error).strip()
        return f"loading {self.reference!r} failed with {kind}{': ' if message else ''}{message}"


class ResponseBroken(SitebusError, ConnectionResetError):
    """A response that is already partly sent cannot be finished, so its connection must break.

    Servers take a ``ConnectionResetError`` for a client that went away: they close the connection
    without a second report and carry on.
    """

    def __init__(self, mount: str) -> None:

        super().__init__(errno.ECONNRESET, f"the application at {mount} broke off its response")
        self.mount = mount

    def __str__(self) -> str:
        return f"the application at {self.mount} broke off its response"


class ResponseRefused(SitebusError):
    """The server would not take an application's status or headers."""

    def __init__(self, mount: str, error: BaseException) -> None:
        super().__init__(mount)
        self.mount = mount
        self.error = error

    def __str__(self) -> str:
        return f"the server refused the response of the application at {self.mount}: {self.error}"


class LifespanFailed(SitebusError):
    """An application did not come up, or did not end as it should, by its own lifespan."""

    def __init__(self, name: str, reason: str, did: str = "did not start") -> None:
        super().__init__(name)
        self.name = name
        self.reason = reason
        self.did = did
        #: The traceback that the application gave as its reason, if it did.
        self.traceback_text = ""

    def __str__(self) -> str:
        return f"the application at {self.name} {self.did}: {self.reason}"


class ClientFault(SitebusError):
    """A request fails by what its client does or leaves undone, which is nobody's news."""

    @staticmethod
    def is_why(error: BaseException) -> bool:
        """Tell whether *error* is one, or was raised from one."""
        cause: BaseException | None = error
        for _ in range(8):
            if cause is None or isinstance(cause, ClientFault):
                break
            # Not what it was raised beside: that may be the application's own mistake.
            cause = cause.__cause__
        return isinstance(cause, ClientFault)


class ClientGone(ClientFault, ConnectionResetError):
    """The client left before its request was read, or its response was sent."""

    def __init__(self, undone: str) -> None:

        super().__init__(errno.ECONNRESET, undone)
        self.undone = undone

    def __str__(self) -> str:
        return f"the client left before {self.undone}"


class BodyTooLarge(ClientFault, OSError):
    """A request's body is larger than the site takes."""

    def __init__(self, most: int) -> None:

        super().__init__(errno.EFBIG, "request body too large")
        self.most = most

    def __str__(self) -> str:
        return f"the request's body is larger than the {self.most} bytes that are taken"


class BodyTooSlow(ClientFault, TimeoutError):
    """A request's body comes more slowly than the site waits for it."""

    def __init__(self, received: int) -> None:

        super().__init__(errno.ETIMEDOUT, "request body too slow")
        self.received = received

    def __str__(self) -> str:
        return f"the rest of the request's body did not come in time, after {self.received} bytes"


class BadChunks(ClientFault, OSError):
    """A request's body says that it comes in chunks, and does not."""

    def __init__(self, what: str) -> None:

        super().__init__(errno.EPROTO, what)
        self.what = what

    def __str__(self) -> str:
        return f"the request's body cannot be read: {self.what}"


class WrongLength(SitebusError):
    """A response's body is not as long as its Content-Length says."""

    def __init__(self, promised: int, given: int) -> None:
        super().__init__(promised, given)
        self.promised = promised
        self.given = given

    def __str__(self) -> str:
        what = "more than that" if self.given > self.promised else f"{self.given} bytes"
        return f"the application promised a Content-Length of {self.promised} and gave {what}"


class LeftByException(SitebusError):
    """An application tried to end the process, or its thread, instead of answering a request."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return f"the application raised {self.error!r} where a response was expected"
