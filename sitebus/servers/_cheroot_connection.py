"""One client of cheroot's: what it says is taken when it is there, and its requests are served.

No thread waits here for a request's head or for a TLS handshake: what is there is taken, and what
is missing is waited for by the doorkeeper, with the bytes so far kept. A thread waits only for a
body that its application wants to read, and for a client to take its response; both end.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from sitebus.errors import (
    BadChunks,
    BadProxyHeader,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    ResponseBroken,
)
from sitebus.servers import heads
from sitebus.servers._cheroot_request import LEFT_AT_MOST, Request, answer, described
from sitebus.servers._cheroot_stream import Reader, Writer, raw_recv
from sitebus.servers.heads import PHRASES, Head, Refusal

if TYPE_CHECKING:
    from sitebus.servers import proxy_protocol
    from sitebus.servers._cheroot import HTTPServer
    from sitebus.servers.connections import Door

#: So many empty lines before a request are no offence; some clients end a body with one.
MOST_BLANK = 4
#: What closes a connection with a reset (``struct linger``: on, no time).
RESET = struct.pack("ii", 1, 0)

_HTTPS_ONLY = "This port speaks HTTPS only, not HTTP."


class Next(Enum):
    """What becomes of a connection."""

    #: It may ask again.
    STAY = auto()
    #: The rest of what it began to say is waited for.
    REST = auto()
    #: It is closed once the client has read its last answer.
    PART = auto()
    CLOSE = auto()


class Connection:
    """One client.

    Attributes:
        serving: The request whose application runs now, to name it when it hangs.
        is_new: Whether no request of it was read yet.
        deadline: When the rest of what it began to say must be there; by time.monotonic().
        wants_to_write: Whether the rest depends on the client taking something first.
    """

    serving: Request | None = None
    ssl_env: dict[str, str] | None = None
    last_used = 0.0
    is_new = True
    deadline = 0.0
    wants_to_write = False
    _began: float | None = None
    _seen = 0
    _blank = 0

    def __init__(
        self,
        server: HTTPServer,
        sock: socket.socket,
        door: Door,
        peer: Any,
        header: proxy_protocol.Reader | None = None,
    ) -> None:
        self.server = server
        self.socket: Any = sock
        self.door = door
        self.rfile = Reader(sock, server.timeout, server.min_rate)
        self.wfile = Writer(sock, server.timeout, server.min_rate)
        self.remote_addr: str | None = None
        self.remote_port: int | None = None
        if isinstance(peer, tuple):
            self.remote_addr, self.remote_port = peer[:2]
        self._header = header
        self._shaken = server.ssl_adapter is None

    def has_spoken(self) -> bool:
        """Tell whether there is anything to read from a connection that was just accepted."""
        try:
            if self._shaken and self._header is None:
                return self.rfile.fill()
            raw_recv(self.socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass  # whoever reads will meet the error, and knows what to do
        return True

    @property
    def is_plain(self) -> bool:
        """Whether all there is to it is its socket, its peer and what was read."""
        return self._header is None and self.server.ssl_adapter is None and not self.rfile.ended

    @property
    def peer(self) -> tuple[str, int] | None:
        """Whose it is, if that has an address."""
        return (self.remote_addr, self.remote_port or 0) if self.remote_addr else None

    def resume(self, begun: bytes) -> None:
        """Go on behind what another has read, which is *begun*."""
        self.is_new = False
        self.rfile.buffer = begun

    def communicate(self) -> Next:
        """Serve one request, or get on with what comes before the first; waits for neither."""
        try:
            if self._header is not None or not self._shaken:
                step = self._begin()
                if step is not None:
                    return step
            head = self._head()
            return head if isinstance(head, Next) else self._serve(head)
        except Refusal as refusal:
            return self.refuse(refusal)
        finally:
            self.serving = None

    def has_more(self) -> bool:
        """Tell whether a request has begun to arrive that waiting on the socket would not see."""
        # What OpenSSL has decrypted already does not make the socket readable.
        secure = self.server.ssl_adapter is not None
        return bool(self.rfile.buffer or self.rfile.ended or (secure and self.socket.pending()))

    def refuse(self, refusal: Refusal, *more: bytes) -> Next:
        """Answer with *refusal*, without waiting for anything, and say so in the log."""
        self.complain(refusal.status, refusal.why)
        with_body = not self.rfile.buffer.startswith(b"HEAD ")
        self.wfile.drop_held()
        self.wfile.send_now(answer(refusal.status, refusal.why, more=more, with_body=with_body))
        return Next.PART

    def complain(self, status: int, why: str) -> None:
        kind = f"{status} {PHRASES[status]}"
        who = self.remote_addr or f"a client of {self.door.name}"
        self.server.complaints.tell(kind, f"Refused a request from {who}: {kind}. {why}")

    def give_up(self) -> Next:
        """Be told that the rest did not come in time."""
        if self._header is not None or not self._shaken:
            return Next.CLOSE
        return self.refuse(Refusal(408, "The head of the request did not come in time."))

    def stop_reading(self) -> None:
        """Wake a thread that waits for the rest of a request; responses can still be written."""
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RD)

    def stop_writing(self) -> None:
        """Tell the client that nothing more will come."""
        self._say_goodbye()
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def close(self) -> None:
        self._say_goodbye()
        # A child process may have inherited the descriptor: only this ends the connection.
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        with suppress(OSError):
            self.socket.close()
        self.server.connection_closed(self)

    def _say_goodbye(self) -> None:
        if self.server.ssl_adapter is not None and self._shaken:
            # Says so, and does not wait for the client's own goodbye.
            with suppress(OSError, ValueError):
                self.socket.unwrap()

    def _head(self) -> Head | Next:
        reader, most = self.rfile, self.server.max_request_header_size
        while True:
            data = reader.buffer
            if data[:2] == b"\r\n":
                self._skip_blank_line()
                continue
            if data:
                end = heads.find_end(data, most, self._seen)
                if end >= 0:
                    break
                self._seen = len(data)
            if reader.ended:
                return Next.CLOSE
            if not reader.fill():
                return self._wait_for_rest(time.monotonic()) if data else Next.STAY
        self._begun_anew()
        head = heads.read(data[:end], self.server.max_request_body_size)
        reader.buffer = data[end + 4 :]
        return head

    def _begun_anew(self) -> None:
        self.is_new = False
        if self._seen or self._blank:
            self._began = None
            self._seen = self._blank = 0

    def _skip_blank_line(self) -> None:
        # RFC 9112, section 2.2: tolerated before a request, but not for ever.
        self._blank += 1
        if self._blank > MOST_BLANK:
            raise Refusal(400, "There are only empty lines where a request should be.")
        self.rfile.buffer = self.rfile.buffer[2:]

    def _wait_for_rest(self, now: float) -> Next:
        if self._began is None:
            self._began = now
        server = self.server
        self.deadline = now + server.timeout
        if server.header_timeout:
            self.deadline = min(self.deadline, self._began + server.header_timeout)
        return Next.REST

    def _serve(self, head: Head) -> Next:
        request = self.serving = Request(self.server, self, head)
        if head.length != 0:
            self.rfile.begin_body()
        self.wfile.begin_response()
        try:
            request.respond()
        except Exception as error:  # noqa: BLE001 - whatever an application may raise
            return self._failed(request, error)
        body = request.body
        if not request.close_connection:
            if body.is_read or body.discard(LEFT_AT_MOST):
                return Next.STAY
            return Next.PART
        return Next.CLOSE if body.is_read and not self.rfile.buffer else Next.PART

    def _failed(self, request: Request, error: Exception) -> Next:
        failure = request.body.failure
        # Applications wrap errors in their own, and have connections of their own that fail.
        if self.wfile.is_lost or isinstance(failure or error, ClientGone):
            return Next.CLOSE
        refusal = _refusal_for(failure)
        is_out = request.is_begun and not self.wfile.is_holding
        if refusal is None:
            if not isinstance(error, ResponseBroken):  # which was reported already
                asked = described(request)
                self.server.error_log(f"Unhandled error while serving {asked}: {error!r}", 40, True)
            refusal = Refusal(500, "The server could not answer the request.")
        else:
            self.complain(refusal.status, refusal.why)
        if is_out:
            return self._break_off(request)
        self.wfile.drop_held()
        with_body = request.method != b"HEAD"
        self.wfile.send_now(answer(refusal.status, refusal.why, with_body=with_body))
        return Next.PART

    def _break_off(self, request: Request) -> Next:
        """End a response in the middle, so that it cannot be taken for a whole one."""
        if request.response_protocol == "HTTP/1.0":
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return Next.CLOSE

    def _begin(self) -> Next | None:
        """Get on with what comes before the first request; answer nothing when that is done."""
        if self._header is not None:
            step = self._hear_proxy(self._header)
            if step is not None:
                return step
        return None if self._shaken else self._shake_hands()

    def _hear_proxy(self, header: proxy_protocol.Reader) -> Next | None:
        from sitebus.servers import proxy_protocol

        try:
            found = proxy_protocol.receive(self.socket, header)
        except BadProxyHeader as error:
            self.server.complaints.tell("no PROXY header", f"{error} (from {self.remote_addr})")
            return Next.CLOSE
        if isinstance(found, proxy_protocol.NeedMore):
            return self._wait_for_rest(time.monotonic())
        if isinstance(found.peer, tuple):
            self.remote_addr, self.remote_port = found.peer
        self._header, self._began = None, None
        if not self._shaken:
            self.socket = self.server.ssl_adapter.wrap(self.socket)
            self.rfile = Reader(self.socket, self.server.timeout, self.server.min_rate)
            self.wfile = Writer(self.socket, self.server.timeout, self.server.min_rate)
        return None

    def _shake_hands(self) -> Next | None:
        """Get on with the handshake; answer nothing when it is complete."""
        try:
            self.socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
            self.wants_to_write = isinstance(want, ssl.SSLWantWriteError)
            return self._wait_for_rest(time.monotonic())
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST":
                return Next.CLOSE
            self.complain(400, _HTTPS_ONLY)
            # The plain socket below: there is no session to write through.
            with suppress(OSError):
                socket.socket.send(self.socket, answer(400, _HTTPS_ONLY))
            return Next.PART
        except OSError:
            return Next.CLOSE  # it hung up
        from sitebus.servers import client_certs

        self._shaken, self.wants_to_write, self._began = True, False, None
        self.ssl_env = client_certs.wsgi_environ(self.socket)
        return None


_REFUSALS: dict[type, Callable[[Any], Refusal]] = {
    BodyTooLarge: lambda failure: Refusal(413, "The body of the request is too large."),
    BodyTooSlow: lambda failure: Refusal(408, "The body of the request did not come in time."),
    BadChunks: lambda failure: Refusal(400, f"The body cannot be read: {failure.what}."),
}


def _refusal_for(failure: OSError | None) -> Refusal | None:
    made = _REFUSALS.get(type(failure))
    return made(failure) if made is not None else None
