"""What all of uvicorn's connections share; see `sitebus.servers._uvicorn`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import cached_property
from typing import TYPE_CHECKING

from uvicorn.server import ServerState

from sitebus.servers._uvicorn_parting import Protocol

if TYPE_CHECKING:
    import uvicorn

#: What tells a client that this was the last answer on its connection.
CLOSE = (b"connection", b"close")


class Crowd(set[Protocol]):
    """Connections; tells of each that comes, and whenever one leaves."""

    def __init__(
        self, came: Callable[[Protocol], object], left: Callable[[Protocol], object]
    ) -> None:
        super().__init__()
        self._came = came
        self._left = left

    def add(self, connection: Protocol) -> None:
        set.add(self, connection)
        self._came(connection)

    def discard(self, connection: Protocol) -> None:
        set.discard(self, connection)
        self._left(connection)

    # Some look whether they are there, and some do not.
    remove = discard


class _WithoutClose:
    """Leaves out ``Connection: close`` for the length of a block."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._was = state.closing

    def __enter__(self) -> None:
        self._say(False)

    def __exit__(self, *_: object) -> None:
        self._say(self._was)

    def _say(self, closing: bool) -> None:
        if self._was:
            self._state.closing = closing
            self._state.forget_headers()


class State(ServerState):
    """What all connections share."""

    def __init__(self, config: uvicorn.Config, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.forget_headers()
        self._config = config
        self._loop = loop
        #: Whether responses say that their connection is closed.
        self.closing = False

    @cached_property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """What is in every response; made anew by the first request of each second."""
        headers = list(self._config.encoded_headers)
        if self._config.date_header:
            now = time.time()
            headers.insert(0, (b"date", formatdate(now, usegmt=True).encode("ascii")))
            self._loop.call_later(1 - now % 1, self.forget_headers)
        if self.closing:
            headers.append(CLOSE)
        return headers

    def forget_headers(self) -> None:
        self.__dict__.pop("default_headers", None)

    def without_close(self) -> _WithoutClose:
        return _WithoutClose(self)
