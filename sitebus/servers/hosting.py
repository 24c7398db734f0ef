"""Serve the site on the engine's listening sockets, whatever library speaks HTTP on them.

`SiteServer` binds, tells when it serves, drains and stops; an adapter on it makes the `Hosted`
server of one library. From a stop's first moment nothing new is accepted: the sockets stay open
with the engine, and the kernel keeps newcomers for the next start or the successor, so the port
never refuses. Only when the process leaves for good are the sockets closed. What was accepted is
read and answered, with ``Connection: close``. A connection that says nothing is closed after
``linger`` seconds, during which it may still send a request. What is not done after
``drain_timeout`` seconds, or when the bus becomes impatient, is left behind.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sitebus import trial
from sitebus.config.kinds import (
    BINDS,
    DURATION,
    FREE_TEXT,
    NETWORKS,
    SIZE,
    Choice,
    Integer,
    Listing,
)
from sitebus.config.options import Option, Row
from sitebus.errors import BadServerOption, ServerEnded, SitebusError
from sitebus.process import Engine, Priority
from sitebus.servers.announcing import announcing
from sitebus.servers.base import BindAddr, ServerAdapter, channel_for, prioritized
from sitebus.servers.connections import Door
from sitebus.servers.hosted import Abilities, Faces, Hosted, Leave, Speech
from sitebus.servers.trusting import HEADERS
from sitebus.sockets.addresses import EVERYWHERE, Address
from sitebus.sockets.networks import Networks

if TYPE_CHECKING:
    import ssl

    from sitebus import bridges
    from sitebus.bridges.asgi_under_wsgi import AsgiUnderWsgi
    from sitebus.servers.tls import TLS
    from sitebus.sockets import Listener

__all__ = ["Abilities", "Faces", "Hosted", "Leave", "SiteServer", "Speech"]

N = TypeVar("N", int, float)

#: How often a drain looks whether the bus has become impatient.
GLANCE = 0.05
#: How long worker threads may take to end when there is nothing left for them to do.
GRACE = 0.5
#: How long silent connections stay open at least where another process serves already.
PATIENT = 1.0

DEBUG, INFO = 10, 20


class SiteServer(ServerAdapter):
    """One or several listening sockets in front of one server of a library.

    Args:
        bus: The engine, whose sockets are used.
        application: A WSGI or ASGI application, or a site's `Faces`.
        binds: Where to listen.
        threads: How many WSGI requests are served at once.
        drain_timeout: Seconds that a stop waits for requests to be finished.
        linger: Seconds that a stop leaves to connections that say nothing.
        timeout: Seconds after which a silent client is given up.
        tls: The certificate, for HTTPS on every socket.
        backlog: How many connections the kernel keeps until they are accepted.
        max_header: The longest request head in bytes; 0 is any.
        max_body: The longest request body in bytes; 0 is any.
        header_timeout: Seconds from the first byte of a request to the end of its head; 0 is any.
        min_rate: Bytes a second that a body must come in at least, and a response be taken, where
            it is waited for by a thread; 0 is any.
        max_connections: How many connections are open at once; 0 is what suits the process.
        trusted_proxies: Whose ``Forwarded`` and ``X-Forwarded`` headers are believed: networks,
            ``unix`` or ``*``.
        trusted_headers: Which of those headers are believed.
        proxy_protocol: Which of *binds* have connections that begin with a PROXY header, or
            ``"all"``; if any proxies are trusted, only they may connect there.
        server_header: What the Server header says.
        name: Names the threads, and this server in messages.
        native: The library's own options by their names there, as text or as it takes them.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("linger", DURATION, 0.2, "How long a stop leaves open what says nothing."),
        Option(
            "header_timeout", DURATION, 10.0, "How long a request's head may take; 0 is any time."
        ),
        Option(
            "min_rate",
            SIZE,
            500,
            "How many bytes a second a client must send of a body or take of a response, where a "
            "thread waits for it; 0 is any.",
        ),
        Option(
            "max_connections",
            Integer(0, 1 << 20),
            0,
            "How many connections are open at most; 0 is 10,000, or three quarters of the "
            "descriptors that the process may have.",
        ),
        Option(
            "trusted_proxies",
            NETWORKS,
            (),
            "Whose Forwarded and X-Forwarded headers are believed.",
        ),
        Option(
            "trusted_headers",
            Listing(Choice(*HEADERS)),
            tuple(HEADERS),
            "Which of those headers are believed.",
        ),
        Option(
            "proxy_protocol",
            BINDS,
            (),
            "Where connections begin with a PROXY header: some of bind, or all.",
        ),
        Option("server_header", FREE_TEXT, "", "What the Server header says; none if it is empty."),
    )
    #: What the library can do.
    abilities: ClassVar[Abilities] = Abilities(("wsgi",))
    #: Its name, and what its native options begin with.
    library: ClassVar[str] = ""

    def __init__(
        self,
        bus: Engine,
        application: Any,
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
        header_timeout: float = 10.0,
        min_rate: int = 500,
        max_connections: int = 0,
        trusted_proxies: Iterable[str] = (),
        trusted_headers: Iterable[str] = HEADERS,
        proxy_protocol: Sequence[Address | str] | Literal["all"] = (),
        server_header: str = "",
        name: str = "main",
        native: Mapping[str, Any] | None = None,
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
        self.header_timeout = _checked_amount("header_timeout", header_timeout)
        self.min_rate = _checked_amount("min_rate", min_rate)
        self.max_connections = _checked_amount("max_connections", max_connections)
        self.trusted_proxies = Networks(trusted_proxies)
        if isinstance(trusted_headers, str):
            trusted_headers = trusted_headers.replace(",", " ").split()
        self.trusted_headers = tuple(trusted_headers)
        self.proxied = self._proxied(proxy_protocol)
        self.server_header = _checked_header(server_header)
        self.name = name
        if tls is not None and not self.abilities.tls:
            raise BadServerOption("tls_cert", str(tls.certificate), f"{self.library} has no TLS")
        self.native = self.checked(native or {})
        self._listeners: tuple[Listener, ...] = ()
        #: The numbers of those whose connections begin with a PROXY header.
        self.proxied_doors: frozenset[int] = frozenset()
        self._context: ssl.SSLContext | None = None
        #: The certificate that clients are shown, in PEM.
        self._shown: str | None = None
        self._bind_failed = False
        self._drain_until = 0.0
        self._bridge_threads: bridges.Threads | None = None
        self._bridge: AsgiUnderWsgi | None = None

    # What an adapter says.

    def make(self) -> Hosted:
        """Make the library's server, on copies of `listeners`."""
        raise NotImplementedError

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options as the library takes them.

        Raises:
            UnknownNativeOption: It has no such option.
            BadServerOption: It has, and takes no such value, or sitebus decides it.
        """
        from sitebus.servers.native import read

        return read(cls.library, native, {}, {})

    def preload(self) -> None:
        """Import what `make` and serving will need, for who forks before that."""
        from sitebus import loop
        from sitebus.servers.preloading import load, load_speech

        load(f"{__package__}._{self.library}")
        if "asgi" in self.abilities.speaks or self.speech == "asgi":
            loop.preload()
        load_speech(self)

    def renew(self, context: ssl.SSLContext) -> None:
        """Use *context* for connections from now on; while serving."""

    def reopen(self) -> None:
        """Do what a graceful asks for besides; while serving."""

    # What an adapter asks.

    @property
    def speech(self) -> Speech:
        """What the library shall speak with the application: what that speaks, if it can."""
        speaks = self.abilities.speaks
        if len(speaks) == 1:
            return speaks[0]
        app = self.application
        wanted = app.speech() if isinstance(app, Faces) else _as_spoken(app)[0]
        return wanted if wanted in speaks else speaks[0]

    def face(self, speech: Speech) -> Any:
        """Answer the application as one that speaks *speech*: itself, or behind a bridge."""
        face = self._face(speech)
        if not self.trusted_proxies:
            return face
        from sitebus.servers import proxies

        layer: Any = proxies.trusting_wsgi if speech == "wsgi" else proxies.trusting_asgi
        return layer(face, self.trusted_proxies, self.trusted_headers)

    def _face(self, speech: Speech) -> Any:
        app = self.application
        if isinstance(app, Faces):
            return app.wsgi if speech == "wsgi" else app.asgi()
        own, app = _as_spoken(app, speech)
        if own == speech:
            return app
        from sitebus import bridges

        if speech == "wsgi":
            self._bridge = bridges.to_wsgi(app, lambda: self.bus.loop)
            return self._bridge
        if self._bridge_threads is None:
            self._bridge_threads = bridges.Threads(self.threads, f"{self.library} {self.name}")
        return bridges.to_asgi(
            app, self._bridge_threads, patience=self.timeout, min_rate=self.min_rate
        )

    def doors(self) -> tuple[Door, ...]:
        """Copy the listening sockets, each with what WSGI calls it: neither part may be empty."""
        return tuple(_door(listener, self.scheme) for listener in self._listeners)

    def announcing(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Answer *app*, a WSGI application, with the bus told of each thread it is called in.

        For libraries with threads of their own. Who asks the bus for something from within a
        request must not wait for an end that waits for the request.
        """
        return announcing(app, self._roll, self._tell)

    # The rest is the same for all.

    def subscribe(self) -> None:
        """Listen on the bus: bind early, start late, stop early, reread the certificate."""
        self._listen("start", self.bind, Priority.BIND)
        super().subscribe()
        # Before any server stops, so that several drain at the same time.
        self._listen("stop", self.drain, Priority.DRAIN)
        self._listen("graceful", self.graceful, Priority.DEFAULT)
        self._listen("trial", self.trial, Priority.BIND)
        self._listen("started", self.started, Priority.BIND)

    def unsubscribe(self) -> None:
        """Take back `subscribe`; a running server goes on running."""
        self.bus.unsubscribe(channel_for(self.bus, "started"), self.started)
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
        found = [
            (bind, sockets.bind(address, backlog=self.backlog))
            for bind in self.binds
            for address in sockets.expand(bind)
        ]
        self._listeners = tuple(listener for _, listener in found)
        # By what was said: the listener of a relative path has an absolute one.
        self.proxied_doors = frozenset(
            at for at, (bind, _) in enumerate(found) if bind in self.proxied
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
        self.httpserver = self.make()
        self._capacity[self] = self.threads
        try:
            super().start()
        except BaseException:
            self._finish(self.httpserver)
            raise
        self.take_over()

    @prioritized(Priority.BIND)
    def started(self) -> None:
        """Close the kept connections that no server goes on with: their clients would wait."""
        if closed := self.bus.sockets.close_idle():
            self.bus.log(f"Closed {closed} kept connections that nothing serves any more")

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
            # Nobody waits for us where somebody else serves already.
            linger = max(self.linger, PATIENT) if self.bus.relieved else self.linger
            if self.bus.succeeded and self._hands_over:
                self.httpserver.drain(linger, leave=self._leave_to_successor())
            else:
                self._server.drain(linger, for_good=leaving)
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
        self.reopen()
        if self.tls is not None:
            self._read_certificate()
            assert self._context is not None
            self.renew(self._context)

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
        return ", ".join(
            address.url(self.scheme) if address.kind == "tcp" else str(address)
            for address in self.addresses
        )

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def _server(self) -> Hosted:
        server: Hosted = self.httpserver
        return server

    def _proxied(self, chosen: Sequence[Address | str] | Literal["all"]) -> frozenset[Address]:
        if isinstance(chosen, str):
            chosen = self.binds if chosen.lower() == "all" else (chosen,)
        found = tuple(map(Address.parse, chosen))
        for each in found:
            if each not in self.binds:
                raise BadServerOption("proxy_protocol", str(each), "it is not in 'bind'")
        if found and not self.abilities.proxy_protocol:
            raise BadServerOption(
                "proxy_protocol",
                ", ".join(map(str, found)),
                f"{self.library} accepts connections by itself; use another adapter",
            )
        return frozenset(found)

    def _leave_to_successor(self) -> Leave:
        from sitebus.sockets import Idle

        addresses = [str(listener.address) for listener in self._listeners]
        leave = self.bus.sockets.leave
        return lambda door, sock, peer, begun: leave(Idle(sock, addresses[door], peer, begun))

    @property
    def _hands_over(self) -> bool:
        # To one that wants TLS those of plain HTTP could say nothing.
        return self.abilities.hand_over and self.tls is None

    def take_over(self) -> None:
        """Go on with the idle connections that were left to this process, while serving."""
        if not self._hands_over or not self.running or self._server.draining:
            return
        found = [
            (door, each)
            for door, listener in enumerate(self._listeners)
            for each in self.bus.sockets.adopt(listener.address)
        ]
        if found:
            self.httpserver.adopt(found)
            # Among workers it is an everyday matter.
            level = DEBUG if self.bus.sockets.fixed else INFO
            what = f"HTTP Server {self.name} goes on with {len(found)} kept connections"
            self.bus.log(what, level)

    def _read_certificate(self) -> None:
        if self.tls is None:
            return
        try:
            self._context = self.tls.context(self.protocols)
            # Now: later the process may not be permitted to.
            self._shown = self.tls.shown()
        except SitebusError as error:
            if self._context is None:
                raise
            self.bus.log(f"{error}; keeping the certificate that was read before", level=40)

    @property
    def protocols(self) -> tuple[str, ...]:
        """What is offered to clients over TLS (ALPN, RFC 7301)."""
        return ("h2", "http/1.1") if self.abilities.http2 else ("http/1.1",)

    def _report_end(self) -> None:
        # Nobody left to drain: it may end before it is stopped.
        if self.interrupt is not None or not self._server.draining:
            super()._report_end()

    def _wait_drained(self, server: Hosted) -> None:
        while not server.drained.wait(GLANCE):
            if self.bus.impatient or time.monotonic() >= self._drain_until:
                return

    @property
    def _roll(self) -> set[int]:
        roll: set[int] | None = getattr(self.bus, "serving_threads", None)
        return set() if roll is None else roll

    def _tell(self, channel: str) -> None:
        self.bus.publish(channel)

    @property
    def _capacity(self) -> dict[object, int]:
        """What each server says it can serve at once; nobody looks where there is no engine."""
        serving = getattr(self.bus, "serving", None)
        return serving.capacity if serving is not None else {}

    def _finish(self, server: Hosted) -> None:
        stuck = server.finish(GRACE)
        self._capacity.pop(self, None)
        if self._thread is not None:
            self._thread.join(GRACE)
        if self._bridge is not None:
            self._bridge.stop(GRACE)
            self._bridge = None
        if self._bridge_threads is not None:
            self._bridge_threads.stop(GRACE)
            self._bridge_threads = None
        waited = time.monotonic() - (self._drain_until - self.drain_timeout)
        for who, what in stuck:
            self.bus.log(f"{who!r} is still busy with {what} after {waited:.1f} s; left behind", 30)


def _door(listener: Listener, scheme: str) -> Door:
    address = listener.address
    if address.kind != "tcp":
        return Door(listener.dup(), "localhost", "443" if scheme == "https" else "80")
    name = socket.gethostname() if address.host in EVERYWHERE else address.host
    return Door(listener.dup(), name, str(address.port))


def _as_spoken(app: Any, otherwise: Speech = "wsgi") -> tuple[Speech, Any]:
    """Answer what *app* speaks, and it as WSGI or ASGI 3."""
    from sitebus.interfaces import detect

    try:
        interface = detect(app).interface
    except SitebusError:
        return otherwise, app  # who made the server knows what it serves
    if interface == "asgi2":
        from sitebus.mounts import single

        return "asgi", single(app)
    return ("asgi" if interface == "asgi3" else "wsgi"), app


def _checked_amount(name: str, value: N) -> N:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise BadServerOption(name, repr(value), "it is a number of 0 or more")
    return value


def _checked_header(text: str) -> str:
    from sitebus.mounts.isolation import check_header

    try:
        check_header(("Server", text))
    except ValueError as error:
        raise BadServerOption("server_header", text, str(error)) from None
    return text


def _bind_addr(address: Address) -> tuple[str, int] | str:
    return (address.host, address.port) if address.kind == "tcp" else address.path or str(address)
