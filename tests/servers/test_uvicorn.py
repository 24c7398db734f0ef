"""What uvicorn does here that it does not do elsewhere, and which of its options can be said."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from email.utils import formatdate
from typing import Any

import pytest
from websockets.sync.client import connect as open_websocket

from sitebus.errors import EX_CONFIG, BadServerOption, SitebusError, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers import find
from sitebus.servers._uvicorn_protocols import configure
from sitebus.servers._uvicorn_state import State
from sitebus.servers.uvicorn import RESERVED, UvicornServer
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import ask_http2, begin, everything, post
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import PARSERS, WEBSOCKETS, Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]


def test_it_is_found_by_its_name() -> None:
    """Nothing else is needed to choose it."""
    assert find("uvicorn") is UvicornServer


# Options.


@pytest.mark.parametrize("http", PARSERS)
def test_native_options_arrive(host: Host, connect: Connect, http: str) -> None:
    """Said as text, as a configuration file has them."""
    native = {"http": http, "date_header": "no", "headers": [("X-Shelf", "3")]}
    server = host(native=native, server_header="sitebus")
    client = connect(server)
    client.ask()
    head = begin(client).headers

    assert head.get_all("Server") == ["sitebus"]
    assert head["X-Shelf"] == "3"
    assert "Date" not in head
    kind = type(next(iter(server.httpserver._crowd)))
    assert http in {base.__module__.split(".")[-1].removesuffix("_impl") for base in kind.__mro__}


def test_a_limit_of_uvicorns_own(host: Host, shop: Shop, connect: Connect, logged: Logged) -> None:
    """It says in the log of the site what it refuses."""
    server = host(native={"limit_concurrency": "2"})
    connect(server).ask("/gate")
    shop.entered.wait()

    assert connect(server).get().status == 503
    assert (logging.WARNING, "Exceeded concurrency limit.") in logged


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_sitebus_decides_is_said_elsewhere(engine: Engine, name: str) -> None:
    """Silently ignored, or two words for one thing, would both mislead."""
    with pytest.raises(BadServerOption) as caught:
        UvicornServer(engine, None, native={name: "1"})
    assert caught.value.option == f"uvicorn.{name}"
    assert caught.value.reason == RESERVED[name]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("htp", "h11", "uvicorn has no option 'htp'; did you mean 'http'?"),
        ("http", "h12", "it takes auto, h11, httptools or zttp, or module:Class"),
        ("http", "nowhere:Protocol", "No module named 'nowhere'|Could not import module"),
        ("ws", "carrier-pigeon", "it takes auto, none, websockets"),
        ("ws_max_size", "big", "it takes a whole number"),
        ("ws_per_message_deflate", "perhaps", "it takes yes or no"),
        ("log_level", "loud", "it takes critical, error"),
        ("headers", "X-Shelf: 3", "it takes pairs, which code can give"),
        ("ssl_keyfile", "key.pem", "with 'tls_cert' and 'tls_key'"),
        ("reload_dirs", "src", r"say it in \[reload\]"),
    ],
)
def test_a_bad_option_is_one_sentence(engine: Engine, name: str, value: str, said: str) -> None:
    """Before anything is bound."""
    with pytest.raises(SitebusError, match=said) as caught:
        UvicornServer(engine, None, native={name: value})
    assert isinstance(caught.value, (BadServerOption, UnknownNativeOption))
    assert caught.value.status == EX_CONFIG
    assert "\n" not in str(caught.value)


def test_a_parser_that_is_not_installed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setitem(sys.modules, "zttp", None)
    for name in [name for name in sys.modules if name.startswith("uvicorn.protocols.http.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BadServerOption, match="pip install zttp"):
        UvicornServer(engine, None, native={"http": "zttp"})


@pytest.mark.parametrize(
    ("native", "told"),
    [({}, b"127.0.0.1"), ({"forwarded_allow_ips": "127.0.0.1"}, b"192.0.2.7")],
    ids=["nobody", "somebody"],
)
def test_forwarded_headers_count_where_somebody_is_trusted(
    host: Host, connect: Connect, native: dict[str, str], told: bytes
) -> None:
    """And only there; a client could say anything."""

    async def tell(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["client"][0].encode())

    client = connect(host(tell, native=native))
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
    assert client.answer().body == told


def test_the_application_is_not_called_to_see_what_it_is() -> None:
    """To call it without arguments would tell uvicorn whether it is a factory."""
    calls: list[object] = []

    async def app(*arguments: object) -> None:
        calls.append(arguments)

    assert configure({"proxy_headers": False}, app).loaded_app is app
    assert configure({"proxy_headers": True}, app).loaded_app.app is app
    assert calls == []


def test_the_loggers_of_the_process_are_left_alone(
    host: Host, connect: Connect, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application may use uvicorn's, and configure them as it likes."""
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

    def told() -> list[object]:
        loggers = [logging.getLogger(name) for name in names]
        return [(each.level, each.propagate, *each.handlers) for each in loggers]

    before = told()
    server = host(native={"log_level": "error"})
    assert connect(server).get().status == 200
    assert connect(server).get("/raise").status == 500

    assert told() == before
    [line] = [message for level, message in logged if level == logging.ERROR]
    assert line.startswith("Exception in ASGI application\nTraceback")
    assert "no such shelf" in line


