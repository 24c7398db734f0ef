"""What a part of a program tells other nodes.

There is no thread and no process for it: the relay sends from its own, and nothing here blocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from sitebus.errors import RelayStopped

Send = Callable[[str, tuple[Any, ...]], object]


class Item(NamedTuple):
    """One message to one channel."""

    channel: str
    message: Any


class Fan:
    """Takes items for a publisher, and None for its end."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def put(self, item: tuple[str, Any] | None) -> None:
        """Send a channel and a message; or, for None, send nothing any more."""
        if item is None:
            self._publisher.stop()
        else:
            self._publisher.process(item)


class Publisher:
    """Put messages on channels of the relay; made by ``relay.publish()``.

    There is no guarantee that a message has been transmitted, nor that anybody has received it:
    what is lost after it was sent is reported to who should have got it.

    Args:
        send: Sends a message to one channel.
        flush: Waits until all that was sent before is out of here; tells whether it is.

    Attributes:
        fan: ``fan.put((channel, message))`` does as `process`, ``fan.put(None)`` as `stop`.
    """

    def __init__(self, send: Send, flush: Callable[[float], bool]) -> None:
        self._send = send
        self._flush = flush
        self._stopped = threading.Event()
        self.fan = Fan(self)

    def put(self, channels: str | Iterable[str], message: Any, flush: float | None = None) -> None:
        """Send *message* to each of *channels*, and return at once.

        Args:
            channels: One name, or several.
            message: JSON.
            flush: Return only when it is out of here, so many seconds later at most.

        Raises:
            NotJson: It holds what JSON cannot say; a TypeError. Nothing was sent.
            MessageTooLarge: It has more than 256 kB of JSON. Nothing was sent.
            RelayStopped: The relay does not run, or this publisher has been stopped.
        """
        for channel in (channels,) if isinstance(channels, str) else tuple(channels):
            self.process(Item(channel, message))
        if flush is not None:
            self.flush(flush)

    def process(self, item: tuple[str, Any]) -> None:
        """Send one item, a channel and a message."""
        channel, message = item
        if self._stopped.is_set():
            raise RelayStopped(channel)
        self._send(channel, (message,))

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what was put before is out of here; tell whether it is in time."""
        return self._flush(timeout)

    def start(self) -> Self:
        """Do nothing, for programs that expect to have to: it sends from the beginning."""
        return self

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopped.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until somebody has stopped it and all is out of here; tell whether it is so."""
        until = None if timeout is None else time.monotonic() + timeout
        if not self._stopped.wait(timeout):
            return False
        return self.flush(1.0 if until is None else max(0.0, until - time.monotonic()))
