"""One request of a client of cheroot's, the application that it is for, and the response.

Here is what is left of cheroot around an application; see the top of `sitebus.servers._cheroot`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from cheroot import server as cheroot_server
from cheroot import wsgi

from sitebus.errors import WrongLength
from sitebus.servers._cheroot_input import ChunkedInput, Input
from sitebus.servers.heads import PHRASES, Head

if TYPE_CHECKING:
    from sitebus.servers._cheroot import HTTPServer
    from sitebus.servers._cheroot_connection import Connection

#: So much of a body that the application left is read, so that the connection can stay; bytes.
LEFT_AT_MOST = 64 << 10
#: Statuses whose responses have no body, whatever the application gives (RFC 9110, section 6.4.1).
BODILESS = frozenset({*range(100, 200), 204, 304})

#: What is between the server and its client alone (RFC 9110, section 7.6.1), and not an
#: application's to say, though it may ask for the end of the connection.
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"})

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ApplicationLeft(RuntimeError):
    """An application tried to end the interpreter; it costs its own request and nothing else."""


class Gateway(wsgi.Gateway_10):
    """Run the application for one request."""

    req: Request
    #: The length of the body that the application told.
    _promised = 0

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        """Say what the request's head says, and which door it came through."""
        request = self.req
        connection, head = request.conn, request.head
        environ: dict[str, Any] = {
            **connection.server.environ,
            "REQUEST_METHOD": head.method,
            "PATH_INFO": head.path,
            "QUERY_STRING": head.query,
            "REQUEST_URI": head.target,
            "SERVER_PROTOCOL": head.version,
            "SERVER_NAME": connection.door.name,
            "SERVER_PORT": connection.door.port,
            "REMOTE_ADDR": connection.remote_addr or "",
            "REMOTE_PORT": str(connection.remote_port or ""),
            "wsgi.input": request.body,
            **head.fields,
        }
        if connection.ssl_env:
            environ.update(connection.ssl_env)
        return environ

    def respond(self) -> None:
        try:
            self._respond()
        except Exception:
            raise
        except BaseException as leaving:
            # sys.exit() and the like; cheroot would stop the server, here it is a failed request.
            raise ApplicationLeft(repr(leaving)) from leaving

    def _respond(self) -> None:
        request = self.req
        response = request.server.wsgi_app(self.env, self.start_response)
        try:
            for chunk in response:
                if not chunk:
                    continue
                if not isinstance(chunk, bytes):
                    raise TypeError(f"an application gave {type(chunk).__name__} instead of bytes")
                self.write(chunk)
            if not self.started_response:
                raise RuntimeError("an application did not call start_response")
            request.ensure_headers_sent()
        finally:
            if hasattr(response, "close"):
                response.close()
        if self.remaining_bytes_out and not request.is_bodiless:
            raise WrongLength(self._promised, self._promised - self.remaining_bytes_out)

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info and not self.req.sent_headers:
            # cheroot would add to what is replaced.
            self.req.outheaders = []
            self.remaining_bytes_out = None
        write: Any = super().start_response(status, headers, exc_info)
        self._promised = self.remaining_bytes_out or 0
        return write

    def write(self, chunk: bytes) -> None:
        """Send a piece of the body: no more than was promised, of all pieces together."""
        if not self.started_response:
            raise RuntimeError("an application wrote before it called start_response")
        request = self.req
        left = self.remaining_bytes_out
        if left is not None and not request.is_bodiless:
            if len(chunk) > left:
                if request.sent_headers and left:
                    request.write(chunk[:left])
                raise WrongLength(self._promised, self._promised + 1)
            self.remaining_bytes_out = left - len(chunk)
        request.ensure_headers_sent()
        request.write(chunk)


