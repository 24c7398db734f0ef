"""Clients of waitress that are slow, too many, ambiguous, or come through a proxy."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable
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
