"""Lodge a cheroot server that somebody else made with the engine: on its socket, without polling.

What the server is stays its own: its class, worker threads, request class, TLS adapter, statistics.
Its requests are seen by the engine's registry, so that `engine.threads()` tells of them.
Three things become ours. It takes the engine's listening socket instead of binding; it waits in the
accept loop of sitebus's own servers, which wakes when there is something to do; and its stop
drains: requests under way are answered, and the next process finds the rest in the socket's queue.

What this relies on of cheroot, besides its documented attributes: ``prepare`` calls ``bind`` or
``bind_unix_socket``, which leave the socket in ``socket``, then makes ``_connections``, whose
``run``, ``put``, ``stop``, ``close`` and ``can_add_keepalive_connection`` are all that is used of
it; ``ConnectionManager._from_server_socket(socket)`` accepts and makes a connection, or answers
None; ``requests._threads`` are the workers; ``wsgi_app`` is what a server of WSGI calls; ``stop``
leaves a ``socket`` of None alone.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from cheroot import connections
from cheroot.server import HTTPConnection, HTTPServer

from sitebus.servers.connections import Door, Doorkeeper
from sitebus.serving import Registry
from sitebus.sockets import BACKLOG, Listener

#: How long a connection that says nothing is left open by a stop; seconds.
LINGER = 0.2
#: How often a drain looks whether its waits were cut short.
GLANCE = 0.05


class Lodging(NamedTuple):
    """What a server is given: a listening socket, and the ways of its bus."""

    listener: Listener
    roll: set[int]
    impatient: Callable[[], bool]
    serving: Registry


def lodge(server: HTTPServer, lodging: Lodging) -> Lodger:
    """Make *server*, which must not be running, take what it is given; answer itself."""
    if not isinstance(server, Lodger):
        kind = type(server)
        # Still of its class, and called like it in messages.
        server.__class__ = type(
            kind.__name__, (Lodger, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__}
        )
    lodger = cast(Lodger, server)
    lodger.lodging = lodging
    lodger.watch()
    return lodger


class Lodger(HTTPServer):
    """Mixed into the class of a server that lodges with an engine."""

    lodging: Lodging
    #: Set when it serves, and when it will not any more.
    settled: threading.Event
    _connections: Reception
    _watched: object = None

    def watch(self) -> None:
        """Have its requests seen in pictures of the threads, if it is a server of WSGI."""
        app = getattr(self, "wsgi_app", None)
        if app is not None and app is not self._watched:
            self.wsgi_app = self._watched = self.lodging.serving.watch(app)

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """Take the engine's socket; where it was to be bound was said to the engine."""
        sock: socket.socket = self.lodging.listener.dup()
        self.socket = sock
        self.bind_addr = self.resolve_real_bind_addr(sock)  # type: ignore[no-untyped-call]
        return sock

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        return self.bind(socket.AF_UNIX, socket.SOCK_STREAM)

    def prepare(self) -> None:
        asked, self.request_queue_size = self.request_queue_size, BACKLOG
        try:
            # A short queue would be one for the next process as well.
            super().prepare()
        finally:
            self.request_queue_size = asked
        self.socket.setblocking(False)
        self._connections.close()
        self._connections = Reception(self)
        self._workers = {thread.ident for thread in self.requests._threads}
        self.lodging.roll.update(self._workers)
        self.lodging.serving.capacity[self] = len(self._workers)

    def start(self) -> None:
        try:
            super().start()
        finally:
            self.settled.set()

    def drain(self, *, for_good: bool) -> None:
        """Accept nothing more; with *for_good*, serve those who wait already, and close."""
        if self.ready:
            self._connections.drain(for_good=for_good)

    def stop(self) -> None:
        """Drain for at most ``shutdown_timeout`` seconds, then end."""
        if not self.ready:
            return
        if threading.get_ident() not in self._workers:  # it would wait for itself
            self.drain(for_good=False)
            self._connections.wait_drained(self.shutdown_timeout, self.lodging.impatient)
        # Without a socket nobody connects to it to wake who waits there: nobody does.
        sock, self.socket = self.socket, None
        try:
            super().stop()
        finally:
            sock.close()
            self.lodging.roll.difference_update(self._workers)
            self.lodging.serving.capacity.pop(self, None)


class Reception(connections.ConnectionManager):
    """Receive connections with a `Doorkeeper` instead of looking twice a second."""

    def __init__(self, server: Lodger) -> None:
        self.server = server
        self._stopped = threading.Event()
        server.ConnectionClass = _heard_of_when_closed(server.ConnectionClass, self)
        # A copy of its own: a drain for good closes it, and the server's still tells its address.
        self._door = Door(server.socket.dup(), "", "")
        self._keeper = Doorkeeper[Any](
            (self._door,),
            timeout=server.timeout,
            welcome=self._welcome,
            serve=server.process_conn,
            log=lambda message, level: server.error_log(message, level),
        )

    def run(self, expiration_interval: float) -> None:
        """Accept until stopped."""
        self.server.settled.set()
        try:
            self._keeper.run()
        # cheroot would log it and call again; who waits for connections is gone for good.
        except Exception as error:  # noqa: BLE001
            self.server._interrupt = error
            return
        self._stopped.wait()  # drained, and about to be stopped

    def drain(self, *, for_good: bool) -> None:
        self._keeper.drain(LINGER, for_good=for_good)

    def wait_drained(self, timeout: float | None, impatient: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while not self._keeper.ended.wait(GLANCE):
            if impatient() or time.monotonic() > deadline:
                return

    def put(self, conn: HTTPConnection) -> None:
        """Take back a connection that was answered and stays open."""
        if conn.rfile.has_data():
            self.server.process_conn(conn)
        else:
            self._keeper.park(conn)

    def stop(self) -> None:
        self._keeper.cut()
        self._stopped.set()

    def close(self) -> None:
        """Close the door; whoever was silent was closed by the drain or the cut."""
        self._door.socket.close()

    def closed(self, conn: HTTPConnection) -> None:
        self._keeper.gone(conn)

    @property
    def can_add_keepalive_connection(self) -> bool:
        return not self._keeper.draining

    def _welcome(self, door: Door, accepted: socket.socket, peer: Any) -> HTTPConnection:
        accept_again: Any = getattr(super(), "_from_server_socket")  # noqa: B009 - not in its types
        conn: HTTPConnection | None = accept_again(Accepted(accepted, peer))
        if conn is None:
            raise ConnectionAbortedError("the TLS handshake failed")
        return conn


class Accepted(NamedTuple):
    """A connection that was accepted already, to be accepted once more."""

    connection: socket.socket
    peer: Any

    def accept(self) -> tuple[socket.socket, Any]:
        return self.connection, self.peer


def _heard_of_when_closed(kind: type[HTTPConnection], reception: Reception) -> type[HTTPConnection]:
    """Answer *kind*, telling *reception* when a connection is closed."""
    base = getattr(kind, "_before_lodging", kind)

    class Connection(base):  # type: ignore[misc, valid-type]
        _before_lodging = base

        def close(self) -> None:
            try:
                super().close()
            finally:
                reception.closed(self)

    Connection.__name__ = base.__name__
    return Connection
