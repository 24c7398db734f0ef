"""hypercorn on the engine's loop: what is peculiar to it, HTTP/2 and WebSockets above all."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import h2.events
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from sitebus.errors import BadServerOption, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers import find
from sitebus.servers.hypercorn import RESERVED, HypercornServer
from tests.helpers import open_descriptors, wait_for
from tests.servers.client import Client, hello
from tests.servers.conformance import Load, everything, post
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

#: Found here by pytest.
__all__ = ["serve", "shop"]


@pytest.fixture(autouse=True, scope="module")
def _loops_descriptors() -> None:
    """What libuv opens once for the process is not left behind by the first test."""
    engine = Engine()
    assert engine.loop.is_running()
    engine.exit()


def chat(server: HypercornServer) -> ClientConnection:
    return open_websocket(f"ws://127.0.0.1:{server.addresses[0].port}/", max_size=None)


# Serving.


def test_hypercorn_is_found_by_name() -> None:
    """Without any metadata, as from a directory where nothing was installed."""
    assert find("hypercorn") is HypercornServer


def test_a_wsgi_application_is_served_through_the_bridge(serve: Serve, connect: Connect) -> None:
    """Hypercorn's own way of running those is weak."""
    assert connect(serve(hello)).get().body == b"hello"


def test_headers_are_sitebuss(serve: Serve, connect: Connect) -> None:
    """One date, and the name that the site gave itself, or none."""
    headers = connect(serve(server_header="shelf")).get().headers
    assert headers["server"] == "shelf"
    assert headers["date"].endswith("GMT")


def test_a_server_header_may_be_left_out(serve: Serve, connect: Connect) -> None:
    """Empty is none at all."""
    assert "server" not in connect(serve(server_header="")).get().headers


def test_a_connection_is_kept_for_thousands_of_requests(serve: Serve, connect: Connect) -> None:
    """Hypercorn alone closes it after a thousand."""
    client = connect(serve())
    assert not any(client.get().closes for _ in range(1200))


def test_a_head_that_comes_in_one_piece_can_be_too_long(serve: Serve, connect: Connect) -> None:
    """h11 counts only what it waits for the rest of."""
    client = connect(serve(max_header=1000))
    assert client.get("/?" + "x" * 500).status == 200
    assert client.get("/?" + "x" * 1000).status == 414
    assert client.is_closed()


def test_a_client_that_leaves_is_forgotten_at_once(serve: Serve, connect: Connect) -> None:
    """Hypercorn alone keeps its connection until the timeout of idle ones."""
    server = serve(timeout=60)
    client = connect(server)
    client.get()
    assert len(server.httpserver._visitors) == 1
    client.close()
    wait_for(lambda: not server.httpserver._visitors)


def test_silence_in_a_body_is_given_up(serve: Serve, connect: Connect) -> None:
    """An application that waits for the rest would wait for ever."""
    server = serve(timeout=0.3)
    client = connect(server)
    client.send(post("/echo", b"x" * 100)[:-1])
    began = time.monotonic()
    everything(client)
    assert time.monotonic() - began < 5
    wait_for(lambda: not server.httpserver._visitors)


