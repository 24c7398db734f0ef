"""Serve the site with the standard library alone: for tests, and machines with nothing else.

The HTTP is in `sitebus.servers._wsgiref`, imported when a server is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sitebus.servers.connections import most_connections
from sitebus.servers.hosting import Abilities, SiteServer

if TYPE_CHECKING:
    from sitebus.servers._wsgiref import HTTPServer


class WsgirefServer(SiteServer):
    """One or several listening sockets in front of one pool of threads; see `SiteServer`."""

    library = "wsgiref"
    abilities: ClassVar[Abilities] = Abilities(
        ("wsgi",),
        tls=False,
        proxy_protocol=True,
        note="In the standard library; slow, and each connection is for one request.",
    )

    def make(self) -> HTTPServer:
        """Make the server, on copies of the listening sockets."""
        from sitebus.servers._wsgiref import HTTPServer

        return HTTPServer(
            self.doors(),
            self.face("wsgi"),
            threads=self.threads,
            timeout=self.timeout,
            max_header=self.max_header,
            max_body=self.max_body,
            name=f"wsgiref {self.name}",
            server_header=self.server_header,
            log=self.bus.log,
            header_timeout=self.header_timeout,
            min_rate=self.min_rate,
            max_connections=most_connections(self.max_connections),
            proxied=self.proxied_doors,
            trusted=self.trusted_proxies,
            roll=getattr(self.bus, "serving_threads", None),
            tell=self.bus.publish,
        )

    def reopen(self) -> None:
        """Say again which threads there are, for who counts them only now."""
        self.httpserver.workers.announce_again()
