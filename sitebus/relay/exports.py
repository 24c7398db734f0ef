"""Channels whose messages all processes of a site hear.

A message that somebody publishes here is sent on; one that comes from elsewhere is published here,
and not sent back. What may travel is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from sitebus.errors import ChannelFailures
from sitebus.plugins import Plugin
from sitebus.process import Engine

#: Before all others: what its listeners publish in turn is then a message of its own.
FIRST = -100.0

#: Sends a message on: its channel, its values and its named values.
Send = Callable[[str, tuple[Any, ...], Mapping[str, Any]], object]


class Exports(Plugin):
    """Send what is published on *channels* to who is at the other end.

    Args:
        bus: Whose channels they are.
        channels: Their names.
        send: Sends one message; what it raises about values that cannot travel is raised where
            the message is published, among what other listeners raise.
    """

    def __init__(self, bus: Engine, channels: Iterable[str], send: Send) -> None:
        super().__init__(bus)
        self.channels = frozenset(channels)
        self._send = send
        self._coming: set[tuple[int, str]] = set()
        self._listeners_of = {channel: self._listener(channel) for channel in self.channels}

    def subscribe(self) -> None:
        """Listen on every exported channel."""
        super().subscribe()
        for channel, listener in self._listeners_of.items():
            self.bus.subscribe(channel, listener, FIRST)

    def unsubscribe(self) -> None:
        """Listen no more."""
        super().unsubscribe()
        for channel, listener in self._listeners_of.items():
            self.bus.unsubscribe(channel, listener)

    def publish(self, channel: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Publish here what came from elsewhere; what listeners raise was logged."""
        with suppress(ChannelFailures):
            self.ask(channel, args, kwargs)

    def ask(self, channel: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Publish here what came from elsewhere, and answer what the listeners return.

        Raises:
            ChannelFailures: Listeners failed.
        """
        from threading import get_ident

        mark = get_ident(), channel
        if channel not in self.channels:
            return self.bus.publish(channel, *args, **kwargs)
        self._coming.add(mark)
        try:
            # Our own listener is the first, and returns nothing.
            return self.bus.publish(channel, *args, **kwargs)[1:]
        finally:
            self._coming.discard(mark)

    def _listener(self, channel: str) -> Callable[..., None]:
        from threading import get_ident

        def export(*args: Any, **kwargs: Any) -> None:
            mark = get_ident(), channel
            if mark in self._coming:
                self._coming.discard(mark)
            else:
                self._send(channel, args, kwargs)

        return export
