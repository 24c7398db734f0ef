"""A worker that is not wanted any more before it serves: its code has changed again meanwhile.

Whoever comes instead would have to share the processor with an import that is of no use, which
nothing but the end of the process ends at once. As soon as it may have accepted a request, it is
asked to leave in order like any other.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority


class Abandoned(Plugin):
    """End the process at SIGTERM, from `subscribe` until servers begin to serve.

    To be subscribed in the main thread, after whoever answers the signal from then on.
    """

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        self._before: Any = None

    def subscribe(self) -> None:
        """Answer the signal."""
        super().subscribe()
        self._before = signal.signal(signal.SIGTERM, _leave)

    def unsubscribe(self) -> None:
        """Put back what answered it before."""
        self.start()
        super().unsubscribe()

    # In the main thread, as the handler: no signal comes in between. After the imports, which may
    # take long, and before anything is accepted.
    @listens("start", priority=(Priority.IMPORT + Priority.SERVE) / 2)
    def start(self) -> None:
        """Leave the signal to who answered it before."""
        before, self._before = self._before, None
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)
