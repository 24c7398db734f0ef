"""What goes wrong between nodes."""

from __future__ import annotations

from sitebus.errors.base import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_NOINPUT,
    EX_UNAVAILABLE,
    SitebusError,
)

#: Why there have to be keys, and what needs none.
BEYOND = "it is beyond this machine, and anybody could read along and join in"
NEAR = "tcp://127.0.0.1:5555"


class BadRelayAddress(SitebusError):
    """Something is no address of a relay."""

    status = EX_CONFIG

    def __init__(
        self, text: str, reason: str, remedy: str = "tcp://127.0.0.1:5555 or unix:/run/relay.sock"
    ) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot relay at {self.text!r}: {self.reason}; write {self.remedy}"


class RelayBindError(SitebusError):
    """Other nodes cannot connect where they should."""

    status = EX_UNAVAILABLE

    def __init__(self, address: str, reason: str, remedy: str, *, errno: int | None = None) -> None:
        super().__init__(address)
        self.address = address
        self.reason = reason
        self.remedy = remedy
        self.errno = errno

    def __str__(self) -> str:
        return f"cannot relay at {self.address}: {self.reason}; {self.remedy}"


class BadName(SitebusError, ValueError):
    """A node, a channel or a pattern cannot be called so."""

    status = EX_CONFIG

    def __init__(self, what: str, name: object, reason: str) -> None:
        super().__init__(name)
        self.what = what
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot relay for {self.what} {self.name!r}: {self.reason}; give it another name"


class TooManyWants(SitebusError):
    """More patterns of channels are wanted than peers would take."""

    status = EX_CONFIG

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(count)
        self.count = count
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"cannot want {self.count} patterns of channels: peers take {self.limit}; "
            "write fewer with a * in them"
        )


class BadEnvelope(SitebusError):
    """What a peer sent is no message, or one that it may not send."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot take a message of a peer: {self.reason}; it was dropped"


class RelayStopped(SitebusError):
    """Something was to be sent by a relay that has stopped, or has not started."""

    status = EX_UNAVAILABLE

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self.channel = channel

    def __str__(self) -> str:
        return f"cannot send on {self.channel!r}: the relay is not running; start it first"


class RelayRefused(SitebusError):
    """A worker has asked the relay of its site for something, and it is not to be had.

    Attributes:
        channel: What it was about.
        reason: What the supervisor says about it.
    """

    status = EX_UNAVAILABLE

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(channel, reason)
        self.channel = channel
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot ask on {self.channel!r} from this worker: {self.reason}"


class KeysNeeded(SitebusError):
    """A relay was to reach beyond this machine without keys."""

    status = EX_CONFIG

    def __init__(self, address: str, reason: str = BEYOND, instead: str = NEAR) -> None:
        super().__init__(address)
        self.address = address
        self.reason = reason
        self.instead = instead

    def __str__(self) -> str:
        return (
            f"cannot relay at {self.address} without keys: {self.reason}; make some with "
            f"sitebus-ctl relay keygen, or use {self.instead}"
        )


class NameNeeded(SitebusError):
    """A peer has a key, and nobody said whose it is."""

    status = EX_CONFIG

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address

    def __str__(self) -> str:
        where = self.address
        return f"cannot connect to {where}: nobody said whose key it must have; write NAME={where}"


class RelayRemoteError(SitebusError):
    """A node has heard a call, and failed to answer it.

    Attributes:
        node: Which one.
        channel: What was called.
        reason: What it says about it.
    """

    def __init__(self, node: str, channel: str, reason: str) -> None:
        super().__init__(node, channel, reason)
        self.node = node
        self.channel = channel
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.node} failed to answer {self.channel!r}: {self.reason}"


class RelayNoAnswer(RelayRemoteError):
    """A node did not answer a call, or not in time."""

    status = EX_UNAVAILABLE

    def __str__(self) -> str:
        return f"{self.node} did not answer {self.channel!r}: {self.reason}"


class RelayKeyMissing(SitebusError):
    """A node has no keys where they should be."""

    status = EX_NOINPUT

    def __init__(self, path: object, node: str, directory: object) -> None:
        super().__init__(path)
        self.path = path
        self.node = node
        self.directory = directory

    def __str__(self) -> str:
        return (
            f"cannot relay as {self.node}: there is no {self.path}; make keys with "
            f"sitebus-ctl relay keygen {self.node} --dir {self.directory}"
        )


class BadRelayKey(SitebusError):
    """A file of keys cannot be used."""

    status = EX_CONFIG

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot use the key in {self.path}: {self.reason}; copy there what "
            "sitebus-ctl relay keygen wrote, or remove it"
        )


class UnsafeRelayKey(SitebusError):
    """Somebody else could read or change a key."""

    status = EX_CONFIG

    def __init__(self, path: object, reason: str, remedy: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot trust the keys in {self.path}: {self.reason}; {self.remedy}"


class CannotWriteKey(SitebusError):
    """Keys were to be made, and their files cannot be written."""

    status = EX_CANTCREAT

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot write {self.path}: {self.reason}; name another directory with --dir, or "
            "another node"
        )
