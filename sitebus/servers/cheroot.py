"""Serve the site with cheroot, on the engine's listening sockets.

The HTTP is in `sitebus.servers._cheroot`, imported when a server is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.config.kinds import Integer
from sitebus.config.options import Option, Row
from sitebus.servers.connections import Door, most_connections
from sitebus.servers.hosting import Abilities, SiteServer
from sitebus.servers.preloading import load

if TYPE_CHECKING:
    import ssl

    from sitebus.process import Engine
    from sitebus.servers._cheroot import HTTPServer


class CherootServer(SiteServer):
    """One or several listening sockets in front of one pool of threads.

    Args:
        bus: The engine, whose sockets are used.
        application: A WSGI or ASGI application, or a site's `Faces`.
        max_waiting: How many requests may wait for a thread. The first request of a connection is
            answered with 503 when there are more; those of kept connections are served.
        settings: What every `SiteServer` takes.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        *SiteServer.OPTIONS,
        Option(
            "max_waiting",
            Integer(1, 1_000_000),
            1000,
            "Requests that wait for a thread before new connections get 503.",
        ),
    )
    requires = "cheroot"
    library = "cheroot"
    abilities: ClassVar[Abilities] = Abilities(
        ("wsgi",), hand_over=True, proxy_protocol=True, note="The default; needs nothing else."
    )

    _doors: tuple[Door, ...] = ()

    def __init__(
        self, bus: Engine, application: Any, *, max_waiting: int = 1000, **settings: Any
    ) -> None:
        super().__init__(bus, application, **settings)
        self.max_waiting = max_waiting

    def make(self) -> HTTPServer:
        """Make cheroot's server, on copies of the listening sockets."""
        self._load_package()
        from sitebus.servers._cheroot import HTTPServer

        self._load_what_is_asked_for()
        self._doors = self.doors()
        server = HTTPServer(
            self._doors,
            self.face("wsgi"),
            threads=self.threads,
            timeout=self.timeout,
            name=f"cheroot {self.name}",
            server_header=self.server_header,
            tls=self._context,
            log=self.bus.log,
            header_timeout=self.header_timeout,
            min_rate=self.min_rate,
            max_connections=most_connections(self.max_connections),
            shares=self.bus.sockets.fixed,
            max_waiting=self.max_waiting,
            proxied=self.proxied_doors,
            trusted=self.trusted_proxies,
            roll=getattr(self.bus, "serving_threads", None),
            tell=self.bus.publish,
        )
        server.max_request_header_size = self.max_header
        server.max_request_body_size = self.max_body
        return server

    def preload(self) -> None:
        """Import what `make` and serving will need, for who forks before that."""
        self._load_package()
        super().preload()
        self._load_what_is_asked_for()

    @staticmethod
    def _load_package() -> None:
        from sitebus.servers import _cheroot_package

        _cheroot_package.load()

    def _load_what_is_asked_for(self) -> None:
        """Import now what most sites do without, rather than for a client that waits."""
        if self.proxied:
            load("sitebus.servers.proxy_protocol")
        if self.tls is not None:
            load("sitebus.servers.client_certs")

    def renew(self, context: ssl.SSLContext) -> None:
        """Use *context* for connections from now on."""
        self.httpserver.ssl_adapter.context = context

    def reopen(self) -> None:
        """Say again which threads there are, for who counts them only now."""
        self.httpserver.requests.announce_again()

    def _finish(self, server: Any) -> None:
        super()._finish(server)
        for door in self._doors:
            door.socket.close()
        self._doors = ()
