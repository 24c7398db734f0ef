"""Say what clients do wrong, without letting them fill the log.

Ten lines of a kind in ten seconds; what is more is counted, and told with the next line or when the
server ends. What a message says is the caller's: never anything that a client wrote.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: How many lines of a kind are said in so many seconds.
MOST, WINDOW = 10, 10.0
#: logging.WARNING, without importing it.
WARNING = 30


class Complaints:
    """What one server says about its clients.

    Args:
        log: Is told, as ``log(message, level)``.
        now: Tells the time in seconds.
    """

    def __init__(
        self, log: Callable[[str, int], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def tell(self, kind: str, message: str) -> None:
        """Log *message*, unless too many of its *kind* were logged just now (from any thread)."""
        now = self._now()
        with self._lock:
            lines = self._lines_left_out(now)
            window = self._windows.setdefault(kind, _Window(now))
            if window.takes():
                lines.append(message)
        for line in lines:
            self._log(line, WARNING)

    def flush(self) -> None:
        """Tell how many were left out, of every kind."""
        with self._lock:
            lines = self._lines_left_out(float("inf"))
        for line in lines:
            self._log(line, WARNING)

    def _lines_left_out(self, now: float) -> list[str]:
        over = [kind for kind, each in self._windows.items() if each.began + WINDOW <= now]
        closed = [(kind, self._windows.pop(kind)) for kind in over]
        return [f"... and {each.left_out} more: {kind}" for kind, each in closed if each.left_out]


class _Window:
    """Some seconds, and what was said of one kind in them."""

    def __init__(self, began: float) -> None:
        self.began = began
        self._said = 0
        self.left_out = 0

    def takes(self) -> bool:
        if self._said == MOST:
            self.left_out += 1
            return False
        self._said += 1
        return True
