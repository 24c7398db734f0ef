"""What clients may do to uvicorn's protocols that these, left alone, do not stand."""

from __future__ import annotations

import asyncio
import errno
import gc
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from sitebus.errors import CannotAccept
from sitebus.process import Engine
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything, leave_rudely
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import PARSERS, Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

pytestmark = pytest.mark.usefixtures("loop_kind")

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> dict[str, str]:
    pytest.importorskip(request.param)
    return {"http": request.param}


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answer without a look at the body."""
    await answer(send, HELLO)


def upload(client: Client, length: int) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length)


def settled(engine: Engine) -> None:
    """Return when the loop has seen what was sent before."""

    async def turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0.002)

    asyncio.run_coroutine_threadsafe(turns(), engine.loop).result(5)


# Bodies that come after the answer.


def test_a_body_that_nobody_read_is_no_head(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """However long it is: the client gets its answer, and the connection stays."""
    client = connect(host(at_once, native=parser))
    upload(client, 2_000_000)
    assert client.answer().body == HELLO
    for _ in range(20):
        client.send(b"x" * 100_000)

    assert client.get().body == HELLO


def test_an_upload_goes_on_after_the_answer_for_as_long_as_it_takes(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """To be cut off then would cost the client the answer, which it reads at the end."""
    client = connect(host(at_once, native=parser, timeout=0.2))
    upload(client, 30)
    assert client.answer().body == HELLO
    for _ in range(30):
        client.send(b"x")
        later(engine, 0.03)

    assert client.get().body == HELLO


def test_an_upload_that_stops_after_the_answer_is_given_up(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """Like any silent client."""
    client = connect(host(at_once, native=parser, timeout=0.2))
    upload(client, 30)
    assert client.answer().body == HELLO
    client.send(b"x")
    client.socket.settimeout(2)
    assert client.is_closed()


def test_a_client_whose_body_came_after_the_answer_is_idle(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """It has the linger in a stop, and no more."""
    client = connect(host(at_once, native=parser, linger=0.05))
    upload(client, 5)
    assert client.answer().body == HELLO
    client.send(b"hello")
    settled(engine)

    began = engine.loop.time()
    engine.stop()
    assert engine.loop.time() - began < 2
    assert client.is_closed()


def later(engine: Engine, seconds: float) -> None:
    asyncio.run_coroutine_threadsafe(asyncio.sleep(seconds), engine.loop).result(5)


# Heads.


def test_heads_in_parts_are_counted_one_by_one(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """None of them is too long, on a connection that lives long."""
    client = connect(host(native=parser, max_header=1000))
    for _ in range(10):
        client.send(REQUEST[:-2])
        settled(engine)
        client.send(b"X-Long: " + b"x" * 300 + b"\r\n\r\n")
        assert client.answer().status == 200


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_end_of_a_head_may_come_in_parts(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect, cut: int
) -> None:
    """What follows it is no part of the head."""
    client = connect(host(native=parser, max_header=1000))
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    client.send(head[:-cut])
    settled(engine)
    client.send(head[-cut:] + b"x" * 5000)

    assert client.answer().body == b"x" * 5000


def test_max_header_holds_whatever_parses(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """Also for a head that comes whole."""
    server = host(native=parser, max_header=2000)
    short, long = connect(server), connect(server)
    short.send(REQUEST[:-2] + b"X-Long: " + b"x" * 1500 + b"\r\n\r\n")
    long.send(REQUEST[:-2] + b"X-Long: " + b"x" * 2500 + b"\r\n\r\n")

    assert short.answer().status == 200
    assert long.answer().status == 431
    assert long.is_closed()


def test_a_head_without_end_behind_a_slow_request_takes_no_memory(
    engine: Engine, host: Host, parser: dict[str, str], shop: Shop, connect: Connect
) -> None:
    """It is not kept until its turn comes; who is before it is answered."""
    client = connect(host(native=parser))
    client.ask("/gate")
    shop.entered.wait()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client.socket.settimeout(0.5)
    with suppress(TimeoutError):  # where it is not even read
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for number in range(1500):
            client.send(b"X-%d: %b\r\n" % (number, b"x" * 30_000))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shop.opened.give()

    assert after - before < 20_000  # KiB, of 45 MB
    assert client.answer().body == HELLO


# Rubbish.


def test_rubbish_behind_a_request_does_not_cost_its_answer(
    engine: Engine, host: Host, parser: dict[str, str], shop: Shop, connect: Connect
) -> None:
    """It would be taken for that."""
    client = connect(host(native=parser))
    client.ask("/gate")
    shop.entered.wait()
    client.send(b"\0rubbish\r\n\r\n")
    settled(engine)
    shop.opened.give()

    assert client.answer()[::2] == (200, HELLO)
    assert b" 200 " not in everything(client)


def test_a_broken_body_is_not_refused_in_the_middle_of_the_answer(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect, logged: Logged
) -> None:
    """The application learns that the client has gone, and nobody sees a traceback."""
    told: list[object] = []
    engine.loop.set_exception_handler(lambda _loop, context: told.append(context))

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (event := await receive())["type"] != "http.disconnect":
            pass
        told.append(event["type"])

    client = connect(host(stream, native=parser))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    settled(engine)
    client.send(b"rubbish\r\n")

    received = everything(client)
    assert received.endswith(b"first\r\n")
    assert b" 400 " not in received
    wait_for(lambda: told)
    assert told == ["http.disconnect"]


def test_a_broken_body_is_refused_where_nothing_was_answered(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    client = connect(host(native=parser))
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nrubbish\r\n")

    assert client.answer().status == 400
    assert client.is_closed()


def test_a_path_that_is_not_ascii_is_refused(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """And nobody sees a traceback."""
    told: list[object] = []
    engine.loop.set_exception_handler(lambda _loop, context: told.append(context))
    client = connect(host(native=parser))
    client.send(REQUEST.replace(b"/", b"/\xe9", 1))

    assert client.answer().status == 400
    assert client.is_closed()
    assert told == []


@pytest.mark.parametrize("is_secure", [True, False])
def test_http_1_is_mended_where_http_2_is_offered(
    host: Host, connect: Connect, certificate: Certificate, is_secure: bool
) -> None:
    """A client that knows no HTTP/2 gets the same HTTP/1.1 as elsewhere."""
    pytest.importorskip("zttp")
    secured = {"tls": certificate.tls} if is_secure else {}
    server = host(native={"http2": True}, max_header=2000, **secured)
    trust = ssl.create_default_context(cafile=certificate.root)
    client = connect(server, **({"tls": trust} if is_secure else {}))
    client.send(REQUEST[:-2] + b"X-Long: " + b"x" * 2500 + b"\r\n\r\n")

    assert client.answer().status == 431


def test_a_path_of_http_2_that_is_not_ascii_ends_the_connection(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """In order."""
    zttp = pytest.importorskip("zttp")
    told: list[object] = []
    engine.loop.set_exception_handler(lambda _loop, context: told.append(context))
    client = connect(host(native={"http2": True}))
    speaker = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)
    speaker.initiate_connection()
    speaker.send_request(b"GET", b"/\xe9", b"2", [(b"host", b"a")]).end_message()
    client.send(speaker.data_to_send())

    # GOAWAY.
    assert b"\0\0\x08\x07\0" in everything(client)
    assert told == []


# Leaks.


def test_nothing_is_kept_of_a_connection_that_was_reset(
    engine: Engine, host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """Its timer would keep it until it goes off."""
    server = host(native=parser, timeout=60)
    for _ in range(5):
        client = connect(server)
        client.get()
        leave_rudely(client)
    settled(engine)
    gc.collect()

    kept = [each for each in gc.get_objects() if type(each).__name__ == "RequestResponseCycle"]
    assert kept == []


# WebSockets.


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n", id="long line"),
        pytest.param(b"".join(b"X-%d: x\r\n" % i for i in range(190)) + b"\r\n", id="many lines"),
        pytest.param(b"Content-Length: 5\r\n\r\nhello", id="body"),
    ],
)
def test_a_handshake_that_nobody_takes_up_is_refused(
    engine: Engine, host: Host, connect: Connect, logged: Logged, more: bytes
) -> None:
    """The client would wait for ever, and every stop for the client."""
    server = host(linger=0.05)
    client = connect(server)
    client.send(HANDSHAKE + more)

    assert client.answer().status == 400
    assert client.is_closed()
    assert "Invalid WebSocket handshake" in str(logged)
    began = engine.loop.time()
    engine.stop()
    assert engine.loop.time() - began < 2


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_a_websocket_may_be_refused_with_a_response(
    host: Host, connect: Connect, logged: Logged, ws: str
) -> None:
    """That is no error of anybody."""
    pytest.importorskip(ws.partition("-")[0])

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        start = {"type": "websocket.http.response.start", "status": 401, "headers": []}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"who", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"?"})

    client = connect(host(refuse, native={"ws": ws}))
    client.send(HANDSHAKE + b"\r\n")

    told = client.answer()
    assert (told.status, told.body) == (401, b"who?")
    assert client.is_closed()
    assert not [text for level, text in logged if level >= 30]


# Nothing left of what is needed.


@contextmanager
def files(at_most: int) -> Iterator[None]:
    """Let the process have so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + at_most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", [0, 1])
def test_a_start_without_descriptors_is_one_sentence_and_leaves_nothing(
    engine: Engine, host: Host, more: int
) -> None:
    """Wherever it fails; the next one may have them."""
    server = host(binds=["127.0.0.1:0", "127.0.0.1:0"])
    engine.stop()
    open_before = descriptors()
    with files(more), pytest.raises(CannotAccept, match="allow more open files") as caught:
        server.start()
    assert caught.value.errno == errno.EMFILE
    wait_for(lambda: descriptors() == open_before)

    engine.start()
    engine.stop()


def descriptors() -> int:
    import os

    gc.collect()
    return len(os.listdir("/proc/self/fd"))
