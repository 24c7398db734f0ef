"""What a site adds to a request: look-up, prefix, isolation, and all of production.

    python -m benchmarks.dispatch

Every row is measured against the bare application in
the same rounds, taking turns; both get a fresh environ each time, as from a server, and each row
has code objects of its own, since the interpreter adapts them to what they are called with.
Times are CPU time, the least of all rounds. It ends with status 1 if a row misses its target.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sitebus.mounts import Site
from sitebus.mounts.access import AccessLog

Environ = dict[str, Any]
Loop = Callable[[Any, Environ, int], float]

ROUNDS = int(os.environ.get("ROUNDS", "15"))
CALLS = int(os.environ.get("CALLS", "10000"))

_CODE = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]

def start_response(status, headers, exc_info=None):
    return None

def loop(call, environ, calls):
    fresh, turns = environ.copy, range(calls)
    begun = clock()
    for _ in turns:
        response = call(fresh(), start_response)
        if type(response) is not list:
            response.close()
    return (clock() - begun) / calls

def loop_closing(call, environ, calls):
    fresh, turns = environ.copy, range(calls)
    begun = clock()
    for _ in turns:
        response = call(fresh(), start_response)
        for chunk in response:
            pass
        if hasattr(response, "close"):
            response.close()
    return (clock() - begun) / calls
"""


_ASGI_CODE = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    return None

def loop(call, scope, calls):
    fresh, turns = scope.copy, range(calls)
    begun = clock()
    for _ in turns:
        try:
            call(fresh(), receive, send).send(None)
        except StopIteration:
            pass
    return (clock() - begun) / calls
"""


class Row:
    """One thing measured, with the bare application beside it."""

    def __init__(self, title: str, limit: float, path: str, *, closing: bool = False) -> None:
        self.title = title
        self.limit = limit
        self.environ = self.request(path)
        self.app, self._loop = self.fresh(closing)
        self._bare, self._bare_loop = self.fresh(closing)
        self.site = Site()
        self.bare = self.best = float("inf")

    def request(self, path: str) -> Environ:
        return environ_for(path)

    def fresh(self, closing: bool) -> tuple[Any, Loop]:
        names: dict[str, Any] = {"clock": time.process_time_ns}
        exec(_CODE, names)
        return names["app"], names["loop_closing" if closing else "loop"]

    @property
    def face(self) -> Any:
        return self.site.wsgi

    def turn(self) -> None:
        self.bare = min(self.bare, self._bare_loop(self._bare, self.environ, CALLS))
        self.best = min(self.best, self._loop(self.face, self.environ, CALLS))

    @property
    def added(self) -> float:
        return self.best - self.bare

    def __str__(self) -> str:
        verdict = "" if self.added <= self.limit else "  MISSED"
        return (
            f"{self.title:44} {self.bare:7.0f} {self.best:8.0f} {self.added:8.0f} "
            f"{self.best / self.bare:6.1f}x {self.limit:8.0f}{verdict}"
        )


class AsgiRow(Row):
    """The same through the ASGI face; the coroutine is driven by hand, without an event loop."""

    def request(self, path: str) -> Environ:
        return scope_for(path)

    def fresh(self, closing: bool) -> tuple[Any, Loop]:
        names: dict[str, Any] = {"clock": time.process_time_ns}
        exec(_ASGI_CODE, names)
        return names["app"], names["loop"]

    @property
    def face(self) -> Any:
        return self.site.plain_asgi


def scope_for(path: str) -> Environ:
    """Answer what uvicorn makes of a browser's request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 43434),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"localhost:8080"),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Firefox/145.0"),
            (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            (b"accept-encoding", b"gzip, deflate, br"),
        ],
        "state": {},
    }


def environ_for(path: str) -> Environ:
    """Answer what cheroot makes of a browser's request."""
    return {
        "ACTUAL_SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "43434",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "Cheroot/11.1.2",
        "wsgi.errors": sys.stderr,
        "wsgi.input": None,
        "wsgi.input_terminated": False,
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "HTTP_HOST": "localhost:8080",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
    }


def rows(directory: str) -> list[Row]:
    """Answer all rows, each with its site built."""
    return [
        *(_flat(count, Row, 700) for count in (1, 10, 100, 1_000, 10_000)),
        *_hostile(),
        _deep(),
        _hosts(),
        *(_production(directory, form) for form in ("combined", "json")),
        _alone(),
        *(_flat(count, AsgiRow, 900) for count in (1, 10, 100, 1_000, 10_000)),
    ]


def _alone() -> Row:
    row = AsgiRow("ASGI: one application for everything", 900, "/some/page")
    row.site.mount(row.app)
    return row


def _flat(count: int, kind: type[Row], limit: float) -> Row:
    face = "ASGI: " if kind is AsgiRow else ""
    row = kind(f"{face}{count} mounts", limit, f"/app{count - 1:05}/some/page")
    for number in range(count):
        row.site.mount(row.app, f"/app{number:05}")
    return row


def _hostile() -> list[Row]:
    found = []
    for title, path in {
        "64,000 chars of 'a/', no mount's": "/" + "a/" * 32_000,
        "64,000 chars of 'a', no mount's": "/" + "a" * 64_000,
        "64,000 slashes": "/" * 64_000,
        "64,000 chars below a mount": "/app00000/" + "a/" * 32_000,
        "64,000 chars that begin like a mount": "/app00000" + "a" * 64_000,
    }.items():
        row = Row(title, 2_000, path)
        row.site.mount(row.app, "/app00000")
        row.site.mount(row.app, "/")
        found.append(row)
    return found


def _deep() -> Row:
    row = Row("prefix of 10 segments, asked for in full", 2_000, "/a" * 10 + "/some/page")
    for depth in range(1, 11):
        row.site.mount(row.app, "/a" * depth)
    return row


def _hosts() -> Row:
    row = Row("1,000 hosts", 2_000, "/app/some/page")
    row.environ["HTTP_HOST"] = "h500.example.org:8080"
    for number in range(1_000):
        row.site.mount(row.app, "/app", host=f"h{number}.example.org")
    return row


def _production(directory: str, form: Any) -> Row:
    log = AccessLog(os.path.join(directory, form), form).open()
    row = Row(f"production: access log ({form}), closed", 6_000, "/app/some/page", closing=True)
    row.site.configure(access_log=log)
    row.site.mount(row.app, "/app", name="/app")
    row.site.mount(row.app, "/")
    return row


def main() -> int:
    """Measure, print the table, and answer 1 if a target is missed."""
    with tempfile.TemporaryDirectory() as directory:
        table = rows(directory)
        for _ in range(ROUNDS):
            for row in table:
                row.turn()
    print(f"Python {sys.version.split()[0]}, ns of CPU time for one request")
    print(f"{'':44} {'bare':>7} {'site':>8} {'added':>8} {'ratio':>7} {'at most':>8}")
    for row in table:
        print(row)
    return int(any(row.added > row.limit for row in table))


if __name__ == "__main__":
    raise SystemExit(main())
