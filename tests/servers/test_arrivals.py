"""Who gets in, who has to wait, and who says who is meant, on an event loop's doors."""

from __future__ import annotations

import logging
import os
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sitebus.errors import BadServerOption
from sitebus.process import Engine
from sitebus.servers.proxy_protocol import SIGNATURE
from sitebus.servers.uvicorn import UvicornServer
from tests.helpers import open_descriptors, wait_for
from tests.servers.client import Client
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import Host, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

GET = b"GET /told HTTP/1.1\r\nHost: localhost\r\n\r\n"


# As many as there may be.


def test_who_has_been_idle_longest_makes_room(host: Host, loop_kind: str, connect: Connect) -> None:
    """A newcomer is served, and of the others the one that is missed least is let go."""
    server = host(max_connections=3)
    clients = [connect(server) for _ in range(3)]
    for client in (*clients, clients[0]):
        assert client.get().body == HELLO
        # The clock of a loop may have milliseconds only.
        threading.Event().wait(0.01)

    newcomer = connect(server)

    assert newcomer.get().body == HELLO
    assert clients[1].is_closed()
    for client in (clients[2], clients[0]):
        assert client.get().body == HELLO


def test_newcomers_wait_while_everybody_is_busy(
    host: Host, loop_kind: str, shop: Shop, connect: Connect
) -> None:
    """Nobody is refused: the kernel keeps them."""
    server = host(max_connections=2)
    busy = [connect(server) for _ in range(2)]
    for client in busy:
        client.ask("/gate")
    wait_for(lambda: shop.inside == 2)
    newcomer = connect(server)
    newcomer.ask()
    newcomer.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        newcomer.socket.recv(1)

    shop.opened.give()

    newcomer.socket.settimeout(5)
    assert newcomer.answer().body == HELLO


def test_one_who_leaves_lets_another_in_at_once(
    host: Host, loop_kind: str, shop: Shop, connect: Connect
) -> None:
    server = host(max_connections=1)
    busy = connect(server)
    busy.ask("/gate")
    shop.entered.wait()
    newcomer = connect(server)
    newcomer.ask()
    wait_for(lambda: server.httpserver.arrivals._pause)

    busy.close()

    assert newcomer.answer().body == HELLO


def test_a_crowd_of_silent_clients_keeps_nobody_out(
    host: Host, loop_kind: str, connect: Connect
) -> None:
    """They are let go, one for each who comes."""
    server = host(max_connections=20)
    silent = [connect(server) for _ in range(20)]
    wait_for(lambda: len(server.httpserver._crowd) == 20)

    for _ in range(40):
        with Client(server.addresses[0]) as client:
            assert client.get().body == HELLO

    assert silent[0].is_closed()
    assert len(server.httpserver._crowd) <= 20


# As many as the system lets in.


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let the process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        highest = max(open_descriptors())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, hard))
        try:
            for _ in range(1000):
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_for_a_while(
    host: Host, loop_kind: str, connect: Connect, logged: Logged
) -> None:
    """Who is in is served, who waits is served later, the log has one line, and nothing spins."""
    server = host(timeout=20.0)
    inside = connect(server)
    assert inside.get().body == HELLO
    waiting = [socket.socket() for _ in range(5)]
    try:
        with no_descriptor_left():
            for each in waiting:
                each.settimeout(10)
                each.connect((server.addresses[0].host, server.addresses[0].port))
                each.sendall(GET)
            wait_for(lambda: "cannot accept connections" in str(logged))
            cpu, began = time.process_time(), time.monotonic()
            while time.monotonic() - began < 2:
                assert inside.get().body == HELLO
                threading.Event().wait(0.5)
            spent = (time.process_time() - cpu) / (time.monotonic() - began)
        for each in waiting:
            assert each.recv(65536).startswith(b"HTTP/1.1 200 OK")
    finally:
        for each in waiting:
            each.close()
    assert spent < 0.05
    lines = [message for level, message in logged if level >= logging.WARNING]
    assert len(lines) == 1, lines
    assert "allow more open files" in lines[0]


