"""The body of a request that a loop receives and a thread reads.

A little is received ahead of the reader, and no more until that is read: the server lets the
client wait meanwhile. A body that ends too soon is an error for the reader, never a short body.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sitebus.errors import BodyTooLarge, BodyTooSlow, ClientGone

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from sitebus.asgi import Message, Receive

#: So much is received that nobody has read; bytes.
AHEAD = 64 << 10

#: While the response goes on and nobody reads, one piece more is received so often, for it may be
#: the news that the client has left; seconds.
LOOK = 5.0
#: Whoever waits longer waits again; seconds.
_LONGEST = 86400.0


class Pace(NamedTuple):
    """How long a thread waits for a client: *patience* seconds at a time, if it is not 0.

    In all it is that and a second for each *least* bytes that came; *least* is 0 for any time.
    """

    patience: float = 0.0
    least: float = 0.0

    def wait(self, received: int, waited: float) -> float:
        """Answer how long to wait for more; -1 is for ever."""
        if not self.patience:
            return -1
        if not self.least:
            return self.patience
        return max(0.0, min(self.patience, self.patience + received / self.least - waited))


ANY_TIME = Pace()


class Upload(io.RawIOBase):
    """A request's body, and the news that its client has left.

    Args:
        receive: The request's ``receive``.
        loop: Where it may be awaited.
        expected: How long the body is, or -1 if only its end will tell.
        most: How long it may be; 0 for any length.
        on_gone: Called on the loop when the client has left.
        pace: How long a thread waits for it.
    """

    def __init__(
        self,
        receive: Receive,
        loop: asyncio.AbstractEventLoop,
        expected: int,
        most: int,
        on_gone: Callable[[], object],
        pace: Pace = ANY_TIME,
    ) -> None:
        super().__init__()
        self._pace = pace
        self._waited = 0.0
        self._receive = receive
        self._loop = loop
        self._on_gone = on_gone
        self._expected = expected
        self._most = most
        self._task: asyncio.Task[None] | None = None
        self._watching = False
        #: Receives that piece.
        self._look: asyncio.TimerHandle | None = None
        self._looking = False
        # Below, what both sides touch, under the lock.
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        #: How much of the first chunk has been read.
        self._offset = 0
        self._ahead = 0
        self._received = 0
        self._ended = False
        self._gone = False
        self._error: OSError | None = None
        #: Whether the loop has been asked for more, or receives it.
        self._asked = False
        self._reader: threading.Lock | None = None

    # On the loop.

    async def first(self) -> None:
        """Receive the first piece."""
        self._accept(await self._receive())

    def whole(self) -> bytes | None:
        """Take the body if all of it is here and nobody has read of it."""
        if not self._ended or self._error is not None:
            return None
        chunks, self._chunks = self._chunks, deque()
        self._ahead = 0
        return b"".join(chunks)

    def watch(self) -> None:
        """Notice from now on that the client leaves, even if nobody reads."""
        self._watching = True
        self._fetch()

    def end(self) -> None:
        """Receive no more; a thread that reads on gets an error."""
        if self._task is not None:
            self._task.cancel()
        if self._look is not None:
            self._look.cancel()
        with self._lock:
            self._gone = True
            self._break(ClientGone("all of its request was read"))

    def _fetch(self) -> None:
        if self._task is None and self._wants_more():
            self._task = self._loop.create_task(self._receive_all())
        elif self._task is None:
            self._pause()

    def _wants_more(self) -> bool:
        with self._lock:
            more = not self._gone and (self._watching or not self._ended)
            self._asked = more and (self._ahead < AHEAD or self._looking)
            return self._asked

    async def _receive_all(self) -> None:
        try:
            while self._wants_more():
                self._accept(await self._receive())
        except Exception as error:  # noqa: BLE001 - the server's; there is nothing more to read
            self._lose(error)
        finally:
            self._task = None
        self._pause()

    def _pause(self) -> None:
        if self._watching and not self._gone:
            if self._look is not None:
                self._look.cancel()
            self._look = self._loop.call_later(LOOK, self._look_once)

    def _look_once(self) -> None:
        self._looking = True
        self._fetch()

    def _accept(self, message: Message) -> None:
        self._looking = False
        if message["type"] != "http.request":
            self._lose(None)
            return
        chunk = message.get("body", b"")
        ended = not message.get("more_body", False)
        with self._lock:
            self._received += len(chunk)
            if self._most and self._received > self._most:
                self._break(BodyTooLarge(self._most))
            elif ended and self._received < self._expected:
                self._break(ClientGone("all of its request was read"))
            else:
                if chunk:
                    self._chunks.append(chunk)
                    self._ahead += len(chunk)
                self._ended = self._ended or ended
            self._wake()

    def _lose(self, reason: Exception | None) -> None:
        with self._lock:
            self._gone = True
            if not self._ended:
                error = ClientGone("all of its request was read")
                error.__cause__ = reason
                self._break(error)
        self._on_gone()

    def _break(self, error: OSError) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.release()

    # In the thread.

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Wait for a piece of the body, and copy what fits.

        Raises:
            ClientGone: The client left before it had sent everything.
            BodyTooLarge: It sends too much.
            BodyTooSlow: It takes too long.
        """
        room = memoryview(buffer)
        while not self._chunks:
            if self._ended:
                return 0
            self._wait()
        with self._lock:
            chunk, start = self._chunks[0], self._offset
            piece = chunk[start : start + len(room)] if start or len(chunk) > len(room) else chunk
            if start + len(piece) == len(chunk):
                self._chunks.popleft()
                self._offset = 0
            else:
                self._offset = start + len(piece)
            self._ahead -= len(piece)
        room[: len(piece)] = piece
        self._ask()
        return len(piece)

    def _wait(self) -> None:
        """Wait until there is a piece, or the end."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self._chunks or self._ended:
                return
            if self._error is not None:
                raise self._error
            self._reader = gate
        self._ask()
        began = time.monotonic()
        if not gate.acquire(timeout=min(self._pace.wait(self._received, self._waited), _LONGEST)):
            with self._lock:
                self._break(BodyTooSlow(self._received))
        self._waited += time.monotonic() - began

    @property
    def failure(self) -> OSError | None:
        """Why the body cannot be read to its end, if that is so."""
        return self._error

    def _ask(self) -> None:
        """Have the loop receive more, if that is worth while and it does not already."""
        with self._lock:
            if self._asked or self._ended or self._gone or self._ahead >= AHEAD:
                return
            self._asked = True
        try:
            self._loop.call_soon_threadsafe(self._fetch)
        except RuntimeError as error:  # the loop is closed, and with it the connection
            self._lose(error)
