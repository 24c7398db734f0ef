"""cheroot's server, between sitebus's own accept loop and its own worker threads.

What cheroot does around the calls of an application cannot face clients that mean harm, nor host a
site whose sockets outlive the server; it is replaced, part by part:

- Its server binds, shrinks the backlog, connects to itself to stop, and closes what it listens on.
  Ours is given listening sockets (several may share one pool) and only stops looking at them.
- Its loop and its overload thread wake twice a second, ours when there is something to do. Who
  comes when too many wait for a thread is told so at once (`HTTPServer._admit`).
- Its stop closes kept-alive connections under their clients and waits for stuck applications
  for ever; ours drains, and its worker threads are daemons that can be left behind.
- Its TLS handshake is made by the accepting thread, and requests are read by the workers: either
  waits for clients that say nothing. Ours wait for none (`sitebus.servers._cheroot_connection`).
- What its parser lets through, proxies may read otherwise: `sitebus.servers.heads`.
- Its bodies loop, hang, or are kept in memory: `sitebus.servers._cheroot_input`.

What it still does, and what is relied on, documented or not, is used in this module and in
`sitebus.servers._cheroot_request` only:

- `HTTPServer`: ``start()`` is ``prepare()`` and ``serve()``; the constructor opens nothing; nothing
  calls ``requests``, ``socket`` or ``interrupt`` once prepare, serve and stop are replaced.
- `HTTPRequest(server, connection)`: asks ``server.ssl_adapter`` whether there is one;
  ``ensure_headers_sent()`` calls ``send_headers()`` once and sets ``sent_headers``; ``write()``
  puts a piece into a chunk if ``chunked_write`` is set, and calls ``conn.wfile.write`` once.
- `Gateway(request)`: ``env`` is what ``get_environ()`` answers; ``start_response()`` sets
  ``started_response``, ``status`` and ``outheaders`` of the request, and ``remaining_bytes_out``;
  with an ``exc_info`` it raises that if headers were sent.
- ``clear_stats`` puts a row named after ``id(server)`` into ``logging.statistics``.

``tests/servers/test_cheroot_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cheroot import wsgi

from sitebus.servers._cheroot_connection import Connection, Next
from sitebus.servers._cheroot_request import Gateway, described
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import Door, Doorkeeper
from sitebus.servers.heads import Refusal
from sitebus.servers.pool import WorkerPool

if TYPE_CHECKING:
    import ssl

    from sitebus.servers.hosting import Leave
    from sitebus.sockets import Idle
    from sitebus.sockets.networks import Networks

Log = Callable[[str, int, bool], object]

#: How long a client shall stay away that found too many waiting; seconds.
RETRY_AFTER = b"Retry-After: 1"


class HTTPServer(wsgi.Server):
    """A cheroot server over listening sockets that somebody else owns.

    ``start``, ``stop`` and ``ready`` are the usual; `drain`, ``drained`` and `finish` are the parts
    of ``stop`` for a caller that keeps the time.

    Args:
        doors: Where to accept; at least one, closed here only by a drain for good.
        application: The WSGI application.
        threads: How many requests are served at once.
        timeout: Seconds a client may be silent, or take nothing of a response.
        name: What the threads are called.
        server_header: The text of the Server header; nothing sends none.
        tls: The context when the doors speak TLS.
        log: Is told, as ``log(message, level, traceback)``, what cheroot would write to stderr.
        header_timeout: Seconds from the first byte of a request to the end of its head; 0 is any.
        min_rate: Bytes a second that a body must come in at least, and a response be taken; 0 is
            any.
        max_connections: How many are open at once; 0 is any.
        shares: Whether other processes accept from *doors* too.
        max_waiting: How many requests may wait for a thread before newcomers are sent away.
        proxied: The numbers of *doors* whose connections begin with a PROXY header.
        trusted: Who may connect to those, "" for a unix socket; anybody if it is empty.
        roll: Holds the identifiers of the threads that run the application.
        tell: Is told, by name of a channel, when such a thread begins and ends.
    """

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
        header_timeout: float = 0.0,
        min_rate: float = 0,
        max_connections: int = 0,
        shares: bool = False,
        max_waiting: int = sys.maxsize,
        proxied: Collection[int] = (),
        trusted: Networks | tuple[str, ...] = (),
        roll: set[int] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(_bind_addr(doors), application)
        self.timeout = timeout
        self.header_timeout = header_timeout
        self.min_rate = min_rate
        self._max_waiting = max_waiting
        self._doors = tuple(doors)
        self._leave: Leave | None = None
        self._trusted = trusted
        self._proxied = frozenset(doors[number] for number in proxied)
        self._log = log
        self.complaints = Complaints(lambda message, level: log(message, level, False))
        self.gateway = Gateway
        self.server_header = server_header.encode("latin-1")
        #: What is the same in every environ.
        self.environ = _environ(server_header, threads)
        if tls is not None:
            from sitebus.servers._cheroot_tls import TLSAdapter

            self.ssl_adapter = TLSAdapter(tls)
            self.environ["wsgi.url_scheme"] = "https"
        self.requests = WorkerPool[Connection](threads, self._serve_one, name, roll, tell)
        self._keeper = Doorkeeper[Connection](
            doors,
            timeout=timeout,
            welcome=self._welcome,
            serve=self._admit,
            log=lambda message, level: log(message, level, False),
            most=max_connections,
            patience=0.0,
            has_spoken=Connection.has_spoken,
            give_up=lambda connection: self._goes_on(connection, connection.give_up()),
            header_timeout=header_timeout,
            has_hands=self._has_hands if shares else None,
        )
        self.serving = self._keeper.serving
        self.drained = self._keeper.ended
        self.shut = self._keeper.shut
        self._begun = time.time()
        self._finished = False

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
        if self._finished:
            return  # it was stopped before it began
        try:
            self.requests.start()
        except RuntimeError:  # no more threads to be had
            self.finish(0.0)
            raise
        self.ready = True

    def serve(self) -> None:
        """Accept until `drain` is complete or `finish` is called."""
        if self._finished:
            # Those that were just started, if it was stopped meanwhile.
            self.requests.stop(0.0)
        try:
            self._keeper.run()
        finally:
            self.ready = False

    def drain(self, linger: float, *, for_good: bool = False, leave: Leave | None = None) -> None:
        """Accept nothing more and answer the rest with ``Connection: close``.

        ``drained`` is set when the last connection is closed; one that is silent is closed *linger*
        seconds from now or from its last response. With *for_good*, those whom the kernel has
        accepted are served too, and the doors are closed when ``shut`` is set.

        With *leave* connections stay open, and each is given to it once nobody serves it, with what
        was read of its next request.
        """
        if not self.draining:
            self._leave = leave
        give = None if leave is None else partial(self._give, leave)
        self._keeper.drain(linger, for_good=for_good, give=give)

    def adopt(self, found: Iterable[tuple[int, Idle]]) -> None:
        """Go on with connections that another server had, each with the number of its door."""
        self._keeper.adopt(self._resumed(number, idle) for number, idle in found)

    def _resumed(self, number: int, idle: Idle) -> tuple[Connection, bool]:
        idle.socket.settimeout(0)
        connection = Connection(self, idle.socket, self._doors[number], idle.peer)
        connection.resume(idle.begun)
        return connection, bool(idle.begun)

    def _give(self, leave: Leave, connection: Connection) -> bool:
        if not connection.is_plain:
            return False
        number = self._doors.index(connection.door)
        leave(number, connection.socket, connection.peer, connection.rfile.buffer)
        return True

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once, drained or not.

        Returns:
            The threads that are still inside an application after *grace* seconds, by name, each
            with the request it serves. They are left to themselves.
        """
        self._finished = True
        self._keeper.cut()
        for connection in self._keeper.connections:
            connection.stop_reading()
        self.ready = False
        stuck = self.requests.stop(grace)
        self.complaints.flush()
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
        return not self._keeper.draining or (self._leave is not None and not self._finished)

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
        if door in self._proxied:
            who = peer[0] if isinstance(peer, tuple) else ""
            if self._trusted and who not in self._trusted:
                said = who or f"a client of {door.name}"
                self.complaints.tell(
                    "PROXY header", f"Refused a connection from {said}, who is no trusted proxy"
                )
                raise ConnectionRefusedError(said)
            from sitebus.servers.proxy_protocol import Reader

            # TLS begins behind it.
            return Connection(self, accepted, door, peer, Reader())
        if self.ssl_adapter is not None:
            accepted = self.ssl_adapter.wrap(accepted)
        return Connection(self, accepted, door, peer)

    def _admit(self, connection: Connection) -> None:
        """Let a worker serve *connection*, unless it is new and too many wait already."""
        if connection.is_new and self.requests.qsize >= self._max_waiting:
            self._goes_on(connection, self._send_away(connection))
        else:
            self.requests.put(connection)

    def _send_away(self, connection: Connection) -> Next:
        refusal = Refusal(503, "Too many requests wait already; try again in a moment.")
        if self.ssl_adapter is None:
            return connection.refuse(refusal, RETRY_AFTER)
        # To be told it would take a handshake, which is what there is no time for.
        connection.complain(refusal.status, refusal.why)
        return Next.CLOSE

    def _serve_one(self, connection: Connection) -> None:
        """Let a worker thread serve one request; nothing a request does may end the thread."""
        try:
            self._goes_on(connection, connection.communicate())
        except OSError:
            connection.close()  # the client left, or the network did
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self.error_log(f"Unhandled error while serving a connection: {error!r}", 40, True)
            connection.close()
        self._keeper.free()

    def _has_hands(self) -> bool:
        pool: WorkerPool[Connection] = self.requests
        return len(pool.busy) + pool.qsize < pool.size

    def _goes_on(self, connection: Connection, how: Next) -> None:
        if how is Next.STAY:
            if connection.has_more() and not self._leaves(connection):
                self.requests.put(connection)
            else:
                self._keeper.park(connection)
        elif how is Next.REST:
            self._keeper.await_rest(
                connection, connection.deadline, to_write=connection.wants_to_write
            )
        elif how is Next.PART:
            connection.stop_writing()
            self._keeper.part(connection)
        else:
            connection.close()

    def _leaves(self, connection: Connection) -> bool:
        """Tell whether what *connection* has said already is for who serves next."""
        # Else one that never waits for answers would be served until nobody has the time any more.
        return self._leave is not None and connection.is_plain


def _environ(server_header: str, threads: int) -> dict[str, Any]:
    return {
        "ACTUAL_SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "",
        "SERVER_SOFTWARE": server_header or "sitebus",
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": False,
        "wsgi.multithread": threads > 1,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
    }


def _bind_addr(doors: Sequence[Door]) -> tuple[str, int] | str:
    """Answer an address for those who ask a server where it listens: a TCP one if there is any."""
    addresses = [door.socket.getsockname() for door in doors]
    for address in addresses:
        if isinstance(address, tuple):
            return address[0], address[1]
    return str(addresses[0])


def _request_of(connection: Connection | None) -> str:
    return described(connection.serving if connection is not None else None)
