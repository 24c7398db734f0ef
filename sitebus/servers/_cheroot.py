"""cheroot's HTTP, between sitebus's own accept loop and its own worker threads.

cheroot parses requests, runs applications and writes responses; that is kept as it is.
What it does around them cannot host a site whose sockets outlive the server, and is replaced:

- Its server binds, shrinks the backlog, connects to itself to stop, and closes what it listens on.
  Ours is given listening sockets (several may share one pool) and only stops looking at them.
- Its loop and its overload thread wake twice a second, ours when there is something to do.
- Its stop closes kept-alive connections under their clients and waits for stuck applications
  for ever; ours drains, and its worker threads are daemons that can be left behind.
- Its TLS handshake is made by the accepting thread, where one mute client stops the whole site;
  ours is made by a worker, once the client began it.

This is the one module that knows cheroot from inside. What it relies on, documented or not:

- `HTTPConnection(server, socket, makefile)`: ``communicate()`` serves one request and tells whether
  the connection stays open; ``rfile.has_data()``; ``close()``; ``remote_addr``, ``remote_port`` and
  ``ssl_env`` go into the environ; ``resolve_peer_creds`` and ``get_peer_creds`` are caches on the
  instance over methods of the class.
- `HTTPServer`: a request asks it for ``can_add_keepalive_connection`` just before the headers go
  out (False: ``Connection: close``), for ``ssl_adapter`` (None or not: the scheme),
  ``server_name``, ``protocol``, ``stats``, ``timeout``, ``gateway`` and the two size limits; it
  calls ``error_log``.
  Nothing calls ``requests``, ``socket`` or ``interrupt`` once prepare, serve and stop are replaced.
- `HTTPRequest.send_headers()` adds a Date if ``outheaders`` has none and writes the head, and
  nothing else, with one ``conn.wfile.write``.
- `Gateway_10.get_environ()` makes a new dict; ``respond()`` runs the application.
- A request has ``rfile``, one of two kinds as ``chunked_read`` says (`_cheroot_input`).
- ``clear_stats`` puts a row named after ``id(server)`` into ``logging.statistics``.

``tests/servers/test_cheroot_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from cheroot import server as cheroot_server
from cheroot import wsgi
from cheroot.makefile import MakeFile, StreamWriter
from cheroot.ssl import Adapter

from sitebus.servers._cheroot_input import ChunkedInput, Input
from sitebus.servers.connections import Door, Doorkeeper
from sitebus.servers.pool import WorkerPool

if TYPE_CHECKING:
    import ssl

Log = Callable[[str, int, bool], object]

#: What a client gets that speaks plain HTTP to a TLS port.
PLAIN_TO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 39\r\n"
    b"Connection: close\r\n\r\nThis port speaks HTTPS only, not HTTP.\r\n"
)


#: How many bytes of a request are told of one that hangs.
_MOST_TOLD = 200


#: A first piece of a body up to this size is sent in one piece with the head; bytes.
JOINED_AT_MOST = 64 << 10


class ApplicationLeft(RuntimeError):
    """An application tried to end the interpreter; it costs its own request and nothing else."""


class Gateway(wsgi.Gateway_10):
    """Run the application for one request."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        """Say which door the request came through: cheroot knows of only one."""
        connection = self.req.conn
        connection.serving = self.req
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]
        environ["SERVER_NAME"] = connection.door.name
        environ["SERVER_PORT"] = connection.door.port
        kind = ChunkedInput if self.req.chunked_read else Input
        environ["wsgi.input"] = kind(self.req.rfile)
        if environ["REQUEST_METHOD"] == "OPTIONS":
            # cheroot leaves the paths of these as they were written.
            environ["PATH_INFO"] = unquoted(environ["PATH_INFO"])
        return environ

    def respond(self) -> None:
        try:
            super().respond()
        except Exception:
            raise
        except BaseException as leaving:
            # sys.exit() and the like; cheroot would stop the server, here it is a failed request.
            raise ApplicationLeft(repr(leaving)) from leaving


def unquoted(path: str) -> str:
    """Answer *path* as cheroot has those of other requests: a quoted slash stays one."""
    kept = re.sub("%2f", "%252F", path, flags=re.IGNORECASE)
    return unquote_to_bytes(kept.encode("latin-1")).decode("latin-1")


class Writer(StreamWriter):
    """What a response is written to: its head waits for the first of its body, to go out with it.

    One send less for each response, which is the largest part of what a short one costs.
    """

    _holds_next = False
    _held = b""

    def __del__(self) -> None:
        # What is left for a client that has gone cannot be sent; from 3.13 on the interpreter
        # would say so on standard error.
        with suppress(OSError, ValueError):
            self.close()

    def hold_next(self) -> None:
        """Keep what is written next until more is, or `send_held` is called."""
        self._holds_next = True

    def write(self, val: bytes, *args: Any, **kwargs: Any) -> int:  # type: ignore[override]
        if self._holds_next:
            self._holds_next = False
            self._held = val
            return len(val)
        if self._held:
            # Copying a large body would cost more than it saves.
            if len(val) <= JOINED_AT_MOST:
                val, self._held = self._held + val, b""
            else:
                self.send_held()
        return int(super().write(val, *args, **kwargs))  # type: ignore[no-untyped-call]

    def send_held(self) -> None:
        """Send a head that no body followed."""
        if self._held:
            held, self._held = self._held, b""
            super().write(held)  # type: ignore[no-untyped-call]


class Request(cheroot_server.HTTPRequest):
    """One request, whose head goes out with the body, and whose date is made once a second."""

    def send_headers(self) -> None:
        if not any(name.lower() == b"date" for name, _ in self.outheaders):
            self.outheaders.append((b"Date", http_date()))
        self.conn.wfile.hold_next()
        super().send_headers()


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


def _make_file(sock: socket.socket, mode: str, bufsize: int) -> Any:
    return (MakeFile if "r" in mode else Writer)(sock, mode, bufsize)


class Connection(cheroot_server.HTTPConnection):
    """One client."""

    RequestHandlerClass = Request

    #: The request whose application runs now, to name it when it hangs.
    serving: cheroot_server.HTTPRequest | None = None
    server: HTTPServer

    def __init__(self, server: HTTPServer, sock: socket.socket, door: Door, peer: Any) -> None:
        super().__init__(server, sock, _make_file)
        # Made for every connection, used by none, and a cycle that keeps each until a collection.
        del self.resolve_peer_creds, self.get_peer_creds
        self.door = door
        if isinstance(peer, tuple):
            self.remote_addr, self.remote_port = peer[:2]
        self._shaken = server.ssl_adapter is None

    def communicate(self) -> bool:
        """Serve one request, or do the TLS handshake before the first; tell whether to go on."""
        if not self._shaken:
            self._shaken = True
            return self._shake_hands()
        try:
            stays = bool(super().communicate())  # type: ignore[no-untyped-call]
            self.wfile.send_held()
            if not stays and self.server.draining:
                self._swallow_body()
            return stays
        finally:
            self.serving = None

    def has_more(self) -> bool:
        """Tell whether a request has begun to arrive that waiting on the socket would not see."""
        # What OpenSSL has decrypted already does not make the socket readable.
        secure = self.server.ssl_adapter is not None
        return bool(self.rfile.has_data() or (secure and self.socket.pending()))

    def stop_reading(self) -> None:
        """Wake a thread that waits for the rest of a request; responses can still be written."""
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RD)

    def close(self) -> None:
        # The kernel's complaints about a client that has left already are nobody's news.
        with suppress(OSError):
            super().close()
        self.server.connection_closed(self)

    def _swallow_body(self) -> None:
        """Read the rest of a body that the application left.

        Without a drain this connection would have stayed open, and cheroot would have read it.
        To close with something unread resets the connection, and can lose the response.
        """
        rest = getattr(getattr(self.serving, "rfile", None), "remaining", 0)
        with suppress(OSError):
            while rest > 0 and (data := self.rfile.read(min(rest, 65536))):
                rest -= len(data)

    def _shake_hands(self) -> bool:
        import ssl

        try:
            self.socket.do_handshake()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                # The plain socket below: there is no session to write through.
                with suppress(OSError):
                    socket.socket.sendall(self.socket, PLAIN_TO_TLS)
            return False
        except OSError:
            return False  # it hung up, or said too little for too long
        self.ssl_env = self.server.ssl_adapter.get_environ(self.socket)
        return True


class TLSAdapter(Adapter):
    """cheroot's view of a TLS context, which may be replaced while serving."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(None, None)
        self.context = context

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        """Put TLS around *sock*; the handshake is left for a worker thread."""
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, {}

    def get_environ(self, sock: ssl.SSLSocket) -> dict[str, str]:  # type: ignore[override]
        """Answer what Apache's mod_ssl would add to the environ."""
        cipher, protocol, _bits = sock.cipher() or ("", "", 0)
        return {
            "wsgi.url_scheme": "https",
            "HTTPS": "on",
            "SSL_PROTOCOL": protocol,
            "SSL_CIPHER": cipher,
        }

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        return MakeFile(sock, mode, bufsize)