# What every response says.


class Clock:
    """A loop that is asked for timers, and a time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000_000.25
        self.timers: list[tuple[float, Callable[[], object]]] = []
        monkeypatch.setattr(time, "time", lambda: self.now)

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self.timers.append((delay, call))


def test_the_date_costs_a_timer_a_second_and_none_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A site that is idle sleeps."""
    clock = Clock(monkeypatch)
    state = State(configure({"headers": [("server", "me")]}), clock)  # type: ignore[arg-type]
    assert clock.timers == []

    for _ in range(1000):
        headers = state.default_headers
    assert headers == [(b"date", formatdate(1e9, usegmt=True).encode()), (b"server", b"me")]
    [(delay, forget)] = clock.timers
    assert delay == 0.75
    forget()
    assert len(clock.timers) == 1
    clock.now += 86400
    assert state.default_headers[0][1] == formatdate(1e9 + 86400, usegmt=True).encode()
    assert len(clock.timers) == 2


def test_no_timer_is_left_when_the_last_client_has_gone(
    engine: Engine, host: Host, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the end of the second, and the last round to see who is silent."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    server = host(timeout=0.2)
    client = connect(server)
    client.get()
    client.close()

    async def timers() -> int:
        scheduled = engine.loop._scheduled  # type: ignore[attr-defined]
        return len([each for each in scheduled if not each.cancelled()])

    wait_for(lambda: asyncio.run_coroutine_threadsafe(timers(), engine.loop).result(5) == 0)


# What a request may be.


def test_a_head_may_come_in_pieces_and_not_for_ever(host: Host, connect: Connect) -> None:
    """Counted over the pieces; a body, and the next request, do not count."""
    server = host(max_header=2000)
    client = connect(server)
    for piece in (b"GET / HTTP/1.1\r\n", b"X: " + b"x" * 1500, b"\r\nHost: a\r\n\r\n"):
        client.send(piece)
    assert client.answer().body == HELLO
    client.send(post("/echo", b"y" * 100_000))
    assert len(client.answer().body) == 100_000
    assert client.get().status == 200

    client.send(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(8):
        client.send(b"x" * 250)
        # Read by now, as a piece of its own.
        assert connect(server).get().status == 200
    told = client.answer()
    assert (told.status, told.closes) == (431, True)


def test_a_connection_is_found_quickly(host: Host, connect: Connect) -> None:
    """CPython gives up a short cut for more than thirty attributes; each request would pay."""
    server = host()
    client = connect(server)
    assert client.get().status == 200
    client.socket.sendall(post("/echo", b"hello")[:30])
    (connection,) = server.httpserver._crowd
    wait_for(lambda: connection.head)

    assert len(vars(connection)) <= 30


@pytest.mark.parametrize("first", ["", "Host: localhost"])
def test_a_host_that_is_known_is_looked_at_again(host: Host, connect: Connect, first: str) -> None:
    """There may be one in each request, and behind a body it says nothing about the next."""
    client = connect(host())
    assert client.get().status == 200
    chunked = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.socket.sendall(f"{chunked}0\r\nHost: localhost\r\n\r\n".encode())
    answer = begin(client)
    answer.read()
    assert answer.status == 200
    lines = ["GET / HTTP/1.1", *filter(None, [first, first]), "", ""]
    client.socket.sendall("\r\n".join(lines).encode())

    assert begin(client).status == 400


def test_a_huge_head_in_one_piece(host: Host, connect: Connect) -> None:
    """It was read whole, and the application does not see it all the same."""
    client = connect(host(max_header=2000))
    client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 3000 + b"\r\n\r\n")
    assert client.answer().status == 431


def test_a_large_upload_in_one_piece_is_no_large_head(host: Host, connect: Connect) -> None:
    """What is limited ends at the empty line."""
    client = connect(host(max_header=500))
    client.send(post("/echo", b"z" * 20_000))
    assert client.answer().body == b"z" * 20_000


# Contexts.


@pytest.mark.usefixtures("loop_kind")
@pytest.mark.parametrize("http", PARSERS)
def test_a_request_sees_nothing_of_the_one_before(host: Host, connect: Connect, http: str) -> None:
    """Loops keep the context of whoever resumed reading; who is logged in may be in it."""
    user = contextvars.ContextVar("user", default="nobody")

    async def remember(scope: Any, receive: Any, send: Any) -> None:
        said = user.get()
        user.set("somebody")
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": said})
            await send({"type": "websocket.close"})
            return
        while (await receive()).get("more_body"):
            pass
        await answer(send, said.encode())

    client = connect(host(remember, native={"http": http}))
    for _ in range(3):
        client.send(post("/", b"x" * 300_000))
        assert client.answer().body == b"nobody"
    client.send(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    received = b""
    while b"body" not in received:
        data = client.socket.recv(4096)
        assert data, received
        received += data
    assert b"\x81\x06nobody" in received


# Protocols.


@pytest.mark.usefixtures("loop_kind")
@pytest.mark.parametrize("ws", WEBSOCKETS)
def test_a_websocket(host: Host, ws: str) -> None:
    """There and back, short and long."""
    server = host(native={"ws": ws})
    with open_websocket(f"ws://127.0.0.1:{server.addresses[0].port}/ws") as websocket:
        for text in ("hello", "x" * 100_000):
            websocket.send(text)
            assert websocket.recv(5) == text


def test_server_sent_events_are_sent_one_by_one(host: Host, connect: Connect) -> None:
    """Each is there before the next is made, and the stream ends when the client has left."""
    events: asyncio.Queue[bytes] = asyncio.Queue()
    left: Future[bool] = Future()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(watch(receive))
        while not gone.done():
            event = asyncio.ensure_future(events.get())
            await asyncio.wait((event, gone), return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                body = b"data: %b\n\n" % event.result()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        event.cancel()
        left.set_result(True)

    async def watch(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    server = host(stream)
    client = connect(server)
    client.ask()
    response = begin(client)
    for number in (b"1", b"2", b"3"):
        server.bus.loop.call_soon_threadsafe(events.put_nowait, number)
        assert response.read(9) == b"data: %b\n\n" % number
    response.close()
    client.close()
    assert left.result(5)


@pytest.fixture
def h2_trust(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate.root)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.mark.usefixtures("loop_kind")
def test_http_2_where_it_is_wanted(
    host: Host, connect: Connect, certificate: Certificate, h2_trust: ssl.SSLContext
) -> None:
    """Offered over TLS to who knows it; others get HTTP/1.1 on the same port."""
    server = host(tls=certificate.tls, native={"http2": "yes"})
    with Client(server.addresses[0], h2_trust) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "h2"
        assert ask_http2(client.socket) == (200, HELLO)
    h2_trust.set_alpn_protocols(["http/1.1"])
    assert connect(server, tls=h2_trust).get().body == HELLO


def test_http_2_is_not_offered_by_itself(
    host: Host, certificate: Certificate, h2_trust: ssl.SSLContext
) -> None:
    """Who agreed to it would be answered in HTTP/1.1."""
    server = host(tls=certificate.tls)
    with Client(server.addresses[0], h2_trust) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "http/1.1"


class H2:
    """A client that begins requests and waits for answers, each when a test says so."""

    def __init__(self, client: Client) -> None:
        from h2.connection import H2Connection

        self.socket = client.socket
        self.connection = H2Connection()
        self.connection.initiate_connection()
        self.events: list[Any] = []

    def ask(self, stream: int, path: str = "/") -> None:
        head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a")]
        self.connection.send_headers(stream, head, end_stream=True)
        self.socket.sendall(self.connection.data_to_send())

    def seen(self, kind: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == kind]

    def wait_for(self, kind: str, number: int = 1) -> list[Any]:
        """Answer the events of a *kind*, once there are so many."""
        while len(self.seen(kind)) < number:
            self.receive()
        return self.seen(kind)

    def receive(self) -> None:
        data = self.socket.recv(65536)
        assert data, self.events
        self.events += self.connection.receive_data(data)
        self.socket.sendall(self.connection.data_to_send())


@pytest.mark.usefixtures("loop_kind")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_http_2_clients_lose_nothing_when_the_server_stops(
    engine: Engine,
    host: Host,
    shop: Shop,
    connect: Connect,
    meanwhile: Callable[..., Future[Any]],
    certificate: Certificate,
    h2_trust: ssl.SSLContext,
    secure: bool,
) -> None:
    """What was asked before and during the linger is answered; then they hear what was."""
    tls: Any = {"tls": certificate.tls} if secure else {}
    server = host(native={"http2": "yes"}, linger=0.3, **tls)
    busy, idle = (H2(connect(server, tls=h2_trust if secure else None)) for _ in range(2))
    for client in (busy, idle):
        client.ask(1)
        client.wait_for("StreamEnded")
    busy.ask(3, "/gate")
    shop.entered.wait()
    stop = meanwhile(engine.stop)
    assert server.httpserver.shut.wait(5)
    busy.ask(5)
    assert busy.wait_for("StreamEnded", 2)[1].stream_id == 5

    assert idle.wait_for("ConnectionTerminated")[0].last_stream_id == 1
    assert not stop.done()
    shop.opened.give()
    assert busy.wait_for("StreamEnded", 3)[2].stream_id == 3
    assert busy.wait_for("ConnectionTerminated")[0].last_stream_id == 5
    for client in (busy, idle):
        client.socket.close()
    stop.result(3)


def test_an_http_2_client_that_asks_on_is_told_between_two_requests(
    engine: Engine, host: Host, connect: Connect, meanwhile: Callable[..., Future[Any]]
) -> None:
    """It is never silent for as long as the linger."""
    server = host(native={"http2": "yes"}, linger=0.1)
    client = H2(connect(server))
    client.ask(1)
    stop = meanwhile(engine.stop)

    for number in itertools.count(1):
        while len(client.seen("StreamEnded")) < number and not client.seen("ConnectionTerminated"):
            client.receive()
        if client.seen("ConnectionTerminated"):
            break
        client.ask(2 * number + 1)
    [goodbye] = client.wait_for("ConnectionTerminated")
    assert goodbye.last_stream_id == client.seen("StreamEnded")[-1].stream_id
    assert goodbye.error_code == 0
    client.socket.close()
    stop.result(3)


def test_an_http_2_client_that_never_ends_is_told_to(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Callable[..., Future[Any]]
) -> None:
    """What it has begun is still answered."""
    server = host(native={"http2": "yes"}, linger=0.0, timeout=0.3)
    client = H2(connect(server))
    client.ask(1, "/gate")
    shop.entered.wait()
    stop = meanwhile(engine.stop)

    assert client.wait_for("ConnectionTerminated")[0].last_stream_id == 2**31 - 1
    assert not stop.done()
    shop.opened.give()
    client.socket.close()
    stop.result(3)


def test_a_silent_tls_client_is_given_up(
    host: Host, connect: Connect, certificate: Certificate
) -> None:
    """Before its handshake, and in the middle of it."""
    server = host(tls=certificate.tls, timeout=0.2)
    mute, half = connect(server), connect(server)
    half.send(b"\x16\x03\x01\x02\x00\x01")
    assert everything(mute) == everything(half) == b""


def test_plain_http_on_a_tls_port_is_told_so(
    host: Host, connect: Connect, certificate: Certificate
) -> None:
    """Rather than a closed connection."""
    told = connect(host(tls=certificate.tls)).get()
    assert told.status == 400
    assert b"HTTPS" in told.body


# Ends.


def test_a_server_whose_task_is_cancelled_ends_the_engine(
    engine: Engine, host: Host, logged: Logged
) -> None:
    """An application may do that to every task that it finds."""
    server = host()
    task = server.httpserver._task
    engine.loop.call_soon_threadsafe(task.cancel)

    wait_for(lambda: engine.exit_code)
    assert f"Error in HTTP server on {server.description}: CancelledError" in str(logged)


def test_what_cannot_listen_is_told_at_the_start(
    engine: Engine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left of it."""

    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(engine.loop, "add_reader", full)
    with pytest.raises(OSError, match="Too many open files"):
        host()
