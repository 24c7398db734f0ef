"""Every public name of ``magicbus.process``."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from sitebus import process
from sitebus.compat.magicbus.plugins.lifecycle import CleanExit, ThreadWait
from sitebus.walk import Command

__all__ = ["ProcessBus"]


class ProcessBus(process.ProcessBus):
    """`sitebus.ProcessBus`, with the plugins that magicbus' subscribes for itself.

    Attributes:
        throws: What stops a message on its way and travels up.
        thread_wait: Waits, once everything has stopped, for the threads that remain.
        clean_exit: Exits the bus when the interpreter ends and nobody did.
    """

    throws: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, SystemExit)

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id)
        #: Threads that have given a command, and cannot end before it is done.
        self.waiting: set[threading.Thread] = set()
        self.thread_wait = ThreadWait(self)
        self.thread_wait.subscribe()
        self.clean_exit = CleanExit(self)
        self.clean_exit.subscribe()

    def _command(self, command: Command) -> list[Any]:
        me = threading.current_thread()
        nested = me in self.waiting
        self.waiting.add(me)
        try:
            return super()._command(command)
        finally:
            if not nested:
                self.waiting.discard(me)

    def _join_threads(self) -> None:
        """They have been waited for; see `ThreadWait`."""
