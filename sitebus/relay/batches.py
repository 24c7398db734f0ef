"""Messages that wait for a peer, and how several of them travel as one.

Each has four bytes before it that count, big-endian, as on a link. The more wait, the more go
together: whoever is fast is sent single ones, and whoever is slow loses no time with each.
"""

from __future__ import annotations

from collections import deque

#: What waits for a peer is that many bytes at most, however few messages they are.
QUEUE_BYTES = 32 * 1024 * 1024
#: A batch ends with the message that makes it so large.
BATCH = 32 * 1024

_COUNT = 4


class Outbox:
    """What waits to be sent to one peer.

    Args:
        high_water: How many messages may wait.
    """

    def __init__(self, high_water: int) -> None:
        self._high_water = high_water
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._batch = b""
        self._in_batch = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._in_batch

    def put(self, data: bytes) -> bool:
        """Add a message, and answer whether there was room."""
        if len(self) >= self._high_water or self._size + len(data) > QUEUE_BYTES:
            return False
        self._waiting.append(len(data).to_bytes(_COUNT) + data)
        self._size += len(data) + _COUNT
        return True

    def batch(self) -> bytes:
        """Answer what to send next, the same until it is `sent`; nothing if nothing waits."""
        if not self._batch and self._waiting:
            self._batch = self._next()
        return self._batch

    def sent(self) -> None:
        """Forget the batch."""
        self._size -= len(self._batch)
        self._batch, self._in_batch = b"", 0

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._batch, self._in_batch, self._size = b"", 0, 0

    def _next(self) -> bytes:
        first = self._waiting.popleft()
        self._in_batch = 1
        if not self._waiting:
            return first
        parts, size = [first], len(first)
        while self._waiting and size < BATCH:
            parts.append(self._waiting.popleft())
            size += len(parts[-1])
        self._in_batch = len(parts)
        return b"".join(parts)


def unpack(batch: bytes) -> list[bytes] | None:
    """Answer the messages of a batch; None if it is none."""
    size = int.from_bytes(batch[:_COUNT])
    if size + _COUNT == len(batch):
        return [batch[_COUNT:]]
    messages, at = [], 0
    while at < len(batch):
        begin = at + _COUNT
        at = begin + int.from_bytes(batch[at:begin])
        messages.append(batch[begin:at])
    return messages if at == len(batch) and batch else None
