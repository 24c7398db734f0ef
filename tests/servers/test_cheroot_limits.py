"""What clients see of cheroot's limits: of time, of size, of number."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.servers.connections import MOST_CONNECTIONS, most_connections
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Gate, Logged, Serve

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"


def test_a_head_has_a_time_limit(serve: Serve, connect: Connect, logged: Logged) -> None:
    """From its first byte on, however many come after it; on a kept connection as on a new one."""
    server = serve(header_timeout=0.4, threads=1)
    fresh, kept = connect(server), connect(server)
    kept.get()
    began = time.monotonic()
    for client in (fresh, kept):
        client.send(b"GET / HTTP/1.1\r\n")
    over = threading.Event()
    drip = threading.Thread(target=_drip, args=(fresh.socket, b"a: b\r\n", over))
    drip.start()
    try:
        assert connect(server).get().status == 200
        for client in (fresh, kept):
            answer = client.answer()
            assert (answer.status, answer.closes) == (408, True)
        assert 0.3 < time.monotonic() - began < 2
    finally:
        over.set()
        drip.join()
    assert "Refused a request from 127.0.0.1: 408 Request Timeout." in str(logged)


def _drip(sock: socket.socket, drop: bytes, over: threading.Event) -> None:
    with suppress(OSError):
        while not over.wait(0.05):
            sock.sendall(drop)


def test_a_head_in_pieces_is_a_head(serve: Serve, connect: Connect) -> None:
    """Time for it begins again with each."""
    client = connect(serve(header_timeout=1.0))
    for _ in range(3):
        for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n":
            client.send(bytes([byte]))
        assert client.answer().status == 200


def test_without_a_limit_silence_has_one(serve: Serve, connect: Connect) -> None:
    client = connect(serve(header_timeout=0, timeout=0.2))
    client.send(b"GET /")
    assert client.answer().status == 408


def test_a_handshake_has_a_time_limit(
    serve: Serve, connect: Connect, certificate: Certificate
) -> None:
    """Nobody is there who would understand an answer."""
    server = serve(tls=certificate.tls, header_timeout=0.2, threads=1)
    client = connect(server)
    client.send(b"\x16\x03\x01\x02")
    assert client.is_closed()


def test_a_body_has_a_rate(serve: Serve, connect: Connect) -> None:
    """A byte now and then does not hold a thread."""
    raised: list[str] = []

    def reading(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(type(error).__name__)
            raise
        return hello(environ, start_response)

    server = serve(reading, timeout=0.2, min_rate=1000)
    client = connect(server)
    client.send(b"POST /read %bContent-Length: 1000\r\n\r\n" % HEAD)
    over = threading.Event()
    drip = threading.Thread(target=_drip, args=(client.socket, b"x", over))
    drip.start()
    try:
        answer = client.answer()
    finally:
        over.set()
        drip.join()
    assert (answer.status, answer.closes) == (408, True)
    assert raised == ["BodyTooSlow"]


def test_who_takes_no_response_is_given_up(serve: Serve, connect: Connect) -> None:
    """And its thread serves others."""
    ended = threading.Event()

    def endless(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] != "/endless":
            yield from hello(environ, start_response)
            return
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    server = serve(endless, timeout=0.3, threads=1)
    connect(server).ask("/endless")
    assert ended.wait(5)
    assert connect(server).get().status == 200


def test_who_takes_a_response_slowly_gets_all(serve: Serve, connect: Connect) -> None:
    """The kernel tells of room only when much was taken: more than in the time of a silence."""
    most = 16 << 20

    def large(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(most))])
        for _ in range(0, most, 65536):
            yield bytes(65536)

    client = connect(serve(large, timeout=0.3))
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.ask()
    pause, received = threading.Event(), 0
    slowly = time.monotonic() + 1.5
    while received < most:
        data = client.socket.recv(20000 if time.monotonic() < slowly else 1 << 20)
        assert data, f"{received} bytes came"
        received += len(data)
        if time.monotonic() < slowly:
            pause.wait(0.05)


def test_a_response_has_a_rate(serve: Serve, connect: Connect) -> None:
    """Whoever takes a little now and then does not hold a thread."""
    ended = threading.Event()

    def large(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] != "/large":
            yield from hello(environ, start_response)
            return
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    server = serve(large, timeout=0.4, min_rate=1 << 40, threads=1)
    slow = connect(server)
    slow.ask("/large")
    # Never silent for as long as it may be.
    wait_for(lambda: slow.socket.recv(1 << 20) and ended.is_set(), 10)
    assert connect(server).get().status == 200


def test_a_rate_is_not_asked_of_a_slow_application(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    """What nobody has sent cannot be taken."""

    def dripping(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(4):
            yield b"x"
            gate.opened.wait(0.1)

    server = serve(dripping, timeout=0.2, min_rate=1 << 40)
    assert connect(server).get().body == b"xxxx"


@pytest.mark.slow
def test_a_hundred_bad_clients_do_not_slow_the_others(
    engine: Engine, certificate: Certificate
) -> None:
    """Silent ones, those that drip their heads, and stuck handshakes hold no thread."""
    plain = CherootServer(engine, hello, binds=["127.0.0.1:0"], threads=4)
    secure = CherootServer(
        engine, hello, binds=["[::1]:0"], threads=4, tls=certificate.tls, name="secure"
    )
    for server in (plain, secure):
        server.subscribe()
    engine.start()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    quiet = [_slowest_but_one(plain), _slowest_but_one(secure, context)]
    over = threading.Event()
    with ExitStack() as stack:
        bad = [stack.enter_context(Client(plain.addresses[0])) for _ in range(200)]
        stuck = [stack.enter_context(Client(secure.addresses[0])) for _ in range(20)]
        for client in stuck:
            client.send(b"\x16\x03\x01")
        drips = threading.Thread(target=_drip_all, args=(bad[100:], over))
        drips.start()
        noisy = [_slowest_but_one(plain), _slowest_but_one(secure, context)]
        over.set()
        drips.join()
    # No less than what another process on the machine may cost.
    for before, after in zip(quiet, noisy, strict=True):
        assert after < max(3 * before, 0.05)


def _slowest_but_one(server: CherootServer, tls: ssl.SSLContext | None = None) -> float:
    """Answer what 99 of 100 requests take at most, half of them on new connections."""
    took: list[float] = []
    with Client(server.addresses[0], tls) as kept:
        for _ in range(100):
            began = time.monotonic()
            assert kept.get().status == 200
            took.append(time.monotonic() - began)
            began = time.monotonic()
            with Client(server.addresses[0], tls) as fresh:
                assert fresh.get().status == 200
            took.append(time.monotonic() - began)
    return sorted(took)[-3]


def _drip_all(clients: list[Client], over: threading.Event) -> None:
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nX-Long: ")
    while not over.wait(0.2):
        for client in clients:
            client.send(b"x")


# Numbers.


def test_who_was_silent_longest_makes_room(serve: Serve, connect: Connect) -> None:
    """A newcomer has something to say, perhaps."""
    server = serve(max_connections=3)
    first, second, third = (connect(server) for _ in range(3))
    keeper = server.httpserver._keeper
    wait_for(lambda: len(keeper.idle) == 3)

    def has_moved(before: Any) -> bool:
        """Tell whether who was answered is parked again: the next could be before it."""
        return len(keeper.idle) == 3 and keeper.idle != before

    for client in (first, second, third, first):
        before = keeper.idle
        assert client.get().status == 200
        wait_for(partial(has_moved, before))

    assert connect(server).get().status == 200

    assert second.is_closed()
    for client in (first, third):
        assert client.get().status == 200


def test_a_newcomer_waits_while_all_are_busy(
    serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """In the kernel's queue; it is let in when somebody is done."""
    server = serve(gate, max_connections=1, threads=2)
    busy = connect(server)
    busy.ask("/gate")
    assert gate.entered.wait(5)
    newcomer = connect(server)
    newcomer.ask()
    newcomer.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        newcomer.socket.recv(1)

    gate.opened.set()
    assert busy.answer().status == 200
    newcomer.socket.settimeout(5)
    assert newcomer.answer().status == 200


