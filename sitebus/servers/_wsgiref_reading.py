"""What a client of wsgiref's says, for as long as it may take to say it.

A thread reads it; all that it waits for has an end: the PROXY header and the head together after
one time, a body after another, which is longer the more has come.
"""

from __future__ import annotations

import io
import re
import socket
import sys
import time
from typing import Any, NoReturn

from sitebus.errors import BadChunks, BodyTooLarge, BodyTooSlow, ClientGone
from sitebus.servers import proxy_protocol
from sitebus.servers.connections import LONGEST_WAIT

#: A line that begins a chunk is no longer, nor is what follows the last one; bytes.
LONGEST_LINE = 16 << 10

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_UNREAD = "all of its request was read"


class Wire(io.RawIOBase):
    """The bytes of a connection; to wait too long for some is a TimeoutError.

    Args:
        sock: The connection.
        timeout: Seconds that it may be silent.
        header_timeout: Seconds from now until `begin_body`; 0 is any time.
        min_rate: Bytes a second that come at least from then on, beyond *timeout*; 0 is any.
    """

    def __init__(
        self, sock: socket.socket, timeout: float, header_timeout: float, min_rate: float
    ) -> None:
        super().__init__()
        self._socket = sock
        self._timeout = min(timeout, LONGEST_WAIT)
        self._until = time.monotonic() + (header_timeout or LONGEST_WAIT)
        self._min_rate = min_rate
        self._in_body = False
        self._waited = 0.0
        #: How many bytes came since `begin_body`.
        self.received = 0

    def readable(self) -> bool:
        return True

    def begin_body(self) -> None:
        """Count from here how much comes how fast."""
        self._in_body = True

    def readinto(self, buffer: Any, /) -> int:
        self._limit()
        began = time.monotonic()
        try:
            size = self._socket.recv_into(buffer)
        finally:
            # What is written waits as long as ever.
            self._socket.settimeout(self._timeout)
        if self._in_body:
            self._waited += time.monotonic() - began
            self.received += size
        return size

    def read_proxy_header(self) -> proxy_protocol.Place | None:
        """Take the PROXY header off the connection, and answer whom it is for."""
        reader = proxy_protocol.Reader()
        while True:
            self._limit()
            found = proxy_protocol.receive(self._socket, reader)
            if isinstance(found, proxy_protocol.Header):
                return found.peer

    def _limit(self) -> None:
        """Let the socket wait no longer than what is left."""
        patience = self._timeout
        if not self._in_body:
            patience = min(patience, self._until - time.monotonic())
        elif self._min_rate:
            more = self.received / self._min_rate - self._waited
            patience = min(patience, patience + more)
        if patience <= 0:
            raise TimeoutError
        self._socket.settimeout(patience)


class Body(io.RawIOBase):
    """A request's body, in chunks or of a known length, which ends where it ends.

    Args:
        file: What the client sends.
        wire: What *file* is read from.
        length: How long it is; None when it comes in chunks.
        most: How long it may be; 0 for any length.
    """

    def __init__(self, file: io.BufferedReader, wire: Wire, length: int | None, most: int) -> None:
        super().__init__()
        self._file = file
        self._wire = wire
        self._in_chunks = length is None
        #: How much is left, of the chunk or of all; below 0 before the first chunk.
        self._left = -1 if length is None else length
        self._most = most
        self._room = most or sys.maxsize
        #: What is raised, once it cannot be read.
        self.failure: type[OSError] | None = None
        self._failed_with: object = None

    @property
    def is_read(self) -> bool:
        """Whether nothing is left on the connection."""
        return self._left == 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Wait for a piece of the body, and copy what fits.

        Raises:
            ClientGone: The client left before it had sent everything.
            BodyTooSlow: It is silent for too long, or sends too little.
            BodyTooLarge: It sends too much.
            BadChunks: What it sends are no chunks.
        """
        self.check()
        try:
            return self._take(buffer)
        except (BadChunks, BodyTooLarge, ClientGone):
            raise
        except TimeoutError:
            self._fail(BodyTooSlow, self._wire.received)
        except OSError:
            self._fail(ClientGone, _UNREAD)

    def check(self) -> None:
        """Raise why it cannot be read, if it cannot."""
        if self.failure is not None:
            raise self.failure(self._failed_with)

    def _fail(self, kind: type[OSError], what: object) -> NoReturn:
        self.failure, self._failed_with = kind, what
        raise kind(what)

    def _take(self, buffer: Any) -> int:
        if self._left < 0:
            self._left = self._next_chunk()
        piece = self._file.read1(min(self._left, len(buffer)))
        if self._left and not piece:
            self._fail(ClientGone, _UNREAD)
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        self._room -= len(piece)
        if self._room < 0:
            self._fail(BodyTooLarge, self._most)
        if piece and not self._left and self._in_chunks:
            if self._line():
                self._fail(BadChunks, "a chunk is longer than it said")
            self._left = -1
        return len(piece)

    def _next_chunk(self) -> int:
        """Answer how long the next chunk is; 0 after the last, and then what follows it is read."""
        known = _SIZE.fullmatch(self._line())
        if known is None:
            self._fail(BadChunks, "a chunk does not begin with its size")
        size, room = int(known[1], 16), LONGEST_LINE
        # Trailers, which nobody wants.
        while size == 0 and (line := self._line()):
            room -= len(line)
            if room < 0:
                self._fail(BadChunks, "there is too much behind the last")
        return size

    def _line(self) -> bytes:
        line = self._file.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            self._fail(BadChunks, "a line is too long")
        if not line.endswith(b"\n"):
            self._fail(ClientGone, _UNREAD)
        if not line.endswith(b"\r\n"):
            self._fail(BadChunks, "a line ends in something else than CR and LF")
        return line[:-2]
