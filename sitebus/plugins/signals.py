"""End the process in order when it is told to by SIGTERM or SIGINT.

The handlers only call `Engine.interrupt`, which is safe wherever the main thread happens to be; the
work is done by the engine's main loop.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from sitebus.errors import NotMainThread
from sitebus.plugins import Plugin
from sitebus.process import Engine

#: What asks a process to end, on every platform.
ENDING = (signal.SIGTERM, signal.SIGINT)


class SignalHandler(Plugin):
    """Answer signals while subscribed; what answered them before is put back afterwards."""

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        self._before: dict[int, object] = {}

    def subscribe(self) -> None:
        """Take the signals over.

        Raises:
            NotMainThread: Python lets only the main thread of a process do so.
        """
        require_main_thread("SignalHandler.subscribe()")
        super().subscribe()
        for number in ENDING:
            if number not in self._before:
                self._before[number] = signal.signal(number, self._interrupt)

    def unsubscribe(self) -> None:
        """Give the signals back, unless somebody else took them meanwhile."""
        require_main_thread("SignalHandler.unsubscribe()")
        super().unsubscribe()
        for number, before in self._before.items():
            # Bound methods are equal, never identical.
            if signal.getsignal(number) == self._interrupt:
                # None: the handler was not set from Python, and cannot be set again from it.
                signal.signal(number, before if before is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._before.clear()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.bus.interrupt()


def require_main_thread(call: str) -> None:
    """Refuse *call* in any other thread.

    Raises:
        NotMainThread: this is not the main thread.
    """
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        raise NotMainThread(call, thread.name)
