"""What became of the requests of one kind of clients: counts, latencies, and what was lost how."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from benchmarks.soak.wire import Failure, Lost

#: So many losses of a kind are kept word for word; more of them say the same.
EXAMPLES = 3


class Tally:
    """Shared by all clients of a kind, each of which is a thread.

    Attributes:
        ok: Requests answered as they should be.
        own: Visits that ended otherwise by the client's own doing.
        opened: Connections made.
        reopened: Connections made because the one before was closed by the server.
        failures: What the site did wrong, how often.
        examples: Some of it in full, with the seconds since the beginning.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ok = 0
        self.own = 0
        self.opened = 0
        self.reopened = 0
        self.failures: Counter[Failure] = Counter()
        self.examples: list[str] = []
        self._latencies = array("d")
        self._lock = threading.Lock()
        self._began = time.monotonic()

    @property
    def failed(self) -> int:
        return self.failures.total()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count what the block asks for as answered, and how long that took."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        with self._lock:
            self.ok += 1
            self._latencies.append(took)

    def lose(self, lost: Lost) -> None:
        at = time.monotonic() - self._began
        with self._lock:
            self.failures[lost.failure] += 1
            if self.failures[lost.failure] <= EXAMPLES:
                self.examples.append(f"{self.kind} at {at:.2f} s: {lost}")

    def note_own(self) -> None:
        with self._lock:
            self.own += 1

    def note_opened(self, *, again: bool = False) -> None:
        with self._lock:
            self.opened += 1
            self.reopened += again

    @property
    def longest(self) -> float:
        """The seconds that the slowest answer took; 0 without any."""
        with self._lock:
            return max(self._latencies, default=0.0)

    def quantile(self, part: float) -> float:
        """Answer the seconds within which *part* of the answers came; 0 without any."""
        with self._lock:
            ordered = sorted(self._latencies)
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0

    def __iadd__(self, other: Tally) -> Self:
        """Take over what *other* counted."""
        self.ok += other.ok
        self.own += other.own
        self.opened += other.opened
        self.reopened += other.reopened
        self.failures += other.failures
        self.examples += other.examples
        self._latencies += other._latencies
        return self
