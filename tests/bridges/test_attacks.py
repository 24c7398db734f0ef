"""Random applications and random clients, many at a time, both ways across; nothing may be left.

Each request says in its path, by a seed, what the application does and what the client does. What
the client gets must be the whole response, or recognisably not.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.bridges.apps import body, chunked, start
from tests.bridges.hosts import Host, under_asgi, under_wsgi
from tests.helpers import wait_for

# What cheroot could not write to a client that has gone is told by Python 3.13.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*IOBase.__del__:pytest.PytestUnraisableExceptionWarning"
)

REQUESTS = 150
CLIENTS = 8


class Plan(NamedTuple):
    """What happens in one request."""

    #: The pieces of the response.
    pieces: list[bytes]
    #: The pieces of the request.
    sent: list[bytes]
    length: bool
    #: After how many pieces the application fails; -1 if it does not.
    fails_at: int
    #: After how many bytes of the response the client leaves; -1 if it does not.
    leaves_at: int
    #: After how many pieces of the request it leaves.
    stops_at: int
    #: In which pieces the application reads.
    reads: int
    writes: bool
    lists: bool

    @property
    def expected(self) -> bytes:
        return b"".join(self.pieces)

    @classmethod
    def of(cls, seed: int) -> Plan:
        chance = random.Random(seed)

        def pieces() -> list[bytes]:
            sizes = [chance.choice([0, 1, 10, 1000, 70_000]) for _ in range(chance.randint(0, 6))]
            return [chance.randbytes(size) for size in sizes]

        response, sent = pieces(), pieces() if chance.random() < 0.5 else []
        return cls(
            response,
            [piece for piece in sent if piece],
            chance.random() < 0.5,
            chance.randint(0, len(response)) if chance.random() < 0.2 else -1,
            chance.choice([0, 1, 1000]) if chance.random() < 0.2 else -1,
            chance.randint(0, len(sent)) if chance.random() < 0.2 else -1,
            chance.choice([1, 100, 100_000]) if chance.random() < 0.8 else 0,
            chance.random() < 0.3,
            chance.random() < 0.5,
        )


class Inside:
    """Counts who is inside the application, and who has been closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.short: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


class WsgiBody:
    def __init__(self, inside: Inside, pieces: Iterator[bytes]) -> None:
        self._inside = inside
        self._pieces = pieces
        inside.__enter__()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._inside.__exit__()


def wsgi_app(inside: Inside) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        seed = int(environ["PATH_INFO"][1:])
        plan = Plan.of(seed)
        if plan.reads:
            got = b"".join(iter(lambda: environ["wsgi.input"].read(plan.reads), b""))
            if got != b"".join(plan.sent):
                inside.short.append(seed)
        headers = [("Content-Length", str(len(plan.expected)))] if plan.length else []
        write = start_response("200 OK", headers)

        def pieces() -> Iterator[bytes]:
            for number, piece in enumerate(plan.pieces):
                if number == plan.fails_at:
                    raise ValueError(seed)
                if plan.writes and number == 0:
                    write(piece)
                else:
                    yield piece
            if plan.fails_at == len(plan.pieces):
                raise ValueError(seed)

        return list(pieces()) if plan.lists else WsgiBody(inside, pieces())

    return app


def asgi_app(inside: Inside) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seed = int(scope["path"][1:])
        plan = Plan.of(seed)
        with inside:
            if plan.reads:
                got, more = b"", True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    got, more = got + message["body"], message["more_body"]
                if got != b"".join(plan.sent):
                    inside.short.append(seed)
            length = ("content-length", str(len(plan.expected)))
            await send(start(*([length] if plan.length else [])))
            for number, piece in enumerate(plan.pieces):
                if number == plan.fails_at:
                    raise ValueError(seed)
                await send(body(piece, more=True))
                if plan.writes:
                    await asyncio.sleep(0)
            if plan.fails_at == len(plan.pieces):
                raise ValueError(seed)
            await send(body(b""))

    return app


def visit(host: Host, seed: int) -> str:
    """Make one request; answer what is wrong, or ""."""
    plan = Plan.of(seed)
    method = "POST" if plan.sent else "GET"
    try:
        with host.peer() as peer:
            _send(peer, plan, seed, method)
            if plan.stops_at >= 0 and plan.sent:
                peer.leave()
                return ""
            if plan.leaves_at >= 0:
                if plan.leaves_at:
                    peer.socket.recv(plan.leaves_at)
                peer.leave()
                return ""
            answer = peer.answer(method)
    except (http.client.HTTPException, OSError) as error:
        # A server that answers with the rest of a body on its way may reset the connection.
        torn = plan.fails_at >= 0 or (plan.sent and not plan.reads)
        return "" if torn else f"{seed}: {error!r}"
    whole = answer.status == 200 and answer.body == plan.expected
    if plan.fails_at >= 0:
        # It may have failed when everything that it had promised was sent.
        whole = answer.status == 500 or (whole and plan.length)
    return "" if whole else f"{seed}: {answer.status}, {len(answer.body)} bytes"


def _send(peer: Any, plan: Plan, seed: int, method: str) -> None:
    pieces = plan.sent[: plan.stops_at] if plan.stops_at >= 0 else plan.sent
    if not plan.sent:
        peer.ask(f"/{seed}", method)
    elif plan.length:
        size = sum(map(len, plan.sent)) + (plan.stops_at >= 0)
        peer.ask(f"/{seed}", method, f"Content-Length: {size}\r\n", b"".join(pieces))
    else:
        end = -5 if plan.stops_at >= 0 else None
        peer.ask(f"/{seed}", method, "Transfer-Encoding: chunked\r\n", chunked(*pieces)[:end])


def attack(host: Host, first: int) -> list[str]:
    """Make many requests at a time, and answer what was wrong with them."""
    wrong: list[str] = []
    seeds = iter(range(first, first + REQUESTS))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            with contextlib.suppress(ConnectionError):
                if problem := visit(host, seed):
                    wrong.append(problem)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(60)
        assert not each.is_alive(), "a client waits for ever"
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 4])
def test_wsgi_survives(kind: str, most: int) -> None:
    """Nothing is lost, mixed up, or left behind: no thread, task, descriptor or iterable."""
    inside = Inside()
    with under_asgi(kind, wsgi_app(inside), most=most) as host:
        assert attack(host, most * 1000) == []
        wait_for(lambda: inside.now == 0, 10, "iterables to be closed")
        assert host.threads is not None
        wait_for(lambda: host.threads is not None and host.threads.busy == 0)
        assert host.threads.alive <= most
    assert inside.short == []


@pytest.mark.slow
@pytest.mark.parametrize("server", ["cheroot", "waitress"])
@pytest.mark.parametrize("threads", [1, 4])
def test_asgi_survives(server: str, threads: int) -> None:
    """Nothing is lost, mixed up, or left behind: no thread, task or descriptor."""
    inside = Inside()
    with under_wsgi(server, asgi_app(inside), threads=threads) as host:
        assert attack(host, threads * 1000) == []
        assert host.bridge is not None
        assert host.bridge.wait_idle(10)
        assert inside.now == 0
    assert inside.short == []
