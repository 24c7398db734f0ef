"""Serve the site with waitress, on the engine's listening sockets.

What is done around waitress's HTTP is in `sitebus.servers._waitress`, imported when a server is
started.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.errors import BadServerOption
from sitebus.servers.hosting import Abilities, SiteServer
from sitebus.servers.native import Native, read
from sitebus.servers.preloading import load

if TYPE_CHECKING:
    from sitebus.servers._waitress import HTTPServer

_BIND = "sitebus listens; say it with 'bind'"
_LOOP = "sitebus has a loop of its own"

#: What sitebus decides, and what to say instead.
RESERVED = {
    "host": _BIND,
    "port": _BIND,
    "ipv4": _BIND,
    "ipv6": _BIND,
    "listen": _BIND,
    "sockets": _BIND,
    "unix_socket": _BIND,
    "unix_socket_perms": _BIND,
    "threads": "say it with 'threads'",
    "ident": "say it with 'server_header'",
    "backlog": "say it with 'backlog'",
    "max_request_header_size": "say it with 'max_header'",
    "max_request_body_size": "say it with 'max_body'",
    "connection_limit": "say it with 'max_connections'",
    "asyncore_loop_timeout": _LOOP,
    "asyncore_use_poll": _LOOP,
    "cleanup_interval": "silent connections are closed when it is time; say that with 'timeout'",
}


class WaitressServer(SiteServer):
    """One or several listening sockets in front of one pool of waitress's threads."""

    requires = "waitress"
    library = "waitress"
    abilities: ClassVar[Abilities] = Abilities(
        ("wsgi",),
        tls=False,
        proxy_protocol=True,
        note="Reads whole requests before it runs the application, and closes the connection "
        "after a response without Content-Length.",
    )

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.native:
            self.check_together(self.native)

    def make(self) -> HTTPServer:
        """Make waitress's server, on copies of the listening sockets."""
        from sitebus.servers._waitress import HTTPServer
        from sitebus.servers.connections import most_connections

        return HTTPServer(
            self.doors(),
            self.announcing(self.face("wsgi")),
            threads=self.threads,
            timeout=self.timeout,
            name=f"waitress {self.name}",
            adjustments=self._adjustments(),
            log=self.bus.log,
            header_timeout=self.header_timeout,
            min_rate=self.min_rate,
            most=most_connections(self.max_connections),
            proxied=self.proxied_doors,
            trusted=self.trusted_proxies,
        )

    def preload(self) -> None:
        """Import what `make` and serving will need, for who forks before that."""
        super().preload()
        # To look up its host, though it is a number.
        load("encodings.idna")

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options as waitress takes them."""
        if not native:
            return {}  # without importing it
        from waitress.adjustments import Adjustments

        return read(cls.library, native, options(Adjustments), RESERVED)

    @classmethod
    def check_together(cls, native: Mapping[str, Any]) -> None:
        """Refuse options that are good by themselves and not with each other.

        Raises:
            BadServerOption: waitress does not take them so.
        """
        from waitress.adjustments import Adjustments

        try:
            Adjustments(**native)
        except (ValueError, Warning) as error:
            name, value = next(iter(native.items()))
            raise BadServerOption(f"waitress.{name}", value, str(error)) from None

    def _adjustments(self) -> dict[str, Any]:
        return {
            "ident": self.server_header,
            "backlog": self.backlog,
            # waitress refuses from there on, sitebus beyond.
            "max_request_header_size": self.max_header + 1 if self.max_header else sys.maxsize,
            "max_request_body_size": self.max_body + 1 if self.max_body else sys.maxsize,
            # As other servers do: whom to trust is the site's business, not its server's.
            "clear_untrusted_proxy_headers": False,
            **self.native,
        }


def options(adjustments: Any) -> dict[str, Native]:
    """Answer the options of waitress's *Adjustments*, with what it makes of each."""
    kinds = {"asbool": bool, "asset": set[str], "aslist": list[str], "int": int}
    return {
        name: Native(kinds.get(kind.__name__, str), getattr(adjustments, name))
        for name, kind in adjustments._params
    }
