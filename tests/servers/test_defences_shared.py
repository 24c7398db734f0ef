"""What waitress, hypercorn and wsgiref have in common against clients that mean harm, or are slow.

What is particular to one of them is in a file of its own.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import Host, Kind, engine, host, kind, only, shop
from tests.servers.conftest import Logged
from tests.servers.shop import BLOCK, HELLO, Shop

#: Found here by pytest.
__all__ = ["engine", "host", "kind", "shop"]

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

pytestmark = only([Kind("waitress", "wsgi"), Kind("hypercorn", "asgi"), Kind("wsgiref", "wsgi")])

PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TOLD = b"GET /told HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n"


def drip(client: Client, ended: threading.Event) -> None:
    """Send a byte from time to time, until the server closes."""
    try:
        while not ended.wait(0.05):
            client.send(b"x")
    except OSError:
        pass


# Slow clients.


def test_a_slow_head_is_told_and_given_up(
    host: Host, connect: Connect, meanwhile: Meanwhile, logged: Logged
) -> None:
    """However often there is a little more of it."""
    client = connect(host(header_timeout=0.4, timeout=30))
    ended = threading.Event()
    began = time.monotonic()
    client.send(b"GET / HTTP/1.1\r\nX: ")
    sending = meanwhile(drip, client, ended)
    answer = client.answer()
    took = time.monotonic() - began
    ended.set()
    sending.result(5)
    assert (answer.status, answer.closes) == (408, True)
    assert answer.body == b"The head of the request did not come in time.\r\n"
    assert 0.3 < took < 3
    assert str(logged).count("Refused a request from 127.0.0.1: 408 Request Timeout.") == 1


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="refused"),
        pytest.param(POST + b"Content-Length: 999999\r\n\r\n", id="unread"),
    ],
)
def test_who_goes_on_after_its_answer_holds_up_nobody(
    host: Host, connect: Connect, meanwhile: Meanwhile, request_: bytes
) -> None:
    """Nor is it heard for ever."""
    server = host(threads=1, timeout=1)
    client = connect(server)
    client.send(request_)
    ended = threading.Event()
    began = time.monotonic()
    sending = meanwhile(drip, client, ended)
    assert connect(server).get().body == HELLO
    assert client.answer().status in (200, 400, 408)
    sending.result(8)
    assert time.monotonic() - began < 7


def test_who_reads_slowly_gets_all(host: Host, connect: Connect, kind: Kind) -> None:
    """Less within each timeout than the system needs to have room for more."""
    client = connect(host(timeout=1))
    client.ask("/big?400")
    client.socket.settimeout(10)
    pause = threading.Event()
    received = 0
    while data := client.socket.recv(16384):
        received += len(data)
        # A good part of it at that pace, which leaves the system's room full for longer than the
        # timeout; the rest as fast as it comes.
        pause.wait(0.05 if received < 1 << 20 else 0)
        if received > 400 * len(BLOCK):
            break
    assert received > 400 * len(BLOCK)


def test_who_finds_all_busy_waits(host: Host, connect: Connect, shop: Shop) -> None:
    """In the kernel's queue; it is served as soon as somebody is done."""
    server = host(max_connections=1, threads=2)
    busy = connect(server)
    busy.ask("/gate")
    shop.entered.wait()
    waiting = connect(server)
    waiting.ask("/gate")
    waiting.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        waiting.socket.recv(1)
    assert shop.inside == 1
    shop.opened.give()
    waiting.socket.settimeout(10)
    assert busy.answer().status == 200
    assert waiting.answer().status == 200


