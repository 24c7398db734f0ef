"""wsgiref's HTTP, between sitebus's own accept loop and its own worker threads.

wsgiref parses a request, runs the application and writes the response; each connection is closed
after one. What it leaves out is added: the end of a body, chunks, HEAD, limits, a log, and an
environ without the process's environment.
"""

from __future__ import annotations

import io
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast
from wsgiref.handlers import SimpleHandler
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from sitebus.errors import BodyTooLarge, ClientGone
from sitebus.servers.connections import Door, Doorkeeper
from sitebus.servers.pool import WorkerPool

Log = Callable[[str, int, bool], object]

#: A line of a head, or of chunks, is no longer; bytes.
LONGEST_LINE = 65536
#: So much of a body that nobody read is taken off the connection, for as long; bytes, seconds.
SWALLOWED, SWALLOWING = 1 << 20, 1.0
#: What closes a connection with a reset (``struct linger``: on, no time).
RESET = struct.pack("ii", 1, 0)


class HeadTooLong(Exception):
    """A request's head is longer than the site takes."""


class Head:
    """What a request's head is read from, until there was too much of it."""

    def __init__(self, file: io.BufferedIOBase, most: int) -> None:
        self._file = file
        self._left = most or sys.maxsize

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise HeadTooLong
        return line


class Body(io.RawIOBase):
    """A request's body, in chunks or of a known length, which ends where it ends.

    Args:
        file: What the client sends.
        length: How long it is; None when it comes in chunks.
        most: How long it may be; 0 for any length.
    """

    def __init__(self, file: io.BufferedReader, length: int | None, most: int) -> None:
        super().__init__()
        self._file = file
        self._in_chunks = length is None
        #: How much is left, of the chunk or of all; below 0 before the first chunk.
        self._left = -1 if length is None else length
        self._most = most
        self._room = most or sys.maxsize

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
            BodyTooLarge: It sends too much.
        """
        if self._left < 0:
            self._left = self._next_chunk()
        piece = self._file.read1(min(self._left, len(buffer)))
        if self._left and not piece:
            raise ClientGone("all of its request was read")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        self._room -= len(piece)
        if self._room < 0:
            raise BodyTooLarge(self._most)
        if piece and not self._left and self._in_chunks:
            self._line()
            self._left = -1
        return len(piece)

    def _next_chunk(self) -> int:
        """Answer how long the next chunk is; 0 after the last, and then what follows it is read."""
        size = int(self._line().partition(b";")[0], 16)
        while size == 0 and self._line():
            pass  # trailers, which nobody wants
        return size

    def _line(self) -> bytes:
        line = self._file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ClientGone("all of its request was read")
        return line.rstrip(b"\r\n")


class Response(ServerHandler):
    """One response."""

    http_version = "1.1"
    os_environ: dict[str, str] = {}  # noqa: RUF012 - as wsgiref declares it: the process's are secrets
    wsgi_multiprocess = False
    error_body = b"Internal Server Error"
    _has_head = False

    # wsgiref's own, of which the type checker has not heard.
    headers: Any
    headers_sent: bool

    def __init__(self, handler: Handler, body: io.BufferedReader) -> None:
        out, environ = cast(Any, handler.wfile), handler.get_environ()
        super().__init__(body, out, sys.stderr, environ, multithread=handler.multithread)
        self.server_software = handler.connection_.server.server_header
        self.handler = handler

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        self.headers["Connection"] = "close"

    def send_headers(self) -> None:
        super().send_headers()
        self._has_head = True

    def _write(self, data: bytes) -> None:
        if not (self._has_head and self.handler.command == "HEAD"):
            super()._write(data)

    def handle_error(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, BodyTooLarge):
            self.error_status, self.error_body = "413 Content Too Large", b"Content Too Large"
        if self.headers_sent:
            # Without a length, only this tells the client that the rest is missing.
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        super().handle_error()

    def log_exception(self, exc_info: Any) -> None:
        error = exc_info[1]
        if not isinstance(error, BodyTooLarge):
            connection = self.handler.connection_
            connection.server.log(
                f"Unhandled error while serving {connection.request}: {error!r}", 40, True
            )

    def close(self) -> None:
        # ServerHandler's would write a line to stderr.
        SimpleHandler.close(self)


class Handler(WSGIRequestHandler):
    """Reads one request, and has it answered."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"
    wbufsize = 65536

    def __init__(self, connection: Connection) -> None:
        self.connection_ = connection
        self.multithread = connection.server.workers.size > 1
        peer = connection.socket.getpeername()
        super().__init__(
            cast(Any, connection.socket),
            peer[:2] if isinstance(peer, tuple) else ("", 0),
            cast(Any, connection.server),
        )

    def handle_expect_100(self) -> bool:
        # wsgiref would leave it in the buffer.
        wanted = super().handle_expect_100()
        self.wfile.flush()
        return wanted

    def handle(self) -> None:
        """Serve the one request."""
        server = self.connection_.server
        file = cast(io.BufferedReader, self.rfile)
        self.rfile = cast(Any, Head(file, server.max_header))
        try:
            self.raw_requestline = self.rfile.readline(LONGEST_LINE + 1)
            understood = bool(self.raw_requestline) and self.parse_request()
        except HeadTooLong:
            self.request_version = self.default_request_version
            self.command = ""
            self.send_error(431)
            understood = False
        finally:
            self.rfile = file
        if understood:
            self._respond(file)

    def _respond(self, file: io.BufferedReader) -> None:
        server = self.connection_.server
        self.connection_.request = f"{self.command} {self.path}"
        in_chunks = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        said = self.headers.get("Content-Length", "0")
        if not said.isdecimal() or (in_chunks and "Content-Length" in self.headers):
            self.send_error(400)
        elif server.max_body and int(said) > server.max_body:
            self.send_error(413)
            self._swallow()
        else:
            body = Body(file, None if in_chunks else int(said), server.max_body)
            response = Response(self, io.BufferedReader(body))
            response.run(server.application)
            if not body.is_read:
                self._swallow()

    def _swallow(self) -> None:
        """Read some of what nobody read: to close on it would reset the connection."""
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(SWALLOWING)
            left = SWALLOWED
            while left > 0 and (data := self.connection.recv(LONGEST_LINE)):
                left -= len(data)

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        door = self.connection_.door
        environ["SERVER_NAME"], environ["SERVER_PORT"] = door.name, door.port
        environ["SERVER_SOFTWARE"] = self.connection_.server.server_header
        environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["REQUEST_URI"] = self.path
        environ["wsgi.input_terminated"] = True
        return environ

    def version_string(self) -> str:
        return self.connection_.server.server_header

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is to be logged is logged elsewhere."""


class Connection:
    """One client, for one request."""

    last_used = 0.0
    #: What it asked for.
    request = "no request"

    def __init__(self, server: HTTPServer, sock: socket.socket, door: Door) -> None:
        self.server = server
        self.socket = sock
        self.door = door

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()
        self.server.gone(self)

    def stop_reading(self) -> None:
        """Wake a thread that waits for the rest of a request; responses can still be written."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def __str__(self) -> str:
        # As it was asked for, and escaped: decoded, it could forge lines of the log.
        return self.request[:200].encode("unicode_escape").decode("ascii")


