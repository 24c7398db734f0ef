"""A new worker asks itself before anybody else can: does the site answer?"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from sitebus.errors import ProbeFailed
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from sitebus.mounts import Site

#: After the applications have come up, before a server accepts.
WHEN = Priority.SERVE - 0.25
#: Nobody answers there, so it proves nothing.
_NOWHERE = ("404", "421")


class Prober(Plugin):
    """Ask *site* for *paths* while the bus starts; the start is off if one is not answered well.

    They are requests like any other to the applications, from ``127.0.0.1`` and to ``localhost``,
    or where every mount has a host, to the first one's.

    Args:
        bus: Whose start it is.
        site: Who is asked.
        paths: What for.
        refuse: Is told what went wrong, and calls the start off.
    """

    def __init__(
        self, bus: Engine, site: Site, paths: Sequence[str], refuse: Callable[[Exception], object]
    ) -> None:
        super().__init__(bus)
        self.site = site
        self.paths = paths
        self.refuse = refuse

    @listens("start", priority=WHEN)
    def start(self) -> None:
        """Ask for each path, in order, up to one that fails: by 404, 421, 500 and more."""
        try:
            for path in self.paths:
                self._ask(path)
        except ProbeFailed as error:
            self.refuse(error)

    def _ask(self, path: str) -> None:
        told: list[str] = []

        def start_response(status: str, headers: object, exc_info: object = None) -> Any:
            told[:] = [status]
            return lambda data: None

        try:
            _drain(self.site.wsgi(_environ(path, self._host), start_response))
        except Exception as error:
            raise ProbeFailed(path, f"{type(error).__name__}: {error}") from error
        if not told or told[0][:3] in _NOWHERE or not "1" <= told[0][:1] < "5":
            raise ProbeFailed(path, told[0] if told else "no answer")

    @property
    def _host(self) -> str:
        hosts = [mount.place.host for mount in self.site.mounts if mount.enabled]
        named = [host for host in hosts if host and "*" not in host]
        return "localhost" if "" in hosts or not named else named[0]


def _drain(body: Iterable[bytes]) -> None:
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _environ(path: str, host: str) -> dict[str, Any]:
    place, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(place).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": path,
        "SERVER_NAME": host,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": host,
        "HTTP_USER_AGENT": "sitebus-probe",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
