"""Clients of a control socket, and workers that are none: what the tests of it share."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sitebus.errors import CannotRestart, RollRunning, UnknownWorker
from tests.helpers import PATIENCE

NOBODY = 65534


class Answered(NamedTuple):
    """What was answered."""

    status: int
    said: Any
    fields: Mapping[str, str]

    @property
    def error(self) -> str:
        sentence = self.said["error"]
        assert isinstance(sentence, str)
        return sentence


class Connection(http.client.HTTPConnection):
    """The standard library's client, which knows nothing of ours, over a unix socket."""

    def __init__(self, path: Path, timeout: float = PATIENCE) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def ask(
    path: Path,
    method: str,
    target: str,
    said: Any = None,
    fields: Mapping[str, str] | None = None,
) -> Answered:
    """Ask once, by a connection of its own."""
    connection = Connection(path)
    try:
        body = None if said is None else json.dumps(said)
        connection.request(method, target, body, dict(fields or {}))
        return answered(connection.getresponse())
    finally:
        connection.close()


def answered(response: http.client.HTTPResponse) -> Answered:
    text = response.read().decode()
    is_json = response.getheader("Content-Type") == "application/json"
    return Answered(response.status, json.loads(text) if is_json else text, dict(response.headers))


def raw(path: Path, data: bytes, timeout: float = PATIENCE) -> bytes:
    """Send *data* and answer everything until the other end closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        try:
            sock.sendall(data)
        except BrokenPipeError:
            pass  # it was refused before all was sent; the answer is there all the same
        parts = []
        try:
            while part := sock.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass  # closed with something unread; what was answered came first
        return b"".join(parts)


@contextmanager
def following(path: Path, target: str, last: str = "") -> Iterator[Iterator[tuple[str, str, Any]]]:
    """Follow a stream of events: identifier, name and data of each."""
    connection = Connection(path)
    connection.request("GET", target, headers={"Last-Event-ID": last} if last else {})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    try:
        yield _events(response)
    finally:
        response.close()
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    fields: dict[str, str] = {}
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        else:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


def as_nobody(work: Callable[[], object]) -> Any:
    """Answer what *work* answers in a child process that is somebody else, by JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said: Any = None
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = work()
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writing, json.dumps(said).encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return json.loads(data)


class Ticket:
    """A job of the crew's."""

    def __init__(self, id: str, kind: str, reason: str = "") -> None:
        self.id = id
        self.kind = kind
        self.state = "running"
        self.reason = reason
        self.began = time.monotonic()
        self.ended: float | None = None
        self.progress = (0, 4)
        self._settled = threading.Event()

    def end(self, state: str = "done", reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.ended = time.monotonic()
        self.progress = (4, 4) if state == "done" else self.progress
        self._settled.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._settled.wait(timeout)


class Beat(NamedTuple):
    requests: int = 7
    in_flight: int = 1
    oldest: float = 0.5
    lag: float = 0.001
    rss: int = 50 << 20


class Picture(NamedTuple):
    slot: int
    serial: int
    pid: int | None
    state: str
    since: float
    beat: Beat | None = None
    restarts: int = 0
    fatal: bool = False
    reason: str = ""


class FakeCrew:
    """Workers on paper: what is asked of them is written down."""

    def __init__(self, count: int = 2) -> None:
        self.inplace = False
        self.asked: list[tuple[str, object]] = []
        self.running: Ticket | None = None
        self.broken: Exception | None = None
        self._count = count
        self.mute = False
        self._jobs: dict[str, Ticket] = {}
        #: What each worker answers to a message.
        self.answers: dict[str, Any] = {}

    def pictures(self) -> Sequence[Picture]:
        if self.broken is not None:
            raise self.broken
        now = time.monotonic()
        return [
            Picture(n, 10 + n, 1000 + n, "READY", now, Beat()) for n in range(1, self._count + 1)
        ]

    def begin(self, kind: str, about: object) -> Ticket:
        if self.running is not None and self.running.state == "running":
            raise RollRunning(kind, self.running)
        self.asked.append((kind, about))
        self.running = Ticket(f"{kind}-{len(self._jobs) + 1}", kind, str(about))
        self._jobs[self.running.id] = self.running
        return self.running

    def roll(self, reason: str) -> Ticket:
        return self.begin("roll", reason)

    def scale(self, count: int, /) -> Ticket:
        return self.begin("scale", count)

    def check(self, slot: int) -> None:
        if slot > self._count:
            raise UnknownWorker(slot, self._count)

    def drain(self, slot: int, /) -> Ticket:
        self.check(slot)
        return self.begin("drain", slot)

    def reload_in_place(self) -> None:
        self.asked.append(("inplace", None))

    def kill(self, slot: int, /) -> None:
        self.check(slot)
        self.asked.append(("kill", slot))

    def dump(self, slot: int, timeout: float = 5.0) -> str:
        self.check(slot)
        if self.mute:
            raise CannotRestart((), "it does not answer")
        self.asked.append(("dump", slot))
        return "Thread 0x1 (most recent call first):\n  shop.py"

    def call(
        self, channel: str, /, *args: Any, timeout: float = 5.0, **kwargs: Any
    ) -> Mapping[str, Any]:
        self.asked.append((channel, (args, kwargs)))
        return self.answers

    def metrics(self) -> Sequence[Any]:
        return [{"worker": 1, "requests": 7}]

    def job(self, id: str, /) -> Ticket | None:
        return self._jobs.get(id)
