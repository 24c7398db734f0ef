"""What every server makes of HTTP, with an application of either interface behind it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import (
    KEEPING,
    KINDS,
    Host,
    Kind,
    begin,
    engine,
    everything,
    host,
    kind,
    leave_rudely,
    only,
    post,
    post_chunked,
    shop,
)
from tests.servers.conftest import Logged
from tests.servers.shop import BLOCK, HELLO, Shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]


#: Found here by pytest.
__all__ = ["engine", "host", "kind", "shop"]


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS"])
def test_what_the_application_is_told(host: Host, connect: Connect, method: str) -> None:
    """The same of a request, whoever parsed it."""
    server = host()
    client = connect(server)
    client.send(
        f"{method} /told/caf%C3%A9?c=%20d&e HTTP/1.1\r\n"
        "Host: localhost\r\nX-Said: this\r\n\r\n".encode()
    )

    assert json.loads(client.answer().body) == {
        "method": method,
        "path": "/told/caf\u00e9",
        "query": "c=%20d&e",
        "scheme": "http",
        "version": "1.1",
        "said": "this",
        "client": "127.0.0.1",
        "port": server.addresses[0].port,
    }


def test_what_every_answer_says(host: Host, connect: Connect) -> None:
    """When it was made, and by whom as far as the operator wants it told; each of it once."""
    client = connect(host(server_header="shelf"))
    client.ask()
    head = begin(client).headers

    assert head.get_all("Server") == ["shelf"]
    [date] = head.get_all("Date") or []
    assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 5
    assert head.get_all("Content-Length") == ["5"]


@only(KEEPING)
def test_a_connection_is_kept(host: Host, connect: Connect) -> None:
    """For many requests each, and for many clients."""
    server = host()
    clients = [connect(server) for _ in range(20)]

    for client in clients * 3:
        assert not client.get().closes


def test_a_connection_for_each_request(host: Host, connect: Connect) -> None:
    """A client that wants it closed gets it closed, and the next one comes in."""
    server = host()
    for _ in range(20):
        client = connect(server)
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.answer().body == HELLO
        assert client.is_closed()


@only(KEEPING)
def test_requests_sent_together_are_all_answered(host: Host, connect: Connect) -> None:
    """In their order; what was read ahead is not waited for."""
    client = connect(host())
    head = b" HTTP/1.1\r\nHost: localhost\r\n"
    client.send(
        b"GET /told/1" + head + b"\r\n"
        b"GET /told/2" + head + b"\r\n"
        b"GET /told/3" + head + b"Connection: close\r\n\r\n"
    )  # fmt: skip

    received = everything(client)
    assert received.count(b"HTTP/1.1 200 ") == 3
    places = [received.index(b"/told/%d" % number) for number in (1, 2, 3)]
    assert places == sorted(places)


def test_an_http_1_0_client_is_answered_and_left(host: Host, connect: Connect) -> None:
    """It knows neither chunks nor connections that stay."""
    client = connect(host())
    client.send(b"GET / HTTP/1.0\r\n\r\n")

    head, _, body = everything(client).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200 (OK)?\r\n", head)
    assert body == HELLO


def test_a_stream_for_an_http_1_0_client_ends_with_the_connection(
    host: Host, shop: Shop, connect: Connect
) -> None:
    """Chunks would be part of the text to it."""
    client = connect(host())
    shop.opened.give()
    client.send(b"GET /stream HTTP/1.0\r\n\r\n")

    assert everything(client).partition(b"\r\n\r\n")[2] == b"first second last"


def test_head_has_a_length_and_no_body(host: Host, connect: Connect) -> None:
    """Whatever the application sends; a body would be taken for the next answer."""
    client = connect(host())
    client.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = begin(client, "HEAD")

    assert response.headers["Content-Length"] == "5"
    if response.headers.get("Connection", "").lower() == "close":
        assert client.is_closed()
    else:
        assert client.get().body == HELLO


def test_a_stream_arrives_as_it_is_made(host: Host, shop: Shop, connect: Connect) -> None:
    """The first of it is there while the application still waits for the rest."""
    client = connect(host())
    client.ask("/stream")
    response = begin(client)

    assert response.read(6) == b"first "
    assert not shop.opened.is_given
    shop.opened.give()
    assert response.read() == b"second last"


def test_a_body_in_chunks(host: Host, connect: Connect) -> None:
    """A client that makes its body on the way does not know how long it will be."""
    client = connect(host())
    client.send(post_chunked("/echo", b"one", b"two" * 5000, b"\r\n"))

    assert client.answer().body == b"one" + b"two" * 5000 + b"\r\n"


def test_a_client_that_asks_before_it_sends_is_told_to(host: Host, connect: Connect) -> None:
    """100 Continue comes before the body does, or curl waits a second for each upload."""
    client = connect(host())
    head, _, body = post("/echo", b"a body", "Expect: 100-continue").partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    told = b""
    while not told.endswith(b"\r\n\r\n"):
        told += client.socket.recv(1)
    client.send(body)

    assert told.startswith(b"HTTP/1.1 100 ")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"a body")


def test_a_big_body_comes_in_whole(host: Host, connect: Connect) -> None:
    """An upload larger than any buffer on the way."""
    body = os.urandom(4 << 20)
    client = connect(host())
    client.send(post("/echo", body))

    assert client.answer().body == body


def test_a_big_body_goes_out_whole(host: Host, connect: Connect) -> None:
    """Larger than what the kernel takes at once."""
    answer = connect(host()).get("/big?256")

    assert len(answer.body) == 256 * len(BLOCK)
    assert answer.body == BLOCK * 256


@pytest.mark.parametrize("leave", [Client.close, leave_rudely], ids=["close", "reset"])
def test_a_response_whose_client_has_left_is_ended(
    host: Host, shop: Shop, connect: Connect, logged: Logged, leave: Callable[[Client], None]
) -> None:
    """The application learns of it, cleans up, and nobody is alarmed: it happens all day."""
    server = host()
    client = connect(server)
    client.ask("/endless")
    assert client.socket.recv(1000)
    leave(client)

    wait_for(lambda: shop.left.is_given)
    assert connect(server).get().status == 200
    assert [message for level, message in logged if level >= 40] == []


def test_an_application_that_fails(
    host: Host, connect: Connect, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """500 for that one, a line in the log, and all is well for the next."""
    server = host()

    assert connect(server).get("/raise").status == 500
    assert connect(server).get().status == 200
    wait_for(lambda: "no such shelf" in str(logged) + caplog.text)


#: What an attacker would have a client, or the proxy before it, take for the next answer.
FORGED = b"HTTP/1.1 299 Forged\r\nContent-Length: 0\r\n\r\n"
MISJUDGED = {
    "short": [b"short"],
    "short-pieces": [b"sh", b"ort"],
    "nothing": [],
    "long": [b"0123456789" + FORGED],
    "long-pieces": [b"01234", b"56789", FORGED],
    "long-across": [b"01234", b"56789" + FORGED],
}


def misjudging(speech: str, pieces: list[bytes]) -> Any:
    """Make an application that says that *pieces* are 10 bytes, and answers ``/next`` well."""
    length = {"/next": str(len(HELLO))}

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        start_response("200 OK", [("Content-Length", length.get(path, "10"))])
        return [HELLO] if path == "/next" else pieces

    async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        said = [(b"content-length", length.get(path, "10").encode())]
        await send({"type": "http.response.start", "status": 200, "headers": said})
        for piece in [HELLO] if path == "/next" else pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    return wsgi if speech == "wsgi" else asgi


@pytest.mark.parametrize("pieces", MISJUDGED.values(), ids=MISJUDGED)
def test_a_wrong_length_makes_no_other_answer(
    host: Host, kind: Kind, connect: Connect, pieces: list[bytes]
) -> None:
    """What a client waits for in vain is the next answer, what is too much the beginning of it.

    So it gets a failure, or an end in the middle, or the part that was promised; and the answer to
    its next request whole, or none on this connection.
    """
    client = connect(host(misjudging(kind.speech, pieces)))
    client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )

    received = bytearray()
    # What it has not read, one request for each connection, makes the system reset that.
    with suppress(ConnectionResetError):
        while data := client.socket.recv(65536):
            received += data
    assert b"Forged" not in received
    head, _, body = received.partition(b"\r\n\r\n")
    promised = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if promised is None:
        assert body == b"".join(pieces) or head.startswith(b"HTTP/1.1 500 ") or not received
        return
    first, rest = body[: int(promised[1])], body[int(promised[1]) :]
    assert b"HTTP/" not in first
    assert not rest or (rest.startswith(b"HTTP/1.1 200 ") and rest.endswith(b"\r\n\r\n" + HELLO))


def test_nonsense_is_refused(host: Host, connect: Connect, logged: Logged) -> None:
    """400, or no answer at all; nothing that wakes somebody at night."""
    server = host()
    client = connect(server)
    client.send(b"\x16\x03\x01 what is this\r\n\r\n")

    assert everything(client)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400")
    assert connect(server).get().status == 200
    assert [message for level, message in logged if level >= 40] == []


def test_a_head_that_is_too_long_is_refused(host: Host, connect: Connect) -> None:
    """It is kept in memory until it is complete."""
    server = host(max_header=4096)
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n")

    assert client.answer().status in (400, 413, 431)
    assert connect(server).get().status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_that_is_too_long_is_refused(
    host: Host, connect: Connect, logged: Logged, chunked: bool
) -> None:
    """Whether it says so beforehand or not; the log names who has sent it."""
    server = host(max_body=1000)
    client = connect(server)
    client.send(post("/echo", b"x" * 1000))
    assert client.answer().status == 200

    client = connect(server)
    client.send(post_chunked("/echo", b"x" * 2000) if chunked else post("/echo", b"x" * 2000))
    status = client.answer().status
    # Chunks are counted as the application reads them, which may be where they are refused.
    assert status in (400, 413, 500) if chunked else status == 413
    if status == 413:
        told = [message for level, message in logged if level >= 30]
        assert len(told) == 1
        assert told[0].startswith("Refused a request from 127.0.0.1: 413 ")


def test_requests_are_served_at_the_same_time(
    host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """As many as there are threads: slow ones do not make others wait."""
    server = host(threads=4)
    slow = [connect(server) for _ in range(3)]
    for client in slow:
        client.ask("/gate")
    wait_for(lambda: shop.inside == 3)

    assert connect(server).get().status == 200
    shop.opened.give()
    assert [client.answer().status for client in slow] == [200] * 3


def test_silence_is_given_up(host: Host, connect: Connect) -> None:
    """Before the first request, in the middle of one, and after it."""
    server = host(timeout=0.5)
    fresh, half, kept = (connect(server) for _ in range(3))
    half.send(b"GET / HTT")
    kept.get()
    began = time.monotonic()

    for client in (fresh, half, kept):
        everything(client)
    assert time.monotonic() - began < 5


@only(kind for kind in KINDS if kind.speech == "wsgi")
@pytest.mark.parametrize("how", ["read", "readline", "readlines", "iterated"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_is_read_in_whichever_way(
    host: Host, connect: Connect, how: str, chunked: bool
) -> None:
    """A file as PEP 3333 has it, which ends where the body does, and once more when asked again."""
    server = host(timeout=2.0)
    path = f"/lines?{how}"
    client = connect(server)
    client.send(
        post_chunked(path, b"one\ntw", b"o\nthree") if chunked else post(path, b"one\ntwo\nthree")
    )

    assert client.answer().body == b"one\n|two\n|three|"
