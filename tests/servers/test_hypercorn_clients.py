"""Clients of hypercorn that do not do as they should, and what becomes of their connections."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import h2.errors
import h2.events
import pytest

from sitebus.process import Engine
from sitebus.servers.hypercorn import HypercornServer
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything, post
from tests.servers.conftest import Logged
from tests.servers.hypercorn_fixtures import (
    Connect,
    Http2,
    Meanwhile,
    Serve,
    serve,
    shop,
    stop_begins,
)
from tests.servers.shop import HELLO, Shop

#: Found here by pytest.
__all__ = ["serve", "shop"]

#: More than hypercorn keeps for an application that does not receive it.
BIG = b"x" * (4 << 20)
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#: A text frame with nothing in it, as clients send it.
FRAME = b"\x81\x80\x00\x00\x00\x00"


def all_left(server: HypercornServer) -> None:
    """Wait until no connection and no request is left."""
    wait_for(lambda: not server.httpserver._visitors, what="connections to end")
    assert not server.httpserver.scopes


async def brief(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer without a look at the body, once much of it is there."""
    await asyncio.sleep(0.3)
    length = (b"content-length", b"5")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"brief"})


async def half(_scope: Any, _receive: Any, send: Any) -> None:
    """Fail in the middle of a response."""
    length = (b"content-length", b"5")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"bri", "more_body": True})
    raise ValueError("half")


def upload(client: Client, data: bytes) -> threading.Thread:
    def send() -> None:
        try:
            client.send(data)
        except OSError:
            pass

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_body_that_nobody_receives_does_not_cost_the_answer(
    serve: Serve, connect: Connect
) -> None:
    """Nor does its connection stay for ever: hypercorn waits for room in a queue."""
    server = serve(brief)
    client = connect(server)
    sending = upload(client, post("/", BIG))
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"brief")
    sending.join(5)
    assert not sending.is_alive()
    client.close()
    all_left(server)


