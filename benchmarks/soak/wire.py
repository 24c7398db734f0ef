"""HTTP/1.1 as a client with a raw socket sees it: nothing is tried again, every loss has a name.

A client library would hide what is looked for here: that a kept connection was closed, that an
answer ended in the middle, or that somebody had to ask twice.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from sitebus.closing import Closing
from sitebus.sockets.addresses import Address, native

#: The longest that a client waits for the next byte; in seconds.
PATIENCE = 20.0
_ROOM = 65536
#: ``SO_LINGER`` with which a close is a reset.
_RUDELY = b"\1\0\0\0\0\0\0\0"


class Failure(StrEnum):
    """What a client holds against the site."""

    REFUSED = "refused"
    RESET = "reset"
    EOF_UNANSWERED = "eof on new"
    EOF_REUSED = "eof on reused"
    EOF_MIDWAY = "eof midway"
    WRONG = "wrong answer"
    SERVER_ERROR = "5xx"
    TIMEOUT = "timeout"


class Lost(Exception):
    """A request was not answered as it should have been."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.failure}: {self.detail}"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server says that this was the last on its connection."""
        return self.headers.get("connection", "").lower() == "close"


class Connection(Closing):
    """One connection to *address*; whatever goes wrong with it is a `Lost`.

    Args:
        address: Where to.
        patience: The longest wait for a byte, in seconds.
        buffer: The size of the kernel's receive buffer, if that matters.
        tls: Whom to believe, if the connection is to be one of TLS.
    """

    def __init__(
        self,
        address: Address,
        patience: float = PATIENCE,
        buffer: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_UNIX if address.kind == "unix" else socket.AF_INET
        self.answered = 0
        self._received = b""
        self._begun = False
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET:
            self.socket.settimeout(patience)
        else:
            # Or a connect would not wait for room in the backlog, as one of TCP does (unix(7)).
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(patience))
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            self.socket.connect(_place(address))
        except OSError as error:
            self.close()
            raise self._lost(error, "connecting") from error
        self.socket.settimeout(patience)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._secure(tls)

    def _secure(self, tls: ssl.SSLContext) -> None:
        try:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        except OSError as error:
            self.close()
            raise self._lost(error, "shaking hands") from error

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise self._lost(error, f"after {self.answered} answers, sending") from error

    def answer(self) -> Answer:
        """Read one answer to its end."""
        status, headers = self.head()
        try:
            body = self._body(headers) if status not in (204, 304) else b""
        except ValueError as error:
            raise Lost(Failure.WRONG, f"{error} in the framing of a body") from error
        self.answered += 1
        self._begun = False
        return Answer(status, headers, body)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the status and the headers of an answer, and leave the body."""
        while True:
            lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            code = rest[:3]
            if not (version.startswith("HTTP/1.") and code.isdigit()):
                raise Lost(Failure.WRONG, f"began with {lines[0]!r:.100}")
            if code[0] != "1" or code == "101":
                pairs = (line.partition(":") for line in lines[1:])
                return int(code), {name.lower(): value.strip() for name, _, value in pairs}

    def read(self, count: int) -> bytes:
        """Answer the next *count* bytes."""
        while len(self._received) < count:
            self._more()
        data, self._received = self._received[:count], self._received[count:]
        return data

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read: between requests, that is the server's close."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    @property
    def has_received(self) -> bool:
        """Whether there is something that was not asked for yet, here or in the kernel."""
        return bool(self._received) or self.is_readable

    def is_closed_within(self, seconds: float) -> bool:
        """Wait for the server's close; what it says before is thrown away."""
        self.socket.settimeout(seconds)
        with suppress(ConnectionError):
            try:
                while self.socket.recv(_ROOM):
                    pass
            except TimeoutError:
                return False
        return True

    def leave_rudely(self) -> None:
        """Close with a reset, as a client that crashed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RUDELY)
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return self.read(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        body, self._received = self._received, b""
        while data := self._receive():
            body += data
        return body

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self.read(size + 2)[:-2]
        self._until(b"\r\n")  # we are sent no trailers
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._more()
        found, _, self._received = self._received.partition(end)
        return found

    def _more(self) -> None:
        data = self._receive()
        if not data:
            raise Lost(self._end(), f"after {self.answered} answers: {self._received!r:.100}")
        self._begun = True
        self._received += data

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(_ROOM)
        except OSError as error:
            raise self._lost(error, f"after {self.answered} answers, receiving") from error

    def _end(self) -> Failure:
        if self._begun:
            return Failure.EOF_MIDWAY
        return Failure.EOF_REUSED if self.answered else Failure.EOF_UNANSWERED

    def _lost(self, error: OSError, doing: str) -> Lost:
        return Lost(_failure(error), f"{doing}: {error!r}")


def _place(address: Address) -> str | tuple[str, int]:
    return native(address) if address.kind == "unix" else (address.host, address.port)


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


def _failure(error: OSError) -> Failure:
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return Failure.TIMEOUT
    if isinstance(error, ConnectionError) and error.errno != errno.ECONNREFUSED:
        return Failure.RESET
    if isinstance(error, ssl.SSLError):
        return Failure.RESET  # in the middle of what both had agreed on
    return Failure.REFUSED
