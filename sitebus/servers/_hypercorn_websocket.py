"""What hypercorn's WebSockets lack: bounds for a client that says much and means nothing.

What is relied on of wsproto is told at the top of `sitebus.servers._hypercorn`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from wsproto.connection import Connection
from wsproto.events import CloseConnection, Message

#: Seconds in which frames are counted.
WINDOW = 10.0
#: Pings, pongs and small pieces of messages in that time, beyond as many as there are messages.
MOST_IDLE = 2000
#: How long a piece of a message must be to be none of those; bytes.
_SMALL = 128


class Messages(Connection):
    """A connection of wsproto's that becomes one of ours with `prepare`."""

    _flooded: Callable[[], object]
    _closing: Callable[[], object]
    _is_over = _is_closing = False
    # Of this window, and when it ends.
    _until = 0.0
    _idle = _useful = 0

    def prepare(self, flooded: Callable[[], object], closing: Callable[[], object]) -> None:
        """Call *flooded* when it is too much, and *closing* when it is to be closed."""
        self._flooded, self._closing = flooded, closing

    def send(self, event: Any) -> bytes:
        if isinstance(event, CloseConnection) and not self._is_closing:
            self._is_closing = True
            self._closing()
        return super().send(event)

    def events(self) -> Generator[Any, None, None]:
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + WINDOW
            self._idle = self._useful = 0
        for event in super().events():
            self._count(event)
            if self._is_over:
                return
            # hypercorn would keep the rest of a message that was too long.
            if not (self._is_closing and isinstance(event, Message)):
                yield event

    def _count(self, event: Any) -> None:
        if isinstance(event, Message) and (event.message_finished or len(event.data) >= _SMALL):
            self._useful += 1
            return
        self._idle += 1
        if not self._is_over and self._idle > MOST_IDLE + self._useful:
            self._is_over = True
            self._flooded()
