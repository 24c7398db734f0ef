"""Serve the site with cheroot, on the engine's listening sockets.

A stop drains. From its first moment nothing new is accepted: the sockets stay open with the engine,
and the kernel keeps newcomers for the next start or the successor, so the port never refuses.
Only when the process leaves for good are those served who wait already, and the sockets closed.
What was accepted is read and answered, with ``Connection: close``. A connection that says nothing
is closed after ``linger`` seconds, during which it may still send a request.
What is not done after ``drain_timeout`` seconds, or when the bus becomes impatient, is left behind.

The HTTP is in `sitebus.servers._cheroot`, imported when a server is started.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus import trial
from sitebus.config.kinds import DURATION, TEXT
from sitebus.config.options import Option, Row
from sitebus.errors import BadServerOption, ServerEnded, SitebusError
from sitebus.process import Engine, Priority
from sitebus.servers.base import BindAddr, ServerAdapter, channel_for, prioritized
from sitebus.servers.connections import Door
from sitebus.sockets.addresses import EVERYWHERE, Address

if TYPE_CHECKING:
    import ssl

    from sitebus.servers._cheroot import HTTPServer
    from sitebus.servers.tls import TLS
    from sitebus.sockets import Listener

#: How often a drain looks whether the bus has become impatient.
GLANCE = 0.05
#: How long worker threads may take to end when there is nothing left for them to do.
GRACE = 0.5


class CherootServer(ServerAdapter):
    """One or several listening sockets in front of one pool of threads.

    Args:
        bus: The engine, whose sockets are used.
        application: The WSGI application.
        binds: Where to listen.
        threads: How many requests are served at once.
        drain_timeout: Seconds that a stop waits for requests to be finished.
        linger: Seconds that a stop leaves to connections that say nothing.
        timeout: Seconds after which a silent client is given up.
        tls: The certificate, for HTTPS on every socket.
        backlog: How many connections the kernel keeps until they are accepted.
        max_header: The longest request head in bytes; 0 is any.
        max_body: The longest request body in bytes; 0 is any.
        server_header: What the Server header says.
        name: Names the threads, and this server in messages.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("linger", DURATION, 0.2, "How long a stop leaves open what says nothing."),
        Option("server_header", TEXT, "sitebus", "What the Server header says."),
    )
    requires = "cheroot"

    def __init__(
        self,
        bus: Engine,
        application: Callable[..., Any],
        *,
        binds: Sequence[Address | str | int | tuple[str, int]] = ("127.0.0.1:8080",),
        threads: int = 10,
        drain_timeout: float = 30.0,
        linger: float = 0.2,
        timeout: float = 10.0,
        tls: TLS | None = None,
        backlog: int = 1024,
        max_header: int = 64 << 10,
        max_body: int = 0,
        server_header: str = "sitebus",
        name: str = "main",
    ) -> None:
        self.binds = tuple(Address.parse(bind) for bind in binds)
        super().__init__(bus, None, _bind_addr(self.binds[0]))
        self.application = application
        self.threads = threads
        self.drain_timeout = drain_timeout
        self.linger = linger
        self.timeout = timeout
        self.tls = tls
        self.backlog = backlog
        self.max_header = max_header
        self.max_body = max_body
        self.server_header = _checked_header(server_header)
        self.name = name
        self._listeners: tuple[Listener, ...] = ()
        self._doors: tuple[Door, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._bind_failed = False
        self._drain_until = 0.0

    def subscribe(self) -> None:
        """Listen on the bus: bind early, start late, stop early, reread the certificate."""
        self._listen("start", self.bind, Priority.BIND)
        super().subscribe()
        # Before any server stops, so that several drain at the same time.
        self._listen("stop", self.drain, Priority.DRAIN)
        self._listen("graceful", self.graceful, Priority.DEFAULT)
        self._listen("trial", self.trial, Priority.BIND)

    def unsubscribe(self) -> None:
        """Take back `subscribe`; a running server goes on running."""
        self.bus.unsubscribe(channel_for(self.bus, "trial"), self.trial)
        self.bus.unsubscribe(channel_for(self.bus, "graceful"), self.graceful)
        self.bus.unsubscribe(channel_for(self.bus, "stop"), self.drain)
        super().unsubscribe()
        self.bus.unsubscribe(channel_for(self.bus, "start"), self.bind)

    @prioritized(Priority.BIND)
    def bind(self) -> None:
        """Read the certificate and take the sockets, while that may still be permitted."""
        self._bind_failed = True
        self._take_sockets()
        self._bind_failed = False

    @prioritized(Priority.BIND)
    def trial(self) -> None:
        """Read the certificate, and bind what the process that tries this one does not hold."""
        self._read_certificate()
        held = trial.held()
        for bind in self.binds:
            # Descriptors and systemd's sockets are not passed to a trial.
            if bind.kind in ("tcp", "unix") and str(bind) not in held:
                self.bus.sockets.bind(bind)

    def _take_sockets(self) -> None:
        self._read_certificate()
        sockets = self.bus.sockets
        self._listeners = tuple(
            sockets.bind(address, backlog=self.backlog)
            for bind in self.binds
            for address in sockets.expand(bind)
        )

    @prioritized(Priority.SERVE)
    def start(self) -> None:
        """Start serving; see `ServerAdapter.start`."""
        if self.running:
            self.bus.log(f"Already serving on {self.description}")
            return
        if self._bind_failed:
            # One start calls all its listeners, whatever failed before; it was said already.
            self._bind_failed = False
            return
        if not self._listeners:
            self._take_sockets()
        self.httpserver = self._make_server()
        try:
            super().start()
        except BaseException:
            self._finish(self.httpserver)
            raise

    def wait(self) -> None:
        """Return when the server has said that it serves; raise what ended it instead."""
        server = self._server
        server.serving.wait()
        if not server.ready:
            self._ended.wait()
            self._raise_interrupt()
            raise ServerEnded(self._name, "before it was ready")

    def drain(self) -> None:
        """Accept nothing more, from now on; `stop` waits for the rest."""
        if self.running and not self._server.draining:
            self._drain_until = time.monotonic() + self.drain_timeout
            leaving = self.bus.leaving
            self._server.drain(self.linger, for_good=leaving)
            if leaving and self._server.shut.wait(GRACE):
                # Nobody will answer here again: a client had better be refused than kept waiting.
                for listener in self._listeners:
                    self.bus.sockets.close(listener)

    @prioritized(Priority.SERVER_STOP)
    def stop(self) -> None:
        """Drain, and return when all is answered or the time is over."""
        if not self.running:
            self.bus.log(f"HTTP Server {self.name} already shut down")
            return
        self.drain()
        # Its thread may end from here on without being missed.
        self.running = False
        self._wait_drained(self._server)
        self._finish(self._server)
        self.bus.log(f"HTTP Server {self.name} shut down")

    def graceful(self) -> None:
        """Read the certificate again, for connections from now on; a bad one changes nothing."""
        if not self.running:
            return
        self._server.requests.announce_again()
        if self.tls is not None:
            self._read_certificate()
            self._server.ssl_adapter.context = self._context

    @property
    def bound_addr(self) -> BindAddr:
        """Where the first socket listens, with its real port."""
        return _bind_addr(self.addresses[0])

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where all sockets listen, with real ports; before they are bound, where they will."""
        return tuple(listener.address for listener in self._listeners) or self.binds

    @property
    def description(self) -> str:
        """Where this server is bound, for people."""
        scheme = "http" if self.tls is None else "https"
        return ", ".join(
            address.url(scheme) if address.kind == "tcp" else str(address)
            for address in self.addresses
        )

    @property
    def _server(self) -> HTTPServer:
        server: HTTPServer = self.httpserver
        return server

    def _read_certificate(self) -> None:
        if self.tls is None:
            return
        try:
            self._context = self.tls.context()
        except SitebusError as error:
            if self._context is None:
                raise
            self.bus.log(f"{error}; keeping the certificate that was read before", level=40)

    def _make_server(self) -> HTTPServer:
        from sitebus.servers._cheroot import HTTPServer

        scheme = "http" if self.tls is None else "https"
        self._doors = tuple(_door(listener, scheme) for listener in self._listeners)
        server = HTTPServer(
            self._doors,
            self.application,
            threads=self.threads,
            timeout=self.timeout,
            name=f"cheroot {self.name}",
            server_header=self.server_header,
            tls=self._context,
            log=self.bus.log,
            roll=getattr(self.bus, "serving_threads", None),
            tell=self.bus.publish,
        )
        server.max_request_header_size = self.max_header
        server.max_request_body_size = self.max_body
        self._capacity[self] = self.threads
        return server

    def _report_end(self) -> None:
        # Nobody left to drain: it may end before it is stopped.
        if self.interrupt is not None or not self._server.draining:
            super()._report_end()

    def _wait_drained(self, server: HTTPServer) -> None:
        while not server.drained.wait(GLANCE):
            if self.bus.impatient or time.monotonic() >= self._drain_until:
                return

    @property
    def _capacity(self) -> dict[object, int]:
        """What each server says it can serve at once; nobody looks where there is no engine."""
        serving = getattr(self.bus, "serving", None)
        return serving.capacity if serving is not None else {}

    def _finish(self, server: HTTPServer) -> None:
        stuck = server.finish(GRACE)
        self._capacity.pop(self, None)
        if self._thread is not None:
            self._thread.join(GRACE)
        for door in self._doors:
            door.socket.close()
        self._doors = ()
        waited = time.monotonic() - (self._drain_until - self.drain_timeout)
        for thread, request in stuck:
            self.bus.log(
                f"{thread.name!r} is still busy with {request} after {waited:.1f} s; left behind",
                level=30,
            )


def _checked_header(text: str) -> str:
    from sitebus.mounts.isolation import check_header

    try:
        check_header(("Server", text))
    except ValueError as error:
        raise BadServerOption("server_header", text, str(error)) from None
    return text


def _bind_addr(address: Address) -> tuple[str, int] | str:
    return (address.host, address.port) if address.kind == "tcp" else address.path or str(address)


def _door(listener: Listener, scheme: str) -> Door:
    """Answer a copy of the engine's socket, and what WSGI calls it: neither part may be empty."""
    address = listener.address
    if address.kind != "tcp":
        return Door(listener.dup(), "localhost", "443" if scheme == "https" else "80")
    name = socket.gethostname() if address.host in EVERYWHERE else address.host
    return Door(listener.dup(), name, str(address.port))
