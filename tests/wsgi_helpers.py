"""What the tests of the site share: applications, and asking one question of a WSGI application."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cheroot import wsgi

from tests.helpers import ROOT, environment

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]


@dataclass
class Answer:
    """What a client gets."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> int:
        return int(self.status[:3])

    @property
    def text(self) -> str:
        return self.body.decode()


def environ_of(path: str = "/", host: str = "localhost:8080", **extra: Any) -> dict[str, Any]:
    """Answer a whole environ, as a server makes it."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": host,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **extra,
    }


def ask(
    app: WSGIApplication, path: str = "/", host: str = "localhost:8080", **extra: Any
) -> Answer:
    """Ask as a server does that keeps to the rules: iterate, send, close."""
    answer = Answer()
    out: list[bytes] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> Any:
        if answer.status:
            assert exc_info, "start_response was called twice"
            if out:
                raise exc_info[1]
        answer.status, answer.headers = status, dict(headers)
        return out.append

    response: Any = app(environ_of(path, host, **extra), start_response)
    try:
        for chunk in response:
            assert isinstance(chunk, bytes)
            assert answer.status or not chunk, "a body came before the status"
            if chunk:
                out.append(chunk)
    finally:
        answer.body = b"".join(out)
        if hasattr(response, "close"):
            response.close()
    assert answer.status, "the status never came"
    return answer


def saying(text: str) -> WSGIApplication:
    """Answer an application that says *text*, and where it thinks it is."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        script, path = environ.get("SCRIPT_NAME"), environ.get("PATH_INFO")
        body = f"{text} {script!r} {path!r}".encode()
        start_response(
            "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]

    return app


class Quiet(wsgi.Server):
    """Says nothing of its own: the site has reported by then."""

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        pass


@contextmanager
def served(app: WSGIApplication, threads: int = 3) -> Iterator[tuple[wsgi.Server, str]]:
    """Serve *app* by cheroot on a free port; fails if the server dies of it."""
    server = Quiet(("127.0.0.1", 0), app, numthreads=threads, timeout=5, shutdown_timeout=1)
    server.prepare()
    died: list[BaseException] = []
    thread = threading.Thread(target=_kept(server.serve, died))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.bind_addr[1]}"
        assert not died, f"the server died of {died[0]!r}"
        alive = [worker for worker in server.requests._threads if worker.is_alive()]
        assert len(alive) == threads, "a worker died"
    finally:
        server.stop()
        thread.join(10)


def _kept(call: Callable[[], object], died: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except BaseException as error:
            died.append(error)

    return run


def nothing(status: str, headers: Headers, exc_info: Any = None, /) -> Callable[[bytes], object]:
    """Be a start_response that nobody looks at."""
    return lambda data: None


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Make a folder that every user may enter; pytest's own are for one alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


_BECOME_NOBODY = """
import os

def become_nobody():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


def as_nobody(code: str) -> str:
    """Answer what *code* prints in a process of its own.

    From ``become_nobody()`` on, it is no longer root: root may read everything. What it imports
    later may be out of its reach.
    """
    done = subprocess.run(
        [sys.executable, "-c", _BECOME_NOBODY + textwrap.dedent(code)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