class HTTPServer:
    """wsgiref behind listening sockets of somebody else; see `sitebus.servers.hosting.Hosted`."""

    #: What wsgiref asks its server for.
    base_environ = {"GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_HOST": "", "SCRIPT_NAME": ""}  # noqa: RUF012

    def __init__(
        self,
        doors: Sequence[Door],
        application: Callable[..., Any],
        *,
        threads: int,
        timeout: float,
        max_header: int,
        max_body: int,
        name: str,
        server_header: str,
        log: Log,
        roll: set[int] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.doors = tuple(doors)
        self.application = application
        self.max_header = max_header
        self.max_body = max_body
        self.server_header = server_header
        self.log = log
        self.workers = WorkerPool[Connection](threads, self._serve_one, name, roll, tell)
        self._keeper = Doorkeeper[Connection](
            doors,
            timeout=timeout,
            welcome=lambda door, sock, _: Connection(self, sock, door),
            serve=self.workers.put,
            log=lambda message, level: log(message, level, False),
        )
        self.serving = self._keeper.serving
        self.drained = self._keeper.ended
        self.shut = self._keeper.shut
        self.ready = False

    @property
    def draining(self) -> bool:
        return self._keeper.draining

    def start(self) -> None:
        """Serve until drained or finished."""
        try:
            self.workers.start()
            self.ready = True
            self._keeper.run()
        finally:
            self.ready = False
            # Whoever waits for it must learn that it will not come.
            self.serving.set()

    def stop(self) -> None:
        """Drain for a moment, then end."""
        self.drain(0.0)
        self.drained.wait(1.0)
        self.finish(0.0)

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more and answer the rest; ``drained`` is set when all have left."""
        self._keeper.drain(linger, for_good=for_good)

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once; answer who is left behind."""
        self._keeper.cut()
        for connection in self._keeper.connections:
            connection.stop_reading()
        self.ready = False
        stuck = self.workers.stop(grace)
        busy = self.workers.busy
        left = [(thread.name, str(busy.get(thread, "no request"))) for thread in stuck]
        for door in self.doors:
            door.socket.close()
        return left

    def gone(self, connection: Connection) -> None:
        """Be told that *connection* was closed."""
        self._keeper.gone(connection)

    def _serve_one(self, connection: Connection) -> None:
        """Let a worker thread serve one request; nothing a request does may end the thread."""
        try:
            Handler(connection)
        except OSError:
            pass  # it left, or said too little for too long
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self.log(f"Unhandled error while serving {connection}: {error!r}", 40, True)
        finally:
            connection.close()
