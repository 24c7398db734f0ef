"""A site under development, for tests that save its files and ask for its pages."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from tests.helpers import PATIENCE, SiteProcess, wait_for

#: The whole site: what it answers is in another module, what it is like is told as JSON.
SITEAPP = """\
import gc
import json
import os
import time
import uuid

import views

BOOT = uuid.uuid4().hex


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(1)
    if path == "/told":
        kind, body = "application/json", json.dumps({"pid": os.getpid(), "boot": BOOT})
    elif path == "/watched":
        from sitebus.plugins.autoreload import Autoreloader

        found = [each for each in gc.get_objects() if type(each) is Autoreloader]
        kind, body = "application/json", json.dumps([path for it in found for path in it.mtimes])
    else:
        kind, body = "text/html", f"<html><body>{views.VERSION}</body></html>"
    body = body.encode()
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
"""


def version(said: str) -> str:
    """Answer a module that says *said*; no two have the same size, so that bytecode is not old."""
    return f"VERSION = {said!r}\n"


class Answer(NamedTuple):
    """What a browser got."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def failed(self) -> bool:
        """Whether it is marked: the code on disk cannot be served."""
        return self.headers.get("x-sitebus-reload") == "failed"


def ask(address: tuple[str, int], path: str = "/", **headers: str) -> Answer:
    """Ask over a connection of its own.

    Raises:
        OSError: Refused, reset, or cut off.
    """
    told = {"Host": "localhost", "Accept": "text/html", "Connection": "close"} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    with socket.create_connection(address, PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        raise ConnectionError(f"cut off: {answer!r}")
    first, *rest = head.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in rest)}
    if len(body) < int(fields.get("content-length", 0)):
        raise ConnectionError(f"cut off: {answer!r}")
    return Answer(int(first.split()[1]), fields, body.decode())


class Reloading(SiteProcess):
    """``sitebus-serve --reload`` in *folder*.

    Args:
        folder: Where its files are.
        arguments: Instead of those that serve `SITEAPP` in development.
        polling: Whether files are looked at all the time, instead of being notified of.
        reload: Whether it reloads at all.
        supervised: Whether workers are replaced; else the one process runs itself again.
        bound: Whether the arguments say where it listens.
        env: More environment.
        options: The interpreter's.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        polling: bool = False,
        reload: bool = True,
        supervised: bool = False,
        bound: bool = False,
        env: Mapping[str, str] = {},
        options: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        given = arguments or ("siteapp:application", "-e", "development")
        ways: tuple[str, ...] = ("--reload", "-o", "reload.interval=50ms") if reload else ()
        if not supervised:
            ways += ("-o", "reload.supervised=no")
        if polling:
            ways += ("-o", "reload.force_polling=yes")
        bind = () if bound or "site.ini" in given else ("-b", "127.0.0.1:0")
        super().__init__(
            *(*ways, *bind, "--access-log", "off", *given),
            cwd=folder,
            env=env,
            options=options,
        )

    def close(self) -> None:
        """End it and whatever it started: a trial leads a group of its own."""
        for pid in processes_of(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; not before it serves."""
        found = self.wait_for_output(r"^serving on http://127\.0\.0\.1:(\d+)")
        return "127.0.0.1", int(found[1])

    def get(self, path: str = "/", **headers: str) -> Answer:
        """Ask over a connection of its own."""
        return ask(self.address, path, **headers)

    @property
    def image(self) -> dict[str, object]:
        """What it says of itself: its process and its image."""
        found: dict[str, object] = json.loads(self.get("/told").body)
        return found

    @property
    def boot(self) -> object:
        """Which image of the program answers."""
        return self.image["boot"]

    def save(self, name: str, text: str) -> Path:
        """Save a file as editors do that keep it whole."""
        path = self.folder / name
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(text)
        draft.replace(path)
        return path

    def wait_for_page(self, said: str, path: str = "/") -> Answer:
        """Answer the first page that says *said* and is not marked."""
        return self.wait_until(lambda page: said in page.body and not page.failed, said, path)

    def wait_for_failure(self, path: str = "/") -> Answer:
        """Answer the first page that is marked."""
        return self.wait_until(lambda page: page.failed, "a failed reload", path)

    def wait_until(self, true: Callable[[Answer], bool], what: str = "", path: str = "/") -> Answer:
        """Answer the first page of which something is *true*."""
        pages: list[Answer] = []

        def come() -> bool:
            pages.append(self.get(path))
            return true(pages[-1])

        try:
            wait_for(come, PATIENCE, what)
        except AssertionError:
            raise AssertionError(f"never {what}; the last: {pages[-1:]}") from None
        return pages[-1]

    def wait_until_watched(self, *names: str) -> None:
        """Wait until it knows what these files were like when it read them.

        Until then it takes whatever is saved for a change.
        """
        paths = {str(self.folder / name) for name in names or ("siteapp.py", "views.py")}
        wait_for(lambda: paths <= {*json.loads(self.get("/watched").body)}, PATIENCE, "a look")

    @property
    def reloads(self) -> int:
        """How often it has run itself again."""
        return self.output.count("Re-spawning")


class Visitor:
    """Makes a new connection twenty times a second, and notes what fails."""

    def __init__(self, site: Reloading, every: float = 0.05) -> None:
        self._address = site.address
        self._every = every
        self.failures: list[BaseException] = []
        self.answers = 0
        self._enough = threading.Event()
        self._asking: list[threading.Thread] = []
        self._clock = threading.Thread(target=self._run)

    def _run(self) -> None:
        # Whoever waits for an answer holds nobody up: each asks in a thread of its own.
        while not self._enough.wait(self._every):
            thread = threading.Thread(target=self._ask)
            thread.start()
            self._asking.append(thread)
        for thread in self._asking:
            thread.join(PATIENCE)

    def _ask(self) -> None:
        try:
            answer = ask(self._address)
            assert answer.status == 200, answer
            assert "VERSION" in answer.body or "<body>" in answer.body, answer
            self.answers += 1
        except (OSError, AssertionError) as error:
            self.failures.append(error)

    def __enter__(self) -> Self:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._clock.join(2 * PATIENCE)


class Stream:
    """A page that listens for news, as the script in it does."""

    def __init__(self, site: Reloading) -> None:
        self._client = socket.create_connection(site.address, PATIENCE)
        self._client.sendall(
            b"GET /__sitebus__/reload HTTP/1.1\r\nHost: localhost\r\n"
            b"Accept: text/event-stream\r\n\r\n"
        )
        self._file = self._client.makefile("rb")
        self.status = int(self._file.readline().split()[1])

    def next(self) -> tuple[str, str]:
        """Answer the next event's name and data.

        Raises:
            EOFError: The stream has ended.
        """
        event = ""
        for line in self._file:
            if line == b"0\r\n":
                break  # the last chunk; the connection may go on
            if line.startswith(b"event:"):
                event = line[6:].decode().strip()
            elif line.startswith(b"data:"):
                return event, line[5:].decode().strip()
        raise EOFError("the stream has ended")

    def close(self) -> None:
        self._file.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def processes_of(session: int) -> list[int]:
    """Answer the processes that belong to *session* and still run: the site and its trials."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(entry))
    return found