def test_slow_heads_make_room_too(serve: Serve, connect: Connect) -> None:
    server = serve(max_connections=2)
    slow = [connect(server) for _ in range(2)]
    for client in slow:
        client.send(b"GET")
    wait_for(lambda: len(server.httpserver._keeper.midway) == 2)
    assert connect(server).get().status == 200


def test_by_default_there_are_fewer_connections_than_files() -> None:
    """Or the applications could open none."""
    import resource

    assert most_connections(7) == 7
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        assert most_connections(0) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    assert 1 <= most_connections(0) <= MOST_CONNECTIONS


def test_too_many_waiting_are_sent_away_and_kept_ones_are_not(
    serve: Serve, connect: Connect, gate: Gate, logged: Logged
) -> None:
    """At once, and so that they can read it, whatever they had sent already."""
    server = serve(gate, threads=1, max_waiting=2)
    busy, *kept = (connect(server) for _ in range(4))
    for client in kept:
        client.get()
    busy.ask("/gate")
    assert gate.entered.wait(5)
    for client in kept:
        client.ask()
    wait_for(lambda: server.httpserver.requests.qsize == 3)

    for _ in range(3):
        newcomer = connect(server)
        with suppress(ConnectionError):
            newcomer.send(b"POST / %bContent-Length: 500000\r\n\r\n" % HEAD + b"x" * 500_000)
        answer = newcomer.answer()
        assert (answer.status, answer.closes) == (503, True)
        assert answer.headers["retry-after"] == "1"
        assert newcomer.is_closed()
    assert server.httpserver.requests.qsize == 3
    gate.opened.set()
    for client in (busy, *kept):
        assert client.answer().status == 200
    for client in kept:
        assert client.get().status == 200
    assert "127.0.0.1: 503 Service Unavailable" in str(logged)
