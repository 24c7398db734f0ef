"""Clients that attack with HTTP/2: floods that cost more to read than to send, and odd requests."""

from __future__ import annotations

import ssl
import struct
import threading
from typing import Any

import h2.events
import pytest
from h2.errors import ErrorCodes
from hpack import Encoder

from sitebus.servers import _hypercorn_http2 as bounds
from sitebus.servers._hypercorn_visitor import Visitor
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything
from tests.servers.conftest import Certificate, Logged
from tests.servers.hypercorn_fixtures import Connect, Http2, Meanwhile, Serve, serve, shop
from tests.servers.shop import BLOCK, HELLO, Shop

#: Found here by pytest.
__all__ = ["serve", "shop"]

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, number) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
CANCEL = struct.pack(">I", ErrorCodes.CANCEL)
HEAD = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "localhost"}
POSTED = {**HEAD, ":method": "POST", ":path": "/gate"}


def requests_given_up(count: int) -> bytes:
    """Answer the frames of *count* requests, each reset at once."""
    encoder = Encoder()
    return b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, number, encoder.encode(HEAD.items()))
        + frame(RESET, 0, number, CANCEL)
        for number in range(1, 2 * count, 2)
    )


def attack(client: Client, flood: bytes) -> int:
    """Send *flood* and answer the code of the GOAWAY that is the last word of the server."""
    client.send(PREFACE)
    try:
        client.send(flood)
    except ConnectionError:
        pass  # it has heard enough
    said = everything(client)
    assert said[-17:-8] == frame(7, 0, 0, bytes(8))[:9]
    return int.from_bytes(said[-4:])


async def never(scope: Any, receive: Any, _send: Any) -> None:
    """Answer nothing, ever."""
    while (await receive())["type"] != "http.disconnect":
        pass


def lines_of(logged: Logged) -> list[str]:
    return [message for level, message in logged if level >= 30]


