"""What the conformance suite is made of: who is tested, with which application, by which clients.

`Shop` is one application written twice, for WSGI and for ASGI, with the same pages; tests tell it
when to go on. `Load` asks as fast as it is paced to and remembers what was lost.
Run as a program, it serves for the test of restarts: ``python -m`` this module, server, interface.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple, Self

import pytest

from sitebus.errors import ServerNotInstalled, UnknownServer
from sitebus.process import Engine
from sitebus.servers import find
from sitebus.servers.hosting import SiteServer
from sitebus.sockets.addresses import Address
from tests.helpers import open_descriptors, wait_for
from tests.servers.client import Answer, Client
from tests.servers.shop import HELLO, Own, Shop, Speech

#: Every adapter, with what its library speaks by itself.
SERVERS: dict[str, tuple[Speech, ...]] = {
    "cheroot": ("wsgi",),
    "waitress": ("wsgi",),
    "uvicorn": ("asgi",),
    "hypercorn": ("asgi",),
    "granian": ("wsgi", "asgi"),
    "wsgiref": ("wsgi",),
}
#: Those that answer one request on each connection, and can do no other.
SINGLE = frozenset({"wsgiref"})


class Kind(NamedTuple):
    """A server, and the interface of the application behind it."""

    server: str
    speech: Speech

    @property
    def is_bridged(self) -> bool:
        return self.speech not in SERVERS[self.server]

    @property
    def adapter(self) -> type[SiteServer]:
        """The adapter's class; where it cannot be had, the test is skipped, but never in CI."""
        try:
            adapter = find(self.server)
        except (ServerNotInstalled, UnknownServer) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        assert issubclass(adapter, SiteServer)
        assert adapter.abilities.speaks == SERVERS[self.server]
        return adapter

    def make(self, engine: Engine, application: Any, **settings: Any) -> SiteServer:
        """Make a server on a free port, unless the settings say where."""
        settings.setdefault("binds", ["127.0.0.1:0"])
        return self.adapter(engine, application, **settings)

    def can(self, ability: str) -> bool:
        """Whether there is something to test; of an adapter that is not there, nobody knows."""
        try:
            adapter = find(self.server)
        except (ServerNotInstalled, UnknownServer):
            return True
        assert issubclass(adapter, SiteServer)
        return bool(getattr(adapter.abilities, ability))

    def __str__(self) -> str:
        return f"{self.server}-{self.speech}" + ("-bridged" if self.is_bridged else "")


KINDS = [Kind(server, speech) for server in SERVERS for speech in ("wsgi", "asgi")]
NATIVE = [kind for kind in KINDS if not kind.is_bridged]
KEEPING = [kind for kind in KINDS if kind.server not in SINGLE]


