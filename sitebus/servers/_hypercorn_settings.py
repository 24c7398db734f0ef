"""hypercorn's configuration and log, as `sitebus.servers._hypercorn` gives them to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

from hypercorn.config import Config

LogTo = Callable[[str, int, Any], object]


class Settings(Config):
    """hypercorn's configuration, with the headers of ours.

    Attributes:
        most_unreceived: How much may be there that an application has not received, in messages,
            before no more is read; 0 is any. hypercorn itself is told to take all: it waits for
            room with news too that nobody may ever make room for, and with all that it holds.
    """

    def __init__(self, server_header: str, options: Mapping[str, Any], log: LogTo) -> None:
        self.logger_class = lambda _: Log(log)  # type: ignore[assignment, return-value]
        for name, value in options.items():
            setattr(self, name, value)
        self.most_unreceived = self.max_app_queue_size
        self.max_app_queue_size = 0
        self._server = [(b"server", server_header.encode("latin-1"))] if server_header else []
        self._alternatives = [(b"alt-svc", each.encode()) for each in self.alt_svc_headers]
        self._made_at = 0
        self._made: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._made_at:
            date = [(b"date", formatdate(now, usegmt=True).encode())]
            dated = date if self.include_date_header else []
            self._made, self._made_at = [*dated, *self._server, *self._alternatives], now
        return self._made


class Log:
    """Tells *log_to* what hypercorn logs, on one line whatever a client put into it."""

    def __init__(self, log_to: LogTo) -> None:
        self._log_to = log_to

    async def access(self, *_: object) -> None:
        """Leave it to the site's own access log."""

    async def warning(self, message: str, *args: Any) -> None:
        self._tell(30, message, args)

    async def error(self, message: str, *args: Any) -> None:
        self._tell(40, message, args)

    async def exception(self, message: str, *args: Any) -> None:
        self._tell(40, message, args, traceback=True)

    async def critical(self, message: str, *args: Any) -> None:
        self._tell(50, message, args)

    async def info(self, *_: object) -> None:
        pass

    async def debug(self, *_: object) -> None:
        pass

    def _tell(self, level: int, message: str, args: Any, *, traceback: bool = False) -> None:
        text = (message % args if args else message).encode("unicode_escape").decode("ascii")
        self._log_to(text, level, traceback)
