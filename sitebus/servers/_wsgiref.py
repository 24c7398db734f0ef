"""wsgiref's HTTP, between sitebus's own accept loop and its own worker threads.

wsgiref runs the application and writes the response; each connection is closed after one. What it
leaves out is added: the end of a body, chunks, HEAD, limits, a log, and an environ without the
process's environment. Its parser takes half a head for a whole one, a lone CR for the end of a line
and any Transfer-Encoding for none; so the head is read as cheroot's is.
"""

from __future__ import annotations

import io
import socket
import struct
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, cast
from wsgiref.handlers import SimpleHandler
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from sitebus.errors import (
    BadChunks,
    BadProxyHeader,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    WrongLength,
)
from sitebus.servers._wsgiref_reading import Body, Wire
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import Door, Doorkeeper
from sitebus.servers.heads import PHRASES, Head, Refusal, read
from sitebus.servers.pool import WorkerPool
from sitebus.servers.untaken import Outlet
from sitebus.sockets.networks import Networks

Log = Callable[[str, int, bool], object]

#: What "any length" of a head comes to; bytes.
MOST_HEAD = 16 << 20
#: What closes a connection with a reset (``struct linger``: on, no time).
RESET = struct.pack("ii", 1, 0)


class Response(ServerHandler):
    """One response."""

    http_version = "1.1"
    os_environ: dict[str, str] = {}  # noqa: RUF012 - as wsgiref declares it: the process's are secrets
    wsgi_multiprocess = False
    error_body = b"Internal Server Error"
    #: Whether the client must see that the rest is missing.
    is_broken_off = False
    _has_head = False

    # wsgiref's own, of which the type checker has not heard.
    bytes_sent: int
    environ: Any
    headers: Any
    headers_sent: bool
    status: Any
    stdout: Any

    def __init__(self, handler: Handler, body: Body) -> None:
        out, environ = cast(Any, handler.wfile), handler.get_environ()
        file = io.BufferedReader(body)
        super().__init__(file, out, sys.stderr, environ, multithread=handler.multithread)
        self.server_software = handler.connection_.server.server_header
        self.handler = handler
        self.body = body

    def run(self, application: Any) -> None:
        # wsgiref's would take a lost connection of the application's own for the client's.
        try:
            self.setup_environ()
            self.result = application(self.environ, self.start_response)
            if str(self.status)[:1] == "5":
                self.body.check()  # that is what the page is about, whoever made it
            self.finish_response()
        except ClientGone:
            return  # which is nobody's fault
        except BaseException:  # noqa: BLE001 - the application's
            with suppress(ClientGone):
                self.handle_error()

    def cleanup_headers(self) -> None:
        from sitebus.mounts.isolation import check_header

        super().cleanup_headers()
        self.headers["Connection"] = "close"
        for header in [*self.headers.items(), ("Status", self.status)]:
            check_header(header)

    def set_content_length(self) -> None:
        if not self._is_bodiless:
            super().set_content_length()

    def write(self, data: bytes) -> None:
        """Send *data*, but no more than was promised: the rest could pass for another answer."""
        promised = self._promised
        if promised is not None and len(data) > promised - self.bytes_sent:
            if self.headers_sent and promised > self.bytes_sent:
                super().write(data[: promised - self.bytes_sent])
            raise WrongLength(promised, promised + 1)
        super().write(data)

    @property
    def _promised(self) -> int | None:
        """The length of the body, where there is one and the application has said it."""
        if self.headers is None or self._is_bodiless or self.handler.command == "HEAD":
            return None
        said = self.headers["Content-Length"] or ""
        return int(said) if said.isascii() and said.isdigit() else None

    def finish_content(self) -> None:
        promised = self._promised
        if promised is not None and promised > self.bytes_sent:
            raise WrongLength(promised, self.bytes_sent)
        if self._is_bodiless and not self.headers_sent:
            self.send_headers()
        else:
            super().finish_content()

    @property
    def _is_bodiless(self) -> bool:
        return str(self.status)[:3] in ("204", "304")

    def send_headers(self) -> None:
        super().send_headers()
        self._has_head = True

    def _write(self, data: bytes) -> None:
        if not (self._has_head and self.handler.command == "HEAD"):
            try:
                super()._write(data)
            except OSError as error:
                raise ClientGone("all of its response was sent") from error

    def _flush(self) -> None:
        # SimpleHandler's would put the file's own in the place of this.
        try:
            self.stdout.flush()
        except OSError as error:
            raise ClientGone("all of its response was sent") from error

    def handle_error(self) -> None:
        refusal = _REFUSALS.get(self.body.failure) if self.body.failure else None
        if refusal is not None:
            self.error_status = refusal.kind
            self.error_body = refusal.why.encode()
            self.handler.complain(refusal)
        if self.headers_sent:
            # Without a length, only this tells the client that the rest is missing.
            self.is_broken_off = True
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        super().handle_error()

    def log_exception(self, exc_info: Any) -> None:
        if self.body.failure is None:
            connection = self.handler.connection_
            connection.server.log(
                f"Unhandled error while serving {connection.request}: {exc_info[1]!r}", 40, True
            )

    def close(self) -> None:
        # ServerHandler's would write a line to stderr.
        SimpleHandler.close(self)


