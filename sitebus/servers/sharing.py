"""Our part of those who come to doors that several processes have in common.

The kernel wakes all who look at a door, and who is awake already is the quickest: it would take
most of a burst of connections, and if they are kept it would have most of the work from then on,
beside processes that have none. So who was quickest a few times looks away for a moment. If nobody
else took those who waited, it takes more the next time: others are busy, or there are none.
"""

from __future__ import annotations

from collections.abc import Callable

#: So many are taken, at least and at most, before others are let go first.
FEWEST, MOST = 2, 64
#: For how long, in seconds. (The clocks of selectors have milliseconds.)
MOMENT = 0.001
#: The same for those who could not serve one more at once.
BUSY_MOMENT = 0.005


class Share:
    """Whether one process shall take the next one who waits, or let others go first.

    Args:
        has_hands: Tells whether one more could be served at once; nobody asks where it always can.
    """

    def __init__(self, has_hands: Callable[[], bool] | None = None) -> None:
        self._has_hands = has_hands
        self._left = self._most = FEWEST
        #: Whether others are let go first, and whether that is until somebody is free here.
        self.waits = self.wants_hands = False
        # Whether others were let go first since nobody was, and were busy themselves.
        self._was_in_vain = False

    def is_ours(self) -> bool:
        """Tell whether to take who waits now."""
        has_hands = self._has_hands is None or self._has_hands()
        self._was_in_vain = self._was_in_vain and not has_hands
        self.wants_hands = not has_hands and not self._was_in_vain
        return self._left > 0 and not self.wants_hands

    def wait(self) -> float:
        """Let others go first; answer for how many seconds."""
        self.waits = True
        return BUSY_MOMENT if self.wants_hands else MOMENT

    def end_wait(self, *, is_called: bool = False) -> None:
        """Note that the time is over, or that we are *called* since somebody is free here."""
        if self.wants_hands:
            self.wants_hands = False
            self._was_in_vain = not is_called

    def won(self) -> None:
        """Note that somebody was taken."""
        if self.waits:
            self.waits = False
            self._most = min(self._most + 1, MOST)
            self._left = self._most
        self._left -= 1

    def lost(self) -> None:
        """Note that another process was faster, or that it is our turn for another reason."""
        self.waits = self._was_in_vain = False
        self._left = self._most = FEWEST