class HTTPServer(wsgi.Server):
    """A cheroot server over listening sockets that somebody else owns.

    ``start``, ``stop`` and ``ready`` are the usual; `drain`, ``drained`` and `finish` are the parts
    of ``stop`` for a caller that keeps the time.

    Args:
        doors: Where to accept; at least one, closed here only by a drain for good.
        application: The WSGI application.
        threads: How many requests are served at once.
        timeout: Seconds a client may be silent.
        name: What the threads are called.
        server_header: The text of the Server header.
        tls: The context when the doors speak TLS.
        log: Is told, as ``log(message, level, traceback)``, what cheroot would write to stderr.
        roll: Holds the identifiers of the threads that run the application.
        tell: Is told, by name of a channel, when such a thread begins and ends.
    """

    ConnectionClass = Connection
    keep_alive_conn_limit: int | None = None  # type: ignore[assignment]

    def __init__(
        self,
        doors: Sequence[Door],
        application: Callable[..., Any],
        *,
        threads: int,
        timeout: float,
        name: str,
        server_header: str,
        tls: ssl.SSLContext | None,
        log: Log,
        roll: set[int] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(_bind_addr(doors), application, server_name=server_header)
        self.timeout = timeout
        self._log = log
        self.gateway = Gateway
        self.software = server_header
        self.ssl_adapter = TLSAdapter(tls) if tls is not None else None
        self.requests = WorkerPool[Connection](threads, self._serve_one, name, roll, tell)
        self._keeper = Doorkeeper[Connection](
            doors,
            timeout=timeout,
            welcome=self._welcome,
            serve=self.requests.put,
            log=lambda message, level: log(message, level, False),
        )
        self.serving = self._keeper.serving
        self.drained = self._keeper.ended
        self.shut = self._keeper.shut
        self._begun = time.time()

    def start(self) -> None:
        """Serve until stopped."""
        try:
            super().start()
        finally:
            # Whoever waits for it must learn that it will not come.
            self.serving.set()

    def prepare(self) -> None:
        """Start the worker threads; the sockets listen already."""
        self._begun = time.time()
        try:
            self.requests.start()
        except RuntimeError:  # no more threads to be had
            self.finish(0.0)
            raise
        self.ready = True

    def serve(self) -> None:
        """Accept until `drain` is complete or `finish` is called."""
        try:
            self._keeper.run()
        finally:
            self.ready = False

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more and answer the rest with ``Connection: close``.

        ``drained`` is set when the last connection is closed; one that is silent is closed *linger*
        seconds from now or from its last response. With *for_good*, those whom the kernel has
        accepted are served too, and the doors are closed when ``shut`` is set.
        """
        self._keeper.drain(linger, for_good=for_good)

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once, drained or not.

        Returns:
            The threads that are still inside an application after *grace* seconds, by name, each
            with the request it serves. They are left to themselves.
        """
        self._keeper.cut()
        for connection in self._keeper.connections:
            connection.stop_reading()
        self.ready = False
        stuck = self.requests.stop(grace)
        busy = self.requests.busy
        return [(thread.name, _request_of(busy.get(thread))) for thread in stuck]

    def stop(self) -> None:
        """Drain for ``shutdown_timeout`` seconds at most, then end."""
        if self.ready:
            self.drain(0.0)
            self.drained.wait(self.shutdown_timeout)
        self.finish(0.0)

    @property
    def draining(self) -> bool:
        return self._keeper.draining

    @property
    def can_add_keepalive_connection(self) -> bool:
        return not self._keeper.draining

    def put_conn(self, conn: Connection) -> None:
        """Take back a connection that was answered and stays open."""
        if conn.has_more():
            self.requests.put(conn)
        else:
            self._keeper.park(conn)

    def connection_closed(self, connection: Connection) -> None:
        self._keeper.gone(connection)

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        self._log(msg, level, traceback)

    def runtime(self) -> float:
        return time.time() - self._begun

    def clear_stats(self) -> None:
        """Keep the counters out of the process-wide table, which would keep every server alive."""
        super().clear_stats()  # type: ignore[no-untyped-call]
        statistics: dict[str, Any] = getattr(logging, "statistics", {})
        statistics.pop(f"Cheroot HTTPServer {id(self)}", None)

    def _welcome(self, door: Door, accepted: socket.socket, peer: Any) -> Connection:
        if self.ssl_adapter is not None:
            accepted, _ = self.ssl_adapter.wrap(accepted)
        return Connection(self, accepted, door, peer)

    def _serve_one(self, connection: Connection) -> None:
        """Let a worker thread serve one request; nothing a request does may end the thread."""
        stays = False
        try:
            stays = connection.communicate()
            if stays:
                self.put_conn(connection)
        except ConnectionError:
            pass  # the client left in the middle of its response
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self.error_log(f"Unhandled error while serving a connection: {error!r}", 40, True)
            stays = False
        if not stays:
            connection.close()


def _bind_addr(doors: Sequence[Door]) -> tuple[str, int] | str:
    """Answer an address for those who ask a server where it listens: a TCP one if there is any."""
    # cheroot's environ has a branch for unix sockets that a TCP connection must not enter.
    addresses = [door.socket.getsockname() for door in doors]
    for address in addresses:
        if isinstance(address, tuple):
            return address[0], address[1]
    return str(addresses[0])


def _request_of(connection: Connection | None) -> str:
    request = connection.serving if connection is not None else None
    if request is None:
        return "no request"
    # As it was asked for, and escaped: decoded, it could forge lines of the log.
    asked: bytes = request.method + b" " + request.uri
    text = asked[:_MOST_TOLD].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(asked) > _MOST_TOLD else text