def test_an_application_may_wait_for_its_client_to_leave(serve: Serve, connect: Connect) -> None:
    """The timeout is for clients that owe something, and this one has said all."""
    gone = threading.Event()

    async def linger(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        if (await receive())["type"] == "http.disconnect":
            gone.set()

    client = connect(serve(linger, timeout=0.2))
    client.ask()
    assert not gone.wait(0.6)
    client.close()
    assert gone.wait(5)


def test_hypercorn_logs_to_the_bus(
    serve: Serve,
    connect: Connect,
    logged: Logged,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is written behind the log's back."""
    assert connect(serve()).get("/raise").status == 500

    wait_for(lambda: "no such shelf" in str(logged))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_an_idle_stop_takes_no_time(engine: Engine, serve: Serve) -> None:
    """No interval of a loop stands between a signal and the end."""
    serve()
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 0.2


def test_twenty_cycles_leave_nothing(engine: Engine, serve: Serve) -> None:
    """Descriptors, threads and tasks are level: nothing is kept per start."""
    server = serve(linger=0.0)
    # libuv opens something for the first connection, once for the process.
    with Client(server.addresses[0]) as client:
        assert client.get().status == 200
    engine.stop()
    descriptors, threads = open_descriptors(), threading.active_count()

    for _ in range(20):
        engine.start()
        with Client(server.addresses[0]) as client, Client(server.addresses[0]) as other:
            assert client.get().status == 200
            assert Http2(other).get() == 200
        engine.stop()

    wait_for(lambda: not asyncio.all_tasks(engine.loop))
    assert len(open_descriptors()) == len(descriptors)
    assert threading.active_count() == threads


@pytest.mark.slow
def test_no_request_is_lost_through_ten_restarts(engine: Engine, serve: Serve) -> None:
    """Under clients that connect for each request, and others that keep their connection."""
    server = serve(linger=0.3)
    with Load(server.addresses[0]) as load:
        for _ in range(10):
            wait_for(load.enough(60), 20)
            server.restart()
        wait_for(load.enough(60), 20)
    assert load.failures == []


# Options of hypercorn's own.


def test_native_options_reach_hypercorn(serve: Serve, connect: Connect) -> None:
    """As text, as they are written in a file."""
    seen: list[str] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["root_path"])
        await Shop().asgi_hello(scope, receive, send)

    native = {"root_path": "/shop", "keep_alive_max_requests": "2", "alt_svc_headers": 'h3=":1"'}
    client = connect(serve(look, native=native))

    answers = [client.get() for _ in range(2)]

    assert [answer.closes for answer in answers] == [False, True]
    assert answers[0].headers["alt-svc"] == 'h3=":1"'
    assert seen == ["/shop"] * 2


def test_a_native_timeout_wins(serve: Serve, connect: Connect) -> None:
    """Who speaks of the library means it."""
    began = time.monotonic()
    assert connect(serve(timeout=60, native={"keep_alive_timeout": "0.2"})).is_closed()
    assert time.monotonic() - began < 5


def test_an_unknown_option_is_told_the_nearest(engine: Engine, shop: Shop) -> None:
    """Before anything starts."""
    with pytest.raises(UnknownNativeOption, match="did you mean 'websocket_ping_interval'"):
        HypercornServer(engine, shop.asgi, native={"websocket_ping_intervall": "30"})


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("websocket_ping_interval", "often", "a number"),
        ("h2_max_concurrent_streams", "many", "a whole number"),
        ("workers", "4", "sitebus runs the process"),
        ("bind", "*:80", "say it with 'bind'"),
        ("certfile", "cert.pem", "tls_cert"),
        ("quic_bind", "*:443", "HTTP/3"),
        ("accesslog", "-", "access log of its own"),
    ],
)
def test_a_bad_option_is_said_in_one_sentence(
    engine: Engine, shop: Shop, option: str, value: str, reason: str
) -> None:
    """With what would work."""
    with pytest.raises(BadServerOption, match=reason) as caught:
        HypercornServer(engine, shop.asgi, native={option: value})
    assert f"hypercorn.{option}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_is_known_or_refused() -> None:
    """A name that hypercorn gives up must not stay refused for a reason that has gone."""
    from hypercorn.config import Config

    assert all(hasattr(Config, name) for name in RESERVED.keys() - {"application_path"})


# WebSockets.


def test_a_websocket_echoes(serve: Serve) -> None:
    """As often as somebody says something, also what is longer than a frame of the network."""
    with chat(serve()) as websocket:
        for said in ("hello", "", "x" * 300_000):
            websocket.send(said)
            assert websocket.recv(5) == said


def test_a_websocket_outlives_the_timeout_of_silence(serve: Serve) -> None:
    """Saying nothing is what most of them do."""
    with chat(serve(timeout=0.2)) as websocket:
        threading.Event().wait(0.6)
        websocket.send("still there")
        assert websocket.recv(5) == "still there"


def test_a_websocket_is_closed_with_1012(
    engine: Engine, serve: Serve, shop: Shop, meanwhile: Meanwhile
) -> None:
    """The client's script knows that it may come back, and the application why it went."""
    server = serve(linger=10.0)
    with chat(server) as websocket:
        websocket.send("hello")
        assert websocket.recv(5) == "hello"

        stop = stop_begins(engine, server, meanwhile)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(5)
        stop.result(2)

    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "restarting")
    wait_for(lambda: shop.closed_with)
    assert shop.closed_with == [1012]


