"""Clients of uvicorn's that send frames which cost more to read than to send."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest
from hpack import Encoder

from sitebus.servers import _uvicorn_turns as bounds
from sitebus.servers._uvicorn_turns import AT_ONCE, Frames, Http2Frames, WebSocketFrames
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import WEBSOCKETS, Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING, PONG, TEXT, BINARY, BEGUN, MORE, LAST = 0x89, 0x8A, 0x81, 0x82, 0x01, 0x00, 0x80


def frame(head: int, data: bytes = b"", length: int | None = None) -> bytes:
    """Answer a frame of a client, masked with nothing; its length may be a lie."""
    size = len(data) if length is None else length
    if size < 126:
        return bytes([head, 0x80 | size]) + bytes(4) + data
    if size < 1 << 16:
        return bytes([head, 0xFE]) + struct.pack(">H", size) + bytes(4) + data
    return bytes([head, 0xFF]) + struct.pack(">Q", size) + bytes(4) + data


def http2(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, number) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
POSTED = {":method": "POST", ":path": "/gate", ":scheme": "http", ":authority": "localhost"}


# What is seen of them.


def turns(frames: Frames, data: bytes, size: int) -> list[bytes]:
    """Answer what each turn gets of *data* that comes in pieces of *size* bytes."""
    found = []
    for start in range(0, len(data), size):
        piece, at = data[start : start + size], 0
        while at < len(piece):
            end = frames.cut(piece, at)
            found.append(piece[at:end])
            at = end
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1 << 20])
@pytest.mark.parametrize("each", [frame(PING), frame(PING, b"x" * 125), frame(MORE, b"x" * 127)])
def test_frames_that_say_nothing_are_counted(size: int, each: bytes) -> None:
    """Whatever pieces they come in."""
    frames = WebSocketFrames()
    told = turns(frames, each * bounds.MOST_IDLE, size)
    assert b"".join(told) == each * bounds.MOST_IDLE
    assert not frames.are_too_many
    turns(frames, each, size)
    assert frames.are_too_many


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "each", [frame(TEXT), frame(MORE, b"x" * 128), frame(BINARY, b"x" * 70000)]
)
def test_messages_are_not(size: int, each: bytes) -> None:
    frames = WebSocketFrames()
    number = 3 if len(each) > 1000 else bounds.MOST_IDLE + 1
    turns(frames, each * number, size)
    turns(frames, frame(PING) * (bounds.MOST_IDLE + number), size)
    assert not frames.are_too_many
    turns(frames, frame(PING), size)
    assert frames.are_too_many


def test_a_turn_has_so_many_frames() -> None:
    told = turns(WebSocketFrames(), frame(TEXT, b"a") * (3 * AT_ONCE + 1), 1 << 20)
    assert told == [frame(TEXT, b"a") * AT_ONCE] * 3 + [frame(TEXT, b"a")]


def test_what_is_long_is_one_turn() -> None:
    told = turns(WebSocketFrames(), frame(BINARY, bytes(1 << 20)) * 3, 1 << 16)
    assert len(told) == -(-len(frame(BINARY, bytes(1 << 20)) * 3) // (1 << 16))


@pytest.mark.parametrize("size", [1, 10, 1 << 20])
def test_http2_frames_are_counted(size: int) -> None:
    """Requests and bodies, and what is sent, allow for more that say nothing."""
    frames = Http2Frames()
    turns(frames, PREFACE + http2(1, 4, 1, b"head") + http2(0, 0, 1, b"body"), size)
    frames.sent(bytes(16384))
    most = bounds.MOST_IDLE + 4 * bounds.IDLE_FOR_EACH
    idle = [http2(4), http2(0, 0, 1), http2(0, 8, 1, b"\1\0"), http2(8, 0, 0, b"\0\0\0\1")]
    turns(frames, b"".join(idle) * (most // 4), size)
    assert not frames.are_too_many
    turns(frames, idle[0], size)
    assert frames.are_too_many


def test_what_was_counted_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "WINDOW", 0.05)
    frames = WebSocketFrames()
    for _ in range(3):
        turns(frames, frame(PING) * (bounds.MOST_IDLE // 2 + 1), 1000)
        threading.Event().wait(0.06)
    assert not frames.are_too_many


# From outside.


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Say back what comes through a WebSocket."""
    if scope["type"] != "websocket":
        await answer(send, HELLO)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({**event, "type": "websocket.send"})


def upgraded(client: Client) -> Client:
    client.send(UPGRADE)
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += client.socket.recv(1)
    assert said.startswith(b"HTTP/1.1 101 ")
    return client


def flood(client: Client, data: bytes) -> None:
    """Send *data* until the server has heard enough."""
    with suppress(OSError):
        while True:
            client.send(data)


