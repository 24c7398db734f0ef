"""Serve the site with uvicorn, on the engine's listening sockets and its event loop.

What is done around uvicorn's protocols is in `sitebus.servers._uvicorn`, imported when a server is
started.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.errors import BadServerOption, CannotAccept
from sitebus.servers.connections import most_connections
from sitebus.servers.hosting import Abilities, SiteServer
from sitebus.servers.native import of_signature, read
from sitebus.servers.preloading import load

if TYPE_CHECKING:
    import socket
    import ssl

    from sitebus.servers._uvicorn import Server

_APP = "the application is mounted; say it in [mount ...]"
_BIND = "sitebus listens; say it with 'bind'"
_TLS = "TLS is said for all servers alike, with 'tls_cert' and 'tls_key'"
_LOGS = "the site keeps the logs; say it in [logging]"
_WORKERS = "sitebus runs the process; several are said in [workers]"
_RELOAD = "the site reloads itself; say it in [reload]"
_BUS = "there is a bus for that; subscribe to one of its channels"

#: What sitebus decides, and what to say instead.
RESERVED = {
    "app": _APP,
    "factory": _APP,
    "interface": "say it before the application, as in asgi:module:application",
    "root_path": "mount the application at a prefix",
    "lifespan": "say it of the mount, with 'lifespan'",
    "host": _BIND,
    "port": _BIND,
    "uds": _BIND,
    "fd": _BIND,
    "backlog": "say it with 'backlog'",
    "loop": "the site has one event loop; it is uvloop's where uvloop is installed",
    "env_file": "say it in [env]",
    "log_config": _LOGS,
    "access_log": _LOGS,
    "use_colors": _LOGS,
    "workers": _WORKERS,
    "timeout_worker_healthcheck": _WORKERS,
    "limit_max_requests": _WORKERS,
    "limit_max_requests_jitter": _WORKERS,
    "server_header": "say it with 'server_header'",
    "timeout_keep_alive": "say it with 'timeout'",
    "timeout_graceful_shutdown": "say it with 'drain_timeout'",
    "timeout_notify": _BUS,
    "callback_notify": _BUS,
    "h11_max_incomplete_event_size": "say it with 'max_header'",
    "reset_contextvars": "requests always begin in a context of their own",
}


class UvicornServer(SiteServer):
    """One or several listening sockets in front of uvicorn's protocols; see `SiteServer`."""

    requires = "uvicorn"
    library = "uvicorn"
    abilities: ClassVar[Abilities] = Abilities(
        ("asgi",),
        websocket=True,
        hand_over=True,
        proxy_protocol=True,
        note="WebSocket needs websockets or wsproto; HTTP/2 needs zttp and uvicorn.http2 = yes.",
    )

    def make(self) -> Server:
        """Make a server of uvicorn's protocols, on copies of the listening sockets."""
        from sitebus.servers._uvicorn import Server
        from sitebus.servers._uvicorn_protocols import Log, configure
        from sitebus.servers.client_certs import telling
        from sitebus.servers.limits import limited

        log = Log(self.bus.log, self.native.get("log_level", "warning"))
        app = limited(self.face("asgi"), self.max_body, log.complain)
        if self.tls is not None:
            app = telling(app, lambda: self._shown)
        config = configure(
            self._options(),
            app,
            max_head=self.max_header,
            header_timeout=self.header_timeout,
            max_body=self.max_body,
        )
        return Server(
            self.bus.loop,
            self._copies(),
            config,
            context=self._context,
            timeout=self.timeout,
            name=f"uvicorn {self.name}",
            log=log,
            header_timeout=self.header_timeout,
            most=most_connections(self.max_connections),
            shares=self.bus.sockets.fixed,
            proxied=self.proxied_doors,
            trusts=self._trusts if self.trusted_proxies else None,
        )

    def _trusts(self, host: str | None) -> bool:
        return (host or "") in self.trusted_proxies

    def _copies(self) -> list[socket.socket]:
        with ExitStack() as made:
            try:
                copies = [made.enter_context(each.dup()) for each in self._listeners]
            except OSError as error:
                raise CannotAccept(error) from error
            made.pop_all()  # they are the server's
        return copies

    def preload(self) -> None:
        """Import what `make` and serving will need, for who forks before that."""
        super().preload()
        load("sitebus.servers.client_certs", "sitebus.servers.limits")
        from sitebus.servers._uvicorn_protocols import configure

        # What it needs of uvicorn is a matter of these.
        configure(self._options())

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options as uvicorn takes them."""
        if not native:
            return {}  # without importing it
        import uvicorn

        known = of_signature(uvicorn.Config)
        values = read(cls.library, native, known, _reserved(known))
        headers = values.get("headers")
        if isinstance(native.get("headers"), str):
            raise BadServerOption("uvicorn.headers", headers, "it takes pairs, which code can give")
        if values.get("http2"):
            values.setdefault("http", "zttp")
        if "forwarded_allow_ips" in values:
            values.setdefault("proxy_headers", True)
        from sitebus.servers._uvicorn_protocols import configure, level_number

        level_number(values.get("log_level", 0))
        configure(values)
        return values

    def renew(self, context: ssl.SSLContext) -> None:
        """Use *context* for connections from now on."""
        self.httpserver.arrivals.context = context

    @property
    def protocols(self) -> tuple[str, ...]:
        """What is offered to clients over TLS (ALPN, RFC 7301)."""
        return ("h2", "http/1.1") if self.native.get("http2") else ("http/1.1",)

    def _options(self) -> dict[str, Any]:
        ours = [("server", self.server_header)] if self.server_header else []
        return {
            # As other servers do: whom to trust is the site's business, not its server's.
            "proxy_headers": False,
            **self.native,
            "headers": ours + list(self.native.get("headers") or ()),
            "backlog": self.backlog,
            "timeout_keep_alive": self.timeout,
        }


def _reserved(known: Mapping[str, object]) -> dict[str, str]:
    families = {"ssl_": _TLS, "reload": _RELOAD}
    return RESERVED | {
        name: instead
        for name in known
        for family, instead in families.items()
        if name.startswith(family)
    }
