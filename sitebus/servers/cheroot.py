"""Serve the site with cheroot, on the engine's listening sockets.

The HTTP is in `sitebus.servers._cheroot`, imported when a server is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.servers.connections import Door
from sitebus.servers.hosting import Abilities, SiteServer

if TYPE_CHECKING:
    import ssl

    from sitebus.servers._cheroot import HTTPServer


class CherootServer(SiteServer):
    """One or several listening sockets in front of one pool of threads; see `SiteServer`."""

    requires = "cheroot"
    library = "cheroot"
    abilities: ClassVar[Abilities] = Abilities(("wsgi",), note="The default; needs nothing else.")

    _doors: tuple[Door, ...] = ()

    def make(self) -> HTTPServer:
        """Make cheroot's server, on copies of the listening sockets."""
        from sitebus.servers._cheroot import HTTPServer

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
            roll=getattr(self.bus, "serving_threads", None),
            tell=self.bus.publish,
        )
        server.max_request_header_size = self.max_header
        server.max_request_body_size = self.max_body
        return server

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
