"""Tire a reload loop: a site that changes its own files while it starts.

The history goes from image to image: the clock it is in runs on over an exec.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

#: More reloads than these in so many seconds are a loop.
MOST, WITHIN = 5, 10.0

#: A loop is over when nothing has changed for so long after a reload; seconds.
QUIET = 5.0

#: The first pause, and the longest; seconds.
FIRST, LONGEST = 2.0, 60.0


class Guard:
    """Remember the last reloads; say how long the next had better wait."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._strikes = 0

    def pause(self, now: float | None = None) -> float:
        """Answer how many seconds to wait before the next reload; mostly none."""
        now = time.monotonic() if now is None else now
        if self._strikes and now - self._times[-1] > QUIET:
            self.relent()
        self._times = [each for each in self._times if self._strikes or each > now - WITHIN]
        if self._strikes or len(self._times) >= MOST:
            self._strikes += 1
        return min(FIRST * 2.0 ** (self._strikes - 1), LONGEST) if self._strikes else 0.0

    def relent(self) -> None:
        """This was no loop."""
        self._strikes, self._times = 0, []

    @property
    def first(self) -> bool:
        """Whether this pause is the first of its loop: worth a word."""
        return self._strikes == 1

    def note(self, now: float | None = None) -> None:
        """There is a reload now."""
        self._times = [*self._times, time.monotonic() if now is None else now][-MOST:]

    def dump(self) -> dict[str, Any]:
        """Answer all of it in JSON's types."""
        return {"times": self._times, "strikes": self._strikes}

    def load(self, times: Iterable[float], strikes: int) -> None:
        """Take over what `dump` answered, in the image before this one."""
        self._times = [float(each) for each in times]
        self._strikes = int(strikes) if self._times else 0
