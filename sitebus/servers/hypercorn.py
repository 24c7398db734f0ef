"""Serve the site with hypercorn, on the engine's listening sockets and its event loop.

What is done around hypercorn's HTTP is in `sitebus.servers._hypercorn`, imported when a server is
started.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.servers.hosting import Abilities, SiteServer
from sitebus.servers.native import Native, of_attributes, read

if TYPE_CHECKING:
    import ssl

    from sitebus.servers._hypercorn import Hosted
    from sitebus.servers._hypercorn_settings import Settings

_BIND = "sitebus listens; say it with 'bind'"
_TLS = "sitebus reads the certificate; say it with 'tls_cert', 'tls_key' and 'tls_chain'"
_LOG = "sitebus logs what hypercorn says, and has an access log of its own"
_PROCESS = "sitebus runs the process"
_LIFESPAN = "sitebus runs the lifespans"


#: What sitebus decides, and what to say instead.
RESERVED = {
    "bind": _BIND,
    "insecure_bind": "say it with a [server] section of its own",
    "quic_bind": "sitebus does not serve HTTP/3",
    "backlog": "say it with 'backlog'",
    "certfile": _TLS,
    "keyfile": _TLS,
    "keyfile_password": _TLS,
    "ca_certs": _TLS,
    "ciphers": _TLS,
    "verify_flags": _TLS,
    "verify_mode": _TLS,
    "cert_reqs": _TLS,
    "alpn_protocols": _TLS,
    "ssl_enabled": _TLS,
    "ssl_handshake_timeout": "say it with 'header_timeout'",
    "h11_max_incomplete_size": "say it with 'max_header'",
    "h2_max_header_list_size": "say it with 'max_header'",
    "wsgi_max_body_size": "say it with 'max_body'",
    "include_server_header": "say it with 'server_header'",
    "graceful_timeout": "say how long a stop may take with 'drain_timeout'",
    "startup_timeout": _LIFESPAN,
    "shutdown_timeout": _LIFESPAN,
    "access_log_format": _LOG,
    "accesslog": _LOG,
    "errorlog": _LOG,
    "log": _LOG,
    "logconfig": _LOG,
    "logconfig_dict": _LOG,
    "logger_class": _LOG,
    "loglevel": _LOG,
    "dogstatsd_tags": _LOG,
    "statsd_host": _LOG,
    "statsd_prefix": _LOG,
    "application_path": "say it in [mounts]",
    "daemon": _PROCESS,
    "debug": _PROCESS,
    "group": _PROCESS,
    "max_requests": _PROCESS,
    "max_requests_jitter": _PROCESS,
    "pid_path": _PROCESS,
    "umask": _PROCESS,
    "use_reloader": _PROCESS,
    "user": _PROCESS,
    "worker_class": _PROCESS,
    "workers": _PROCESS,
}


class HypercornServer(SiteServer):
    """One or several listening sockets in front of hypercorn's protocols, on the engine's loop."""

    requires = "hypercorn"
    library = "hypercorn"
    abilities: ClassVar[Abilities] = Abilities(
        ("asgi",),
        http2=True,
        websocket=True,
        proxy_protocol=True,
        note="HTTP/2 also without TLS, if clients insist.",
    )

    def make(self) -> Hosted:
        """Make hypercorn's server, on copies of the listening sockets."""
        from sitebus.servers._hypercorn import Hosted
        from sitebus.servers.connections import most_connections

        return Hosted(
            self.bus.loop,
            [listener.dup() for listener in self._listeners],
            self.face("asgi"),
            self._settings(),
            tls=self._context,
            timeout=float(self.native.get("keep_alive_timeout", self.timeout)),
            max_header=self.max_header,
            name=f"hypercorn {self.name}",
            log=self.bus.log,
            max_body=self.max_body,
            header_timeout=self.header_timeout,
            most=most_connections(self.max_connections),
            shares=self.bus.sockets.fixed,
            proxied=self.proxied_doors,
            trusted=self.trusted_proxies,
            certificate=self._shown,
        )

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options as hypercorn takes them."""
        if not native:
            return {}  # without importing it
        from hypercorn.config import Config

        # A property, of which nobody could tell what it takes.
        known = {**of_attributes(Config), "root_path": Native(str, "")}
        return read(cls.library, native, known, RESERVED)

    def renew(self, context: ssl.SSLContext) -> None:
        """Use *context* for connections from now on."""
        self.httpserver.certificate = self._shown
        self.httpserver.renew(context)

    def _settings(self) -> Settings:
        from sitebus.servers._hypercorn_settings import Settings

        longest = self.max_header or sys.maxsize
        options = {
            "h11_max_incomplete_size": longest,
            "h2_max_header_list_size": min(longest, 2**32 - 1),
            # hypercorn loses the request after the last over HTTP/2.
            "keep_alive_max_requests": sys.maxsize,
            **self.native,
        }
        return Settings(self.server_header, options, self.bus.log)