#: What is answered when a body cannot be read, whatever the application makes of it.
_REFUSALS: dict[type, Refusal] = {
    BodyTooLarge: Refusal(413, "The body of the request is too large."),
    BodyTooSlow: Refusal(408, "The body of the request did not come in time."),
    BadChunks: Refusal(400, "The body of the request cannot be read."),
}


class Handler(WSGIRequestHandler):
    """Reads one request, and has it answered."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"

    def __init__(self, connection: Connection) -> None:
        self.connection_ = connection
        self.multithread = connection.server.workers.size > 1
        server = connection.server
        self.wire = Wire(connection.socket, server.timeout, server.header_timeout, server.min_rate)
        peer = _place(connection.socket.getpeername())
        super().__init__(cast(Any, connection.socket), peer, cast(Any, server))

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(self.wire)
        self.wfile.close()
        self.wfile = io.BufferedWriter(Outlet(self.connection), 65536)

    def handle(self) -> None:
        """Serve the one request."""
        file = cast(io.BufferedReader, self.rfile)
        self.command = self.requestline = ""
        self.request_version = self.default_request_version
        if self.connection_.is_proxied and not self._hear_proxy():
            return
        try:
            self._serve(file)
        except Refusal as refusal:
            self._refuse(refusal)

    def _serve(self, file: io.BufferedReader) -> None:
        server = self.connection_.server
        try:
            block = self._block(file, server.max_header or MOST_HEAD)
        except TimeoutError:
            raise Refusal(408, "The head of the request did not come in time.") from None
        if block:
            self.command = block.partition(b" ")[0][:10].decode("latin-1")
            self._respond(read(block, server.max_body), file)

    def _hear_proxy(self) -> bool:
        """Learn for whom a proxy connects; tell whether it is one that may."""
        server, who = self.connection_.server, self.client_address[0]
        if server.trusted and who not in server.trusted:
            self._complain_of_proxy("it is no trusted proxy")
            return False
        try:
            peer = self.wire.read_proxy_header()
        except BadProxyHeader as error:
            self._complain_of_proxy(str(error))
        except TimeoutError:
            self._complain_of_proxy("its PROXY header did not come in time")
        else:
            if peer is not None:
                self.client_address = _place(peer)
            return True
        return False

    def _complain_of_proxy(self, why: str) -> None:
        who = self.client_address[0] or "a client"
        kind = "no PROXY header"
        self.connection_.server.complaints.tell(kind, f"Refused a connection from {who}: {why}")

    def _refuse(self, refusal: Refusal) -> None:
        self.complain(refusal)
        text = refusal.why.encode() + b"\r\n"
        self.send_response(refusal.status, PHRASES[refusal.status])
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
        self._part()

    def complain(self, refusal: Refusal) -> None:
        """Say in the log that the request was refused."""
        kind = refusal.kind
        who = self.client_address[0] or "a client"
        message = f"Refused a request from {who}: {kind}. {refusal.why}"
        self.connection_.server.complaints.tell(kind, message)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)
        if self.version_string():
            self.send_header("Server", self.version_string())
        self.send_header("Date", self.date_time_string())

    def _block(self, file: io.BufferedReader, most: int) -> bytes:
        """Wait for the head of a request; nothing if the client leaves before it is complete."""
        lines: list[bytes] = []
        left = most
        while (line := file.readline(left + 1)).endswith(b"\n"):
            left -= len(line)
            if not line.endswith(b"\r\n"):
                raise Refusal(400, "A line ends in something else than CR and LF.")
            if line != b"\r\n":
                lines.append(line)
            elif lines:
                return b"".join(lines)[:-2]
        if len(line) <= left:
            return b""
        if not lines:
            raise Refusal(414, f"The request line is longer than {most} bytes.")
        raise Refusal(431, f"The header is longer than {most} bytes.")

    def _respond(self, head: Head, file: io.BufferedReader) -> None:
        server = self.connection_.server
        self.head = head
        self.command, self.request_version = head.method, head.version
        self.connection_.request = f"{head.method} {head.target}"
        if head.waits:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        self.wire.begin_body()
        body = Body(file, self.wire, head.length, server.max_body)
        response = Response(self, body)
        response.run(server.application)
        if not (body.is_read or response.is_broken_off):
            self._part()

    def _part(self) -> None:
        """Say no more, and let the rest be heard: closed on unread bytes, a connection is reset."""
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection_.is_parting = True

    def get_environ(self) -> dict[str, Any]:
        head, door = self.head, self.connection_.door
        server = self.connection_.server
        return {
            **server.base_environ,
            **head.fields,
            "REQUEST_METHOD": head.method,
            "REQUEST_URI": head.target,
            "PATH_INFO": head.path,
            "QUERY_STRING": head.query,
            "SERVER_PROTOCOL": head.version,
            "SERVER_NAME": door.name,
            "SERVER_PORT": door.port,
            "SERVER_SOFTWARE": server.server_header or "sitebus",
            "REMOTE_ADDR": self.client_address[0],
            "REMOTE_PORT": str(self.client_address[1]),
            "wsgi.input_terminated": True,
        }

    def version_string(self) -> str:
        return self.connection_.server.server_header

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is to be logged is logged elsewhere."""