def test_a_client_that_leaves_an_upload_is_forgotten(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """Also by an application that does not listen but writes."""

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    server = serve(flood)
    client = connect(server)
    sending = upload(client, post("/", BIG))
    assert client.socket.recv(1000)
    client.socket.shutdown(2)
    client.close()
    sending.join(5)
    all_left(server)
    assert not [said for level, said in logged if level >= 30]


def test_a_body_that_comes_after_the_answer_harms_no_other_stream(
    serve: Serve, shop: Shop, connect: Connect
) -> None:
    """Hypercorn ends the whole connection for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (brief if scope["path"] == "/brief" else shop.asgi)(scope, receive, send)

    server = serve(app)
    client = Http2(connect(server))
    slow = client.ask("/gate")
    shop.entered.wait()
    number = client.ask("/brief", "POST", end=False)
    client.read_until(h2.events.StreamEnded, number)
    client.h2.send_data(number, b"x" * 100)
    client.h2.send_data(number, b"x" * 100, end_stream=True)
    client.flush()
    assert client.get() == 200
    shop.opened.give()
    client.read_until(h2.events.StreamEnded, slow)


def test_a_big_body_that_nobody_receives_over_http_2(serve: Serve, connect: Connect) -> None:
    """More messages than hypercorn has room for."""
    server = serve(brief)
    client = Http2(connect(server))
    number = client.ask("/brief", "POST", end=False)
    for _ in range(12):
        client.h2.send_data(number, b"x" * 1000)
    client.flush()
    client.read_until(h2.events.StreamEnded, number)
    assert client.get() == 200
    client.client.close()
    all_left(server)


def test_half_a_response_over_http_2_is_ended(serve: Serve, connect: Connect) -> None:
    """The client must not wait for the rest."""
    client = Http2(connect(serve(half)))
    number = client.ask("/")
    end = client.read_until(h2.events.StreamReset, number)
    assert end.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR


def test_half_a_response_ends_a_connection_with_more_requests(
    serve: Serve, connect: Connect
) -> None:
    """Hypercorn closes it, and waits for the next request to be asked for all the same."""
    server = serve(half)
    client = connect(server)
    client.ask()
    client.ask()
    assert everything(client).endswith(b"\r\n\r\nbri")
    client.close()
    all_left(server)


@pytest.mark.parametrize("key", [b"", KEY + b"\r\n" + FRAME], ids=["no key", "a frame too early"])
def test_a_bad_handshake_is_refused_and_its_connection_closed(
    serve: Serve, connect: Connect, key: bytes
) -> None:
    """Hypercorn alone keeps it for good, and an application that waits to be told."""
    heard: list[str] = []
    done = threading.Event()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            done.wait(0.2)
            await send({"type": "websocket.accept"})
            heard.append((await receive())["type"])
        finally:
            done.set()

    server = serve(app)
    client = connect(server)
    client.send(HANDSHAKE + (key or b"\r\n"))
    assert b" 400 " in everything(client)[:15]
    all_left(server)


def test_a_bad_handshake_over_http_2(engine: Engine, serve: Serve, connect: Connect) -> None:
    """Its stream is no reason to keep the connection."""
    server = serve()
    client = Http2(connect(server))
    number: int = client.h2.get_next_available_stream_id()
    head = {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":path": "/",
        ":scheme": "http",
        ":authority": "a",
        "sec-websocket-version": "1",
    }
    client.h2.send_headers(number, list(head.items()))
    client.flush()
    client.read_until(h2.events.ResponseReceived, number)
    assert client.get() == 200
    wait_for(lambda: not next(iter(server.httpserver._visitors)).protocol.protocol.streams)


def test_a_client_that_does_not_read_is_given_up(serve: Serve, connect: Connect) -> None:
    """However much there is still to be sent."""

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    server = serve(flood, timeout=0.3)
    client = connect(server)
    client.ask()
    wait_for(lambda: server.httpserver._visitors)
    all_left(server)


def test_an_answer_that_nobody_reads_is_given_up(serve: Serve, connect: Connect) -> None:
    """Also when the application has done its part."""

    async def big(_scope: Any, _receive: Any, send: Any) -> None:
        length = (b"content-length", b"%d" % (len(BIG) * 4))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": BIG * 4})

    server = serve(big, timeout=0.3)
    client = connect(server)
    client.ask()
    wait_for(lambda: server.httpserver._visitors)
    all_left(server)


def test_disconnect_is_said_as_often_as_asked(serve: Serve, connect: Connect) -> None:
    """A framework may listen for it while the application does too."""
    heard: list[str] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        # Two at the same time, and one later.
        both = await asyncio.gather(receive(), receive())
        heard.extend(each["type"] for each in (*both, await receive()))

    server = serve(app)
    client = connect(server)
    client.ask()
    wait_for(lambda: server.httpserver.scopes)
    client.close()
    wait_for(lambda: heard)
    assert heard == ["http.disconnect"] * 3
    all_left(server)


def test_an_answer_comes_in_one_piece_and_says_why(serve: Serve, connect: Connect) -> None:
    """Some clients show the reason, and one packet is cheaper than two."""
    client = connect(serve())
    for _ in range(20):
        client.ask()
        answer = client.socket.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n" + HELLO)


def test_a_head_does_not_wait_for_a_body_that_takes_its_time(
    serve: Serve, connect: Connect
) -> None:
    """It goes as soon as the application says that there is one, if it is still empty."""

    async def wait(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    client = connect(serve(wait))
    client.ask()
    assert client.socket.recv(65536).endswith(b"\r\n\r\n")


def test_one_websocket_that_does_not_read_holds_no_other(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Each is told for itself that the server leaves."""
    stuck = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/flood":
            while True:
                stuck.set()
                await send({"type": "websocket.send", "bytes": b"x" * 100000})
        else:
            while (await receive())["type"] != "websocket.disconnect":
                pass

    server = serve(app)
    floods = [connect(server) for _ in range(3)]
    for each in floods:
        each.send((HANDSHAKE + KEY + b"\r\n").replace(b"GET / ", b"GET /flood "))
    other = connect(server)
    other.send(HANDSHAKE + KEY + b"\r\n")
    assert b"101" in other.socket.recv(1000)
    assert stuck.wait(5)
    visitors = server.httpserver._visitors
    wait_for(lambda: sum(bool(v.writer.transport.get_write_buffer_size()) for v in visitors) == 3)
    stop = stop_begins(engine, server, meanwhile)
    other.socket.settimeout(3)
    assert other.socket.recv(100)[2:4] == b"\x03\xf4"
    other.close()
    stop.result(4)


def test_a_websocket_over_http_2_that_does_not_close_is_given_up(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect
) -> None:
    """Alone: its connection ends as others do."""
    client = Http2(connect(serve()))
    number: int = client.h2.get_next_available_stream_id()
    head = {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":path": "/",
        ":scheme": "http",
        ":authority": "a",
        "sec-websocket-version": "13",
    }
    client.h2.send_headers(number, list(head.items()))
    client.flush()
    client.read_until(h2.events.ResponseReceived, number)
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 3
    client.read_until(h2.events.StreamReset, number)
    assert client.body[2:4] == b"\x03\xf4"
    assert shop.closed_with == [1012]


def test_a_path_that_is_no_text_over_http_2(serve: Serve, connect: Connect, logged: Logged) -> None:
    """The client is told whose fault it is, and nobody is woken for it."""
    client = Http2(connect(serve()))
    client.h2.config.validate_outbound_headers = False
    number: int = client.h2.get_next_available_stream_id()
    head: dict[str, Any] = {
        ":method": "GET",
        ":path": b"/\xff\xe9",
        ":scheme": "http",
        ":authority": "a",
    }
    client.h2.send_headers(number, list(head.items()), end_stream=True)
    client.flush()
    end = client.read_until(h2.events.ConnectionTerminated)
    assert end.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
    told = [(level, said) for level, said in logged if level >= 30]
    assert len(told) == 1
    assert told[0][0] == 30
    assert told[0][1].startswith("Closed the connection of 127.0.0.1, whose request has no path")


def test_a_stream_that_its_client_gave_up_holds_no_stop(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """As browsers do; hypercorn takes the connection for busy from then on."""

    async def wait(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    server = serve(wait)
    client = Http2(connect(server))
    number = client.ask()
    wait_for(lambda: server.httpserver.scopes)
    client.h2.reset_stream(number)
    client.flush()
    wait_for(lambda: not server.httpserver.scopes)
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 2


def test_a_silent_body_over_http_2_is_given_up_alone(
    serve: Serve, shop: Shop, connect: Connect
) -> None:
    """The connection is shared with others."""
    client = Http2(connect(serve(timeout=0.3)))
    slow = client.ask("/gate")
    shop.entered.wait()
    silent = client.ask("/echo", "POST", end=False)
    client.read_until(h2.events.StreamReset, silent)
    shop.opened.give()
    client.read_until(h2.events.StreamEnded, slow)
    assert client.get() == 200


def test_who_uploads_too_much_is_told(serve: Serve, connect: Connect) -> None:
    """Closed with something unread, the connection would be reset, and the answer lost."""
    server = serve(max_body=10)
    client = connect(server)
    sending = upload(client, post("/echo", BIG))
    answer = client.answer()
    assert answer.status == 413
    assert answer.closes
    sending.join(5)
    client.close()
    all_left(server)


def test_who_reads_slowly_gets_all(serve: Serve, connect: Connect) -> None:
    """A little within each timeout is enough."""
    most = 3 << 20

    async def big(_scope: Any, _receive: Any, send: Any) -> None:
        length = (b"content-length", b"%d" % most)
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": bytes(most)})

    server = serve(big, timeout=0.3)
    client = connect(server)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.ask()
    pause = threading.Event()
    received = 0
    while received < most:
        data = client.socket.recv(120000)
        assert data
        received += len(data)
        pause.wait(0.05)


def test_an_application_is_told_by_send_that_its_client_has_left(
    serve: Serve, connect: Connect
) -> None:
    """One that does not listen would go on for ever."""
    ended = threading.Event()

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError:
            ended.set()

    server = serve(flood)
    client = connect(server)
    client.ask()
    assert client.socket.recv(10)
    client.close()
    assert ended.wait(5)
    all_left(server)


def test_half_a_head_at_the_end_of_the_timeout_is_waited_for(
    serve: Serve, connect: Connect
) -> None:
    """Its client was not silent."""
    client = connect(serve(timeout=0.5))
    client.get()
    threading.Event().wait(0.35)
    client.send(b"GET / HTTP/1.1\r\n")
    threading.Event().wait(0.3)
    client.send(b"Host: a\r\n\r\n")
    assert client.answer().status == 200
