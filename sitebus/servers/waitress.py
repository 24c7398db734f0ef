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
        note="Reads whole requests before it runs the application, and closes the connection "
        "after a response without Content-Length.",
    )

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.native:
            _check_together(self.native)

    def make(self) -> HTTPServer:
        """Make waitress's server, on copies of the listening sockets."""
        from sitebus.servers._waitress import HTTPServer

        return HTTPServer(
            self.doors(),
            self.announcing(self.face("wsgi")),
            threads=self.threads,
            timeout=self.timeout,
            name=f"waitress {self.name}",
            adjustments=self._adjustments(),
            log=self.bus.log,
        )

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options as waitress takes them."""
        if not native:
            return {}  # without importing it
        from waitress.adjustments import Adjustments

        return read(cls.library, native, options(Adjustments), RESERVED)

    def _adjustments(self) -> dict[str, Any]:
        return {
            "ident": self.server_header,
            "backlog": self.backlog,
            # waitress refuses from there on, sitebus beyond.
            "max_request_header_size": self.max_header + 1 if self.max_header else sys.maxsize,
            "max_request_body_size": self.max_body + 1 if self.max_body else sys.maxsize,
            # waitress's own limit is 100, which a few browsers reach.
            "connection_limit": 1 << 16,
            # As other servers do: whom to trust is the site's business, not its server's.
            "clear_untrusted_proxy_headers": False,
            **self.native,
        }


def _check_together(native: Mapping[str, Any]) -> None:
    """Refuse options that are good by themselves and not with each other."""
    from waitress.adjustments import Adjustments

    try:
        Adjustments(**native)
    except (ValueError, Warning) as error:
        name = f"waitress.{next(iter(native))}"
        raise BadServerOption(name, next(iter(native.values())), str(error)) from None


def options(adjustments: Any) -> dict[str, Native]:
    """Answer the options of waitress's *Adjustments*, with what it makes of each."""
    kinds = {"asbool": bool, "asset": set[str], "aslist": list[str], "int": int}
    return {
        name: Native(kinds.get(kind.__name__, str), getattr(adjustments, name))
        for name, kind in adjustments._params
    }