class Connection:
    """One client, for one request."""

    last_used = 0.0
    #: What it asked for.
    request = "no request"
    #: Whether it is closed once its client has hung up, or in a moment.
    is_parting = False

    def __init__(self, server: HTTPServer, sock: socket.socket, door: Door) -> None:
        self.server = server
        self.socket = sock
        self.door = door
        #: Whether it begins with a PROXY header.
        self.is_proxied = door in server.proxied

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

    #: What is in every environ.
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
        header_timeout: float = 0.0,
        min_rate: float = 0,
        max_connections: int = 0,
        proxied: Collection[int] = (),
        trusted: Collection[str] | Networks = (),
        roll: set[int] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.doors = tuple(doors)
        self.application = application
        self.max_header = max_header
        self.max_body = max_body
        self.server_header = server_header
        self.log = log
        self.timeout = timeout
        self.header_timeout = header_timeout
        self.min_rate = min_rate
        self.proxied = frozenset(self.doors[number] for number in proxied)
        self.trusted = trusted
        self.complaints = Complaints(lambda message, level: log(message, level, False))
        self.workers = WorkerPool[Connection](threads, self._serve_one, name, roll, tell)
        self._keeper = Doorkeeper[Connection](
            doors,
            timeout=timeout,
            welcome=lambda door, sock, _: Connection(self, sock, door),
            serve=self.workers.put,
            log=lambda message, level: log(message, level, False),
            most=max_connections,
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
        self.complaints.flush()
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
            # Not by this thread: who goes on sending would keep it.
            if connection.is_parting:
                self._keeper.part(connection)
            else:
                connection.close()


def _place(peer: Any) -> tuple[str, int]:
    """Answer who is at the other end, as far as environs have a place for it."""
    return peer[:2] if isinstance(peer, tuple) else ("", 0)
