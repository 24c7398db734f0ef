"""What uvicorn's adapter says to whom it refuses, and that they hear it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.helpers import wait_for
from tests.servers.client import Answer, Client
from tests.servers.conftest import Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

pytestmark = pytest.mark.usefixtures("loop_kind")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest) -> dict[str, str]:
    pytest.importorskip(request.param)
    return {"http": request.param}


def refused(client: Client, status: int) -> Answer:
    """Return what it was told: that, and that this was all."""
    told = client.answer()
    assert (told.status, told.closes) == (status, True)
    assert client.is_closed()
    return told


def in_parts(client: Client, data: bytes, size: int) -> None:
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(ConnectionError):  # it may have been refused long since
        for start in range(0, len(data), size):
            client.send(data[start : start + size])


def all_of(client: Client) -> bytes:
    said = b""
    while more := client.socket.recv(65536):
        said += more
    return said


# Expectations.


@pytest.mark.parametrize(
    "lines",
    [
        b"Expect: a-cake\r\n",
        b"Expect: 100-continue, a-cake\r\n",
        b"Expect: a-cake\r\nExpect: 100-continue\r\n",
    ],
)
def test_what_cannot_be_expected_is_refused(
    host: Host, parser: dict[str, str], connect: Connect, lines: bytes
) -> None:
    """The client has made its request depend on it (RFC 9110, section 10.1.1)."""
    client = connect(host(native=parser))
    client.send(GET + lines + b"\r\n")
    refused(client, 417)


def test_who_knows_no_expectations_may_say_so(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    client = connect(host(native=parser))
    client.send(b"GET / HTTP/1.0\r\nExpect: a-cake\r\n\r\n")
    assert client.answer().status == 200


# Heads.


@pytest.mark.parametrize("size", [700, 100_000])
def test_a_head_too_long_is_told_so(
    host: Host, parser: dict[str, str], connect: Connect, size: int
) -> None:
    client = connect(host(native=parser, max_header=2000))
    in_parts(client, GET + b"X-Long: " + b"x" * 2500 + b"\r\n\r\n", size)
    refused(client, 431)


@pytest.mark.parametrize("size", [700, 100_000])
def test_a_request_line_too_long_is_told_so(
    host: Host, parser: dict[str, str], connect: Connect, size: int
) -> None:
    client = connect(host(native=parser, max_header=2000))
    in_parts(client, b"GET /" + b"x" * 2500 + b" HTTP/1.1\r\nHost: a\r\n\r\n", size)
    refused(client, 414)


@pytest.mark.parametrize("before", [GET + b"\r\n", POST + b"Content-Length: 3\r\n\r\nabc"])
def test_a_head_behind_a_request_is_no_longer_than_others(
    host: Host, parser: dict[str, str], connect: Connect, before: bytes
) -> None:
    """Both may come at once: the limit is each one's."""
    client = connect(host(native=parser, max_header=2000))
    client.send(before + GET + b"X-Long: " + b"x" * 2500 + b"\r\n\r\n")

    assert all_of(client).count(b"HTTP/1.1 200 ") == 1


def test_a_head_has_no_more_lines_than_anywhere(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """Each costs more than the bytes that it is made of."""
    client = connect(host(native=parser))
    client.send(GET + b"a:\r\n" * 199 + b"\r\n")
    assert client.answer().status == 200
    client.send(GET + b"a:\r\n" * 200 + b"\r\n")
    refused(client, 431)


# Bodies.


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await answer(send, HELLO)


async def go_away(scope: Any, receive: Any, send: Any) -> None:
    """Answer without a look at the body, for the last time."""
    await answer(send, HELLO, (b"connection", b"close"))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_the_end(
    host: Host, parser: dict[str, str], connect: Connect, logged: Logged, chunked: bool
) -> None:
    """The client hears of it, also when it has sent all before it listens; so does the log."""
    client = connect(host(read_all, native=parser, max_body=1000))
    size = 3_000_000
    if chunked:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size)
    else:
        client.send(POST + b"Content-Length: %d\r\n\r\n" % size)
    client.send(b"x" * size)

    refused(client, 413)
    (line,) = [text for level, text in logged if level >= 30]
    assert line.startswith("Refused a request from 127.0.0.1: 413 ")


