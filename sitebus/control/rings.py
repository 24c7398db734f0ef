"""The last news of a kind, numbered, for those who listen and those who come late.

Anybody's thread adds, and never waits for who reads: readers take what is there when they can.
What falls out of the ring before a reader took it is lost to that reader, who can tell.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

#: Entries that are kept.
MOST = 1000
#: Of one text, one list, and of lists in lists: what is longer or deeper is cut.
_LONGEST_TEXT = 8000
_MOST_ITEMS = 100
_DEEPEST = 5


class Entry(NamedTuple):
    """One piece of news, as JSON can say it."""

    number: int
    name: str
    said: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The news as JSON; made when somebody reads it, which is seldom."""
        import json

        return json.dumps(self.said, separators=(",", ":"))


class Ring:
    """The last `MOST` entries.

    Args:
        boot: Told with each number: numbers of another life mean something else.
        changed: Called in the thread that adds; it must not wait.
    """

    def __init__(self, boot: str, changed: Callable[[], object], most: int = MOST) -> None:
        self.boot = boot
        self._changed = changed
        self._entries: deque[Entry] = deque(maxlen=most)
        self._numbers = itertools.count(1)
        # Reentrant: a finalizer may log while its thread adds.
        self._lock = threading.RLock()

    def add(self, name: str, said: Mapping[str, Any]) -> None:
        """Keep one more, with the time; the oldest gives way."""
        told = {**plain(said), "at": round(time.time(), 3)}
        with self._lock:
            self._entries.append(Entry(next(self._numbers), name, told))
        self._changed()

    def after(self, number: int) -> tuple[list[Entry], int]:
        """Answer what came after *number*, and how many of these were lost."""
        with self._lock:
            found: list[Entry] = []
            for entry in reversed(self._entries):
                if entry.number <= number:
                    break
                found.append(entry)
            oldest = self._entries[0].number if self._entries else number + 1
        found.reverse()
        return found, max(0, oldest - number - 1)

    def place(self, last: str) -> int:
        """Answer the number that an identifier from `identify` stands for; 0 for all others."""
        boot, _, number = last.rpartition("-")
        known = boot == self.boot and number.isascii() and number.isdigit() and len(number) < 19
        return int(number) if known else 0

    @property
    def last(self) -> str:
        """What `identify` answers of the newest entry."""
        entries = self._entries
        return f"{self.boot}-{entries[-1].number if entries else 0}"

    def identify(self, entry: Entry) -> str:
        """Answer what tells *entry* from all others, also of earlier lives."""
        return f"{self.boot}-{entry.number}"


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """Answer *value* as JSON can say it, and not too much of it; anything else as its ``repr``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() < 64:  # others' readers take no longer ones
        return int(value)
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if depth and isinstance(value, Mapping):
        items = itertools.islice(value.items(), _MOST_ITEMS)
        return {_cut(str(key)): plain(each, depth - 1) for key, each in items}
    if depth and isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, bytes):
        return [plain(each, depth - 1) for each in itertools.islice(value, _MOST_ITEMS)]
    return _cut(_shown(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a stranger's __repr__
        return f"<{type(value).__qualname__}>"
