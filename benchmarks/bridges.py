"""What a bridge costs beside a2wsgi and asgiref, and beside the same server without one.

    python -m benchmarks.bridges [SECONDS] [ROUNDS]

A WSGI application under uvicorn, and an ASGI application under cheroot, each on one core; this
process is the client on another. All of them run all the time and take turns, so that a machine
that slows down slows all; the ratio is the median of the rounds' ratios of requests per second. The
processor time that a request costs the server stands beside it, and what the bridge adds to that:
less than nothing where it sends in one piece what the application said in several.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

TARGET = 1.0
AIM = 1.5
SECONDS = 1.0
ROUNDS = 9
CLIENTS = 8
THREADS = 10

BODY = b"hello, world\n"
SENT = b"x" * 1000
STREAMED = [b"a line of text\n"] * 9 + [BODY]

REQUESTS = {
    "a list of one": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a stream of ten": b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a body of 1 kB read": b"POST /read HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 1000\r\n\r\n" + SENT,
}

# The applications.


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    length = sum(map(len, STREAMED)) if path == "/stream" else len(BODY)
    if path == "/read":
        assert len(environ["wsgi.input"].read(1000)) == 1000
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(length))])
    return iter(STREAMED) if path == "/stream" else [BODY]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    chunks = STREAMED if scope["path"] == "/stream" else [BODY]
    if scope["path"] == "/read":
        while (await receive()).get("more_body", False):
            pass
    length = str(sum(map(len, chunks))).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, chunk in enumerate(chunks, 1):
        more = number < len(chunks)
        await send({"type": "http.response.body", "body": chunk, "more_body": more})


# The servers.


def uvicorn_alone() -> None:
    _uvicorn(asgi)


def uvicorn_ours() -> None:
    from sitebus.bridges import Threads, to_asgi

    _uvicorn(to_asgi(wsgi, Threads(THREADS)))


def uvicorn_a2wsgi() -> None:
    from a2wsgi import WSGIMiddleware

    app: Any = wsgi
    _uvicorn(WSGIMiddleware(app, workers=THREADS))


def uvicorn_asgiref() -> None:
    import asgiref.wsgi

    library: Any = asgiref.wsgi
    _uvicorn(library.WsgiToAsgi(wsgi))


def _uvicorn(app: Any) -> None:
    import uvicorn

    listener = _listening()
    # Without this asgiref answers half of the requests with a 500.
    config = uvicorn.Config(app, lifespan="off", log_level="critical", reset_contextvars=True)
    uvicorn.Server(config).run(sockets=[listener])


def _listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    return listener


def cheroot_alone() -> None:
    _cheroot(wsgi)


def cheroot_ours() -> None:
    from sitebus.bridges import to_wsgi
    from sitebus.loop import LoopThread

    thread = LoopThread()
    _cheroot(to_wsgi(asgi, lambda: thread.loop))


def cheroot_a2wsgi() -> None:
    import asyncio
    import threading

    import uvloop
    from a2wsgi import ASGIMiddleware

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    _cheroot(ASGIMiddleware(asgi, loop=loop))


def _cheroot(app: Any) -> None:
    from sitebus.process import Engine
    from sitebus.servers.cheroot import CherootServer

    engine = Engine()
    server = CherootServer(engine, app, binds=["127.0.0.1:0"], threads=THREADS, backlog=1024)
    server.subscribe()
    engine.start()
    print(server.addresses[0].port, flush=True)
    engine.block()


GROUPS: dict[str, dict[str, Callable[[], None]]] = {
    "a WSGI application under uvicorn": {
        "none": uvicorn_alone,
        "ours": uvicorn_ours,
        "a2wsgi": uvicorn_a2wsgi,
        "asgiref": uvicorn_asgiref,
    },
    "an ASGI application under cheroot": {
        "none": cheroot_alone,
        "ours": cheroot_ours,
        "a2wsgi": cheroot_a2wsgi,
    },
}


class Contender:
    """One server as a child process."""

    def __init__(self, group: str, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bridges", "--serve", group, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # some complain at length of their own tasks
            text=True,
        )
        assert self.process.stdout is not None
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))
        self.rates: list[float] = []
        self.costs: list[float] = []

    @property
    def processor_time(self) -> float:
        """The seconds it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def turn(self, request: bytes, seconds: float, *, counts: bool) -> None:
        before = self.processor_time
        answered, elapsed = _answered(self.address, request, seconds)
        if counts:
            self.rates.append(answered / elapsed)
            self.costs.append((self.processor_time - before) / answered * 1e6)

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def _answered(address: tuple[str, int], request: bytes, seconds: float) -> tuple[int, float]:
    """Ask over a few kept-alive connections, and answer how many answers came in which time."""
    answered = 0
    with selectors.DefaultSelector() as selector:
        for connection in _connections(address):
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, bytearray())
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            for key, _ in selector.select(1):
                key.data.extend(_received(key.fileobj))
                if key.data.endswith(BODY):
                    assert key.data.startswith(b"HTTP/1.1 200 OK"), key.data
                    answered += 1
                    key.data.clear()
                    key.fileobj.sendall(request)  # type: ignore[union-attr]
        elapsed = time.perf_counter() - began
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return answered, elapsed


def _connections(address: tuple[str, int]) -> Iterator[socket.socket]:
    for _ in range(CLIENTS):
        connection = socket.create_connection(address, timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _received(connection: Any) -> bytes:
    data: bytes = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


def compare(group: str, request: bytes, seconds: float, rounds: int) -> bool:
    """Measure one row for each contender; answer whether ours is at least as fast as the others."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    contenders = [Contender(group, name) for name in GROUPS[group]]
    os.sched_setaffinity(0, {cores[-1]})
    try:
        for number in range(rounds + 1):
            for each in contenders if number % 2 else contenders[::-1]:
                each.turn(request, seconds, counts=number > 0)
    finally:
        for each in contenders:
            each.close()
        os.sched_setaffinity(0, cores)
    floor, ours, *others = contenders
    for each in contenders:
        _print(each, floor, ours)
    return all(_ratio(ours.rates, each.rates) >= TARGET for each in others)


def _print(each: Contender, floor: Contender, ours: Contender) -> None:
    rate, cost = statistics.median(each.rates), statistics.median(each.costs)
    text = f"    {each.name:8} {rate:7.0f}/s {cost:6.1f} us"
    if each is not floor:
        text += f"   added {cost - statistics.median(floor.costs):6.1f} us"
    if each is not floor and each is not ours:
        ratio = _ratio(ours.rates, each.rates)
        verdict = "MISSED" if ratio < TARGET else "ok" if ratio >= AIM else f"ok, below {AIM:g}"
        text += f"   ours is {ratio:.2f} times as fast  {verdict}"
    print(text)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def main(seconds: float = SECONDS, rounds: int = ROUNDS) -> int:
    """Measure, print the table, and answer 1 if a target is missed."""
    print(f"Python {sys.version.split()[0]}, kept-alive, {CLIENTS} clients, {rounds} rounds")
    good = True
    for group in GROUPS:
        for title, request in REQUESTS.items():
            print(f"{group}: {title}")
            good &= compare(group, request, seconds, rounds)
    return int(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        GROUPS[sys.argv[2]][sys.argv[3]]()
    else:
        kinds = zip((float, int), sys.argv[1:], strict=False)
        raise SystemExit(main(*(kind(text) for kind, text in kinds)))
