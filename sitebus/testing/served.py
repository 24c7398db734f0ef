"""A real server for a test, in the test's own process: any application, or what an ini says.

It is the site that `sitebus-serve` would make, on a free port, without what belongs to a process of
its own: signals, reload, workers, control socket, relay, daemon and the like. What it says is kept
rather than written. Environment, import path and directory are as before when it is closed; what
was imported stays imported, and belongs to the test as well.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from sitebus import assembly, references
from sitebus.config import DEFAULT, Configuration, Override, Settings
from sitebus.errors import NotATarget, NotInTime, UsageError
from sitebus.mounts import Mount, Site
from sitebus.mounts.access import AccessLog
from sitebus.plugins.logs import LogBridge
from sitebus.process import Engine
from sitebus.servers import Faces
from sitebus.testing import live
from sitebus.testing.waiting import wait_for

_NOTHING: Mapping[str, object] = MappingProxyType({})
_CONFIG = (".ini", ".cfg", ".conf")

#: What belongs to a process of its own, or would leave traces of a test outside of it.
_APART = {
    "reload.enabled": "no",
    "control.enabled": "no",
    "health.bind": "",
    "logging.access": "off",
    "logging.error": "off",
}
#: How long a request may take to end that has been answered already, in seconds.
_MOMENT = 0.5
#: A request that does not end has kept its test from ending, or is of no interest to it.
_DRAIN = "5s"


class ServedSite(live.Block):
    """A site that serves while the block runs.

    Args:
        target: A WSGI or ASGI application, a `sitebus.Site`, a text as `sitebus-serve` takes it
            (``"shop:app"``, ``"static:public"``), or the path of a ``site.ini``.
        path: Where an application is mounted.
        settings: Any options by ``section.key``, such as ``{"site.environment": "development"}``;
            they have the last word.
        server: Options of ``[server]``, such as ``adapter="uvicorn"``. Without ``adapter``, an ASGI
            application is served by uvicorn if that is installed.

    Attributes:
        engine: The bus, of this site alone.
        site: What is mounted.
    """

    def __init__(
        self,
        target: Any,
        path: str = "/",
        *,
        settings: Mapping[str, object] = _NOTHING,
        **server: object,
    ) -> None:
        self.target = target
        self.path = path
        self.engine = Engine()
        self.site = target if isinstance(target, Site) else Site()
        self._settings = {f"server.{key}": value for key, value in server.items()} | dict(settings)
        self._lines: list[str] = []
        #: How many requests are with the site by way of ASGI.
        self._asked = 0
        self._undo = ExitStack()
        self._served: assembly.Assembly | None = None

    def start(self) -> Self:
        """Serve.

        Raises:
            SitebusError: It cannot; nothing is left of it.
            UsageError: It has been started before.
        """
        if self.engine.state is not self.engine.machine.resting:
            raise UsageError(f"{self!r} has been started before, and serves once; make another")
        try:
            self._start()
        except BaseException:
            self._undo.close()
            raise
        return self

    def _start(self) -> None:
        self._undo.enter_context(_surroundings())
        file = self._mount()
        served = assembly.assemble(self._configuration(file), self.engine, self.site, self._role)
        self._undo.callback(served.close)
        self._listen(served.configuration)
        # First of all that is undone: the others hear of it, or have a part in it.
        self._undo.callback(self.engine.exit)
        served.start()
        self._served = served

    def _mount(self) -> Path | None:
        """Mount the target, unless it is a site, a name, or a file, which is answered."""
        file = self._file()
        if (file or self.target is self.site) and self.path != "/":
            what = file or "a Site"
            raise UsageError(f"{what} says itself where its applications are; leave out path")
        if file or self.target is self.site or isinstance(self.target, str):
            return file
        if not callable(self.target):
            raise NotATarget(self.target)
        self._undo.callback(self.site.mount(self.target, self.path).unmount)
        return None

    def _file(self) -> Path | None:
        """Answer the target if it is a configuration."""
        is_text = isinstance(self.target, str) and self.target.lower().endswith(_CONFIG)
        return Path(self.target) if is_text or isinstance(self.target, os.PathLike) else None

    def _configuration(self, file: Path | None) -> Configuration:
        said: dict[str, object] = dict(_APART)
        if file is None:
            said |= self._of_site()
        if isinstance(self.target, str) and file is None:
            said[f"mount {self.path}.app"] = self.target
        environ = {n: text for n, text in os.environ.items() if not n.startswith("SITEBUS_")}

        def read(more: Mapping[str, object]) -> Configuration:
            given = {**said, **more, **self._settings}
            return assembly.read(file, overrides=_overrides(given), environ=environ)

        servers: dict[str, object] = {}
        for each in read({}).servers:
            name = each.title[1:-1]
            servers[f"{name}.bind"] = f"fd:{self._free_port()}"
            servers[f"{name}.drain_timeout"] = _DRAIN
        return _plain(read(servers))

    def _free_port(self) -> int:
        """Answer the descriptor of a socket: servers that all ask for port 0 share one."""
        sock = socket.create_server(("127.0.0.1", 0))
        self._undo.callback(_close, sock, os.fstat(sock.fileno()).st_ino)
        return sock.fileno()

    def _of_site(self) -> dict[str, object]:
        """Answer what the site has been told already, and what suits its applications."""
        told: dict[str, object] = {
            "site.name": self.site.name,
            "site.development_pages": self.site.development,
            "site.strict_hosts": self.site.strict_hosts,
            "site.merge_slashes": self.site.merge_slashes,
        }
        if self.site.speech() == "asgi" and _is_installed("uvicorn"):
            told["server.adapter"] = "uvicorn"
        return told

    @property
    def _role(self) -> assembly.Role:
        # Of the plugins of ours, those that do nothing to the process.
        own = frozenset({"threads"})
        return assembly.Role(_unheard, own, around=self._counting, relayed=False)

    def _counting(self, faces: Faces) -> Faces:
        def asgi() -> Callable[..., Any]:
            app = faces.asgi()

            async def counted(scope: Any, receive: Any, send: Any) -> None:
                # What ends by itself, unlike a WebSocket.
                counts = scope["type"] == "http"
                self._asked += counts
                try:
                    await app(scope, receive, send)
                finally:
                    self._asked -= counts

            return counted

        return faces._replace(asgi=asgi)

    def _listen(self, configuration: Configuration) -> None:
        """Keep what the site says, of itself and of each request."""
        least = logging.getLevelNamesMapping()[configuration.logging["level"].upper()]

        def said(message: str, level: int) -> None:
            if level >= least:
                self._lines.append(message)

        self.engine.subscribe("log", said)
        self._undo.callback(self.engine.unsubscribe, "log", said)
        self._undo.enter_context(_logging(self._lines.append))
        site = self.site
        before: AccessLog | Literal[False] = site.access_log or False
        self._undo.callback(site.configure, access_log=before, on_error=site.on_error)
        site.configure(access_log=_Requests(self._lines.append), on_error=self._failed)

    def _failed(self, mount: Mount, environ: Mapping[str, Any], error: BaseException) -> None:
        """Hear of an application's failure."""
        request = f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')}"
        trace = references.traceback_of(error).rstrip("\n")
        self._lines.append(f"{request} failed in {mount.name}\n{trace}")

    def close(self) -> None:
        """Stop serving, and leave everything as it was.

        Raises:
            ChannelFailures: Something failed when it stopped.
        """
        self._undo.close()

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it answers, if it has several servers."""
        if self._served is None:
            raise UsageError(f"{self!r} has not been started; use it as `with ServedSite(...):`")
        return self._served.urls()

    @property
    def log(self) -> str:
        """What it has said so far: messages, applications' tracebacks, and a line a request."""
        # The line of a request comes at its end, when its client may have the answer already.
        with suppress(NotInTime):
            wait_for(lambda: not (self._asked or self.engine.serving.in_flight()), _MOMENT)
        return "\n".join(self._lines)

    @property
    def title(self) -> str:
        """What it is, in a report."""
        return f"site of {_name(self.target)}"

    @property
    def told(self) -> str:
        """What it said, in a report."""
        return self.log

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {_name(self.target)}>"

    def __enter__(self) -> Self:
        self.start()
        return super().__enter__()


