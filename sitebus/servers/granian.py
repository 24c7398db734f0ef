"""Serve the site with granian, on the engine's listening sockets.

What is done around granian's HTTP is in `sitebus.servers._granian`, imported when a server is
started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.errors import BadServerOption, SitebusError, UnknownNativeOption
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import most_connections
from sitebus.servers.hosting import Abilities, SiteServer
from sitebus.servers.preloading import load

if TYPE_CHECKING:
    import ssl

    from sitebus.servers._granian import HTTPServer
    from sitebus.servers._granian_crew import Caller
    from sitebus.servers._granian_response import Slots
    from sitebus.servers._granian_tls import Certificate

#: granian reads at least this much of a head.
LEAST_HEAD = 8192
#: What "any length" of a head comes to; bytes.
MOST_HEAD = 16 << 20

_BIND = "sitebus listens; say it with 'bind'"
_TLS = "say it with 'tls_cert' and 'tls_key'"
_LOG = "say it with the options of [log]"
_RELOAD = "sitebus reloads by itself; say it with 'reload'"
_WORKERS = "granian runs in this process, as one worker for each socket"
_RSS = "no worker is watched; there is only this process"

#: What sitebus decides, and what to say instead.
RESERVED = {
    "app": "mount it with [mount /]",
    "factory": "mount it with 'factory:' before its name",
    "interface": "it follows from what is mounted",
    "url_path_prefix": "mount it there with [mount /prefix]",
    "working_dir": "start sitebus there",
    "env_files": "set them before sitebus starts",
    "host": _BIND,
    "port": _BIND,
    "uds": _BIND,
    "uds_permissions": _BIND,
    "backlog": "say it with 'backlog'",
    "blocking_threads": "say it with 'threads'",
    "workers": _WORKERS,
    "runtime_mode": _WORKERS,
    "loop": "it is the engine's: uvloop's where that is installed",
    "task_impl": "tasks are asyncio's own",
    "ssl_certificate": _TLS,
    "ssl_keyfile": _TLS,
    "ssl_ca": "say it with 'tls_client_ca'",
    "ssl_client_verify": "say it with 'tls_client'",
    "ssl_keyfile_password": "keep the key in a file without a passphrase",
    "log_enabled": _LOG,
    "log_level": _LOG,
    "log_config": _LOG,
    "log_access_enabled": _LOG,
    "log_access_fmt": _LOG,
    "respawn_failed_workers": _WORKERS,
    "respawn_interval": _WORKERS,
    "rss_sample_interval": _RSS,
    "rss_samples": _RSS,
    "workers_lifetime": _RSS,
    "workers_max_rss": _RSS,
    "workers_kill_timeout": "say it with 'drain_timeout'",
    "static_path_route": "mount the folder",
    "static_path_mount": "mount the folder",
    "static_path_dir_to_file": "mount the folder",
    "static_path_expires": "mount the folder",
    "metrics_enabled": "granian's metrics are of its own workers",
    "metrics_scrape_interval": "granian's metrics are of its own workers",
    "metrics_address": "granian's metrics are of its own workers",
    "metrics_port": "granian's metrics are of its own workers",
    "reload": _RELOAD,
    "reload_paths": _RELOAD,
    "reload_ignore_dirs": _RELOAD,
    "reload_ignore_patterns": _RELOAD,
    "reload_ignore_paths": _RELOAD,
    "reload_tick": _RELOAD,
    "reload_ignore_worker_failure": _RELOAD,
    "process_name": "the process is sitebus's",
    "pid_file": "say it with the option of [site]",
}

#: What granian's own ranges leave out; beyond these it ends the whole process.
RANGES = {
    "http1_header_read_timeout": (1, 1 << 40),
    "http2_initial_connection_window_size": (1024, (1 << 31) - 1),
    "http2_initial_stream_window_size": (1024, (1 << 31) - 1),
    "http2_max_concurrent_streams": (1, (1 << 32) - 1),
    "http2_max_frame_size": (1 << 14, (1 << 24) - 1),
    "http2_max_headers_size": (1, (1 << 32) - 1),
    "http2_max_send_buffer_size": (1024, (1 << 32) - 1),
    "runtime_threads": (1, 64),
    "runtime_blocking_threads": (1, 1 << 16),
    "backpressure": (1, 1 << 24),
}


class GranianServer(SiteServer):
    """One or several listening sockets, each in front of a worker of granian."""

    requires = "granian"
    library = "granian"
    abilities: ClassVar[Abilities] = Abilities(
        ("wsgi", "asgi"),
        http2=True,
        websocket=True,
        note="Written in Rust, and the fastest.",
    )

    _certificate: Certificate | None = None
    _slots: Slots
    _complaints: Complaints

    def make(self) -> HTTPServer:
        """Make the server, on copies of the listening sockets."""
        from sitebus.servers._granian import HTTPServer
        from sitebus.servers._granian_response import Slots

        self._slots = Slots(self.threads)
        self._complaints = Complaints(self.bus.log)
        return HTTPServer(
            self.doors(),
            self._wsgi_caller if self.speech == "wsgi" else self._asgi_caller,
            loop=self.bus.loop if self.speech == "asgi" else None,
            options=self._options(),
            certificate=self._certificate,
            backlog=self.backlog,
            patience=self.timeout,
            silence=self._patience,
            name=f"granian {self.name}",
            log=self.bus.log,
        )

    def preload(self) -> None:
        """Import what `make` and serving will need, for who forks before that."""
        super().preload()
        load("granian.http", "sitebus.servers._granian_wsgi")
        # In which /proc tells of descriptors.
        load("encodings.ascii")
        if self.speech == "asgi":
            load("sitebus.servers._granian_asgi")
        if self.tls is not None:
            load("sitebus.servers._granian_tls")

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *native* options, named as on granian's command line, as granian takes them."""
        return {name: _checked(name, value) for name, value in native.items()}

    def renew(self, context: ssl.SSLContext) -> None:
        """Have connections from now on accepted by new workers, with the new certificate."""
        if self._certificate is not None and self._certificate != self.httpserver.certificate:
            self.httpserver.renew(self._certificate)

    def _read_certificate(self) -> None:
        before = self._context
        super()._read_certificate()
        if self.tls is None or self._context is before:
            return
        from sitebus.servers import _granian_tls

        try:
            self._certificate = _granian_tls.read(self.tls, self._tls_options())
        except SitebusError as error:
            self._context = before
            if before is None:
                raise
            self.bus.log(f"{error}; keeping the certificate that was read before", level=40)

    def _wsgi_caller(self) -> Caller:
        from sitebus.servers._granian_wsgi import WsgiCaller

        return WsgiCaller(
            self.face("wsgi"),
            announce=self.announcing(lambda environ, start_response: []),
            slots=self._slots,
            tls=self.tls is not None,
            server_header=self.server_header,
            multithread=self.threads > 1,
            max_head=self._max_head,
            max_body=self.max_body,
            timeout=self.timeout,
            min_rate=self.min_rate,
            complaints=self._complaints,
            log=self.bus.log,
        )

    def _asgi_caller(self) -> Caller:
        from sitebus.servers._granian_asgi import AsgiCaller

        return AsgiCaller(
            self.face("asgi"),
            self.bus.loop,
            server_header=self.server_header,
            max_head=self._max_head,
            max_body=self.max_body,
            timeout=self.timeout,
            min_rate=self.min_rate,
            complaints=self._complaints,
            name=f"granian {self.name}",
            log=self.bus.log,
        )

    @property
    def _max_head(self) -> int:
        """The longest request head, if granian would take longer ones."""
        return self.max_header if self.max_header < LEAST_HEAD else 0

    def _options(self) -> dict[str, Any]:
        """Answer what granian's workers take by name, but for the certificate."""
        said = self.native
        from sitebus.servers._granian_wsgi import SPARE_THREADS

        speaks_asgi = self.speech == "asgi"
        options = {
            "threads": said.get("runtime_threads", 1),
            "blocking_threads": said.get("runtime_blocking_threads", 512),
            "py_threads": 1 if speaks_asgi else self.threads + SPARE_THREADS,
            "py_threads_idle_timeout": said.get("blocking_threads_idle_timeout", 30),
            "backpressure": said.get("backpressure", self._most_connections),
            # Without TLS, to find out what a client speaks would let one that is silent stay.
            "http_mode": str(said.get("http", "1" if self.tls is None else "auto")),
            "http1_opts": self._http1_settings(),
            "http2_opts": self._http2_settings(),
            "static_files": None,
            "metrics": (None, None),
            **self._tls_options(),
        }
        options["websockets_enabled"] = speaks_asgi and said.get("websockets", True)
        return options

    @property
    def _most_connections(self) -> int:
        """How many connections each socket may have open.

        Without a descriptor left granian would ask for one again and again, and do nothing else.
        """
        return most_connections(self.max_connections) // len(self._listeners) or 1

    def _http1_settings(self) -> Any:
        from granian.http import HTTP1Settings

        said = self.native
        head = max(LEAST_HEAD, self.max_header) if self.max_header else MOST_HEAD
        return HTTP1Settings(
            header_read_timeout=said.get(
                "http1_header_read_timeout", max(1, round(min(self._patience, 1e9) * 1000))
            ),
            keep_alive=said.get("http1_keep_alive", True),
            max_buffer_size=said.get("http1_buffer_size", head),
            pipeline_flush=said.get("http1_pipeline_flush", False),
        )

    @property
    def _patience(self) -> float:
        """How long a connection may be idle, and a head may take: there is one clock for both."""
        return min(self.timeout, self.header_timeout or self.timeout)

    def _http2_settings(self) -> Any:
        from granian.http import HTTP2Settings

        prefix = "http2_"
        said = {
            name.removeprefix(prefix): value
            for name, value in self.native.items()
            if name.startswith(prefix)
        }
        return HTTP2Settings(**{"max_headers_size": self.max_header or MOST_HEAD, **said})

    def _tls_options(self) -> dict[str, Any]:
        said, tls = self.native, self.tls
        is_asked = tls is not None and tls.client_ca is not None
        return {
            "ssl_key_password": None,
            "ssl_protocol_min": str(said.get("ssl_protocol_min", "tls1.2")),
            "ssl_crl": [str(path) for path in said.get("ssl_crl", ())],
            "ssl_client_verify": is_asked and tls is not None and tls.client == "required",
        }

    def _finish(self, server: Any) -> None:
        super()._finish(server)
        self._complaints.flush()


def _checked(name: str, value: Any) -> Any:
    import click
    from granian.cli import cli

    full = f"granian.{name}"
    known: dict[str, Any] = {each.name: each for each in cli.params if each.name}
    if name in RESERVED:
        raise BadServerOption(full, value, RESERVED[name])
    if name not in known:
        raise UnknownNativeOption("granian", name, sorted(known.keys() - RESERVED.keys()))
    option = known[name]
    # Its own range there is one of taste.
    kind: Any = option.type if name != "http1_header_read_timeout" else click.INT
    try:
        if option.multiple and isinstance(value, str):
            return [kind.convert(part, option, None) for part in value.replace(",", " ").split()]
        found: Any = kind.convert(value, option, None)
    except click.BadParameter as error:
        raise BadServerOption(full, value, error.message) from None
    if name in RANGES:
        least, most = RANGES[name]
        if not least <= found <= most:
            raise BadServerOption(full, value, f"it must be from {least} to {most}")
    return found
