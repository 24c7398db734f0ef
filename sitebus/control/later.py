"""An answer that is not there yet: who has it settles it, in whatever thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sitebus.control.wire import Reply


class Later:
    """An answer to come.

    Args:
        timeout: After how many seconds *otherwise* is answered; never if left out.
        otherwise: Answers what is so by then; called in the thread of the socket.
    """

    def __init__(
        self, timeout: float | None = None, otherwise: Callable[[], Reply] | None = None
    ) -> None:
        self.timeout = timeout
        self.otherwise = otherwise
        self._reply: Reply | None = None
        self._tell: Callable[[Reply], object] | None = None
        self._lock = threading.Lock()

    def settle(self, reply: Reply) -> None:
        """Answer; the first answer counts."""
        with self._lock:
            if self._reply is not None:
                return
            self._reply, tell = reply, self._tell
        if tell is not None:
            tell(reply)

    def then(self, tell: Callable[[Reply], object]) -> None:
        """Have *tell* called with the answer, at once if it is there."""
        with self._lock:
            self._tell, reply = tell, self._reply
        if reply is not None:
            tell(reply)
