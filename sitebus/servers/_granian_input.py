"""What the client of a WSGI application says: its body, and that it has left.

granian's own body for WSGI waits for a client for ever, and does not tell one that broke off from
one that ended. Its ASGI tells all of it, to an event loop; here a thread asks, and waits so long
as it may.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NoReturn

from sitebus.errors import BodyTooLarge, BodyTooSlow, ClientGone
from sitebus.servers.connections import LONGEST_WAIT
from sitebus.servers.lines import Lines

Message = dict[str, Any]
_GONE: Message = {"type": "http.disconnect"}
#: So many messages are taken off a client's hands that nobody has asked for.
MOST_KNOWN = 2


class Client:
    """What one client says; asked by the thread that answers it.

    Args:
        proto: granian's.
    """

    #: Whether it is known to have left, or to have said what is no HTTP.
    is_gone = False

    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self._news: SimpleQueue[Message] = SimpleQueue()
        self._asked: Any = None

    def next(self, seconds: float) -> Message:
        """Wait for the next message.

        Raises:
            TimeoutError: There is none yet.
        """
        self.listen()
        try:
            return self._news.get(timeout=min(seconds, LONGEST_WAIT))
        except Empty:
            raise TimeoutError from None

    def listen(self) -> None:
        """Ask for a message, if nobody does; what it brings is kept."""
        if self._asked is None and not self.is_gone and self._news.qsize() < MOST_KNOWN:
            self._asked = asked = self._proto.receive()
            asked.add_done_callback(self._heard, context=None)

    def end(self) -> None:
        """Ask no more."""
        # Whoever keeps this, if only granian for a question that is open, keeps no socket by it.
        self._proto = None
        asked, self._asked, self.is_gone = self._asked, None, True
        if asked is not None:
            with suppress(Exception):
                asked.cancel()

    def _heard(self, asked: Any) -> None:
        try:
            message: Message = asked.result()
        except BaseException:  # noqa: BLE001 - granian's, in its own words; or it was cancelled
            message = _GONE
        if message["type"] == "http.disconnect":
            self.is_gone = True
        self._asked = None
        self._news.put(message)


class Input(Lines):
    """A request's body as PEP 3333 has it.

    Args:
        client: Who sends it.
        length: What Content-Length says; None if nothing.
        most: How many bytes it may have; 0 for any number.
        timeout: Seconds that the client may be silent.
        min_rate: Bytes a second that it must send at least, beyond that; 0 is any.
    """

    def __init__(
        self, client: Client, length: int | None, most: int, timeout: float, min_rate: float
    ) -> None:
        self._client = client
        self._length = length
        self._most = most or sys.maxsize
        self._timeout = timeout
        self._min_rate = min_rate
        self._received = 0
        self._waited = 0.0
        self._ahead = b""
        self._ended = length == 0
        #: What is raised, once it cannot be read.
        self.failure: type[OSError] | None = None
        # Not the error itself: it would keep its frames, and they this.
        self._failed_with: Any = None

    def read(self, size: int | None = -1) -> bytes:
        most = sys.maxsize if size is None or size < 0 else size
        pieces, length = [self._ahead], len(self._ahead)
        while length < most and (more := self._more()):
            pieces.append(more)
            length += len(more)
        return self._cut(pieces, min(most, length))

    def readline(self, size: int | None = -1) -> bytes:
        most = sys.maxsize if size is None or size < 0 else size
        # Joined once: to copy a long line for every piece would take the square of the time.
        pieces, length = [self._ahead], len(self._ahead)
        end = self._ahead.find(b"\n") + 1
        while not end and length < most and (more := self._more()):
            end = more.find(b"\n") + 1 and length + more.find(b"\n") + 1
            pieces.append(more)
            length += len(more)
        return self._cut(pieces, min(most, end or length))

    def check(self) -> None:
        """Raise why it cannot be read, if it cannot."""
        if self.failure is not None:
            raise self.failure(self._failed_with)

    def _fail(self, kind: type[OSError], what: object) -> NoReturn:
        self.failure, self._failed_with = kind, what
        raise kind(what)

    def end(self) -> None:
        """Let go of what granian has; there is nothing more to read."""
        self._ended = True

    def _cut(self, pieces: list[bytes], size: int) -> bytes:
        data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self._ahead = data[size:]
        return data[:size]

    def _more(self) -> bytes:
        """Wait for a piece of it, or its end.

        Raises:
            ClientGone: The client left before that, or what it sends are no chunks.
            BodyTooSlow: It is silent for too long, or sends too little.
            BodyTooLarge: It sends too much.
        """
        self.check()
        data = b""
        while not data and not self._ended:
            data = self._receive()
        return data

    def _receive(self) -> bytes:
        message = self._wait()
        if message is None:
            self._fail(BodyTooSlow, self._received)
        if message["type"] == "http.disconnect":
            self._fail(ClientGone, "all of its request was read")
        data: bytes = message.get("body", b"")
        self._received += len(data)
        # To be told the end takes as long again as to be told the body.
        self._ended = self._received == self._length or not message.get("more_body")
        if self._received > self._most:
            self._fail(BodyTooLarge, self._most)
        return data

    def _wait(self) -> Message | None:
        patience = self._timeout
        if self._min_rate:
            patience = min(patience, patience + self._received / self._min_rate - self._waited)
        began = monotonic()
        try:
            if patience > 0:
                return self._client.next(patience)
        except TimeoutError:
            pass
        finally:
            self._waited += monotonic() - began
        return None


class NoBody:
    """What a request without a body has for one; the same for all, since there is nothing in it."""

    def read(self, size: int | None = -1) -> bytes:
        return b""

    readline = read

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return []

    def __iter__(self) -> Iterator[bytes]:
        return iter(())
