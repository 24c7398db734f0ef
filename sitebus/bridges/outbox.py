"""What a thread has to say and a loop has to send: one response on its way out.

The thread is ahead of the loop by a little and then waits: a slow client slows the application.
What gathers while the loop is busy is sent in one piece.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, NamedTuple

from sitebus.errors import ClientGone

if TYPE_CHECKING:
    from sitebus.asgi import Message

#: So much is made that nobody has begun to send; bytes.
AHEAD = 64 << 10


class Batch(NamedTuple):
    """What has gathered."""

    #: The beginning of the response, if it has not been taken before.
    start: Message | None
    body: bytes
    #: Nothing follows; see `Outbox.error`.
    over: bool


class Outbox:
    """One response, put in by a thread and taken out on *loop*."""

    __slots__ = (
        "_ahead", "_chunks", "_lock", "_loop", "_news", "_over", "_start", "_told", "_writer",
        "error", "gone",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._ahead = 0
        self._over = False
        #: Why nothing follows, if that is too early.
        self.error: BaseException | None = None
        #: Whether nobody takes anything any more.
        self.gone = False
        #: Whether the loop has been told and has not looked yet.
        self._told = False
        self._writer: threading.Lock | None = None
        self._news: asyncio.Future[None] = loop.create_future()

    # In the thread.

    def put(self, start: Message | None, chunk: bytes) -> None:
        """Hand over a piece of the body, and wait if the loop is behind.

        Raises:
            ClientGone: Nobody takes it.
        """
        gate = None
        with self._lock:
            if self.gone:
                raise ClientGone("all of its response was sent")
            self._start = start or self._start
            self._chunks.append(chunk)
            self._ahead += len(chunk)
            if self._ahead >= AHEAD:
                gate = self._writer = threading.Lock()
                gate.acquire()
            told, self._told = self._told, True
        if not told:
            self._tell()
        if gate is not None:
            gate.acquire()

    def finish(
        self, start: Message | None, chunk: bytes, error: BaseException | None = None
    ) -> None:
        """Hand over the last of it."""
        with self._lock:
            self._start = start or self._start
            self._chunks.append(chunk)
            self._over, self.error = True, error
            told, self._told = self._told, True
        if not told:
            self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed
            self.abandon()

    # On the loop.

    def _wake(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    async def take(self) -> Batch:
        """Wait until something has gathered, and answer it; after `abandon`, perhaps nothing."""
        await self._news
        self._news = self._loop.create_future()
        with self._lock:
            chunks, self._chunks = self._chunks, []
            start, self._start = self._start, None
            self._ahead, self._told, over = 0, False, self._over
            self._let_go()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Batch(start, body, over)

    def abandon(self) -> None:
        """Take nothing more; the thread is told when it next has something."""
        with self._lock:
            self.gone = True
            self._let_go()

    def leave(self) -> None:
        """As `abandon`, and whoever waits in `take` waits no longer."""
        self.abandon()
        self._wake()

    def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.release()
