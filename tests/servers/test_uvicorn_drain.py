"""What clients of uvicorn see when it stops, whatever parses HTTP and whoever made the loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_websocket

from sitebus.process import Engine
from sitebus.servers.arrivals import AT_ONCE
from sitebus.servers.hosting import SiteServer
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import Load, begin, everything, last_answer, leave_rudely
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import BLOCK, HELLO, Shop, Sign
from tests.servers.uvicorn_fixtures import PARSERS, WEBSOCKETS, Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

pytestmark = pytest.mark.usefixtures("loop_kind")

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> dict[str, str]:
    pytest.importorskip(request.param)
    return {"http": request.param}


def stop_begins(engine: Engine, server: SiteServer, meanwhile: Meanwhile) -> Future[Any]:
    """Stop *engine* in another thread, and return once *server* accepts nothing more."""
    stop = meanwhile(engine.stop)
    assert server.httpserver.shut.wait(5)
    return stop


def hold(loop: asyncio.AbstractEventLoop) -> threading.Event:
    """Let *loop* do nothing until the event is set."""
    held, go = threading.Event(), threading.Event()
    loop.call_soon_threadsafe(held.set)
    loop.call_soon_threadsafe(go.wait, 5)
    assert held.wait(5)
    return go


def test_a_request_in_flight_is_answered_and_its_connection_closed(
    engine: Engine,
    host: Host,
    parser: dict[str, str],
    shop: Shop,
    connect: Connect,
    meanwhile: Meanwhile,
) -> None:
    """The client is told, and need not find out."""
    server = host(native=parser)
    client = connect(server)
    client.ask("/gate")
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)
    shop.opened.give()

    told = client.answer()
    assert (told.status, told.body, told.closes) == (200, HELLO, True)
    assert client.is_closed()
    stop.result(3)


def test_who_was_not_told_may_ask_once_more(
    engine: Engine,
    host: Host,
    parser: dict[str, str],
    shop: Shop,
    connect: Connect,
    meanwhile: Meanwhile,
) -> None:
    """The head of its response was sent before the stop, and says that the connection stays."""
    server = host(native=parser, linger=5)
    client = connect(server)
    client.ask("/stream")
    response = begin(client)
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)
    shop.opened.give()

    assert response.read() == b"first second last"
    assert last_answer(client).closes
    assert client.is_closed()
    stop.result(3)


def test_silent_clients_have_the_linger(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect, meanwhile: Meanwhile
) -> None:
    """Those that asked before, and those that never did."""
    server = host(native=parser, linger=0.3)
    kept, fresh, speaks, begins = (connect(server) for _ in range(4))
    kept.get()
    speaks.get()
    began = time.monotonic()
    stop = stop_begins(engine, server, meanwhile)

    assert speaks.get().closes
    assert begins.get().closes
    assert everything(kept) == everything(fresh) == b""
    stop.result(3)
    assert 0.25 < time.monotonic() - began < 1.5


def test_a_loop_that_was_held_up_looks_before_it_closes(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """The linger is over, and so is the client's silence, though nobody has noticed."""
    server = host(linger=0.1)
    client = connect(server)
    client.get()
    began = time.monotonic()
    stop = stop_begins(engine, server, meanwhile)
    go = hold(engine.loop)
    client.ask()
    wait_for(lambda: time.monotonic() > began + 0.2)
    go.set()

    assert client.answer().closes
    stop.result(3)


def test_half_a_head_is_waited_for(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect, meanwhile: Meanwhile
) -> None:
    """On a new connection and on a kept one, longer than the linger."""
    server = host(native=parser, linger=0.05)
    kept, fresh, silent = (connect(server) for _ in range(3))
    kept.get()
    for client in (kept, fresh):
        client.send(REQUEST[:-3])
    with connect(server) as later:
        later.get()
    stop = stop_begins(engine, server, meanwhile)
    assert silent.is_closed()

    for client in (kept, fresh):
        client.send(REQUEST[-3:])
        told = client.answer()
        assert (told.status, told.closes) == (200, True)
    stop.result(3)


def test_half_a_head_is_not_waited_for_for_ever(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """Not longer than for any silent client."""
    server = host(linger=0.05, timeout=0.2, drain_timeout=20)
    client = connect(server)
    client.send(REQUEST[:-3])
    began = time.monotonic()

    engine.stop()

    assert time.monotonic() - began < 2
    assert client.answer().status == 408


def test_a_body_that_nobody_reads_does_not_cost_the_answer(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect, meanwhile: Meanwhile
) -> None:
    """To close on an upload resets the connection, and the client may never see what it got."""
    entered, opened = Sign(), Sign()

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        entered.give()
        await opened.soon()
        await answer(send, b"no, thanks")

    server = host(refuse, native=parser)
    client = connect(server)
    half = b"x" * 300_000
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + half)
    entered.wait()
    stop = stop_begins(engine, server, meanwhile)
    opened.give()
    client.send(half)

    told = client.answer()
    assert (told.status, told.closes, told.body) == (200, True, b"no, thanks")
    assert everything(client) == b""
    client.close()
    stop.result(3)


