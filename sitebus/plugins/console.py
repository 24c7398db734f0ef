"""Answer the events of a Windows console: Ctrl-C, Ctrl-Break, and the window or session closing.

The system calls the handler in a thread of its own, so it wakes a main thread that waits, which a
signal cannot do on Windows. It only tells the bus; the work is the main loop's.

Written from the documentation of ``SetConsoleCtrlHandler`` and **not tested on Windows**; what
`ConsoleCtrlHandler.handle` does with an event is.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

from sitebus.errors import NotOnThisPlatform
from sitebus.plugins import Plugin
from sitebus.process import Engine

#: The events by number, as in ``wincon.h``.
EVENTS = {
    0: "CTRL_C",
    1: "CTRL_BREAK",
    2: "CTRL_CLOSE",
    5: "CTRL_LOGOFF",
    6: "CTRL_SHUTDOWN",
}

#: After these the system ends the process when the handler returns, or some seconds later.
CLOSING = (2, 5, 6)

#: Longer than the system waits for a handler; seconds.
AS_LONG_AS_MAY_BE = 60.0


class ConsoleCtrlHandler(Plugin):
    """Exit in order when the console says so: the first event as the first SIGTERM, and so on.

    It needs no pywin32. Subscribe it after `SignalHandler`: the handler set last is asked first.

    Attributes:
        is_set: Whether the console calls this handler now.
    """

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        self.is_set = False
        #: What the system holds a pointer to: it must not be collected.
        self._callback: Any = None
        self._over = threading.Event()

    def subscribe(self) -> None:
        """Have the console tell this plugin.

        Raises:
            NotOnThisPlatform: This is not Windows.
            OSError: The system refused.
        """
        if sys.platform != "win32":
            raise NotOnThisPlatform("ConsoleCtrlHandler", "Windows", "use SignalHandler")
        super().subscribe()
        if not self.is_set:
            make = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_ulong)
            self._callback = make(self.handle)
            self._over.clear()
            self._set(True)
        self.is_set = True

    def unsubscribe(self) -> None:
        """Have the console tell this plugin nothing more."""
        super().unsubscribe()
        if sys.platform == "win32" and self.is_set:
            self._over.set()
            self._set(False)
        self.is_set = False

    def handle(self, event: int) -> int:
        """Tell the bus about *event*; answer 1 if nobody else shall be asked."""
        if event not in EVENTS:
            return 0
        interrupt = getattr(self.bus, "interrupt", None)
        if interrupt is not None:
            interrupt()
        else:
            threading.Thread(target=self.bus.exit, daemon=True).start()
        if event in CLOSING:
            # The process is ended as soon as this returns; until then it can exit in order.
            self._over.wait(AS_LONG_AS_MAY_BE)
        return 1

    if sys.platform == "win32":

        def _set(self, wanted: bool) -> None:
            kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            if not kernel.SetConsoleCtrlHandler(self._callback, int(wanted)):
                raise ctypes.WinError(ctypes.get_last_error())
