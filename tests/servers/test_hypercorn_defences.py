"""Clients of hypercorn that are slow, too many, ambiguous, or show who they are."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any

import h2.events
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
    assert older.get().status == 200
    assert newer.get().status == 200

    last = connect(server)
    assert last.get().status == 200
    assert older.is_closed()
    shop.opened.give()
    assert busy.answer().status == 200
    assert newer.get().status == 200


def test_who_finds_all_busy_waits(serve: Serve, connect: Connect, shop: Shop) -> None:
    """In the kernel's queue; it is served as soon as somebody is done."""
    server = serve(max_connections=1)
    busy = connect(server)
    busy.ask("/gate")
    shop.entered.wait()
    waiting = connect(server)
    waiting.ask()
    wait_for(lambda: server.httpserver._arrivals._pause is not None)
    assert len(server.httpserver._visitors) == 1
    shop.opened.give()
    assert busy.answer().status == 200
    assert waiting.answer().status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Content-Length: 9999\r\n\r\n", 413),
        (POST + b"Expect: a cake\r\nContent-Length: 1\r\n\r\n1", 417),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xe9\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused(
    serve: Serve, connect: Connect, logged: Logged, request_: bytes, status: int
) -> None:
    """Before an application sees it, in a few words, and with the end of the connection."""
    called: list[Any] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)
        await tell(scope, receive, send)

    client = connect(serve(note, max_header=1000, max_body=1000))
    client.send(request_ + PLAIN)
    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert answer.headers["content-type"] == "text/plain"
    assert "server" not in answer.headers
    assert 0 < len(answer.body) < 100
    assert client.is_closed()
    assert not called
    told = [message for level, message in logged if level == 30]
    assert len(told) == 1
    assert told[0].startswith(f"Refused a request from 127.0.0.1: {status} ")
    assert "Traceback" not in str(logged)


@pytest.mark.parametrize("chunk", [b"5\nhello\n0\n\n", b"5;\0\r\nhello\r\n", b"x\r\n"])
def test_bad_chunks_are_refused(
    serve: Serve, connect: Connect, logged: Logged, chunk: bytes
) -> None:
    """The application that waits for them hears that its client has left."""
    heard: list[str] = []

    async def listen(_scope: Any, receive: Any, _send: Any) -> None:
        while "http.disconnect" not in heard:
            heard.append((await receive())["type"])

    client = connect(serve(listen))
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
    answer = client.answer()
    assert (answer.status, answer.closes) == (400, True)
    assert answer.body.startswith(b"The body cannot be read: ")
    wait_for(lambda: "http.disconnect" in heard)
    assert "Refused a request from 127.0.0.1: 400 Bad Request. The body cannot be" in str(logged)


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


@pytest.mark.parametrize(
    ("changed", "status"),
    [({":authority": "a b"}, b"400"), ({"x": "y" * 2000}, b"431")],
)
def test_http2_is_read_as_strictly(
    serve: Serve, connect: Connect, logged: Logged, changed: dict[str, str], status: bytes
) -> None:
    """It costs the stream, and not the connection."""
    client = Http2(connect(serve(max_header=1000)))
    client.h2.config.validate_outbound_headers = False
    head = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "localhost"}
    client.h2.send_headers(1, list({**head, **changed}.items()), end_stream=True)
    client.flush()
    client.read_until(h2.events.StreamEnded, 1)
    answers = client.found(h2.events.ResponseReceived, 1)
    assert dict(answers[0].headers)[b":status"] == status
    assert "Refused a request from 127.0.0.1" in str(logged)
    assert client.get() == 200


def test_refusals_do_not_fill_the_log(serve: Serve, connect: Connect, logged: Logged) -> None:
    """What is too much is counted."""
    server = serve()
    for _ in range(15):
        client = connect(server)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 400
    server.bus.stop()
    assert sum("Refused" in message for _, message in logged) == 10
    assert "... and 5 more: 400 Bad Request" in str(logged)


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


def test_a_proxy_may_speak_for_itself(serve: Serve, connect: Connect) -> None:
    """As its health checks do."""
    client = connect(serve(tell, proxy_protocol="all"))
    client.send(b"PROXY UNKNOWN\r\n" + PLAIN)
    assert json.loads(client.answer().body)["client"][0] == "127.0.0.1"


def test_only_some_doors_may_be_for_proxies(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """The others are as ever."""
    path = f"unix:{tmp_path / 'site.sock'}"
    server = serve(tell, binds=["127.0.0.1:0", path], proxy_protocol=[path])
    assert json.loads(connect(server, 0).get().body)["client"][0] == "127.0.0.1"
    client = connect(server, 1)
    client.send(V1 + PLAIN)
    assert json.loads(client.answer().body)["client"] == ["203.0.113.7", 4711]


@pytest.mark.parametrize(
    "settings", [{}, {"trusted_proxies": ["192.0.2.0/24"]}], ids=["garbage", "stranger"]
)
def test_who_may_not_come_so_is_not_answered(
    serve: Serve, connect: Connect, logged: Logged, settings: dict[str, Any]
) -> None:
    """Closed without a byte, and one line."""
    client = connect(serve(proxy_protocol="all", **settings))
    client.send(PLAIN)
    assert client.is_closed()
    wait_for(lambda: "Refused a connection from 127.0.0.1" in str(logged))


@pytest.mark.parametrize("begun", [b"", b"PROXY "])
def test_a_proxy_header_has_its_time(serve: Serve, connect: Connect, begun: bytes) -> None:
    """That of a head once it has begun; before, that of a silent client."""
    client = connect(serve(proxy_protocol="all", timeout=0.3, header_timeout=0.3))
    client.send(begun)
    assert client.is_closed()


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
