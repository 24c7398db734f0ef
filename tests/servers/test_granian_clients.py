"""What granian does not tell of its clients, and what applications may do wrong with it."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

import pytest

from sitebus.errors import ClientGone
from sitebus.process import Engine
from sitebus.servers._granian_input import Input
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Logged
from tests.servers.granian_fixtures import Host, host, once

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

#: Found here by pytest.
__all__ = ["host", "once"]

PIECE = b"x" * 1000


def leave(client: Client) -> None:
    """Close with a reset, so that the server can know at once."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def start(send: Any, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def body(send: Any, data: Any, more: Any = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


# Clients that leave.


def test_who_sends_without_end_learns_that_the_client_has_left(
    host: Host, connect: Connect, logged: Logged
) -> None:
    """Else it would go on for ever; and without a pause, nobody else would be served meanwhile."""
    ended: list[type] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            while scope["path"] == "/endless":
                await body(send, PIECE, more=True)
        except OSError as error:
            ended.append(type(error))
            raise
        await body(send, b"hello")

    server = host(application)
    client = connect(server)
    client.ask("/endless")
    assert client.socket.recv(100)
    leave(client)

    assert connect(server).get().body == b"hello"
    wait_for(lambda: ended)
    assert ended == [ClientGone]
    assert "rror" not in str(logged)


def test_what_was_asked_ahead_is_there_for_the_application(host: Host, connect: Connect) -> None:
    """Each message once, in its order, also if it is read only after much was sent."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(10):
            await body(send, b".", more=True)
        received, more = b"", True
        while more:
            message = await receive()
            received, more = received + message["body"], message["more_body"]
            await body(send, b"+", more=True)
        await body(send, received[-5:])

    client = connect(host(application))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100005\r\n\r\n" + b"x" * 100_000)
    client.send(b"whole")

    answer = client.answer().body
    assert answer.startswith(b"." * 10 + b"+")
    assert answer.endswith(b"+whole")


def test_a_websocket_that_only_sends_ends_with_its_client(host: Host, logged: Logged) -> None:
    """It does not listen, and to send to nobody is no error to granian."""
    import asyncio

    from websockets.sync.client import connect as open_websocket

    ended: list[type] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "news"})
                await asyncio.sleep(0.01)
        except OSError as error:
            ended.append(type(error))
            raise

    with open_websocket(f"ws://127.0.0.1:{host(application).addresses[0].port}") as opened:
        assert opened.recv(5) == "news"
        opened.socket.shutdown(socket.SHUT_RDWR)

        wait_for(lambda: ended)
    assert ended == [ClientGone]
    assert "rror" not in str(logged)


@pytest.mark.parametrize(("path", "code"), [("/returns", 1000), ("/raises", 1011)])
def test_how_a_websocket_ends_that_the_application_left_open(
    host: Host, path: str, code: int
) -> None:
    """With what RFC 6455 has for it, and not without a word."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect as open_websocket

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/raises":
            raise LookupError

    url = f"ws://127.0.0.1:{host(application).addresses[0].port}{path}"
    with open_websocket(url) as opened, pytest.raises(ConnectionClosed) as caught:
        opened.recv(5)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code


def test_half_a_response_in_http_1_0_resets_its_connection(host: Host, connect: Connect) -> None:
    """There is nothing else to tell it from a whole one; and proxies speak it."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"half", more=True)
        if scope["path"] == "/half":
            raise LookupError
        await body(send, b" and half")

    server = host(application)
    client = connect(server)
    client.send(b"GET /whole HTTP/1.0\r\n\r\n")
    assert client.answer().body == b"half and half"
    client = connect(server)
    client.send(b"GET /half HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        client.answer()


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
def test_half_a_head_on_a_kept_connection_is_waited_for(
    host: Host, connect: Connect, engine: Engine, meanwhile: Meanwhile, speech: str
) -> None:
    """Longer than the linger; granian would close it as idle."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"hello")

    server = host(hello if speech == "wsgi" else asgi, linger=0.1)
    client = connect(server)
    client.get()
    # The kernel's clock of these things is a coarse one.
    assert not threading.Event().wait(0.05)
    client.send(b"GET / HTTP/1.1\r\nHo")

    stop = meanwhile(engine.stop)
    wait_for(lambda: server.httpserver.draining)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 0.4)
    client.send(b"st: a\r\n\r\n")

    answer = client.answer()
    assert (answer.body, answer.closes) == (b"hello", True)
    stop.result(5)


