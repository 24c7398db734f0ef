"""What granian sends is an answer, whatever an application makes of it; and somebody takes it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sitebus.servers.granian import GranianServer
from tests.helpers import Child, open_descriptors, wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Logged
from tests.servers.granian_fixtures import Host, host, once

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "once"]

MUCH = b"x" * (20 << 20)


class Told:
    """Answers with pieces, and a header; after the first request, as it should be."""

    def __init__(
        self, pieces: list[bytes], headers: list[tuple[str, str]], status: int = 200
    ) -> None:
        self.pieces = pieces
        self.headers = headers
        self.status = status

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/next":
            return hello(environ, start_response)
        start_response(f"{self.status} X", self.headers)
        return self.pieces if len(self.pieces) == 1 else iter(self.pieces)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(name.encode("latin-1"), value.encode()) for name, value in self.headers]
        pieces, status = self.pieces, self.status
        if scope["path"] == "/next":
            headers, pieces, status = [], [b"hello"], 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1]})


def rest(client: Client) -> bytes:
    """Read until the connection ends, or nothing comes any more."""
    client.socket.settimeout(1.0)
    received = b""
    try:
        while data := client.socket.recv(65536):
            received += data
    except (TimeoutError, ConnectionResetError):
        pass
    return received


BOTH = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
@pytest.mark.parametrize("pieces", [[b"hell"], [b"he", b"ll"]], ids=["whole", "pieces"])
def test_a_body_that_is_too_short_is_followed_by_nothing(
    host: Host, connect: Connect, logged: Logged, speech: str, pieces: list[bytes]
) -> None:
    """By itself granian keeps the connection: the next answer would be taken for the rest."""
    client = connect(host(getattr(Told(pieces, [("Content-Length", "50")]), speech)))
    client.send(BOTH)

    answer = rest(client)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"hello" not in answer
    assert answer.startswith(b"HTTP/1.1 500 ") is (len(pieces) == 1)
    wait_for(lambda: "bytes shorter than its Content-Length" in str(logged))


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
@pytest.mark.parametrize("pieces", [[b"ab!!"], [b"ab", b"!!"]], ids=["whole", "pieces"])
def test_a_body_that_is_too_long_is_cut(
    host: Host, connect: Connect, logged: Logged, speech: str, pieces: list[bytes]
) -> None:
    """By itself granian sends all of it: the rest would be taken for the next answer."""
    client = connect(host(getattr(Told(pieces, [("Content-Length", "2")]), speech)))
    client.send(BOTH)

    assert b"!!" not in rest(client)
    wait_for(lambda: "a body that is 2 bytes longer than its Content-Length" in str(logged))


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    ("request_", "status"), [(b"HEAD /", 200), (b"GET /", 304), (b"GET /", 204)]
)
def test_what_has_no_body_may_say_how_long_it_would_be(
    host: Host, connect: Connect, logged: Logged, speech: str, request_: bytes, status: int
) -> None:
    """RFC 9110, section 8.6."""
    client = connect(host(getattr(Told([b""], [("Content-Length", "5")], status), speech)))
    client.send(BOTH.replace(b"GET /", request_, 1))

    answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"hello")
    assert not [line for level, line in logged if level >= 30]


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "x")],
        [("Content-Length", "2"), ("content-length", "3")],
        [("X-A", "a\nb: c")],
        [("X A", "b")],
        [("X" * 70_000, "a")],
        [(f"X-{number}", "a") for number in range(40_000)],
    ],
    ids=["length", "lengths", "line", "name", "long", "many"],
)
def test_a_header_that_cannot_be_costs_one_response(
    host: Host, connect: Connect, speech: str, headers: list[tuple[str, str]]
) -> None:
    """Not the process, which granian would end; and the answer is the server's own."""
    server = host(getattr(Told([b"ok"], headers), speech))
    answer = connect(server).get()
    assert (answer.status, answer.closes, answer.headers["server"]) == (500, True, "")
    assert connect(server).get("/next").status == 200


def test_an_application_that_fails_behind_its_head_is_answered_for(
    host: Host, connect: Connect
) -> None:
    """By itself granian would do it in its own name, and keep the connection."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError

    answer = connect(host(application)).get()
    assert (answer.status, answer.closes, answer.headers["server"]) == (500, True, "")


def test_a_second_head_is_refused(host: Host, connect: Connect, logged: Logged) -> None:
    """Also before the first was sent."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for status in (200, 404):
            await send({"type": "http.response.start", "status": status, "headers": []})

    assert connect(host(application)).get().status == 500
    wait_for(lambda: "a second response" in str(logged))


# Who takes it.


def deaf(server: GranianServer, path: str = "/") -> socket.socket:
    """Ask, and take hardly anything of the answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((server.addresses[0].host, server.addresses[0].port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client


def much(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [MUCH] if environ["PATH_INFO"] == "/whole" else iter([MUCH[:100_000]] * 200)


async def much_async(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    pieces = [MUCH] if scope["path"] == "/whole" else [MUCH[:100_000]] * 200
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who takes nothing")
@pytest.mark.parametrize("application", [much, much_async])
@pytest.mark.parametrize("path", ["/whole", "/pieces"])
def test_no_connection_is_kept_for_who_takes_nothing(
    host: Host, connect: Connect, application: Any, path: str
) -> None:
    """Nor the megabytes that wait for it in the kernel and here."""
    server = host(application, timeout=0.5, header_timeout=0.5)
    connect(server).ask("/whole")
    before = len(open_descriptors())
    with deaf(server, path):
        wait_for(lambda: len(open_descriptors()) > before + 1, what="it to be accepted")
        wait_for(lambda: len(open_descriptors()) <= before + 1, what="it to be given up")


def test_who_takes_too_little_is_given_up(host: Host) -> None:
    """A thread waits for room: now and then a little would keep it for ever."""
    ended = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.set()

    # More than a second for the first pieces, which go into the kernel.
    with deaf(host(application, timeout=1.0, min_rate=100 << 20)) as client:
        client.settimeout(0.02)
        while not ended.is_set():
            client.recv(65536)
            ended.wait(0.1)


SHORT = """
import os, resource, socket, sys, threading, time
from sitebus.process import Engine
from sitebus.servers.granian import GranianServer
from tests.servers.client import hello

resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
engine = Engine()
lines = []
engine.subscribe("log", lambda message, level: lines.append(message))
server = GranianServer(engine, hello, binds=["127.0.0.1:0"])
server.subscribe()
engine.start()

def connect():
    return socket.create_connection((server.addresses[0].host, server.addresses[0].port), 10)

def answered(client):
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    return client.recv(100)[:15] == b"HTTP/1.1 200 OK"

with connect() as client:
    assert answered(client)
clients = [socket.socket() for _ in range(3)]
hoard = []
try:
    while True:
        hoard.append(os.dup(0))
except OSError:
    pass
for client in clients:
    client.settimeout(10)
    client.connect((server.addresses[0].host, server.addresses[0].port))
threading.Event().wait(0.5)
for each in hoard:
    os.close(each)
print("answered", [answered(client) for client in clients])
try:
    while True:
        hoard.append(os.dup(0))
except OSError:
    pass
engine.exit()
print("told", "Too many open files" in " ".join(lines))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted otherwise elsewhere")
def test_without_descriptors_the_log_says_so_and_a_stop_is_one() -> None:
    """By itself granian says nothing; and what a stop needs must be there before."""
    with Child([sys.executable, "-c", SHORT]) as child:
        assert child.wait() == 0
        assert "answered [True, True, True]" in child.output
        assert "told True" in child.output
