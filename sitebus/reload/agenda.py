"""When to find out what else is to be watched.

Soon after somebody has rung, so that what rang may be done with it; seldom while the ringing goes
on, as on a busy site; and a few times afterwards, less and less often, since what rang may have
been the beginning of a long import. Who waits need not be woken by a ring before a time that is
near anyway.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: How often other files are looked for while a site imports and opens them; seconds.
PATIENCE = 0.5

#: How soon after a ring, if there was none for a while; seconds.
SOON = 0.05

#: The longest pause between two times; after it there is none without another ring. Seconds.
LATEST = 4.0


class Agenda:
    """Answers when it is time; for one thread, besides `ring`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rung = False
        self._expectant = False
        self._come = -math.inf
        self._due = math.inf
        self._pause = LATEST

    def ring(self) -> bool:
        """Note that there may be more; answer whether to wake who waits.

        Any thread may do so, in the middle of anything: it takes no lock.
        """
        self._rung = True
        expectant, self._expectant = self._expectant, False
        return expectant

    def left(self) -> float | None:
        """Answer the seconds that may be waited, unless woken; None for any time."""
        # First this: who rings from here on is seen below, or wakes.
        self._expectant = True
        now = self._clock()
        if self._rung and self._due > now + PATIENCE:
            self._due = max(now + SOON, self._come + PATIENCE)
        self._expectant = self._due > now + PATIENCE
        return None if self._due == math.inf else max(0.0, self._due - now)

    def come(self) -> bool:
        """Answer whether it is time; once it is, the next time is another."""
        now = self._clock()
        if now < self._due:
            return False
        self._come = now
        self._pause = PATIENCE if self._rung else 2 * self._pause
        self._rung = False
        self._due = now + self._pause if self._pause <= LATEST else math.inf
        return True
