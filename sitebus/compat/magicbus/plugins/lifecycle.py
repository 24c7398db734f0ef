"""Every public name of ``magicbus.plugins.lifecycle``.

What these plugins do is the engine's; here it can be subscribed and unsubscribed as in magicbus.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from sitebus import reexec
from sitebus.plugins import SimplePlugin

__all__ = ["CleanExit", "Execv", "ThreadWait", "max_files"]

#: The limit of open files. Kept for programs that ask; a restart closes what is not handed down.
max_files: int = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 0

#: After everybody else.
LAST = 100

#: How long a thread is waited for at a time; seconds.
SLICE = 0.1


class CleanExit(SimplePlugin):
    """Exit the bus, with a warning, when the interpreter ends and nobody did."""

    bus: Any

    def ENTER(self) -> None:  # noqa: N802 - the channel's name
        atexit.unregister(self.bus._last_resort)
        atexit.register(self.bus._last_resort)


class ThreadWait(SimplePlugin):
    """Wait for the threads that are not daemons, when everything has been told to stop."""

    bus: Any

    def EXIT(self) -> None:  # noqa: N802 - the channel's name
        bus, here = self.bus, (threading.current_thread(), threading.main_thread())
        bus.log("Waiting for child threads to terminate...")
        for thread in threading.enumerate():
            if thread.daemon or thread in here or thread in bus.waiting:
                continue
            bus.log(f"Waiting for thread {thread.name}.")
            # In slices: it may give a command meanwhile, or waits may be cut short.
            while thread.is_alive() and thread not in bus.waiting and not bus.impatient:
                thread.join(SLICE)

    EXIT.priority = LAST  # type: ignore[attr-defined]


class Execv(SimplePlugin):
    """Have `block` run the command line again when the bus has exited.

    Attributes:
        max_cloexec_files: Kept for programs that set it; see `max_files`.
    """

    bus: Any
    max_cloexec_files: int = max_files

    def execv(self) -> None:
        """Restart, unless the bus has exited and is about to."""
        if not self.bus.leaving:
            self.bus.restart()

    def EXITED(self) -> None:  # noqa: N802 - the channel's name
        successor = reexec.Command.of_this_process()
        successor.check()
        self.bus._successor = successor

    EXITED.priority = LAST  # type: ignore[attr-defined]