def only(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    """Run a test with these instead of all."""
    return pytest.mark.parametrize("kind", list(kinds), ids=str, indirect=True)


# Fixtures; a test module imports them, and pytest finds them there.

Host = Callable[..., SiteServer]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    assert found.adapter  # or the test is skipped
    return found


@pytest.fixture
def engine(kind: Kind) -> Iterator[Engine]:
    """A bus for one test, which must end without a thread or descriptor left."""
    _warm(kind)
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    engine = Engine()
    try:
        yield engine
    finally:
        engine.exit()
    wait_for(lambda: not set(threading.enumerate()) - threads, what="threads to end")
    # Those of compiled servers end unseen, and what they held is closed a moment later.
    wait_for(lambda: not open_descriptors() - descriptors, what="descriptors to be closed")


def _warm(kind: Kind) -> None:
    """Start and stop each server once, before anybody counts what it leaves behind.

    libuv and tokio, for two, keep pipes for as long as the process lives.
    """
    if kind.server not in _WARMED:
        _WARMED.add(kind.server)
        with Engine() as engine:
            server = kind.make(engine, Shop().face(kind.speech))
            server.start()
            assert engine.loop.is_running()
            server.stop()


_WARMED: set[str] = set()


@pytest.fixture
def shop(engine: Engine, meanwhile: object) -> Iterator[Shop]:
    """Be the application; what still waits is let go before anything else is ended."""
    shop = Shop()
    yield shop
    shop.opened.give()


@pytest.fixture
def host(engine: Engine, kind: Kind, shop: Shop) -> Host:
    """Start a server of the kind on a free port, with the shop behind it."""

    def start(application: Any = None, **settings: Any) -> SiteServer:
        server = kind.make(engine, application or shop.face(kind.speech), **settings)
        server.subscribe()
        engine.start()
        return server

    return start


# Clients.


def begin(client: Client, method: str = "GET") -> HTTPResponse:
    """Read the head of an answer; the body is the caller's to read, as it comes."""
    response = HTTPResponse(client.socket, method=method)
    response.begin()
    return response


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Answer a request whose length is told."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post_chunked(path: str, *chunks: bytes) -> bytes:
    """Answer a request whose length is not told."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", "", ""]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return "\r\n".join(lines).encode() + framed


def everything(client: Client) -> bytes:
    """Answer all that comes until the server closes."""
    received = b""
    while data := client.socket.recv(65536):
        received += data
    return received


def last_answer(client: Client) -> Answer:
    """Ask until an answer says that it is the last; each must be a good one."""
    for _ in range(10_000):
        answer = client.get()
        assert (answer.status, answer.body) == (200, HELLO)
        if answer.closes:
            return answer
    raise AssertionError("no answer said that the connection closes")


def ask_http2(sock: socket.socket) -> tuple[int, bytes]:
    """Ask for the front page over HTTP/2; answer the status and the body."""
    from h2.connection import H2Connection
    from h2.events import DataReceived, ResponseReceived, StreamEnded

    connection = H2Connection()
    connection.initiate_connection()
    head = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": "localhost"}
    connection.send_headers(1, list(head.items()), end_stream=True)
    status, body = 0, b""
    events: Sequence[object] = ()
    while not any(isinstance(event, StreamEnded) for event in events):
        sock.sendall(connection.data_to_send())
        data = sock.recv(65536)
        assert data, "closed in the middle of an answer"
        events = connection.receive_data(data)
        for event in events:
            if isinstance(event, ResponseReceived):
                status = int(dict(event.headers)[b":status"])
            elif isinstance(event, DataReceived):
                body += event.data
    return status, body


def leave_rudely(client: Client) -> None:
    """Close with a reset, as a client that crashed."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


class Load:
    """A few clients that ask again and again, and never expect to be let down.

    Some connect for each request, the others keep their connection for as long as they may and use
    it at least every `OFTEN` seconds. One that was kept from its turn for longer than that (the
    machine has other things to do) may find its connection closed; it is counted as *late*.
    """

    OFTEN = 0.1
    #: Seconds between two requests of a client: enough of them to hit every moment, and no more.
    PACE = 0.003

    def __init__(self, address: Address, path: str = "/") -> None:
        self.address = address
        self.path = path
        self.bodies: list[bytes] = []
        self.failures: list[str] = []
        self.late = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in (1, 1, 50, 10_000)]
        for thread in self.threads:
            thread.start()

    def enough(self, more: int) -> Callable[[], bool]:
        """Answer what tells whether so many *more* were answered, or one was not."""
        goal = len(self.bodies) + more
        return lambda: bool(self.failures) or len(self.bodies) >= goal

    def close(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, most: int) -> None:
        while not self.over.is_set() and not self.failures:
            self._visit(most)

    def _visit(self, most: int) -> None:
        asked = waited = 0.0
        number = 0
        try:
            with Client(self.address) as client:
                for number in range(most):
                    waited = time.monotonic() - asked if number else 0.0
                    answer = client.get(self.path)
                    asked = time.monotonic()
                    assert answer.status == 200, answer
                    self.bodies.append(answer.body)
                    if answer.closes or self.over.wait(self.PACE):
                        return
        except (OSError, ValueError, AssertionError, HTTPException) as error:
            if waited > self.OFTEN:
                self.late += 1
            else:
                self.failures.append(f"request {number + 1} of {most}: {error!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# A server by itself, for restarts.


def main(server: str, speech: Speech) -> int:
    """Serve, and run again on SIGUSR2; what is printed is what the test waits for."""
    inherited = len(os.listdir("/dev/fd"))
    engine = Engine()
    site = Kind(server, speech).make(engine, getattr(Own(), speech))
    site.subscribe()
    # The trial of a restart would take as long again, and has tests of its own.
    signal.signal(
        signal.SIGUSR2, lambda *_: engine.call_in_main(lambda: engine.restart(force=True))
    )
    signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
    engine.subscribe("log", lambda message, level: level >= 40 and print(message))
    engine.start()
    print("serving on", site.addresses[0], inherited, flush=True)
    return engine.block()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