def test_requests_sent_together_are_answered(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Those that were read when the stop came; the last of them says that it is."""
    server = host()
    client = connect(server)
    client.send(REQUEST.replace(b"/", b"/gate", 1) + REQUEST + REQUEST)
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)
    shop.opened.give()

    received = everything(client)
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b"connection: close") == 1
    assert received.rindex(b"HTTP/1.1 200 OK") < received.index(b"connection: close")
    stop.result(3)


def test_who_is_accepted_at_the_last_moment_is_answered(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """To be accepted takes a few turns of the loop, and a stop must not come between them."""
    server = host(linger=0.0)
    for _ in range(10):
        go = hold(engine.loop)
        clients = [connect(server) for _ in range(5)]
        for client in clients:
            client.ask()
        stop = meanwhile(engine.stop)
        wait_for(lambda: server.httpserver.draining)
        # The loop finds them at its door, and the stop, in the same turn.
        go.set()
        stop.result(5)
        engine.start()
        assert [client.answer().status for client in clients] == [200] * 5


def test_a_client_that_reset_its_connection_is_no_news(
    engine: Engine, host: Host, connect: Connect, logged: Logged, meanwhile: Meanwhile
) -> None:
    """It costs neither a log line nor the stop."""
    server = host(linger=0.3)
    before, after, stays = (connect(server) for _ in range(3))
    for client in (before, after, stays):
        client.get()
    leave_rudely(before)
    stop = stop_begins(engine, server, meanwhile)
    leave_rudely(after)

    assert stays.is_closed()
    stop.result(3)
    assert "rror" not in str(logged)


def test_what_an_application_does_after_its_response_is_waited_for(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """As a mail that it sends."""
    opened, done = Sign(), Sign()

    async def afterwards(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        await opened.soon()
        done.give()

    server = host(afterwards)
    client = connect(server)
    assert client.get().status == 200
    client.close()
    stop = stop_begins(engine, server, meanwhile)
    assert not stop.done()
    opened.give()

    stop.result(3)
    assert done.is_given


def test_who_is_left_behind_is_named(
    engine: Engine, host: Host, shop: Shop, connect: Connect, logged: Logged
) -> None:
    """Requests, WebSockets and what comes after a response; the client chose the path."""

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/after":
            await answer(send)
        shop.inside += 1
        await shop.opened.soon()

    server = host(stuck, drain_timeout=0.2)
    clients = [connect(server) for _ in range(3)]
    clients[0].send(b"GET /%0A/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    clients[1].send(HANDSHAKE)
    clients[2].ask("/after")
    wait_for(lambda: shop.inside == 3)
    engine.stop()

    lines = [message for _, message in logged if "still busy" in message]
    assert len(lines) == 3
    assert "'uvicorn main' is still busy with GET /%0A/aaa" in "".join(lines)
    assert "with WebSocket /ws after" in "".join(lines)
    assert "with a background task after" in "".join(lines)
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    # They were cancelled; that is not their error.
    assert "Exception in ASGI application" not in str(logged)


@pytest.mark.slow
def test_no_request_is_lost_through_ten_stops_and_starts(engine: Engine, host: Host) -> None:
    """On either loop; each client uses its connection at least every 100 ms."""
    server = host()
    with Load(server.addresses[0]) as load:
        for _ in range(10):
            wait_for(load.enough(40), 20)
            engine.stop()
            engine.start()
        wait_for(load.enough(20), 20)

    assert load.failures == []
    assert set(load.bodies) == {HELLO}
    assert load.late < 10


# WebSockets.

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


CLOSED_1012 = b"\x88\x02\x03\xf4"


@pytest.fixture(params=WEBSOCKETS)
def websockets(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"ws": request.param}


def test_a_websocket_is_closed_with_1012(
    engine: Engine, host: Host, websockets: dict[str, str], shop: Shop, meanwhile: Meanwhile
) -> None:
    """Service restart: the client's script knows that it may come back."""
    server = host(native=websockets, linger=5.0)
    with open_websocket(f"ws://127.0.0.1:{server.addresses[0].port}/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(5) == "hello"
        stop = stop_begins(engine, server, meanwhile)
        assert code_of(websocket) == 1012
        stop.result(2)
    assert shop.closed_with == [1012]


def test_a_client_that_talks_on_hears_why_it_is_left(
    engine: Engine, host: Host, websockets: dict[str, str], connect: Connect
) -> None:
    """What it says after the end must not reset the connection before it has read that."""
    server = host(native=websockets)
    client = connect(server)
    client.send(HANDSHAKE)
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.socket.recv(1)
    engine.subscribe("stop", lambda: client.send(b"\x81\x85\0\0\0\0hello" * 10), priority=1)
    engine.stop()

    assert everything(client).endswith(CLOSED_1012)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_handshake_is_finished_first(
    engine: Engine,
    host: Host,
    websockets: dict[str, str],
    connect: Connect,
    meanwhile: Meanwhile,
    when: str,
) -> None:
    """Whether it began before the stop or on a connection that was open then."""
    entered, opened = Sign(), Sign()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        entered.give()
        await opened.soon()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    server = host(slow, native=websockets, linger=5, timeout=1)
    client = connect(server)
    if when == "before":
        client.send(HANDSHAKE)
        entered.wait()
        stop = stop_begins(engine, server, meanwhile)
    else:
        stop = stop_begins(engine, server, meanwhile)
        client.send(HANDSHAKE)
        entered.wait()
    opened.give()

    head, _, frames = everything(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"close" not in head
    assert frames == CLOSED_1012
    client.close()
    stop.result(0.9)


def code_of(websocket: Any) -> int:
    with pytest.raises(ConnectionClosed) as caught:
        websocket.recv(5)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


# TLS.


@pytest.fixture
def trust(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.root)


def test_idle_tls_clients_do_not_hold_the_stop(
    engine: Engine,
    host: Host,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    meanwhile: Meanwhile,
) -> None:
    """They look at their connection when they need it, and do not answer a goodbye before."""
    server = host(tls=certificate.tls, linger=0.2)
    kept, told = connect(server, tls=trust), connect(server, tls=trust)
    mute = connect(server)
    kept.get()
    told.get()
    began = time.monotonic()
    stop = stop_begins(engine, server, meanwhile)

    assert told.get().closes
    stop.result(5)
    assert 0.15 < time.monotonic() - began < 2
    assert everything(kept) == everything(mute) == b""


def test_a_slow_handshake_is_waited_for(
    engine: Engine,
    host: Host,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    meanwhile: Meanwhile,
) -> None:
    """Longer than the linger: it is half a request."""
    server = host(tls=certificate.tls, linger=0.05)
    raw, mute = connect(server).socket, connect(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    raw.sendall(outgoing.read())
    assert raw.recv(1, socket.MSG_PEEK)  # the server's half of it
    stop = stop_begins(engine, server, meanwhile)
    assert mute.is_closed()

    talk(raw, incoming, outgoing, client.do_handshake)
    client.write(REQUEST)
    raw.sendall(outgoing.read())
    received = talk(raw, incoming, outgoing, client.read)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in received
    stop.result(3)


def talk(
    raw: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, step: Callable[[], Any]
) -> Any:
    """Take *step* as soon as enough has come for it."""
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            if outgoing.pending:
                raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))


def test_a_big_answer_over_tls_comes_whole(
    engine: Engine,
    host: Host,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    meanwhile: Meanwhile,
) -> None:
    """The connection is closed after it, and not before the client has it."""
    server = host(tls=certificate.tls)
    client = connect(server, tls=trust)
    client.ask("/big?256")
    response = begin(client)
    stop = stop_begins(engine, server, meanwhile)

    assert response.read() == BLOCK * 256
    stop.result(5)


def test_tls_clients_at_the_door_are_served_before_the_process_leaves(
    engine: Engine,
    host: Host,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    meanwhile: Meanwhile,
) -> None:
    """Nobody comes after; and more are there than are accepted in one turn of the loop."""
    server = host(tls=certificate.tls, linger=5)
    go = hold(engine.loop)
    raw = [connect(server).socket for _ in range(AT_ONCE + 10)]
    leaving = meanwhile(engine.exit)
    wait_for(lambda: server.httpserver.draining)
    go.set()
    assert server.httpserver.shut.wait(5)

    for each in raw:
        with trust.wrap_socket(each, server_hostname="localhost") as secure:
            secure.sendall(REQUEST)
            received = b""
            while data := secure.recv(65536):
                received += data
        assert received.startswith(b"HTTP/1.1 200 OK")
    leaving.result(5)


def test_nothing_is_left_on_the_loop(engine: Engine, host: Host, connect: Connect) -> None:
    """After a stop no task of ours is there, whatever clients did."""
    server = host(linger=0.0, drain_timeout=0.1)
    for _ in range(5):
        connect(server).get()
        connect(server).send(REQUEST[:9])
        engine.stop()
        tasks = asyncio.run_coroutine_threadsafe(all_tasks(), engine.loop).result(5)
        assert len(tasks) == 1, tasks
        engine.start()


async def all_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks()
