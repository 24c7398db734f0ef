"""Give the terminal back as it was, when a worker has ended that had changed it.

A debugger in a worker turns echo off while it reads a line, and cannot turn it on again if its
process is killed meanwhile, or ends without waiting for the request any longer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sitebus.plugins import Plugin, listens
from sitebus.process import Engine


class TerminalKeeper(Plugin):
    """Remember what the terminal of standard input is set to, and set it again."""

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        self._settings: list[Any] | None = None

    @listens("start")
    def start(self) -> None:
        """Remember it."""
        self._settings = None
        if sys.stdin is None:
            return
        with suppress(OSError, ValueError):
            if sys.stdin.isatty():
                import termios

                with suppress(termios.error):
                    self._settings = termios.tcgetattr(sys.stdin)

    @listens("worker.gone")
    def worker_gone(self, facts: Mapping[str, Any]) -> None:
        """Set it again, unless the worker has ended in order."""
        if facts["status"] != 0:
            self.restore()

    def restore(self) -> None:
        """Set it again, if this process is in the foreground; who is not must not."""
        if self._settings is None:
            return
        import termios

        with suppress(OSError, ValueError, termios.error):
            if os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():
                termios.tcsetattr(sys.stdin, termios.TCSANOW, self._settings)