@pytest.mark.parametrize("last", [True, False])
def test_a_last_answer_is_heard_by_who_still_sends(
    host: Host, parser: dict[str, str], connect: Connect, last: bool
) -> None:
    """Closed on what nobody has read, the connection would be reset, and the answer lost."""
    client = connect(host(go_away if last else read_all, native=parser))
    size = 3_000_000
    client.send(POST + b"Content-Length: %d\r\n\r\n" % size)
    client.send(b"x" * size)

    told = client.answer()
    assert (told.body, told.closes) == (HELLO, last)


# Bodies that are to be asked for.

WAITING = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answer without a look at the body."""
    await answer(send, HELLO)


@pytest.mark.parametrize("before", [0, 1])
def test_an_answer_before_the_body_was_asked_for_is_the_last(
    host: Host, parser: dict[str, str], connect: Connect, before: int
) -> None:
    """What comes next is the body for some, and the next request for others."""
    client = connect(host(at_once, native=parser))
    client.send(before * (GET + b"\r\n") + WAITING)
    client.socket.settimeout(2)
    said = all_of(client)

    assert said.count(b"HTTP/1.1 200 OK") == before + 1
    assert said.count(b"connection: close") == 1
    assert said.endswith(HELLO)
    assert GO_ON not in said


@pytest.mark.parametrize("body", [b"", b"hel", b"hello"])
def test_who_was_asked_for_the_body_may_go_on(
    host: Host, parser: dict[str, str], connect: Connect, body: bytes
) -> None:
    """Also who did not wait for that."""
    client = connect(host(read_all, native=parser))
    client.send(WAITING + body)
    assert client.socket.recv(len(GO_ON), socket.MSG_WAITALL) == GO_ON
    in_parts(client, b"hello"[len(body) :], 1)

    told = client.answer()
    assert (told.body, told.closes) == (HELLO, False)
    assert client.get().body == HELLO


def test_who_never_sends_the_rest_is_let_go(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """It was told that this was all."""
    server = host(go_away, native=parser, timeout=0.3)
    client = connect(server)
    client.send(POST + b"Content-Length: 30\r\n\r\nhel")

    assert client.answer().closes
    wait_for(lambda: not server.httpserver._crowd)


def test_who_goes_on_after_the_answer_makes_room_as_others_do(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """At once: there are never more connections than there may be."""
    server = host(at_once, native=parser, max_connections=2)
    crowd = server.httpserver._crowd
    for _ in range(10):
        client = connect(server)
        client.send(POST + b"Content-Length: 30\r\n\r\nhel")
        assert client.answer().body == HELLO
        assert len(crowd) <= 2


# What is behind a request that wants another protocol.


def test_what_follows_a_protocol_that_is_not_spoken_is_a_request(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """Left out, its body would be taken for one."""
    client = connect(host(native=parser))
    head = b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    body = b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(GET + head + POST + b"Content-Length: %d\r\n\r\n" % len(body))
    assert client.answer().body == HELLO
    client.send(body)

    assert client.answer().body == body
    assert client.get().body == HELLO


def test_a_websocket_does_not_begin_in_an_answer(
    host: Host, parser: dict[str, str], shop: Shop, connect: Connect
) -> None:
    """What is answered late would stand among its frames."""
    client = connect(host(native=parser))
    client.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n" + HANDSHAKE)
    shop.entered.wait()
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    client.socket.settimeout(5)
    shop.opened.give()

    assert client.answer().body == HELLO


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
@pytest.mark.parametrize("size", [50, 1000])
def test_a_handshake_is_no_head_that_takes_too_long(
    host: Host, parser: dict[str, str], connect: Connect, before: bytes, size: int
) -> None:
    """Nothing of HTTP is said to a WebSocket any more, and it ends when its client leaves."""
    server = host(native=parser, header_timeout=0.2)
    client = connect(server)
    if before:
        client.send(before)
        assert client.answer().body == HELLO
    in_parts(client, HANDSHAKE, size)
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += client.socket.recv(1)
    assert said.startswith(b"HTTP/1.1 101 ")
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)

    client.close()

    wait_for(lambda: not server.httpserver._crowd)
    wait_for(lambda: not server.httpserver._state.tasks)
