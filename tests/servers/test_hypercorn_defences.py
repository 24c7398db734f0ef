"""Clients of hypercorn that are slow, too many, ambiguous, or show who they are."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.tls import TLS
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything
from tests.servers.conftest import Certificate, Logged
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
from tests.servers.test_client_certs import Person, person

#: Found here by pytest.
__all__ = ["person", "serve", "shop"]

PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04" + bytes(5)


async def tell(scope: Any, _receive: Any, send: Any) -> None:
    """Tell what is in the scope."""
    keys = ("client", "path", "http_version", "extensions")
    told = {key: scope[key] for key in keys}
    told["raw_path"], told["query"] = scope["raw_path"].decode(), scope["query_string"].decode()
    told["headers"] = [[part.decode("latin-1") for part in each] for each in scope["headers"]]
    text = json.dumps(told).encode()
    length = (b"content-length", b"%d" % len(text))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": text})


def drip(client: Client, ended: threading.Event) -> None:
    """Send a byte from time to time, until the server closes."""
    try:
        while not ended.wait(0.05):
            client.send(b"x")
    except OSError:
        pass


def test_a_slow_head_is_told_and_given_up(
    serve: Serve, connect: Connect, meanwhile: Meanwhile, logged: Logged
) -> None:
    """The first of a connection and any other, in the same time from its own first byte."""
    server = serve(header_timeout=0.4, timeout=30)
    for is_first in (True, False):
        client = connect(server)
        if not is_first:
            assert client.get().status == 200
        ended = threading.Event()
        began = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\nX: ")
        sending = meanwhile(drip, client, ended)
        answer = client.answer()
        took = time.monotonic() - began
        ended.set()
        sending.result(5)
        assert (answer.status, answer.closes) == (408, True)
        assert answer.body == b"The head of the request did not come in time.\r\n"
        assert 0.3 < took < 3
        client.close()
    assert str(logged).count("Refused a request from 127.0.0.1: 408 Request Timeout.") == 2
    wait_for(lambda: not server.httpserver._visitors)


def test_half_a_head_and_silence_is_told(serve: Serve, connect: Connect) -> None:
    """In the time of a silent client, if that is shorter."""
    client = connect(serve(header_timeout=0, timeout=0.3))
    client.send(b"GET / HT")
    assert client.answer().status == 408


def test_a_head_in_pieces_is_no_slow_one(serve: Serve, connect: Connect) -> None:
    """Once it is whole nobody looks at the time that it took."""
    client = connect(serve(header_timeout=0.4))
    for piece in (b"\r\n", PLAIN[:20], PLAIN[20:]):
        client.send(piece)
    assert client.answer().status == 200
    threading.Event().wait(0.5)
    assert client.get().status == 200


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"])
def test_a_slow_handshake_is_closed(
    serve: Serve, connect: Connect, certificate: Certificate, begun: bytes
) -> None:
    """Without a byte: there is nobody who could read it."""
    client = connect(serve(header_timeout=0.3, timeout=0.3, tls=certificate.tls))
    client.send(begun)
    assert client.is_closed()


@pytest.mark.parametrize("said", [PREFACE[:10], PREFACE, PREFACE + SETTINGS])
def test_a_silent_client_of_http2_is_given_up(serve: Serve, connect: Connect, said: bytes) -> None:
    """Hypercorn alone waits for its first request for ever."""
    server = serve(timeout=0.3, header_timeout=0.3)
    client = connect(server)
    client.send(said)
    everything(client)
    client.close()
    wait_for(lambda: not server.httpserver._visitors)


def test_the_longest_idle_makes_room(serve: Serve, connect: Connect, shop: Shop) -> None:
    """Not one that is being answered, and none that came later."""
    server = serve(max_connections=3)
    busy, older, newer = (connect(server) for _ in range(3))
    busy.ask("/gate")
    shop.entered.wait()
    for client in (older, newer):
        assert client.get().status == 200
        # The server is a moment behind: both are silent once it is done.
        wait_for(lambda: len(server.httpserver._idle) == 2)

    last = connect(server)
    assert last.get().status == 200
    assert older.is_closed()
    shop.opened.give()
    assert busy.answer().status == 200
    assert newer.get().status == 200


def test_an_application_hears_that_no_more_can_be_read(serve: Serve, connect: Connect) -> None:
    """If it waits for chunks that are none: its client has left."""
    heard: list[str] = []

    async def listen(_scope: Any, receive: Any, _send: Any) -> None:
        while "http.disconnect" not in heard:
            heard.append((await receive())["type"])

    client = connect(serve(listen))
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")
    assert (client.answer().status, client.is_closed()) == (400, True)
    wait_for(lambda: "http.disconnect" in heard)


def test_a_handshake_with_strange_characters_is_refused(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """Hypercorn alone fails over it."""
    client = connect(serve())
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xe9\r\n\r\n")  # fmt: skip
    answer = client.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert "Refused a request from 127.0.0.1: 400 " in str(logged)
    assert "Traceback" not in str(logged)


def test_a_refused_head_has_no_body(serve: Serve, connect: Connect) -> None:
    """Who asks for the head alone takes what follows for its next answer."""
    client = connect(serve())
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    assert everything(client).endswith(b"\r\n\r\n")


def test_what_follows_the_last_request_is_nobodys(serve: Serve, connect: Connect) -> None:
    """To hypercorn alone it is a reason to answer that request with 400."""
    client = connect(serve())
    client.send(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + PLAIN)
    said = everything(client)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.count(b"HTTP/1.1") == 1


def test_the_host_is_what_the_target_says(serve: Serve, connect: Connect) -> None:
    """Whatever the field says (RFC 9112, section 3.2.2)."""
    client = connect(serve(tell))
    client.send(b"GET HTTP://b/c%2Fd?e HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n")
    told = json.loads(client.answer().body)
    assert (told["raw_path"], told["path"], told["query"]) == ("/c%2Fd", "/c/d", "e")
    assert told["headers"] == [["host", "b"], ["x", "y"]]
    client.send(b"GET http://b?e HTTP/1.1\r\nHost: a\r\n\r\n")
    told = json.loads(client.answer().body)
    assert (told["raw_path"], told["query"]) == ("/", "e")


def test_http2_is_not_switched_to(serve: Serve, connect: Connect) -> None:
    """A proxy that lets the switch pass sees nothing of what follows; RFC 9113 has given it up."""
    client = connect(serve(tell))
    client.send(PLAIN[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")  # fmt: skip
    told = json.loads(client.answer().body)
    assert told["http_version"] == "1.1"
    assert "upgrade" not in dict(told["headers"])


# WebSockets.

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def listen(scope: Any, receive: Any, send: Any) -> None:
    """Take what comes through a WebSocket."""
    if scope["type"] != "websocket":
        await tell(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def frame(head: int, data: bytes = b"", length: int | None = None) -> bytes:
    """Answer a frame of a client, masked with nothing; its length may be a lie."""
    if length is None:
        return bytes([head, 0x80 | len(data)]) + bytes(4) + data
    return bytes([head, 0xFF]) + struct.pack(">Q", length) + bytes(4) + data


PINGED, PONGED, TEXT, BEGUN, MORE = 0x89, 0x8A, 0x81, 0x01, 0x00


def upgraded(client: Client) -> Client:
    client.send(UPGRADE)
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += client.socket.recv(1)
    assert said.startswith(b"HTTP/1.1 101 ")
    return client


def flood(client: Client, data: bytes) -> None:
    """Send *data* until the server has heard enough."""
    try:
        while True:
            client.send(data)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("begun", "each"),
    [
        pytest.param(b"", frame(PINGED), id="ping"),
        pytest.param(b"", frame(PONGED), id="pong"),
        pytest.param(frame(BEGUN, b"a"), frame(MORE), id="nothing"),
        pytest.param(frame(BEGUN, b"a"), frame(MORE, b"b"), id="bytes"),
    ],
)
def test_frames_of_a_websocket_that_say_nothing_are_bounded(
    serve: Serve, connect: Connect, meanwhile: Meanwhile, logged: Logged, begun: bytes, each: bytes
) -> None:
    """They cost more to read than to send: one client could hold up all others."""
    server = serve(listen)
    client = upgraded(connect(server))
    client.send(begun)
    attack = meanwhile(flood, client, each * 10_000)
    everything_or_reset(client)
    attack.result(5)
    told = "Closed the connection of 127.0.0.1, who sends too many small frames"
    assert [message for level, message in logged if level >= 30] == [told]
    wait_for(lambda: not server.httpserver._visitors)


def everything_or_reset(client: Client) -> None:
    try:
        everything(client)
    except ConnectionResetError:
        pass


def test_a_message_without_end_is_no_hoard(
    serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Who goes on after it was too long is closed; hypercorn alone would keep all of it."""
    server = serve(listen, native={"websocket_max_message_size": 1000})
    client = upgraded(connect(server))
    client.send(frame(TEXT, b"", 1 << 40))
    attack = meanwhile(flood, client, b"x" * 65536)
    everything_or_reset(client)
    attack.result(5)
    wait_for(lambda: not server.httpserver._visitors)


