"""Channels whose messages all processes of a site hear, or all sites.

A message that somebody publishes here is sent on; one that comes from elsewhere is published here,
and not sent back. What may travel is JSON.

Several may export the same channels of one bus, each to others: what one of them publishes is a
message like any other to the rest, so that it goes on to theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any

from sitebus.config.channels import is_own
from sitebus.errors import ChannelFailures
from sitebus.listeners import Pattern
from sitebus.plugins import Plugin
from sitebus.process import Engine

#: Before all others: what its listeners publish in turn is then a message of its own.
FIRST = -100.0

#: Sends a message on: its channel, its values and its named values.
Send = Callable[[str, tuple[Any, ...], Mapping[str, Any]], object]


class Exports(Plugin):
    """Send what is published on *channels* to who is at the other end.

    What is each process's own is not sent, whatever the patterns match, unless it is in *also*.

    Args:
        bus: Whose channels they are.
        channels: Their names, or patterns of them.
        send: Sends one message; what it raises about values that cannot travel is raised where
            the message is published, among what other listeners raise.
        also: Patterns of channels that are sent although they are each process's own.
    """

    def __init__(
        self, bus: Engine, channels: Iterable[str], send: Send, *, also: Iterable[str] = ()
    ) -> None:
        super().__init__(bus)
        self._also = tuple(map(Pattern, also))
        self._send = send
        self._coming: set[tuple[int, str]] = set()
        self.name(channels)

    def name(self, channels: Iterable[str]) -> None:
        """Name the channels, as far as they were not known before; not while it listens."""
        self.channels = frozenset(channels)
        self._patterns = tuple(map(Pattern, sorted(self.channels)))

    def subscribe(self) -> None:
        """Overhear every exported channel."""
        super().subscribe()
        for each in (*self._patterns, *self._also):
            self.bus.overhear(each.text, self._export, FIRST)

    def unsubscribe(self) -> None:
        """Overhear no more."""
        super().unsubscribe()
        for each in (*self._patterns, *self._also):
            self.bus.forget(each.text, self._export)

    def carries(self, channel: str) -> bool:
        """Tell whether a message on *channel* is sent on."""
        wanted = any(each.matches(channel) for each in self._patterns)
        if wanted and not is_own(channel):
            return True
        return any(each.matches(channel) for each in self._also)

    def publish(self, channel: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Publish here what came from elsewhere; what listeners raise was logged."""
        with suppress(ChannelFailures):
            self.ask(channel, args, kwargs)

    def ask(self, channel: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Publish here what came from elsewhere, and answer what the listeners return.

        Raises:
            ChannelFailures: Listeners failed.
        """
        with self.coming(channel):
            return self.bus.publish(channel, *args, **kwargs)

    @contextmanager
    def coming(self, channel: str) -> Iterator[None]:
        """Have the next message that this thread publishes on *channel* not sent on."""
        mark = get_ident(), channel
        self._coming.add(mark)
        try:
            yield
        finally:
            self._coming.discard(mark)

    def _export(self, channel: str, /, *args: Any, **kwargs: Any) -> None:
        mark = get_ident(), channel
        if mark in self._coming:
            self._coming.discard(mark)
        elif self.carries(channel):
            self._send(channel, args, kwargs)