class Request(cheroot_server.HTTPRequest):
    """One request, read already, and its response."""

    conn: Connection
    server: HTTPServer
    status: Any  # bytes once there is one

    def __init__(self, server: HTTPServer, connection: Connection, head: Head) -> None:
        super().__init__(server, connection)
        self.head = head
        self.method = head.method.encode("ascii")
        self.response_protocol = head.version
        self.close_connection = not head.keeps
        #: Whether the head of the response was written.
        self.is_begun = False
        begin = self._continue if head.waits else None
        self.body = (
            Input(connection.rfile, head.length, begin)
            if head.length is not None
            else ChunkedInput(connection.rfile, server.max_request_body_size, begin)
        )
        self._is_asked = not head.waits

    @property
    def is_bodiless(self) -> bool:
        return self.method == b"HEAD" or int(self.status[:3] or 0) in BODILESS

    def respond(self) -> None:
        self.server.gateway(self).respond()
        if self.chunked_write:
            self.conn.wfile.write(b"0\r\n\r\n")
        self.conn.wfile.send_held()

    def write(self, chunk: bytes) -> None:
        if not self.is_bodiless:
            super().write(chunk)

    def send_headers(self) -> None:
        failure = self.body.failure
        if failure is not None:
            if self.status >= b"5":
                raise failure  # the client's fault, which an application took for its own
            self.close_connection = True
        names = self._correct_headers()
        headers = self.outheaders
        if not self._stays():
            headers.append((b"Connection", b"close"))
        elif self.response_protocol == "HTTP/1.0":
            headers.append((b"Connection", b"Keep-Alive"))
        if b"date" not in names:
            headers.append((b"Date", http_date()))
        if self.server.server_header and b"server" not in names:
            headers.append((b"Server", self.server.server_header))
        self.conn.wfile.hold_next()
        self.conn.wfile.write(_assembled(self.status, headers))
        self.is_begun = True

    def _correct_headers(self) -> set[bytes]:
        """Have the headers say how the body ends, and answer what an application has named."""
        names = {name.lower() for name, _ in self.outheaders}
        if not names.isdisjoint(HOP_BY_HOP):
            self.close_connection |= _says_close(self.outheaders)
            self._leave_out(HOP_BY_HOP)
        if self.is_bodiless:
            if self.status[:3] == b"204":
                self._leave_out({b"content-length"})  # RFC 9110, section 8.6
        elif b"content-length" not in names:
            self._end_otherwise()
        return names

    def _leave_out(self, names: Collection[bytes]) -> None:
        self.outheaders = [each for each in self.outheaders if each[0].lower() not in names]

    def _end_otherwise(self) -> None:
        if self.response_protocol == "HTTP/1.1":
            self.chunked_write = True
            self.outheaders.append((b"Transfer-Encoding", b"chunked"))
        else:
            self.close_connection = True

    def _stays(self) -> bool:
        """Decide whether the connection can serve another request."""
        if not self.close_connection:
            too_much = not self._is_asked or self.body.is_longer(LEFT_AT_MOST)
            self.close_connection = too_much or not self.server.can_add_keepalive_connection
        return not self.close_connection

    def _continue(self) -> None:
        self._is_asked = True
        if not self.is_begun:
            self.conn.wfile.write(CONTINUE)


def _says_close(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        b"close" in value.lower() for name, value in headers if name.lower() == b"connection"
    )


def _assembled(status: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 " + status, *[b"%b: %b" % header for header in headers], b"", b""]
    block = b"\r\n".join(lines)
    ends = len(lines) - 1
    if block.count(b"\n") != ends or block.count(b"\r") != ends or b"\0" in block:
        raise ValueError("an application's header has the end of a line in it")
    return block


_today: tuple[int, bytes] = (0, b"")


def http_date() -> bytes:
    """Answer the present date as HTTP writes it (RFC 9110, section 5.6.7)."""
    global _today
    now = int(time.time())
    # Replaced as a whole: another thread sees the old pair or the new one.
    known, text = _today
    if known != now:
        text = formatdate(now, usegmt=True).encode("ascii")
        _today = now, text
    return text


def answer(status: int, why: str, *, more: Iterable[bytes] = (), with_body: bool = True) -> bytes:
    """Answer a response that no application made, after which the connection closes."""
    text = why.encode("ascii") + b"\r\n"
    lines = (
        b"HTTP/1.1 %d %b" % (status, PHRASES[status].encode("ascii")),
        b"Content-Type: text/plain",
        b"Content-Length: %d" % len(text),
        b"Date: " + http_date(),
        b"Connection: close",
        *more,
        b"",
        text if with_body else b"",
    )
    return b"\r\n".join(lines)


#: How many characters of a request are told.
_MOST_TOLD = 200


def described(request: Request | None) -> str:
    """Say what was asked for, in a form that cannot forge lines of the log."""
    if request is None:
        return "no request"
    text = f"{request.head.method} {request.head.target}"
    return f"{text[:_MOST_TOLD]}..." if len(text) > _MOST_TOLD else text