def test_one_that_sends_fast_leaves_others_their_turn(
    serve: Serve, connect: Connect, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing that it sends is too much."""
    monkeypatch.setattr("sitebus.servers._hypercorn_websocket.MOST_IDLE", 10**9)
    server = serve(listen)
    client = upgraded(connect(server))
    attack = meanwhile(flood, client, frame(PONGED) * 10_000)
    began = time.monotonic()
    for _ in range(10):
        assert connect(server).get().status == 200
    assert time.monotonic() - began < 5
    client.socket.shutdown(socket.SHUT_RDWR)
    attack.result(5)


# PROXY headers.

V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n"
_PAIR = (
    socket.inet_aton("203.0.113.7") + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 4711, 80)
)
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(_PAIR)) + _PAIR


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_client_is_who_the_proxy_says(
    serve: Serve, connect: Connect, header: bytes, at_once: bool
) -> None:
    """In any pieces, and for every request of the connection."""
    client = connect(serve(tell, proxy_protocol="all"))
    if at_once:
        client.send(header + PLAIN)
    else:
        for byte in header + PLAIN:
            client.send(bytes([byte]))
    assert json.loads(client.answer().body)["client"] == ["203.0.113.7", 4711]
    assert json.loads(client.get().body)["client"] == ["203.0.113.7", 4711]


def test_the_client_of_http2_is_who_the_proxy_says(serve: Serve, connect: Connect) -> None:
    """Also where hypercorn makes another protocol of the connection."""
    client = connect(serve(tell, proxy_protocol="all"))
    client.send(V2)
    http2 = Http2(client)
    assert http2.get() == 200
    assert json.loads(http2.body)["client"] == ["203.0.113.7", 4711]


def test_the_header_comes_before_tls(serve: Serve, certificate: Certificate) -> None:
    """The proxy knows nothing of what is in there."""
    server = serve(tell, proxy_protocol="all", tls=certificate.tls)
    address = server.addresses[0]
    with socket.create_connection((address.host, address.port), 10) as plain:
        plain.sendall(V1)
        context = ssl.create_default_context(cafile=certificate.root)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            said = b""
            while data := secure.recv(65536):
                said += data
    assert json.loads(said.partition(b"\r\n\r\n")[2])["client"] == ["203.0.113.7", 4711]


# Clients' certificates.


def secure_client(
    certificate: Certificate, person: Person | None, *protocols: str
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate.root)
    if person is not None:
        context.load_cert_chain(person.certificate, person.key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def test_an_application_is_told_who_its_client_is(
    serve: Serve, connect: Connect, certificate: Certificate, person: Person
) -> None:
    """With HTTP/1.1 and HTTP/2; the key of the server is not among it."""
    both = certificate.certificate.parent / "both.pem"
    both.write_text(certificate.key.read_text() + certificate.certificate.read_text())
    tls = TLS(both, None, certificate.chain, person.authority, "optional")
    server = serve(tell, tls=tls)

    client = connect(server, tls=secure_client(certificate, person))
    told = json.loads(client.get().body)["extensions"]["tls"]
    assert told["client_cert_name"].endswith("C=DE")
    assert told["client_cert_chain"][0].split() == person.certificate.read_text().split()
    assert told["server_cert"] in certificate.certificate.read_text()
    assert "PRIVATE" not in told["server_cert"]
    assert told["tls_version"] == 0x0304

    http2 = Http2(connect(server, tls=secure_client(certificate, person, "h2")))
    assert http2.get() == 200
    assert json.loads(http2.body)["extensions"]["tls"] == told

    nobody = connect(server, tls=secure_client(certificate, None))
    told = json.loads(nobody.get().body)["extensions"]["tls"]
    assert (told["client_cert_name"], told["client_cert_chain"]) == (None, [])


def test_a_required_certificate_is_required(
    serve: Serve, connect: Connect, certificate: Certificate, person: Person
) -> None:
    """Nobody else gets as far as a request."""
    tls = TLS(*certificate.tls[:3], person.authority, "required")
    server = serve(tell, tls=tls)
    assert connect(server, tls=secure_client(certificate, person)).get().status == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):  # TLS 1.3 tells it with the first read
        connect(server, tls=secure_client(certificate, None)).get()


def test_without_tls_there_is_nothing_to_tell(serve: Serve, connect: Connect) -> None:
    """The extension is there if the connection is secure."""
    assert json.loads(connect(serve(tell)).get().body)["extensions"] == {}


def test_a_drain_waits_for_a_head_no_longer_than_it_may_take(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """What is whole in time is served."""
    server = serve(linger=0.05, header_timeout=0.5, timeout=30)
    slow, good = connect(server), connect(server)
    for client in (slow, good):
        assert client.get().body == HELLO
        client.send(PLAIN[:10])
    wait_for(lambda: all(each._is_midway for each in list(server.httpserver._visitors)))
    stop = stop_begins(engine, server, meanwhile)
    good.send(PLAIN[10:])
    assert good.answer().status == 200
    assert slow.answer().status == 408
    slow.close()
    stop.result(5)
