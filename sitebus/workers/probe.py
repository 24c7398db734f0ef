"""A new worker asks itself before anybody else can: does the site answer?"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from sitebus.errors import ProbeFailed
from sitebus.plugins import Plugin, call_off, listens
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from sitebus.mounts import Site

#: After the applications have come up, before a server accepts.
WHEN = Priority.SERVE - 0.25


class Prober(Plugin):
    """Ask *site* for *paths* while the bus starts; the start is off if one is not answered well.

    They are requests like any other to the applications, from ``127.0.0.1`` and to ``localhost``.
    """

    def __init__(self, bus: Engine, site: Site, paths: Sequence[str]) -> None:
        super().__init__(bus)
        self.site = site
        self.paths = paths

    @listens("start", priority=WHEN)
    def start(self) -> None:
        """Ask for each path, in order.

        Raises:
            ProbeFailed: One was answered with 500 or more, or not at all.
        """
        for path in self.paths:
            try:
                self._ask(path)
            except ProbeFailed:
                call_off(self.bus)
                raise

    def _ask(self, path: str) -> None:
        told: list[str] = []

        def start_response(status: str, headers: object, exc_info: object = None) -> Any:
            told[:] = [status]
            return lambda data: None

        try:
            _drain(self.site.wsgi(_environ(path), start_response))
        except Exception as error:
            raise ProbeFailed(path, f"{type(error).__name__}: {error}") from error
        if not told or not told[0][:1].isdigit() or told[0] >= "5":
            raise ProbeFailed(path, told[0] if told else "no answer")


def _drain(body: Iterable[bytes]) -> None:
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _environ(path: str) -> dict[str, Any]:
    place, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(place).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "sitebus-probe",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