def test_a_websocket_that_opens_during_the_drain_is_closed_too(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Its connection was there before; the answer is a whole handshake, and 1012."""
    server = serve(linger=10.0)
    client = connect(server)
    client.get()
    stop = stop_begins(engine, server, meanwhile)

    with (
        open_websocket("ws://localhost/", sock=client.socket) as websocket,
        pytest.raises(ConnectionClosed) as caught,
    ):
        websocket.recv(5)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    stop.result(2)


def test_a_websocket_client_that_does_not_close_is_given_up(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect
) -> None:
    """After a moment for its part of the farewell; what the application sends goes nowhere."""
    said = threading.Event()

    async def talk(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        said.set()
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send({"type": "websocket.send", "text": "goodbye"})

    server = serve(talk, linger=0.0)
    client = connect(server)
    client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert said.wait(5)

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 3
    assert b"\x88" in everything(client)


# HTTP/2.


def test_http_2_without_tls(serve: Serve, connect: Connect) -> None:
    """As proxies speak it to their backends."""
    client = Http2(connect(serve()))
    assert [client.get() for _ in range(3)] == [200] * 3
    assert client.body == HELLO * 3


def test_many_streams_at_once_over_tls(
    serve: Serve, shop: Shop, connect: Connect, certificate: Certificate
) -> None:
    """As browsers speak it; none waits for another."""
    trust = ssl.create_default_context(cafile=certificate.root)
    trust.set_alpn_protocols(["h2", "http/1.1"])
    client = Http2(connect(serve(tls=certificate.tls), tls=trust))
    slow = client.ask("/gate")
    shop.entered.wait()
    assert [client.get() for _ in range(20)] == [200] * 20
    assert not client.found(h2.events.ResponseReceived, slow)
    shop.opened.give()
    client.read_until(h2.events.StreamEnded, slow)


def test_http_2_goes_on_after_a_thousand_requests(serve: Serve, connect: Connect) -> None:
    """Hypercorn alone loses the next one."""
    client = Http2(connect(serve()))
    assert {client.get() for _ in range(1100)} == {200}


def test_a_body_over_http_2_can_be_too_long(serve: Serve, connect: Connect) -> None:
    """And the connection stays for the others."""
    client = Http2(connect(serve(max_body=10)))
    number = client.ask("/echo", "POST", end=False)
    client.h2.send_data(number, b"x" * 100, end_stream=True)
    client.flush()
    client.read_until(h2.events.StreamEnded, number)
    head = client.found(h2.events.ResponseReceived, number)[0].headers
    assert dict(head)[b":status"] == b"413"
    assert client.get() == 200


def test_an_idle_http_2_connection_is_told_to_go_away(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """With the last stream that was served: what crosses it may safely be sent again elsewhere."""
    client = Http2(connect(serve(linger=0.3)))
    assert client.get() == 200
    last = client.ask("/")
    client.read_until(h2.events.StreamEnded, last)

    began = time.monotonic()
    engine.stop()

    assert 0.25 < time.monotonic() - began < 2
    told = client.read_until(h2.events.ConnectionTerminated)
    assert (told.error_code, told.last_stream_id) == (0, last)
    assert client.client.is_closed()


def test_a_stream_in_flight_is_finished_before_that(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Some clients fail what is open when they are told to go away."""
    server = serve(linger=0.1)
    client = Http2(connect(server))
    number = client.ask("/stream")
    shop.entered.wait()

    stop = stop_begins(engine, server, meanwhile)
    threading.Event().wait(0.4)
    assert not stop.done()
    shop.opened.give()

    client.read_until(h2.events.ConnectionTerminated)
    assert client.found(h2.events.StreamEnded, number)
    assert client.body == b"first second last"
    assert isinstance(client.events[-1], h2.events.ConnectionTerminated)
    stop.result(5)


def test_more_streams_beside_one_in_flight_are_served(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Whoever opens more of them after the linger is asked to stop, and none is refused."""
    server = serve(linger=0.1)
    client = Http2(connect(server))
    slow = client.ask("/gate")
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)

    assert client.get() == 200
    assert not client.found(h2.events.ConnectionTerminated)
    wait_for(lambda: server.httpserver.linger_is_over)
    # h2, the library, takes the notice for the end; its frames are told apart here.
    late = client.ask("/")
    received = b""
    shop.opened.give()
    while data := client.client.socket.recv(65536):
        received += data
    frames = list(frames_of(received))
    away = [body[:4] for kind, _, body in frames if kind == 7]
    assert away == [b"\x7f\xff\xff\xff", late.to_bytes(4, "big")]
    assert {stream for kind, stream, _ in frames if kind == 0} == {slow, late}
    stop.result(5)


def frames_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Answer type, stream and payload of each frame (RFC 9113, section 4.1)."""
    while data:
        length, kind = int.from_bytes(data[:3], "big"), data[3]
        yield kind, int.from_bytes(data[5:9], "big"), data[9 : 9 + length]
        data = data[9 + length :]


def test_a_stream_after_the_farewell_is_not_begun(
    engine: Engine, serve: Serve, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Its client was told that it may send it elsewhere: to serve it too would be twice."""
    server = serve(linger=1.0)
    client = Http2(connect(server))
    assert client.get() == 200
    stop = stop_begins(engine, server, meanwhile)
    wait_for(lambda: b"\x07" in client.client.socket.recv(4096, socket.MSG_PEEK))

    client.ask("/gate")

    stop.result(5)
    assert not shop.entered.is_given


# TLS.


def test_a_graceful_renews_the_certificate(
    engine: Engine,
    serve: Serve,
    connect: Connect,
    certificate: Certificate,
    certificates: tuple[Certificate, Certificate],
) -> None:
    """From the next connection on, and without a moment in which nobody answers."""
    server = serve(tls=certificate.tls)
    trust = ssl.create_default_context(cafile=certificate.root)
    kept = connect(server, tls=trust)
    names = [name_of(kept)]
    certificate.certificate.write_bytes(certificates[1].certificate.read_bytes())
    certificate.key.write_bytes(certificates[1].key.read_bytes())

    engine.graceful()

    wait_for(lambda: name_of(connect(server, tls=trust)) != names[0])
    assert kept.get().status == 200


def name_of(client: Client) -> Any:
    assert isinstance(client.socket, ssl.SSLSocket)
    return (client.socket.getpeercert() or {})["subject"]