# Applications that break the rules.


def test_what_an_application_leaves_in_its_scope_is_gone(host: Host, connect: Connect) -> None:
    """The next request may be somebody else's."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen = "secret" in scope["extensions"] or "secret" in scope["asgi"]
        scope["extensions"]["secret"] = scope["asgi"]["secret"] = "open sesame"
        await start(send)
        await body(send, repr(seen).encode())

    client = connect(host(application))
    assert [client.get().body for _ in range(3)] == [b"False"] * 3


def test_a_body_goes_on_whatever_says_so(host: Host, connect: Connect) -> None:
    """As with other servers, anything that is true; granian would end it there."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"one ", more=1)
        await body(send, bytearray(b"two "), more="yes")
        await body(send, memoryview(b"three"), more=0)

    assert connect(host(application)).get().body == b"one two three"


async def silent(scope: Any, receive: Any, send: Any) -> None:
    pass


async def text(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await body(send, "text")


async def bodiless(scope: Any, receive: Any, send: Any) -> None:
    await body(send, b"body")


@pytest.mark.parametrize("application", [silent, text, bodiless])
def test_an_application_that_answers_wrongly_is_told_so(
    host: Host, connect: Connect, logged: Logged, application: Any
) -> None:
    """Instead of an empty response, or none, of which nobody hears."""
    server = host(application)
    assert connect(server).get("/shelf").status == 500
    assert "Unhandled error while serving GET /shelf: " in str(logged)


def test_a_body_that_is_too_large_is_told_whatever_the_application_makes_of_it(
    host: Host, connect: Connect
) -> None:
    """Bridges and frameworks keep errors to themselves."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with suppress(OSError):
            while (await receive())["more_body"]:
                pass

    client = connect(host(application, max_body=10))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(b"14\r\n01234567890123456789\r\n0\r\n\r\n")
    assert client.answer().status == 413


def test_an_error_page_is_the_servers_own(host: Host, connect: Connect) -> None:
    """It says what other responses say of the server."""
    answer = connect(host(silent, server_header="shelf")).get()
    assert (answer.status, answer.headers["server"]) == (500, "shelf")


# WSGI.


def test_a_long_line_takes_no_more_time_than_it_is_long() -> None:
    """Else a body without a line's end would keep a thread busy for minutes."""
    piece: dict[str, Any] = {"type": "http.request", "body": b"x" * (64 << 10), "more_body": True}

    class Pieces:
        left = 1024

        def next(self, seconds: float) -> dict[str, Any]:
            self.left -= 1
            return {**piece, "more_body": self.left > 0}

    began = time.monotonic()
    line = Input(cast(Any, Pieces()), None, 0, 10, 0).readline()
    assert len(line) == 64 << 20
    assert time.monotonic() - began < 5


def test_what_is_written_on_the_way_to_the_first_piece_is_sent(
    host: Host, connect: Connect
) -> None:
    """A generator may use write() as well, between its pieces too."""

    def application(environ: object, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        write(b"one ")
        yield b"two "
        write(b"three ")
        yield b"four"

    assert connect(host(application)).get().body == b"one two three four"


def test_a_new_certificate_is_no_second_thread(
    host: Host, connect: Connect, engine: Engine, certificate: Certificate,
    certificates: tuple[Certificate, Certificate],
) -> None:  # fmt: skip
    """``threads = 1`` holds for old connections and new ones together."""
    inside = most = 0

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.05)
        inside -= 1
        return hello(environ, start_response)

    trust = ssl.create_default_context(cafile=certificate.root)
    server = host(application, threads=1, tls=certificate.tls)
    clients = [connect(server, tls=trust)]
    clients[0].get()
    certificate.certificate.write_bytes(certificates[1].certificate.read_bytes())
    certificate.key.write_bytes(certificates[1].key.read_bytes())
    engine.graceful()
    clients.append(connect(server, tls=trust))
    for client in clients * 3:
        client.ask()
    assert [client.answer().status for client in clients] == [200, 200]
    assert most == 1