def test_requests_that_are_given_up_at_once_are_bounded(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """However many a client sends, so many at most reach an application (CVE-2023-44487)."""
    called: list[Any] = []

    async def slow(scope: Any, receive: Any, _send: Any) -> None:
        called.append(scope)
        while (await receive())["type"] != "http.disconnect":
            pass

    server = serve(slow)
    assert attack(connect(server), requests_given_up(5000)) == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(called) <= bounds.MOST_GIVEN_UP
    told = "Closed the connection of 127.0.0.1, who gives up too many requests"
    assert lines_of(logged) == [told]
    wait_for(lambda: not server.httpserver._visitors)


def test_who_gives_up_some_requests_is_served(
    serve: Serve, connect: Connect, logged: Logged, certificate: Certificate
) -> None:
    """A good many at once, as a browser does that leaves a page."""
    server = serve(tls=certificate.tls)
    context = ssl.create_default_context(cafile=certificate.root)
    context.set_alpn_protocols(["h2"])
    client = Http2(connect(server, tls=context))
    for _ in range(2):
        for number in [client.ask() for _ in range(90)]:
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
        assert client.get() == 200
    assert lines_of(logged) == []


def test_as_many_may_be_given_up_as_are_let_end(
    serve: Serve, connect: Connect, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does so has all that work answered too."""
    monkeypatch.setattr(bounds, "MOST_GIVEN_UP", 10)
    client = Http2(connect(serve()))
    for _ in range(30):
        client.h2.reset_stream(client.ask(), ErrorCodes.CANCEL)
        assert client.get() == 200
    assert lines_of(logged) == []


def test_the_bounds_hold_under_tls(
    serve: Serve, connect: Connect, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection speaks HTTP/2 from the beginning."""
    monkeypatch.setattr(bounds, "MOST_GIVEN_UP", 10)
    context = ssl.create_default_context(cafile=certificate.root)
    context.set_alpn_protocols(["h2"])
    # What is answered before it is given up counts for the client.
    client = Http2(connect(serve(never, tls=certificate.tls), tls=context))
    for number in [client.ask() for _ in range(40)]:
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
    client.flush()
    # Who goes on writing hears that it was closed before it has read why.
    end = client.read_until(h2.events.ConnectionTerminated, silently=True)
    assert end.error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_what_was_given_up_is_forgotten_in_time(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window later, as many again."""
    monkeypatch.setattr(bounds, "WINDOW", 0.2)
    monkeypatch.setattr(bounds, "MOST_GIVEN_UP", 20)
    client = Http2(connect(serve()))
    for _ in range(3):
        for number in [client.ask() for _ in range(15)]:
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        assert client.get() == 200
        threading.Event().wait(0.25)


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(frame(SETTINGS, 0, 0), id="settings"),
        pytest.param(frame(PING, 0, 0, bytes(8)), id="ping"),
        pytest.param(frame(PRIORITY, 0, 3, bytes(5)), id="priority"),
        pytest.param(frame(DATA, 0, 1), id="empty"),
        pytest.param(frame(DATA, 8, 1, b"\1\0"), id="padding"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), id="window"),
        pytest.param(frame(0x55, 0, 0), id="unknown"),
    ],
)
def test_frames_that_say_nothing_are_bounded(
    serve: Serve, connect: Connect, logged: Logged, shop: Shop, each: bytes
) -> None:
    """They cost more to read than to send: one client could hold up all others."""
    server = serve()
    opened = frame(HEADERS, END_HEADERS, 1, Encoder().encode(POSTED.items()))
    assert attack(connect(server), opened + each * 10_000) == ErrorCodes.ENHANCE_YOUR_CALM
    told = "Closed the connection of 127.0.0.1, who sends too many frames that say nothing"
    assert lines_of(logged) == [told]
    shop.opened.give()
    assert connect(server).get().body == HELLO


def test_a_header_without_end_is_bounded(serve: Serve, connect: Connect, logged: Logged) -> None:
    """In pieces of nothing."""
    flood = frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 1000
    assert attack(connect(serve()), flood) == ErrorCodes.PROTOCOL_ERROR
    told = "Closed the connection of 127.0.0.1, who does not speak HTTP/2 as it is meant"
    assert lines_of(logged) == [told]


def test_who_receives_much_may_make_room_for_it(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as there is data, which is more often than without."""
    monkeypatch.setattr(bounds, "MOST_IDLE", 20)
    client = Http2(connect(serve()))
    number = client.ask("/big?32")
    client.read_until(h2.events.StreamEnded, number)
    assert len(client.body) == 32 * len(BLOCK)
    assert len(client.found(h2.events.DataReceived)) > 100


def test_one_flood_holds_up_nobody(serve: Serve, connect: Connect, meanwhile: Meanwhile) -> None:
    """Who floods again and again is refused each time, and others are answered meanwhile."""
    server = serve()
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            attack(connect(server), frame(SETTINGS, 0, 0) * 20_000)

    flood = meanwhile(go_on)
    for _ in range(20):
        with connect(server) as other:
            assert other.get().status == 200
    ended.set()
    flood.result(10)


def test_priorities_of_many_streams_are_let_pass(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """Hypercorn fails when it has seen a thousand."""
    client = Http2(connect(serve()))
    for number in range(3, 2 * 1500, 2):
        client.client.send(frame(PRIORITY, 0, number, bytes(5)))
    assert client.get() == 200
    assert lines_of(logged) == []


WEBSOCKET = {":method": "CONNECT", ":protocol": "websocket", "sec-websocket-version": "13"}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        pytest.param({":method": "get"}, 400, id="small method"),
        pytest.param({":method": "G T"}, 400, id="method with blank"),
        pytest.param({":path": "/a b"}, 400, id="path with blank"),
        pytest.param({":path": "/a\x01"}, 400, id="path with control"),
        pytest.param({":path": "/a?b#c"}, 400, id="fragment"),
        pytest.param({":path": "http://b/"}, 400, id="url"),
        pytest.param({":path": "*"}, 400, id="star"),
        pytest.param({":authority": "u@a"}, 400, id="user"),
        pytest.param({f"x{at}": "" for at in range(300)}, 431, id="fields"),
        pytest.param({"x": "y" * 2000}, 431, id="long"),
        pytest.param({**WEBSOCKET, ":authority": "a b"}, 400, id="WebSocket's host"),
        pytest.param({**WEBSOCKET, ":path": "/a b"}, 400, id="WebSocket's path"),
        pytest.param({**WEBSOCKET, "x": "y" * 2000}, 431, id="WebSocket's header"),
    ],
)
def test_http2_is_read_as_strictly(
    serve: Serve, connect: Connect, logged: Logged, changed: dict[str, str], status: int
) -> None:
    """As HTTP/1.1: before an application, in a few words; it costs the stream alone."""
    client = Http2(connect(serve(max_header=1000)))
    told = refused(client, list({**HEAD, **changed}.items()))
    assert told == status
    assert len(client.body) < 100
    assert len(lines_of(logged)) == 1
    assert lines_of(logged)[0].startswith(f"Refused a request from 127.0.0.1: {status} ")
    assert client.get() == 200


def refused(client: Http2, head: list[tuple[str, str]]) -> int:
    client.h2.config.validate_outbound_headers = False
    client.h2.config.normalize_outbound_headers = False
    client.h2.send_headers(1, head, end_stream=True)
    client.flush()
    client.read_until(h2.events.StreamEnded, 1)
    return int(dict(client.found(h2.events.ResponseReceived, 1)[0].headers)[b":status"])


def test_a_length_that_is_said_twice_over_http2(serve: Serve, connect: Connect) -> None:
    """As over HTTP/1.1, if it is the same."""
    length = ("content-length", "0")
    assert refused(Http2(connect(serve())), [*HEAD.items(), length, length]) == 400


def test_all_servers_may_be_asked_about(serve: Serve, connect: Connect) -> None:
    """The one request without a path; it is the application's."""
    client = Http2(connect(serve(asked)))
    assert refused(client, list({**HEAD, ":method": "OPTIONS", ":path": "*"}.items())) == 200
    assert client.body == b"OPTIONS *"


async def asked(scope: Any, _receive: Any, send: Any) -> None:
    text = scope["method"].encode() + b" " + scope["raw_path"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


def test_errors_of_the_server_do_not_fill_the_log(
    serve: Serve, connect: Connect, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with its traceback; who knows how to cause one causes many."""

    async def fail(_visitor: Visitor, _data: bytes) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(Visitor, "_understand", fail)
    server = serve()
    for _ in range(15):
        client = connect(server)
        client.ask()
        assert client.is_closed()
    server.bus.stop()
    assert sum("Traceback" in line for line in lines_of(logged)) == 1
    told = "Closed the connection of 127.0.0.1, for an error of the server's"
    assert lines_of(logged).count(told) == 10
    assert "... and 4 more: error in a connection" in str(logged)
