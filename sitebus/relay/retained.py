"""The last value of each retained channel, for those who come later."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from sitebus.relay.envelope import Envelope
from sitebus.relay.patterns import Patterns

#: So many values are kept, and so many bytes of them; the oldest goes first.
MOST = 10_000
MOST_BYTES = 64 * 1024 * 1024


class Retained:
    """Last values, by source and channel.

    Attributes:
        forgotten: How many values went for lack of room.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.forgotten = 0
        self._most = most
        self._most_bytes = most_bytes
        self._values: OrderedDict[tuple[str, str], tuple[Envelope, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def put(self, envelope: Envelope, size: int) -> None:
        """Keep *envelope*, of *size* bytes, in place of the last of its source and channel."""
        key = (envelope.src, envelope.ch)
        _, old = self._values.pop(key, (None, 0))
        self._values[key] = (envelope, size)
        self._bytes += size - old
        while len(self._values) > self._most or self._bytes > self._most_bytes:
            _, (_, gone) = self._values.popitem(last=False)
            self._bytes -= gone
            self.forgotten += 1

    def of(self, patterns: Patterns, src: str | None = None) -> Iterator[Envelope]:
        """Answer the values of channels that *patterns* mean, and of one source if it is named."""
        for (source, channel), (envelope, _) in list(self._values.items()):
            if channel in patterns and src in (None, source):
                yield envelope
