"""Real servers for the bridges' tests, each on a free port, and a client that leaves when told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import uvicorn
import uvloop
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets
from hypercorn.utils import wrap_app
from waitress import wasyncore
from waitress.server import create_server

from sitebus.bridges import Threads, to_asgi, to_wsgi
from sitebus.bridges.asgi_under_wsgi import AsgiUnderWsgi
from sitebus.loop import LoopThread
from tests.helpers import nothing_left, wait_for
from tests.wsgi_helpers import served

PATIENCE = 10.0
THREADS = 10

# libuv keeps a pipe for signals, of which there is one in the process.
uvloop.new_event_loop().close()

#: ASGI servers, by what is different about them.
ASGI_HOSTS = ("uvicorn", "uvicorn-h11-asyncio", "hypercorn")
WSGI_HOSTS = ("cheroot", "waitress")


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reason: str

    def header(self, name: str) -> str | None:
        return {key.lower(): value for key, value in self.headers}.get(name)


class Peer:
    """One connection, by which a test says exactly what it wants to."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        self.send(head.encode("latin-1") + body)

    def until(self, text: bytes) -> bytes:
        """Read until *text* has come, and answer all that has."""
        while text not in self.received:
            data = self.socket.recv(65536)
            assert data, f"closed before {text!r} came: {self.received!r}"
            self.received += data
        return self.received

    def answer(self, method: str = "GET") -> Answer:
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        body = response.read()
        return Answer(response.status, response.getheaders(), body, response.reason)

    def get(self, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> Answer:
        self.ask(path, method, headers, body)
        return self.answer(method)

    def rest(self) -> bytes:
        """Read until the server closes, and answer everything."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                self.received += data
        return self.received

    def leave(self) -> None:
        """Go without a word, as a client that crashes does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Host:
    """A server that runs in a thread of this process."""

    def __init__(self, port: int, threads: Threads | None = None) -> None:
        self.port = port
        self.threads = threads
        self.bridge: AsgiUnderWsgi | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def peer(self) -> Peer:
        return Peer(self.port)

    def get(self, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> Answer:
        """Ask on a connection of its own."""
        with self.peer() as peer:
            return peer.get(path, method, headers, body)

    def tasks(self) -> int:
        """Count what runs on the loop."""
        assert self.loop is not None
        return len(asyncio.all_tasks(self.loop))


@contextmanager
def under_asgi(
    kind: str,
    app: Any,
    *,
    wrap: Callable[[Any], Any] | None = None,
    most: int = THREADS,
    max_body: int = 0,
) -> Iterator[Host]:
    """Serve the WSGI application *app* by the ASGI server *kind*; nothing may be left of it."""
    threads = Threads(most, "bridge")
    bridge: Any = to_asgi(app, threads, max_body=max_body)
    if wrap is not None:
        bridge = wrap(bridge)
    with nothing_left(), _listening() as listener:
        host = Host(listener.getsockname()[1], threads)
        run = _hypercorn if kind == "hypercorn" else _uvicorn
        with run(kind, bridge, listener, host):
            yield host
        assert threads.stop(PATIENCE), "a thread is stuck"


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


@contextmanager
def _running(host: Host, main: Callable[[], Any], *, asyncios: bool) -> Iterator[None]:
    """Run *main* in a thread, on a loop of its own."""

    def run() -> None:
        make = asyncio.new_event_loop if asyncios else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=make) as runner:
            host.loop = runner.get_loop()
            runner.run(main())

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not end"


@contextmanager
def _uvicorn(kind: str, app: Any, listener: socket.socket, host: Host) -> Iterator[None]:
    plain = kind == "uvicorn-h11-asyncio"
    config = uvicorn.Config(
        app,
        http="h11" if plain else "httptools",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with _running(host, lambda: server.serve([listener]), asyncios=plain):
        wait_for(lambda: server.started)
        idle = host.tasks()
        try:
            yield
            wait_for(lambda: host.tasks() <= idle, what="tasks to end")
        finally:
            server.should_exit = True


@contextmanager
def _hypercorn(kind: str, app: Any, listener: socket.socket, host: Host) -> Iterator[None]:
    config = Config()
    config.errorlog = None
    config.graceful_timeout = 5
    config.keep_alive_timeout = 60
    ready, stop = threading.Event(), asyncio.Event()

    async def told() -> None:
        ready.set()
        await stop.wait()

    async def main() -> None:
        wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
        sockets = Sockets([], [listener.dup()], [])
        await worker_serve(wrapped, config, sockets=sockets, shutdown_trigger=told)

    listener.setblocking(False)
    with _running(host, main, asyncios=True):
        assert ready.wait(PATIENCE)
        try:
            yield
        finally:
            assert host.loop is not None
            host.loop.call_soon_threadsafe(stop.set)


@contextmanager
def under_wsgi(kind: str, app: Any, *, threads: int = THREADS) -> Iterator[Host]:
    """Serve the ASGI application *app* by the WSGI server *kind*; nothing may be left of it."""
    with nothing_left():
        loop = LoopThread()
        bridge = to_wsgi(app, lambda: loop.loop)
        try:
            run = _waitress if kind == "waitress" else _cheroot
            with run(bridge, threads) as port:
                host = Host(port)
                host.bridge, host.loop = bridge, loop.loop
                yield host
                assert bridge.wait_idle(PATIENCE), "a task is left"
                wait_for(lambda: host.tasks() == 0, what="tasks to end")
        finally:
            loop.stop()
            gc.collect()  # what cheroot leaves open would be told in a later test


@contextmanager
def _cheroot(app: Any, threads: int) -> Iterator[int]:
    with served(app, threads) as (server, _):
        yield server.bind_addr[1]


@contextmanager
def _waitress(app: Any, threads: int) -> Iterator[int]:
    server: Any = create_server(app, host="127.0.0.1", port=0, threads=threads)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            wasyncore.loop(timeout=1, map=server._map, count=1)

    thread = threading.Thread(target=serve, name="waitress")
    thread.start()
    try:
        yield server.effective_port
    finally:
        server.trigger.pull_trigger(over.set)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "waitress does not end"
        server.task_dispatcher.shutdown()
        wasyncore.close_all(server._map)