def hear_out(client: Client) -> bytes:
    try:
        return everything(client)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("ws", WEBSOCKETS)
@pytest.mark.parametrize(
    ("begun", "each"),
    [
        pytest.param(b"", frame(PING), id="ping"),
        pytest.param(b"", frame(PONG), id="pong"),
        pytest.param(frame(BEGUN, b"a"), frame(MORE), id="nothing"),
        pytest.param(frame(BEGUN, b"a"), frame(MORE, b"b"), id="bytes"),
    ],
)
def test_frames_of_a_websocket_that_say_nothing_are_bounded(
    host: Host,
    connect: Connect,
    meanwhile: Meanwhile,
    logged: Logged,
    loop_kind: str,
    ws: str,
    begun: bytes,
    each: bytes,
) -> None:
    """One client could hold up all others for seconds."""
    pytest.importorskip(ws.partition("-")[0])
    server = host(echo, native={"ws": ws})
    client = upgraded(connect(server))
    client.send(begun)
    attack = meanwhile(flood, client, each * 10_000)
    hear_out(client)
    attack.result(5)
    told = "Closed the connection of 127.0.0.1, who sends too many small frames"
    assert [message for level, message in logged if level >= 30] == [told]
    wait_for(lambda: not server.httpserver._crowd)


@pytest.mark.parametrize("ws", WEBSOCKETS)
def test_many_messages_are_all_heard(
    host: Host, connect: Connect, meanwhile: Meanwhile, loop_kind: str, ws: str
) -> None:
    """Some in each turn, and what comes after them as well, in whatever pieces."""
    pytest.importorskip(ws.partition("-")[0])
    client = upgraded(connect(host(echo, native={"ws": ws, "ws_per_message_deflate": "no"})))
    for size in (1, 125, 70_000):
        sent = b"".join(b"%0*d" % (size, number % 10) for number in range(20 * AT_ONCE // size + 1))
        each = b"".join(frame(TEXT, sent[at : at + size]) for at in range(0, len(sent), size))
        sending = meanwhile(client.send, each)
        for at in range(0, len(sent), size):
            assert received(client) == sent[at : at + size]
        sending.result(5)
    client.send(frame(PING, b"x") * 3 * AT_ONCE)
    client.send(frame(TEXT, b"end"))
    while (heard := received(client)) != b"end":
        assert heard == b"x"


def received(client: Client) -> bytes:
    """Answer what the next frame says."""
    head = exactly(client, 2)
    length = head[1]
    if length > 125:
        length = int.from_bytes(exactly(client, 2 if length == 126 else 8))
    return exactly(client, length)


def exactly(client: Client, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = client.socket.recv(size - len(found))
        assert more
        found += more
    return found


@pytest.mark.parametrize("ws", WEBSOCKETS)
def test_who_goes_on_after_a_message_was_too_long_is_closed(
    host: Host, connect: Connect, meanwhile: Meanwhile, loop_kind: str, ws: str
) -> None:
    """And soon: what it sends is kept by nobody."""
    pytest.importorskip(ws.partition("-")[0])
    server = host(echo, native={"ws": ws, "ws_max_size": "1000"})
    client = upgraded(connect(server))
    client.send(frame(TEXT, b"", 1 << 40))
    attack = meanwhile(flood, client, b"x" * 65536)
    hear_out(client)
    attack.result(5)
    wait_for(lambda: not server.httpserver._crowd, 5)


@pytest.mark.parametrize("ws", WEBSOCKETS)
def test_one_that_sends_fast_leaves_others_their_turn(
    host: Host,
    connect: Connect,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    loop_kind: str,
    ws: str,
) -> None:
    """Also where nothing that it sends is too much: others wait for one turn at a time."""
    pytest.importorskip(ws.partition("-")[0])
    monkeypatch.setattr(bounds, "MOST_IDLE", 10**9)
    server = host(echo, native={"ws": ws})
    client = upgraded(connect(server))

    attack = meanwhile(flood, client, frame(PONG) * 100_000)
    threading.Event().wait(0.2)
    began = time.monotonic()
    for _ in range(10):
        assert connect(server).get().status == 200
    # It was eight seconds for each of them; other tests run beside this one.
    assert time.monotonic() - began < 15
    client.socket.shutdown(socket.SHUT_RDWR)
    attack.result(5)


# HTTP/2.


@pytest.fixture
def speaking() -> dict[str, bool]:
    pytest.importorskip("zttp")
    return {"http2": True}


def attack_with(client: Client, opening: bytes, each: bytes) -> bytes:
    """Send *each* again and again, and answer what the server said at last."""
    client.send(PREFACE + http2(4) + opening)
    with suppress(ConnectionError):
        client.send(each * 10_000)
    return hear_out(client)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "each",
    [
        pytest.param(http2(4), id="settings"),
        pytest.param(http2(6, payload=bytes(8)), id="ping"),
        pytest.param(http2(2, 0, 3, bytes(5)), id="priority"),
        pytest.param(http2(0, 0, 1), id="empty"),
        pytest.param(http2(0, 8, 1, b"\1\0"), id="padding"),
        pytest.param(http2(8, payload=struct.pack(">I", 1)), id="window"),
        pytest.param(http2(0x55), id="unknown"),
    ],
)
def test_http2_frames_that_say_nothing_are_bounded(
    host: Host,
    connect: Connect,
    logged: Logged,
    shop: Shop,
    certificate: Certificate,
    loop_kind: str,
    speaking: dict[str, bool],
    each: bytes,
    tls: bool,
) -> None:
    """Who sends them is told to calm down, and its application that it has left."""
    context = ssl.create_default_context(cafile=certificate.root) if tls else None
    if context is not None:
        context.set_alpn_protocols(["h2"])
    server = host(native=speaking, tls=certificate.tls if tls else None)
    opened = http2(1, 4, 1, Encoder().encode(POSTED.items()))
    client = connect(server, tls=context)
    attack_with(client, opened, each)
    client.close()
    told = "Closed the connection of 127.0.0.1, who sends too many frames that say nothing"
    assert [message for level, message in logged if level >= 30] == [told]
    shop.opened.give()
    wait_for(lambda: not server.httpserver._crowd)


def test_who_floods_with_http2_is_told_why(
    host: Host, connect: Connect, loop_kind: str, speaking: dict[str, bool]
) -> None:
    """By the last frame that it is sent, with the code for it."""
    client = connect(host(native=speaking))
    client.send(PREFACE + http2(4) * (bounds.MOST_IDLE + 2000))
    said = hear_out(client)
    assert said[-17:-8] == http2(7, 0, 0, bytes(8))[:9]
    assert int.from_bytes(said[-4:]) == 11


def test_many_http2_requests_at_once_are_all_answered(
    host: Host, connect: Connect, loop_kind: str, speaking: dict[str, bool]
) -> None:
    """Between more pings than are read in a turn."""
    client = connect(host(native=speaking))
    encoder = Encoder()
    head = {**POSTED, ":method": "GET", ":path": "/"}
    client.send(PREFACE + http2(4))
    for number in range(1, 21, 2):
        pings = http2(6, payload=bytes(8)) * 2 * AT_ONCE
        client.send(pings + http2(1, 5, number, encoder.encode(head.items())))
        said = b""
        while HELLO not in said:
            more = client.socket.recv(65536)
            assert more
            said += more


def test_requests_given_up_are_no_errors(
    host: Host, connect: Connect, logged: Logged, loop_kind: str, speaking: dict[str, bool]
) -> None:
    """Nobody sees a traceback because a client floods (CVE-2023-44487)."""
    server = host(native=speaking)
    encoder = Encoder()
    head = {**POSTED, ":method": "GET", ":path": "/"}
    frames = b"".join(
        http2(1, 5, number, encoder.encode(head.items()))
        + http2(3, 0, number, struct.pack(">I", 8))
        for number in range(1, 10_000, 2)
    )
    client = connect(server)
    client.send(PREFACE + http2(4))
    with suppress(ConnectionError):
        client.send(frames)
    hear_out(client)
    wait_for(lambda: not server.httpserver._crowd)
    assert len([message for level, message in logged if level >= 30]) == 1
    assert "Traceback" not in str(logged)


def test_an_http2_answer_that_nobody_takes_is_not_kept(
    host: Host, connect: Connect, loop_kind: str, speaking: dict[str, bool]
) -> None:
    """Its application waits, others have their turn, and its client is given up at last."""
    pieces: list[int] = []
    ended = threading.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/large":
            await answer(send, HELLO)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(10):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            pieces.append(number)
        ended.set()

    server = host(large, native=speaking, timeout=0.5)
    client = connect(server)
    head = {**POSTED, ":method": "GET", ":path": "/large"}
    client.send(PREFACE + http2(4) + http2(1, 5, 1, Encoder().encode(head.items())))
    wait_for(lambda: len(pieces) >= 1)
    assert connect(server).get().body == HELLO
    assert len(pieces) <= 3
    # Room for one more piece, and then none.
    client.send(http2(8, payload=struct.pack(">I", 65536)))
    client.send(http2(8, number=1, payload=struct.pack(">I", 65536)))
    wait_for(lambda: len(pieces) == 2)
    assert ended.wait(5)
    hear_out(client)
    wait_for(lambda: not server.httpserver._crowd)
