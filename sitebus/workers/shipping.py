"""Idle connections of a worker that leaves, on their way to one that stays."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sitebus.sockets import Idle, connections

if TYPE_CHECKING:
    from sitebus.relay import Link
    from sitebus.relay.dispatch import Dispatcher


class Shipper:
    """Send connections up as they become idle: their clients may ask again at any moment.

    Args:
        link: Where to.
        dispatcher: What packs them; those that come meanwhile go together.
    """

    def __init__(self, link: Link, dispatcher: Dispatcher) -> None:
        self._link = link
        self._dispatcher = dispatcher
        self._waiting: deque[Idle] = deque()

    def ship(self, idle: Idle) -> None:
        """Have *idle* sent soon; any thread may call it."""
        self._waiting.append(idle)
        self._dispatcher.post(self.flush)  # each time: two threads may see two of them

    def flush(self) -> None:
        """Send what waits."""
        found: list[Idle] = []
        while self._waiting:
            found.append(self._waiting.popleft())
        if found:
            self._link.send({"is": "kept"}, connections.pack(found))
