"""What a worker's bus logs goes to the supervisor, which writes it all to one place."""

from __future__ import annotations

import logging

from sitebus.plugins import listens
from sitebus.plugins.logs import LogBridge
from sitebus.process import Engine
from sitebus.relay import Link

#: The longest message that is sent, in characters.
MOST = 40_000


class LogUplink(LogBridge):
    """Send every message on the ``log`` channel up; reopen this process's own files when told to.

    What is said on the way up or down is a detail: that the site starts and stops is the
    supervisor's news.
    """

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        #: Where messages go, once there is one.
        self.link: Link | None = None
        self._is_up = False

    def ready(self) -> None:
        """Take what is said for news from here on."""
        self._is_up = True

    @listens("log")
    def log(self, message: str, level: int = logging.INFO) -> None:
        """Send one message up, or write it here if nobody is there."""
        detail = not self._is_up or self.bus.state != self.bus.machine.running
        if level == logging.INFO and detail:
            level = logging.DEBUG
        said = {"is": "log", "message": str(message)[:MOST], "level": level}
        if self.link is None or not self.link.send(said):
            super().log(message, level)
