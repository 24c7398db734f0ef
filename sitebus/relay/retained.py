"""The last value of each retained channel, for those who come later.

They are kept as they travel: nobody who has one can change it, and their size is what is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from sitebus.relay.envelope import Envelope, envelope, parse
from sitebus.relay.patterns import Patterns

#: So many values are kept, and so many bytes of them.
MOST = 10_000
MOST_BYTES = 64 * 1024 * 1024


class _Shelf:
    """The values of one source, the oldest first."""

    __slots__ = ("size", "values")

    def __init__(self) -> None:
        self.size = 0
        self.values: OrderedDict[str, bytes] = OrderedDict()

    def put(self, channel: str, data: bytes) -> None:
        self.size += len(data) - len(self.values.pop(channel, b""))
        self.values[channel] = data

    def drop_oldest(self) -> None:
        _, data = self.values.popitem(last=False)
        self.size -= len(data)


class Retained:
    """Last values, by source and channel.

    Where there is no room, the oldest goes of the source that has most: whoever makes up channels
    puts none but its own away.

    Attributes:
        forgotten: How many values went for lack of room.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.forgotten = 0
        self._most = most
        self._most_bytes = most_bytes
        self._shelves: dict[str, _Shelf] = {}
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def put(self, src: str, channel: str, data: bytes) -> None:
        """Keep a message, as it travels, in place of the last of its source and channel."""
        shelf = self._shelves.setdefault(src, _Shelf())
        self._change(shelf, lambda: shelf.put(channel, data))
        while self._count > self._most:
            self._forget(max(self._shelves, key=lambda each: len(self._shelves[each].values)))
        while self._bytes > self._most_bytes:
            self._forget(max(self._shelves, key=lambda each: self._shelves[each].size))

    def of(self, patterns: Patterns, src: str | None = None) -> Iterator[Envelope]:
        """Answer the values of channels that *patterns* mean, and of one source if it is named."""
        shelves = self._shelves.items() if src is None else [(src, self._shelves.get(src))]
        for values in [list(shelf.values.items()) for _, shelf in shelves if shelf is not None]:
            for channel, data in values:
                if channel in patterns:
                    yield envelope(parse(data), len(data))

    def _forget(self, src: str) -> None:
        shelf = self._shelves[src]
        self._change(shelf, shelf.drop_oldest)
        self.forgotten += 1
        if not shelf.values:
            del self._shelves[src]

    def _change(self, shelf: _Shelf, work: Callable[[], object]) -> None:
        count, size = len(shelf.values), shelf.size
        work()
        self._count += len(shelf.values) - count
        self._bytes += shelf.size - size
