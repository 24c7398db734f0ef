"""How long to wait before the next attempt, where the last ones failed."""

from __future__ import annotations

from collections.abc import Callable

from sitebus.workers.policy import Policy

#: Twice as long as before, so often at most: the numbers stay small.
_DOUBLINGS = 32


class Backoff:
    """Counts failures in a row, and says when there may be another attempt.

    Attributes:
        failures: How many in a row.
        after: When the next attempt may be made; monotonic seconds.
    """

    def __init__(self, random: Callable[[], float], free: int = 1) -> None:
        """Make one that has seen no failure.

        Args:
            random: Answers a number from 0 to 1.
            free: So many failures in a row are followed by an attempt at once.
        """
        self._random = random
        self._free = free
        self.failures = 0
        self.after = 0.0

    def failed(self, now: float, policy: Policy) -> None:
        """Count one more failure."""
        self.failures += 1
        self.after = now + self._pause(policy)

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0
        self.after = 0.0

    def _pause(self, policy: Policy) -> float:
        doublings = self.failures - self._free - 1
        if doublings < 0:
            return 0.0
        if 0 < policy.fatal_after <= self.failures:
            return policy.backoff_most
        # Slots that failed together are not to try together for ever.
        first = policy.backoff_first * (1.0 + self._random() / 2)
        return min(policy.backoff_most, first * 2.0 ** min(doublings, _DOUBLINGS))
