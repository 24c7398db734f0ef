"""Clients of waitress that are slow, too many, ambiguous, or come through a proxy."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sitebus.process import Engine
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conformance import everything
from tests.servers.conftest import Gate, Logged
from tests.servers.waitress_fixtures import Connect, Meanwhile, Serve, serve, stop_begins

#: Found here by pytest.
__all__ = ["serve"]

PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def whose(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Tell who the client is."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [json.dumps([environ["REMOTE_ADDR"], environ["REMOTE_PORT"]]).encode()]


def drip(client: Client, data: bytes, ended: threading.Event, gap: float = 0.05) -> None:
    """Send a byte from time to time, until the server closes."""
    try:
        while not ended.wait(gap):
            client.send(data)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("begun", "more", "what"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"x", "head"),
        (POST + b"Content-Length: 999\r\n\r\n", b"x", "body"),
    ],
)
def test_a_slow_client_is_told_and_given_up(
    serve: Serve, connect: Connect, meanwhile: Meanwhile, logged: Logged, begun: bytes, more: bytes,
    what: str,
) -> None:  # fmt: skip
    """However often it says a little; it is not silent, so the timeout alone would not do."""
    server = serve(header_timeout=0.4, timeout=0.4, min_rate=1000)
    client = connect(server)
    ended = threading.Event()
    began = time.monotonic()
    client.send(begun)
    sending = meanwhile(drip, client, more, ended)
    answer = client.answer()
    took = time.monotonic() - began
    ended.set()
    sending.result(5)

    assert (answer.status, answer.closes) == (408, True)
    assert answer.body.decode() == f"The {what} of the request did not come in time.\r\n"
    assert 0.3 < took < 3
    assert (
        30,
        f"Refused a request from 127.0.0.1: 408 Request Timeout. {answer.body.decode()[:-2]}",
    ) in logged


def test_empty_lines_are_no_request(
    serve: Serve, connect: Connect, meanwhile: Meanwhile, logged: Logged
) -> None:
    """Who sends nothing else is closed in the time of a head, without a word."""
    client = connect(serve(header_timeout=0.3, timeout=30))
    ended = threading.Event()
    sending = meanwhile(drip, client, b"\r\n", ended)
    assert client.is_closed()
    ended.set()
    sending.result(5)
    assert "Refused" not in str(logged)


def test_empty_lines_before_a_request_are_let_pass(serve: Serve, connect: Connect) -> None:
    """Some clients end a body with one too many."""
    client = connect(serve())
    for pieces in ((b"\r\n\r\n" + PLAIN,), (b"\r", b"\n", PLAIN)):
        for piece in pieces:
            client.send(piece)
        assert client.answer().status == 200


def test_without_limits_a_head_may_take_its_time(serve: Serve, connect: Connect) -> None:
    """0 is any time; the timeout of a silent client stays."""
    server = serve(header_timeout=0, min_rate=0, timeout=0.6)
    client = connect(server)
    began = time.monotonic()
    for byte in PLAIN:
        client.send(bytes([byte]))
        threading.Event().wait(0.03)
    assert client.answer().status == 200
    assert time.monotonic() - began > 0.6


def test_the_longest_idle_makes_room(serve: Serve, connect: Connect, gate: Gate) -> None:
    """Not one that is being answered, and none that came later."""
    server = serve(gate, max_connections=3)
    busy, older, newer = (connect(server) for _ in range(3))
    busy.ask("/gate")
    assert gate.entered.wait(5)
    for client in (older, newer):
        assert client.get().status == 200
        # The thread that has answered is a moment behind: both are silent once it is done.
        wait_for(lambda: sum(each.is_silent for each in server.httpserver.channels) == 2)

    last = connect(server)
    assert last.get().status == 200
    assert older.is_closed()
    gate.opened.set()
    assert busy.answer().status == 200
    assert newer.get().status == 200


def test_who_finds_all_busy_waits(serve: Serve, connect: Connect, gate: Gate) -> None:
    """In the kernel's queue; it is served as soon as somebody is done."""
    server = serve(gate, max_connections=1, threads=2)
    busy = connect(server)
    busy.ask("/gate")
    assert gate.entered.wait(5)
    waiting = connect(server)
    waiting.ask()
    wait_for(lambda: not server.httpserver.welcomes)
    assert len(server.httpserver.channels) == 1
    gate.opened.set()
    assert busy.answer().status == 200
    assert waiting.answer().status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", 400),
        (POST + b"Content-Length: 9999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n999\r\n", 413),
        (POST + b"Expect: a cake\r\nContent-Length: 1\r\n\r\n1", 417),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    ],
)
def test_what_is_ambiguous_is_refused(
    serve: Serve, connect: Connect, logged: Logged, request_: bytes, status: int
) -> None:
    """Before an application sees it, in a few words, and with the end of the connection."""
    called: list[Any] = []

    def note(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        called.append(environ)
        return hello(environ, start_response)

    client = connect(serve(note, max_header=1000, max_body=1000))
    client.send(request_ + PLAIN)
    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert answer.headers["content-type"] == "text/plain"
    assert "server" not in answer.headers
    assert len(answer.body) < 100
    assert not called
    told = [message for level, message in logged if level == 30]
    assert len(told) == 1
    assert told[0].startswith(f"Refused a request from 127.0.0.1: {status} ")
    assert "Traceback" not in str(logged)


def test_a_refusal_has_no_server_header_but_ours(serve: Serve, connect: Connect) -> None:
    """And an application that names a server gets no Via of waitress's."""

    def named(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fail":
            raise ValueError("on purpose")
        start_response("200 OK", [("Server", "its own")])
        return [b""]

    server = serve(named)
    ours = connect(server).get().headers
    assert ours["server"] == "its own"
    assert "via" not in ours
    failed = connect(server).get("/fail")
    assert (failed.status, "server" in failed.headers) == (500, False)


def test_refusals_do_not_fill_the_log(serve: Serve, connect: Connect, logged: Logged) -> None:
    """What is too much is counted."""
    server = serve()
    for _ in range(15):
        client = connect(server)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 400
    server.bus.stop()
    assert sum("Refused" in message for _, message in logged) == 10
    assert "... and 5 more: 400 Bad Request" in str(logged)


def test_the_host_is_what_the_target_says(serve: Serve, connect: Connect) -> None:
    """Whatever the field says (RFC 9112, section 3.2.2)."""

    def show(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        keys = ("HTTP_HOST", "PATH_INFO", "QUERY_STRING", "HTTP_X_A", "SERVER_SOFTWARE")
        return [json.dumps([environ.get(key) for key in keys]).encode()]

    client = connect(serve(show))
    client.send(b"GET http://b/c%2Fd?e HTTP/1.1\r\nHost: a\r\nX_A: shadow\r\n\r\n")
    assert json.loads(client.answer().body) == ["b", "/c/d", "e", None, "sitebus"]


def test_two_slashes_stay_two(serve: Serve, connect: Connect) -> None:
    """To waitress they are one, so that another application might be asked."""

    def path(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    assert connect(serve(path)).get("//a//b").body == b"//a//b"


def test_a_client_that_reads_nothing_is_given_up(serve: Serve, connect: Connect) -> None:
    """And the thread that answers it is free again."""

    def flood(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        start_response("200 OK", [("Content-Length", str(1 << 40))])
        return iter(lambda: b"x" * 65536, b"")

    server = serve(flood, threads=1, timeout=0.5)
    connect(server).ask("/flood")
    assert connect(server).get().status == 200


# PROXY headers.


def binary(address: str, port: int) -> bytes:
    pair = socket.inet_aton(address) + socket.inet_aton("10.0.0.1") + struct.pack(">HH", port, 80)
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(pair)) + pair


V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n"
V2 = binary("203.0.113.7", 4711)


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_client_is_who_the_proxy_says(
    serve: Serve, connect: Connect, header: bytes, at_once: bool
) -> None:
    """In any pieces, and for every request of the connection."""
    client = connect(serve(whose, proxy_protocol="all"))
    if at_once:
        client.send(header + PLAIN)
    else:
        for byte in header + PLAIN:
            client.send(bytes([byte]))
    assert json.loads(client.answer().body) == ["203.0.113.7", "4711"]
    assert json.loads(client.get().body) == ["203.0.113.7", "4711"]


def test_a_proxy_may_speak_for_itself(serve: Serve, connect: Connect) -> None:
    """As its health checks do."""
    client = connect(serve(whose, proxy_protocol="all"))
    client.send(b"PROXY UNKNOWN\r\n" + PLAIN)
    assert json.loads(client.answer().body)[0] == "127.0.0.1"


def test_only_some_doors_may_be_for_proxies(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """The others are as ever."""
    path = f"unix:{tmp_path / 'site.sock'}"
    server = serve(whose, binds=["127.0.0.1:0", path], proxy_protocol=[path])
    assert json.loads(connect(server, 0).get().body)[0] == "127.0.0.1"
    client = connect(server, 1)
    client.send(V1 + PLAIN)
    assert json.loads(client.answer().body) == ["203.0.113.7", "4711"]


@pytest.mark.parametrize(
    "garbage", [PLAIN, b"PROXY TCP4 nonsense\r\n", b"\x16\x03\x01", V2[:12] + b"\xff"]
)
def test_who_sends_no_header_is_not_answered(
    serve: Serve, connect: Connect, logged: Logged, garbage: bytes
) -> None:
    """It may be anything; the connection is closed without a byte, and that is logged."""
    client = connect(serve(proxy_protocol="all"))
    client.send(garbage)
    assert client.is_closed()
    wait_for(lambda: len(logged) and "cannot read the PROXY header" in str(logged))
    assert "127.0.0.1" in str(logged)
    assert "Traceback" not in str(logged)


def test_who_connects_and_leaves_is_nobody(serve: Serve, connect: Connect, logged: Logged) -> None:
    """Health checks do little else."""
    server = serve(whose, proxy_protocol="all")
    before = len(logged)
    for begun in (b"", V1[:10]):
        client = connect(server)
        client.send(begun)
        client.close()
    other = connect(server)
    other.send(V1 + PLAIN)
    assert other.answer().status == 200
    other.close()
    wait_for(lambda: not server.httpserver.channels)
    assert logged[before:] == []


@pytest.mark.parametrize("begun", [b"", b"PROXY "])
def test_a_header_has_its_time(serve: Serve, connect: Connect, begun: bytes) -> None:
    """That of a head once it has begun; before, that of a silent client."""
    client = connect(serve(proxy_protocol="all", timeout=0.3, header_timeout=0.3))
    client.send(begun)
    assert client.is_closed()


def test_a_stranger_may_not_speak_as_a_proxy(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """If proxies are named, only they connect there."""
    client = connect(serve(proxy_protocol="all", trusted_proxies=["192.0.2.0/24"]))
    assert client.is_closed()
    told = "Refused a connection from 127.0.0.1, who is no trusted proxy"
    wait_for(lambda: (30, told) in logged)


def test_a_trusted_proxy_may(serve: Serve, connect: Connect) -> None:
    """By the network that it is in."""
    client = connect(serve(whose, proxy_protocol="all", trusted_proxies=["127.0.0.0/8"]))
    client.send(V1 + PLAIN)
    assert json.loads(client.answer().body) == ["203.0.113.7", "4711"]


def test_a_drain_ends_with_silent_proxies(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """One that has begun is heard out, and served."""
    server = serve(whose, proxy_protocol="all", linger=0.05)
    silent, begun = connect(server), connect(server)
    begun.send(V1[:9])
    wait_for(lambda: any(not each.is_silent for each in server.httpserver.channels))
    stop = stop_begins(engine, server, meanwhile)
    assert silent.is_closed()
    begun.send(V1[9:] + PLAIN)
    assert b"203.0.113.7" in everything(begun)
    stop.result(5)