# Ambiguous requests.


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(request_, status, id=name)
        for name, request_, status in (
            ("both", POST + b"Content-Length: 5\r\n" + IN_CHUNKS + b"\r\n0\r\n\r\n", 400),
            ("minus", POST + b"Content-Length: -1\r\n\r\n", 400),
            ("lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
            ("list", POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
            ("blank", POST + b"Content-Length : 5\r\n\r\nhello", 400),
            ("coding", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
            ("large", POST + b"Content-Length: 9999\r\n\r\n", 413),
            ("expect", POST + b"Expect: a cake\r\nContent-Length: 1\r\n\r\n1", 417),
            ("no-host", b"GET / HTTP/1.1\r\n\r\n", 400),
            ("hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("bad-host", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("folded", b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            ("lf", b"GET / HTTP/1.1\nHost: a\n\n", 400),
            ("cr", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", 400),
            ("version", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
            ("0.9", b"GET /\r\n\r\n", 400),
            ("target", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("control", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
            ("connect", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("header", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
            ("line", b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        )
    ],
)
def test_what_is_ambiguous_is_refused(
    host: Host, connect: Connect, kind: Kind, logged: Logged, request_: bytes, status: int
) -> None:
    """Before an application sees it, in a few words, and with the end of the connection."""
    called: list[object] = []

    def note(*args: object) -> None:
        called.append(args)

    async def note_too(*args: object) -> None:
        note(*args)

    server = host(note if kind.speech == "wsgi" else note_too, max_header=1000, max_body=1000)
    client = connect(server)
    client.send(request_ + PLAIN)
    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert answer.headers["content-type"] == "text/plain"
    assert "server" not in answer.headers
    assert 0 < len(answer.body) < 100
    assert client.is_closed()
    assert not called
    told = [message for level, message in logged if level >= 30]
    assert len(told) == 1
    assert told[0].startswith(f"Refused a request from 127.0.0.1: {status} ")


@pytest.mark.parametrize(
    "chunks",
    [b"5\nhello\n0\n\n", b"5;\0\r\nhello\r\n", b"x\r\n", b"-3\r\nabc\r\n", b"3\r\nabcd\r\n"],
    ids=["lf", "nul", "none", "minus", "longer"],
)
def test_bad_chunks_are_refused(
    host: Host, connect: Connect, logged: Logged, chunks: bytes
) -> None:
    """A proxy may see other chunks, and so another request behind them."""
    client = connect(host())
    client.send(POST.replace(b"/", b"/echo", 1) + IN_CHUNKS + b"\r\n" + chunks)
    answer = client.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert answer.body.startswith(b"The body ")
    told = "Refused a request from 127.0.0.1: 400 Bad Request. The body "
    assert sum(message.startswith(told) for _, message in logged) == 1


def test_refusals_do_not_fill_the_log(host: Host, connect: Connect, logged: Logged) -> None:
    """What is too much is counted."""
    server = host()
    for _ in range(15):
        client = connect(server)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 400
    server.stop()
    assert sum("Refused" in message for _, message in logged) == 10
    assert "... and 5 more: 400 Bad Request" in str(logged)


# PROXY headers.

V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n"
_PAIR = (
    socket.inet_aton("203.0.113.7") + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 4711, 80)
)
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(_PAIR)) + _PAIR


def whom(client: Client, said: bytes) -> str:
    """Answer who the application is told that *client* is, who sends this."""
    client.send(said)
    return str(json.loads(client.answer().body)["client"])


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("at_once", [True, False], ids=["whole", "bytes"])
def test_the_client_is_who_the_proxy_says(
    host: Host, connect: Connect, header: bytes, at_once: bool
) -> None:
    """In any pieces, whoever is trusted otherwise."""
    client = connect(host(proxy_protocol="all", trusted_proxies=["127.0.0.0/8"]))
    for byte in b"" if at_once else header:
        client.send(bytes([byte]))
    assert whom(client, header + TOLD if at_once else TOLD) == "203.0.113.7"


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", V2[:12] + b"\x20\0\0\0"], ids=["v1", "v2"]
)
def test_a_proxy_may_speak_for_itself(host: Host, connect: Connect, header: bytes) -> None:
    """As its health checks do."""
    assert whom(connect(host(proxy_protocol="all")), header + TOLD) == "127.0.0.1"


def test_only_some_doors_may_be_for_proxies(host: Host, connect: Connect, tmp_path: Path) -> None:
    """The others are as ever."""
    path = f"unix:{tmp_path / 'site.sock'}"
    server = host(binds=["127.0.0.1:0", path], proxy_protocol=[path])
    assert whom(connect(server, 0), TOLD) == "127.0.0.1"
    assert whom(connect(server, 1), V1 + TOLD) == "203.0.113.7"


@pytest.mark.parametrize(
    "garbage",
    [PLAIN, b"PROXY TCP4 nonsense\r\n", b"\x16\x03\x01", V2[:12] + b"\xff", V1[:-2] + b"\n"],
    ids=["http", "nonsense", "tls", "version", "lf"],
)
def test_who_sends_no_header_is_not_answered(
    host: Host, connect: Connect, logged: Logged, garbage: bytes
) -> None:
    """It may be anything; the connection is closed without a byte, and that is logged once."""
    client = connect(host(proxy_protocol="all"))
    client.send(garbage)
    assert client.is_closed()
    wait_for(lambda: [level for level, _ in logged if level >= 30] == [30])
    assert "127.0.0.1" in logged[-1][1]


def test_a_stranger_may_not_speak_as_a_proxy(host: Host, connect: Connect, logged: Logged) -> None:
    """If proxies are named, only they connect there."""
    client = connect(host(proxy_protocol="all", trusted_proxies=["192.0.2.0/24"]))
    client.send(V1 + PLAIN)
    assert client.is_closed()
    wait_for(lambda: "Refused a connection from 127.0.0.1" in str(logged))
    assert "no trusted proxy" in str(logged)


@pytest.mark.parametrize("begun", [b"", b"PROXY "], ids=["nothing", "begun"])
def test_a_proxy_header_has_its_time(host: Host, connect: Connect, begun: bytes) -> None:
    """That of a head once it has begun; before, that of a silent client."""
    client = connect(host(proxy_protocol="all", timeout=0.3, header_timeout=0.3))
    client.send(begun)
    assert client.is_closed()


def test_who_connects_and_leaves_is_nobody(host: Host, connect: Connect, logged: Logged) -> None:
    """Health checks do little else."""
    server = host(proxy_protocol="all")
    for begun in (b"", V1[:10]):
        with connect(server) as client:
            client.send(begun)
    other = connect(server)
    assert whom(other, V1 + TOLD) == "203.0.113.7"
    server.stop()
    assert not [message for level, message in logged if level >= 30]
