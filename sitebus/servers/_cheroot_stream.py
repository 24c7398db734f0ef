"""What a connection is read from and written to, on a socket that never blocks by itself.

`Reader.fill` takes what is there. The methods that wait do so for a while only, and count how long:
a client that sends a body slower than it may is given up by the sum of the waits, so one that
answers an application that is slow itself loses nothing. The same goes for one that takes what it
is sent.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from sitebus.errors import BodyTooSlow, ClientGone
from sitebus.servers.connections import LONGEST_WAIT
from sitebus.servers.untaken import untaken

#: What says that nothing can be read or written now. TLS may have to write in order to read.
BUSY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: How much is asked for at once; bytes.
PIECE = 65536
#: A first piece of a body up to this size is sent in one piece with the head; bytes.
JOINED_AT_MOST = 64 << 10


def wait_for(sock: Any, events: int, error: OSError, seconds: float) -> bool:
    """Wait until *sock*, which said *error*, can go on; tell whether it can."""
    if isinstance(error, ssl.SSLWantReadError):
        events = select.POLLIN
    elif isinstance(error, ssl.SSLWantWriteError):
        events = select.POLLOUT
    poller = select.poll()
    poller.register(sock, events)
    return bool(poller.poll(min(seconds, LONGEST_WAIT) * 1000))


class Reader:
    """What a client sends.

    Attributes:
        buffer: What was received and not yet used.
        ended: Whether the client has said its last.
    """

    __slots__ = ("_minimum", "_received", "_socket", "_timeout", "_waited", "buffer", "ended")

    def __init__(self, sock: Any, timeout: float, minimum: float = 0) -> None:
        self._socket = sock
        self._timeout = timeout
        self._minimum = minimum
        self._received = 0
        self._waited = 0.0
        self.buffer = b""
        self.ended = False

    def has_data(self) -> bool:
        return bool(self.buffer)

    def fill(self) -> bool:
        """Take what is there without waiting; tell whether there was anything, be it the end."""
        try:
            data: bytes = self._socket.recv(PIECE)
        except BUSY:
            return False
        self._take(data)
        return True

    def begin_body(self) -> None:
        """Count from here how much comes how fast."""
        self._received, self._waited = len(self.buffer), 0.0

    def read(self, size: int) -> bytes:
        """Wait for *size* bytes; fewer only if the client has ended."""
        have, self.buffer = self.buffer, b""
        if len(have) >= size:
            self.buffer = have[size:]
            return have[:size]
        pieces = [have]
        missing = size - len(have)
        while missing > 0 and self._more():
            piece, self.buffer = self.buffer, b""
            pieces.append(piece)
            missing -= len(piece)
        if missing < 0:
            last = pieces[-1]
            pieces[-1], self.buffer = last[:missing], last[missing:]
        return b"".join(pieces)

    def readline(self, most: int) -> bytes:
        """Wait for a line, or *most* bytes of it; shorter without an end if the client ended."""
        seen = 0
        while (end := self.buffer.find(b"\n", seen, most)) < 0:
            seen = len(self.buffer)
            if seen >= most or not self._more():
                end = most - 1
                break
        line, self.buffer = self.buffer[: end + 1], self.buffer[end + 1 :]
        return line

    def _more(self) -> bool:
        """Wait for more in the buffer; tell whether there will be."""
        while not self.ended:
            try:
                data: bytes = self._socket.recv(PIECE)
            except BUSY as error:
                self._wait(error)
                continue
            except OSError as error:
                raise ClientGone("all of its request was read") from error
            self._take(data)
            self._received += len(data)
            return not self.ended
        return False

    def _take(self, data: bytes) -> None:
        if data:
            self.buffer = self.buffer + data if self.buffer else data
        else:
            self.ended = True

    def _wait(self, error: OSError) -> None:
        patience = self._timeout
        if self._minimum:
            patience = min(patience, patience + self._received / self._minimum - self._waited)
        began = time.monotonic()
        if patience <= 0 or not wait_for(self._socket, select.POLLIN, error, patience):
            raise BodyTooSlow(self._received)
        self._waited += time.monotonic() - began


class Writer:
    """What a client is sent: a head waits for the first of its body, to go out with it.

    One send less for each response, which is the largest part of what a short one costs.

    Attributes:
        is_lost: Whether the client takes nothing any more.
    """

    __slots__ = (
        "_held", "_holds_next", "_minimum", "_sent", "_socket", "_timeout", "_waited", "is_lost"
    )  # fmt: skip

    def __init__(self, sock: Any, timeout: float, minimum: float = 0) -> None:
        self._socket = sock
        self._timeout = timeout
        self._minimum = minimum
        self._sent = 0
        self._waited = 0.0
        self._holds_next = False
        self._held = b""
        self.is_lost = False

    def begin_response(self) -> None:
        """Count from here how much is taken how fast."""
        self._sent, self._waited = 0, 0.0

    def hold_next(self) -> None:
        """Keep what is written next until more is, or `send_held` is called."""
        self._holds_next = True

    def write(self, data: bytes) -> None:
        """Send *data*.

        Raises:
            ClientGone: The client takes nothing any more.
        """
        if self._holds_next:
            self._holds_next = False
            self._held = data
            return
        if self._held:
            # Copying a large body would cost more than it saves.
            if len(data) <= JOINED_AT_MOST:
                data, self._held = self._held + data, b""
            else:
                self.send_held()
        self._send(data)

    def send_held(self) -> None:
        """Send a head that no body followed."""
        if self._held:
            held, self._held = self._held, b""
            self._send(held)

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def drop_held(self) -> None:
        self._held, self._holds_next = b"", False

    def send_now(self, data: bytes) -> None:
        """Send as much as goes without waiting; there is nobody to tell if it does not."""
        with suppress(OSError, ValueError):
            self._socket.send(data)

    def _send(self, data: bytes) -> None:
        if self.is_lost:
            raise self._lost()  # without another wait, whatever the application makes of it
        rest: bytes | memoryview = data
        while True:
            try:
                sent = self._socket.send(rest)
            except BUSY as error:
                self._wait(error)
                continue
            except OSError as error:
                raise self._lost() from error
            self._sent += sent
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]

    def _wait(self, error: OSError) -> None:
        left = untaken(self._socket)
        while not self._has_room(error):
            before, left = left, untaken(self._socket)
            if left >= before:
                raise self._lost() from None

    def _has_room(self, error: OSError) -> bool:
        """Wait as long as a client may take nothing; tell whether more can be sent."""
        patience = self._timeout
        if self._minimum:
            patience = min(patience, patience + self._sent / self._minimum - self._waited)
        if patience <= 0:
            raise self._lost() from None
        began = time.monotonic()
        has_room = wait_for(self._socket, select.POLLOUT, error, patience)
        self._waited += time.monotonic() - began
        return has_room

    def _lost(self) -> ClientGone:
        self.is_lost = True
        return ClientGone("all of its response was sent")


def raw_recv(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """Receive from below TLS, if there is any."""
    return socket.socket.recv(sock, size, flags)