def test_a_stop_while_nothing_can_be_accepted(
    engine: Engine, host: Host, loop_kind: str, connect: Connect, logged: Logged
) -> None:
    """The next start has room again, and those who waited are still there."""
    server = host()
    with socket.socket() as waiting:
        waiting.settimeout(10)
        with no_descriptor_left():
            waiting.connect((server.addresses[0].host, server.addresses[0].port))
            waiting.sendall(GET)
            wait_for(lambda: "cannot accept connections" in str(logged))
            engine.stop()
        engine.start()

        assert waiting.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert connect(server).get().body == HELLO


# A proxy says who it is for.


def version_2(peer: str, port: int) -> bytes:
    addresses = (
        socket.inet_aton(peer) + socket.inet_aton("192.0.2.99") + struct.pack("!HH", port, 1)
    )
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(addresses)) + addresses


HEADERS = (b"PROXY TCP4 192.0.2.1 192.0.2.99 4711 80\r\n", version_2("192.0.2.1", 4711))


def told(client: Client) -> bytes:
    client.send(GET)
    return client.answer().body


@pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_client_is_who_the_proxy_says(
    host: Host, loop_kind: str, connect: Connect, header: bytes, size: int
) -> None:
    """However the header comes, for every request of the connection."""
    server = host(proxy_protocol="all")
    client = connect(server)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(header), size):
        client.send(header[start : start + size])

    for _ in range(2):
        assert b'"client": "192.0.2.1"' in told(client)


def test_a_header_and_a_request_may_come_together(
    host: Host, loop_kind: str, connect: Connect
) -> None:
    client = connect(host(proxy_protocol="all"))
    client.send(HEADERS[1] + GET)

    assert b'"client": "192.0.2.1"' in client.answer().body


def test_tls_begins_behind_the_header(host: Host, loop_kind: str, certificate: Certificate) -> None:
    server = host(proxy_protocol="all", tls=certificate.tls)
    trust = ssl.create_default_context(cafile=certificate.root)
    address = server.addresses[0]
    with socket.create_connection((address.host, address.port), timeout=10) as sock:
        sock.sendall(HEADERS[0])
        with trust.wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(GET)
            answer = b""
            while b"}" not in answer:
                answer += secure.recv(65536)
    assert b'"client": "192.0.2.1"' in answer
    assert b'"scheme": "https"' in answer


def test_only_some_doors_have_it(
    engine: Engine, shop: Shop, loop_kind: str, connect: Connect, tmp_path: Path
) -> None:
    server = UvicornServer(
        engine,
        shop.asgi,
        binds=["127.0.0.1:0", f"unix:{tmp_path}/sock"],
        proxy_protocol=[f"unix:{tmp_path}/sock"],
    )
    server.subscribe()
    engine.start()
    proxied = connect(server, 1)
    proxied.send(HEADERS[0])

    assert b'"client": "192.0.2.1"' in told(proxied)
    assert b'"client": "127.0.0.1"' in told(connect(server))


def test_who_has_no_header_is_refused(
    host: Host, loop_kind: str, connect: Connect, logged: Logged
) -> None:
    """It could say anything about itself."""
    client = connect(host(proxy_protocol="all"))
    client.send(GET)

    assert client.is_closed()
    assert "Refused a connection from 127.0.0.1" in str(logged)


def test_who_is_no_trusted_proxy_is_refused(
    host: Host, loop_kind: str, connect: Connect, logged: Logged
) -> None:
    server = host(proxy_protocol="all", trusted_proxies=["192.0.2.0/24"])
    client = connect(server)

    assert client.is_closed()
    assert "no trusted proxy" in str(logged)


def test_a_header_that_does_not_come_is_not_waited_for_long(
    host: Host, loop_kind: str, connect: Connect
) -> None:
    """Nor the rest of one that has begun; neither is in the way of a stop."""
    server = host(proxy_protocol="all", timeout=0.5, header_timeout=0.2)
    silent, slow = connect(server), connect(server)
    began = time.monotonic()
    slow.send(HEADERS[0][:9])

    assert slow.is_closed()
    assert time.monotonic() - began < 0.45
    assert silent.is_closed()
    wait_for(lambda: server.httpserver.arrivals.arriving == 0)


def test_a_bind_that_is_not_there_cannot_have_it(engine: Engine) -> None:
    with pytest.raises(BadServerOption):
        UvicornServer(engine, None, proxy_protocol=["127.0.0.1:1"])
