"""What goes wrong on the bus: channels, listeners, commands, the loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from sitebus.errors.base import EX_CONFIG, EX_SOFTWARE, SitebusError, did_you_mean


class ChannelFailures(ExceptionGroup[Exception]):
    """Everything that went wrong while one message was published on one channel.

    Every listener ran; each exception carries a note that names its listener.
    """

    status: ClassVar[int] = EX_SOFTWARE
    delimiter = "\n"

    def __new__(cls, channel: str, failures: Sequence[Exception]) -> Self:
        """Gather *failures*, at least one, that happened on *channel*."""
        self = super().__new__(cls, f"listeners of channel {channel!r} failed", failures)
        self.channel = channel
        return self

    channel: str

    def __init__(self, channel: str, failures: Sequence[Exception]) -> None:
        super().__init__(channel, failures)

    def derive(self, excs: Sequence[Exception], /) -> ChannelFailures:  # type: ignore[override]
        return ChannelFailures(self.channel, excs)

    def get_instances(self) -> list[Exception]:
        """Answer the exceptions, in the order in which they happened."""
        return list(self.exceptions)

    def __str__(self) -> str:
        return self.delimiter.join(map(repr, self.exceptions))


class UnknownChannel(SitebusError):
    """A listener names a channel that the bus does not have."""

    def __init__(self, channel: str, wanted_by: str, known: Iterable[str]) -> None:
        super().__init__(channel)
        self.channel = channel
        self.wanted_by = wanted_by
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = did_you_mean(self.channel, self.known)
        return f"no channel named {self.channel!r} (wanted by {self.wanted_by}){hint}"


class Unreachable(SitebusError):
    """A command asked for a state that cannot be reached from the present one."""

    def __init__(self, target: object, state: object, reachable: Iterable[object]) -> None:
        super().__init__(target)
        self.target = target
        self.state = state
        self.reachable = tuple(reachable)

    def __str__(self) -> str:
        names = ", ".join(sorted(map(str, self.reachable)))
        way = f"from here it can reach {names}" if names else "nothing follows it; make a new bus"
        return f"cannot go to {self.target}: the bus is in {self.state}, and {way}"


class CommandCancelled(SitebusError):
    """A start was cut short because the bus was asked to stop or exit meanwhile."""

    def __init__(self, target: object, state: object) -> None:
        super().__init__(target)
        self.target = target
        self.state = state

    def __str__(self) -> str:
        return f"cut short by a later command: {self.target}; the bus is in {self.state}"


class WouldDeadlock(SitebusError):
    """A call would wait for work that can only be done by the thread that would wait."""

    def __init__(self, call: str, instead: str, held: str = "the event loop it runs on") -> None:
        super().__init__(call)
        self.call = call
        self.instead = instead
        self.held = held

    def __str__(self) -> str:
        return f"{self.call} would wait for {self.held}; use {self.instead}"


class AlreadyRunning(SitebusError):
    """A site was to be served by an engine that serves one already, or has ended."""

    def __init__(self, call: str, state: object) -> None:
        super().__init__(call)
        self.call = call
        self.state = state

    def __str__(self) -> str:
        return (
            f"{self.call} was called while the engine is in {self.state}; a program that is also "
            'imported calls it only under if __name__ == "__main__"'
        )


class NotEnded(SitebusError):
    """A bus was to begin a new life before its old one was over."""

    def __init__(self, state: object, *, blocking: bool = False) -> None:
        super().__init__(state)
        self.state = state
        #: Whether it has exited, and only ``block()`` has still to return.
        self.blocking = blocking

    def __str__(self) -> str:
        what = "block() has not returned; let it" if self.blocking else "is not over; exit() it"
        return f"cannot renew the bus: its life, now {self.state}, {what} first"


class NotMainThread(SitebusError):
    """Something that only the main thread of a process can do was asked of another."""

    def __init__(self, call: str, thread: str) -> None:
        super().__init__(call)
        self.call = call
        self.thread = thread

    def __str__(self) -> str:
        return (
            f"{self.call} works only in the main thread, and was called in {self.thread!r}; "
            "call it there, or wait(...) for a state instead"
        )


class LoopEnded(SitebusError):
    """A coroutine was to run on the event loop of a bus that has exited."""

    def __str__(self) -> str:
        return "the bus has exited, and its event loop has ended; make a new bus"


class BadListener(SitebusError):
    """A listener's signature cannot take the messages of its channel."""

    def __init__(self, listener: str, channel: str, reason: str) -> None:
        super().__init__(listener)
        self.listener = listener
        self.channel = channel
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.listener} cannot listen on {self.channel!r}: {self.reason}"


class Interrupted(SitebusError):
    """A wait was cut short because the process was told to leave at once."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"waiting for {self.what} was cut short: the process is leaving"


class NotAPlugin(SitebusError):
    """What a [plugin] section names did not make something that can be subscribed."""

    status = EX_CONFIG

    def __init__(self, section: str, reference: str, made: str) -> None:
        super().__init__(section)
        self.section = section
        self.reference = reference
        self.made = made

    def __str__(self) -> str:
        return (
            f"{self.section}: {self.reference!r} answered {self.made}, which is no plugin; "
            "a plugin has the methods subscribe() and unsubscribe()"
        )


class InstalledTooLate(SitebusError):
    """A library was to run on this bus, and has been imported with one of its own."""

    def __init__(self, library: str, call: str) -> None:
        super().__init__(library)
        self.library = library
        self.call = call

    def __str__(self) -> str:
        return (
            f"{self.library} has been imported already, and holds on to a bus of its own; "
            f"call {self.call} before the first import of {self.library}"
        )


class BadMessage(SitebusError):
    """An ASGI application sent what it must not send, or not now."""

    def __init__(self, sent: str, expected: str) -> None:
        super().__init__(sent)
        self.sent = sent
        self.expected = expected

    def __str__(self) -> str:
        return f"the application sent {self.sent}; {self.expected}"


class NotJson(SitebusError, TypeError):
    """A message to another process holds something that JSON cannot say."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where)
        #: Where in the message, as one would index it.
        self.where = where
        self.what = what

    def __str__(self) -> str:
        return (
            f"a message to another process is JSON, and {self.where} {self.what}; "
            "send text, numbers, lists, and dicts whose keys are text"
        )


class MessageTooLarge(SitebusError, ValueError):
    """A message to another process is larger than one may be."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"a message of {self.size} bytes cannot go to another process: {self.limit} is the "
            "limit; put the data where both can read it, and send its name"
        )


class BadFrame(SitebusError):
    """What came over a link from another process is no message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        #: The messages that were whole before it.
        self.before: list[dict[str, Any]] = []

    def __str__(self) -> str:
        return f"another process sent what is no message: {self.reason}; its link is closed"