def _unheard(configuration: Configuration, engine: Engine) -> LogBridge:
    """Hand the messages of the bus to nobody else: several sites may run in one process."""
    nobody = logging.Logger("sitebus", logging.CRITICAL + 1)  # noqa: LOG001 - part of no tree
    return LogBridge(engine, nobody)


def _close(sock: socket.socket, inode: int) -> None:
    """Close a socket that the engine may have taken, and closed, and whose number is another's."""
    try:
        is_open = os.fstat(sock.fileno()).st_ino == inode
    except OSError:
        is_open = False
    if not is_open:
        sock.detach()
    sock.close()


class _Requests(AccessLog):
    """A line for each request, in short."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(os.devnull)
        self._write = write

    def open(self) -> Self:
        return self

    def record(
        self, environ: Mapping[str, Any], status: str, size: int, seconds: float, mount: str
    ) -> None:
        method, path = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO", "")
        uri = environ.get("REQUEST_URI") or f"{environ.get('SCRIPT_NAME', '')}{path}"
        took = f"{seconds * 1000:.1f} ms"
        self._write(f"{method} {uri} {status[:3]}, {size} bytes by {mount} in {took}")


@contextmanager
def _logging(write: Callable[[str], object]) -> Iterator[None]:
    """Hand what our loggers get to *write*: the little that no bus and no site tells."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write(self.format(record))

    handler, logger = Handler(), logging.getLogger("sitebus")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _surroundings() -> Iterator[None]:
    """Leave environment, import path, directory and file mask as they were."""
    environ, path, here = dict(os.environ), sys.path[:], os.getcwd()
    os.umask(mask := os.umask(0o077))
    try:
        yield
    finally:
        for name in os.environ.keys() - environ:
            del os.environ[name]
        os.environ.update(environ)
        sys.path[:] = path
        os.chdir(here)
        os.umask(mask)


def _overrides(given: Mapping[str, object]) -> Iterator[Override]:
    for place, value in given.items():
        # A section's name may have dots, such as a host; so have options of server libraries.
        section, _, key = place.rpartition(".") if " " in place else place.partition(".")
        text = ("no", "yes")[value] if isinstance(value, bool) else str(value)
        # A dollar sign in code is only that.
        yield Override(section, key, text.replace("$", "$$"), "", f"settings[{place!r}]")


def _plain(configuration: Configuration) -> Configuration:
    """Answer it without a file for the logging module, which belongs to who runs the tests."""
    told = configuration.logging
    values = {value.row.name: value for value in told.details}
    values["config"] = values["config"]._replace(value=None, origin=DEFAULT)
    plain = Settings(told.section, told.name, told.heading, told.origin, values)
    settings = [plain if each is told else each for each in configuration.all]
    said = configuration
    return Configuration(
        said.path, said.directory, settings, said.files, said.notes, said.variables
    )


def _is_installed(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is not None


def _name(target: object) -> str:
    from sitebus.interfaces import describe

    return str(target) if isinstance(target, (str, os.PathLike)) else describe(target)
