"""What `sitebus.servers._uvicorn` relies on in uvicorn, asked of uvicorn alone.

When a new uvicorn fails here, read the top of that module and look at each point again.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS, LOG_LEVELS, WS_PROTOCOLS
from uvicorn.importer import import_from_string
from uvicorn.server import ServerState

from sitebus.servers.native import of_signature
from sitebus.servers.uvicorn import RESERVED

#: The options that are left to whoever configures a site.
FREE = {
    "http", "http2", "ws", "ws_max_size", "ws_max_queue", "ws_ping_interval", "ws_ping_timeout",
    "ws_per_message_deflate", "log_level", "date_header", "headers", "proxy_headers",
    "forwarded_allow_ips", "limit_concurrency",
}  # fmt: skip

HTTP_1 = ("httptools", "h11", "zttp")
REQUEST = b"GET /a%20b?c HTTP/1.1\r\nHost: a\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Transport:
    """Remembers what a protocol does with it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.protocol: Any = None

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


async def hello(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


class Bench:
    """One protocol with a transport that leads nowhere; on a running loop."""

    def __init__(self, http: str = "httptools", app: Any = hello, **options: Any) -> None:
        if "zttp" in http:
            pytest.importorskip("zttp")
        config = uvicorn.Config(
            app, http=http, log_config=None, lifespan="off", proxy_headers=False, **options
        )
        config.load()
        self.config = config
        self.state = ServerState()
        self.transport = Transport()
        kind: Any = config.http_protocol_class
        self.protocol: Any = kind(
            config=config,
            server_state=self.state,
            app_state={},
            _loop=asyncio.get_running_loop(),
        )
        self.protocol.connection_made(self.transport)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def ask(self, request: bytes = REQUEST) -> bytes:
        """Answer what is written in answer to *request*."""
        self.transport.written = b""
        self.protocol.data_received(request)
        await self.settle()
        return self.transport.written

    def end(self) -> None:
        self.protocol.connection_lost(None)


Story = Callable[[], Awaitable[None]]


def run(story: Story) -> None:
    async def told() -> None:
        await asyncio.wait_for(story(), 5)

    asyncio.run(told())


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Leave uvicorn's loggers as they were."""
    access = logging.getLogger("uvicorn.access")
    before = (access.propagate, access.handlers)
    yield
    access.propagate, access.handlers = before


# Options.


def test_every_option_is_decided_on() -> None:
    """A new one is either left to the site, or somebody says what to say instead."""
    families = ("ssl_", "reload")
    said = {name for name in of_signature(uvicorn.Config) if not name.startswith(families)}
    assert said == FREE | RESERVED.keys()
    assert not FREE & RESERVED.keys()


def test_the_types_of_options_can_be_read() -> None:
    """Texts from a configuration file become values of these."""
    known = of_signature(uvicorn.Config)
    assert all(not isinstance(known[name].kind, str) for name in FREE)
    assert known["ws_max_size"].kind is int
    assert known["date_header"].kind is bool


def test_the_implementations_have_names() -> None:
    assert {"auto", *HTTP_1} <= HTTP_PROTOCOLS.keys()
    assert {"auto", "none", "websockets", "websockets-sansio", "wsproto"} <= WS_PROTOCOLS.keys()
    assert {"critical", "error", "warning", "info", "debug"} <= LOG_LEVELS.keys()
    for name in HTTP_1:
        with suppress(ModuleNotFoundError):
            assert inspect.isclass(import_from_string(HTTP_PROTOCOLS[name]))


def test_a_configuration_makes_what_protocols_are_given() -> None:
    """Its application is called without arguments, and is inside what is around it."""
    calls: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    def factory(*arguments: object) -> object:
        calls.append(arguments)
        raise TypeError

    config = uvicorn.Config(
        factory, log_config=None, lifespan="off", interface="asgi3", headers=[("Server", "me")]
    )
    config.load()
    assert calls == [()]
    assert config.loaded_app.app is factory
    assert config.encoded_headers == [(b"server", b"me")]
    plain = uvicorn.Config(app, log_config=None, lifespan="off", proxy_headers=False, ws="none")
    plain.load()
    assert plain.loaded_app is app
    assert plain.ws_protocol_class is None
    assert inspect.isclass(plain.http_protocol_class)


# HTTP/1.1.


@pytest.mark.parametrize("http", HTTP_1)
def test_a_connection_is_among_the_others_from_its_first_moment(http: str) -> None:
    """`Crowd` gives it a logger and a timer then, which it must not have used before."""

    async def story() -> None:
        seen: list[Any] = []

        class Seen(set[Any]):
            def add(self, connection: Any) -> None:
                seen.append((connection.transport, connection.timeout_keep_alive_task))
                super().add(connection)

        bench = Bench(http)
        bench.end()
        bench.protocol.connections = Seen()
        bench.protocol.transport = None
        bench.protocol.connection_made(bench.transport)
        assert seen == [(None, None)]
        assert bench.protocol.connections == {bench.protocol}
        bench.end()
        assert bench.protocol.connections == set()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_a_timer_tells_the_silent_from_those_who_speak(http: str) -> None:
    """Cancelled by any data; set after a response, with the time and the call of the connection."""

    async def story() -> None:
        bench = Bench(http, timeout_keep_alive=7)
        protocol = bench.protocol
        assert protocol.timeout_keep_alive == 7
        timer = asyncio.get_running_loop().call_later(9, print)
        protocol.timeout_keep_alive_task = timer
        protocol.data_received(REQUEST[:9])
        assert timer.cancelled()
        assert protocol.timeout_keep_alive_task is None
        assert protocol.cycle is None

        protocol.timeout_keep_alive = 0
        closed: list[bool] = []
        protocol.timeout_keep_alive_handler = lambda: closed.append(True)
        assert (await bench.ask(REQUEST[9:])).startswith(b"HTTP/1.1 200 OK")
        await asyncio.sleep(0.01)
        assert closed == [True]
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_a_cycle_is_one_request(http: str) -> None:
    """What is known of it, before and after."""

    async def story() -> None:
        opened = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await opened.wait()
            await hello(scope, receive, send)

        bench = Bench(http, slow)
        bench.state.default_headers = [(b"x-first", b"1")]
        await bench.ask()
        cycle = bench.protocol.cycle
        assert not cycle.response_started
        assert not cycle.response_complete
        assert not cycle.more_body
        assert cycle.keep_alive
        assert cycle.scope["raw_path"] == b"/a%20b"
        assert cycle.transport is bench.transport
        assert len(bench.state.tasks) == 1
        bench.state.default_headers = []
        opened.set()
        await bench.settle()
        assert b"x-first: 1" in bench.transport.written.lower()
        assert cycle.response_started
        assert cycle.response_complete
        assert not bench.transport.closed
        assert bench.state.tasks == set()
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_a_cycle_heeds_the_close_in_its_headers(http: str) -> None:
    """Said once, and done through its own transport, with the response on its way."""

    async def story() -> None:
        opened = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await opened.wait()
            await hello(scope, receive, send)

        bench = Bench(http, slow)
        await bench.ask()
        other = Transport()
        bench.protocol.cycle.transport = other
        bench.protocol.cycle.default_headers = [(b"connection", b"close")]
        opened.set()
        await bench.settle()
        assert other.written.lower().count(b"connection: close") == 1
        assert other.written.endswith(b"hello")
        assert other.closed
        assert not bench.transport.closed
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_a_body_that_has_not_come_is_told(http: str) -> None:
    """Also after the response."""

    async def story() -> None:
        bench = Bench(http)
        await bench.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        assert bench.protocol.cycle.response_complete
        assert bench.protocol.cycle.more_body
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_what_is_logged_goes_to_its_logger(http: str) -> None:
    """And no request where it is told not to."""

    async def story() -> None:
        records: list[str] = []

        class Log(logging.Logger):
            def handle(self, record: logging.LogRecord) -> None:
                records.append(record.getMessage())

        async def fail(scope: Any, receive: Any, send: Any) -> None:
            raise LookupError

        bench = Bench(http, fail)
        bench.protocol.logger = Log("mine")
        bench.protocol.access_log = False
        bench.protocol.access_logger = Log("access")
        assert b" 500 " in await bench.ask()
        assert records == ["Exception in ASGI application\n"]
        bench.end()

    run(story)


def test_httptools_needs_what_is_mended() -> None:
    """Long heads, and chunks for HTTP/1.0; should either be gone, so may be the mending."""

    async def story() -> None:
        bench = Bench("httptools", headers=[])
        assert type(bench.protocol).__name__ == "HttpToolsProtocol"
        assert b" 200 " in await bench.ask(REQUEST[:-2] + b"X: " + b"x" * 200_000 + b"\r\n\r\n")
        bench.protocol.send_400_response("because")
        assert bench.transport.written.endswith(b"\r\n\r\nbecause")
        assert bench.transport.closed
        bench.end()

        async def unsaid(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

        old = b"GET / HTTP/1.0\r\n\r\n"
        bench = Bench("httptools", unsaid)
        assert (await bench.ask(old)).endswith(b"5\r\nhello\r\n0\r\n\r\n")
        assert not bench.protocol.cycle.keep_alive
        bench.end()

        bench = Bench("httptools", unsaid)
        bench.protocol.data_received(old)
        bench.protocol.cycle.chunked_encoding = False
        bench.protocol.cycle.expected_content_length = 5
        await bench.settle()
        assert bench.transport.written.endswith(b"\r\n\r\nhello")
        assert b"chunked" not in bench.transport.written
        bench.end()

    run(story)


def test_httptools_keeps_the_last_request_of_several() -> None:
    """The one that must say that the connection closes."""

    async def story() -> None:
        opened = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await opened.wait()
            await hello(scope, receive, send)

        bench = Bench("httptools", slow)
        await bench.ask(REQUEST + REQUEST.replace(b"/a", b"/last"))
        assert bench.protocol.cycle.scope["raw_path"] == b"/last%20b"
        opened.set()
        await bench.settle()
        assert bench.transport.written.count(b"hello") == 2
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_a_body_after_the_answer_ends_the_wait(http: str) -> None:
    """Should somebody set the timer again, or say that the body is over, so need not we."""

    async def story() -> None:
        bench = Bench(http)
        await bench.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        protocol, cycle = bench.protocol, bench.protocol.cycle
        assert protocol.timeout_keep_alive_task is not None
        assert await bench.ask(b" of ") == b""
        assert protocol.timeout_keep_alive_task is None
        assert cycle.more_body
        if http == "h11":
            assert str(cycle.conn.their_state) == "SEND_BODY"
        assert await bench.ask(b"i") == b""
        assert protocol.timeout_keep_alive_task is None
        assert protocol.cycle is cycle
        if http == "h11":
            assert str(cycle.conn.their_state) == "IDLE"
        assert cycle.more_body == (http != "zttp")
        assert b" 200 " in await bench.ask()
        bench.end()

    run(story)


def test_httptools_has_a_scope_from_the_first_byte_of_a_head() -> None:
    """By which a head that is not complete is known."""

    async def story() -> None:
        bench = Bench("httptools")
        protocol = bench.protocol
        assert protocol.scope is None
        protocol.data_received(b"G")
        assert protocol.scope is not None
        assert protocol.cycle is None
        await bench.ask(REQUEST[1:])
        assert protocol.scope is protocol.cycle.scope
        protocol.data_received(b"G")
        assert protocol.scope is not protocol.cycle.scope
        assert not protocol.pipeline
        bench.end()

    run(story)


# HTTP/2.


def test_http_2() -> None:
    """Requests are in ``cycles``; a GOAWAY for the future hinders nothing."""
    zttp = pytest.importorskip("zttp")

    async def story() -> None:
        bench = Bench("zttp", http2=True)
        chooser = bench.protocol
        assert chooser.buffer == b""
        assert chooser.timeout_task is not None
        client = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)
        client.initiate_connection()
        stream = client.send_request(b"GET", b"/", b"2", [(b"host", b"a")])
        stream.end_message()
        chooser.data_received(client.data_to_send())
        [protocol] = bench.state.connections
        assert bench.transport.protocol is protocol
        [cycle] = protocol.cycles.values()
        assert cycle.scope["path"] == "/"
        assert protocol.timeout_keep_alive_task is None

        protocol.conn.close(0, 2**31 - 1)
        protocol.flush()
        assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff" in bench.transport.written
        await bench.settle()
        assert cycle.response_complete
        assert protocol.cycles == {}
        assert protocol.timeout_keep_alive_task is not None
        protocol.timeout_keep_alive_handler()
        assert bench.transport.written.endswith(b"\x07\0\0\0\0\0\0\0\0\1\0\0\0\0")
        assert bench.transport.closed
        protocol.connection_lost(None)

    run(story)


def test_http_2_tells_what_waits_for_room() -> None:
    """A cycle of another class counts what its client leaves no room for."""
    zttp = pytest.importorskip("zttp")
    from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle

    class Other(RequestResponseCycle):
        pass

    async def story() -> None:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            await asyncio.Event().wait()

        bench = Bench("zttp", app, http2=True)
        client = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)
        client.initiate_connection()
        client.send_request(b"GET", b"/", b"2", [(b"host", b"a")]).end_message()
        bench.protocol.data_received(client.data_to_send())
        protocol: Any
        [protocol] = bench.state.connections
        [cycle] = protocol.cycles.values()
        cycle.__class__ = Other
        await bench.settle()
        assert cycle.stream.pending_bytes == 100_000 - 65535
        for number in (0, 1):
            protocol.data_received(struct.pack(">IBIi", 4 << 8 | 8, 0, number, 1000))
        assert cycle.stream.pending_bytes == 100_000 - 66535
        protocol.conn.close(11)
        assert protocol.conn.data_to_send()[-4:] == b"\0\0\0\x0b"
        for task in bench.state.tasks:
            task.cancel()
        await bench.settle()
        protocol.connection_lost(None)

    run(story)


# WebSocket.


@pytest.mark.parametrize("http", HTTP_1)
@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_websocket(http: str, ws: str) -> None:
    """It takes the place of the connection, answers through its transport, and says 1012."""

    async def story() -> None:
        codes: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] != "websocket.disconnect":
                pass
            codes.append(event["code"])

        bench = Bench(http, app, ws=ws)
        bench.state.default_headers = [(b"x-first", b"1")]
        bench.protocol.data_received(HANDSHAKE)
        [websocket] = bench.state.connections
        assert websocket is not bench.protocol
        assert bench.transport.protocol is websocket
        assert not hasattr(websocket, "cycle")
        assert not hasattr(websocket, "cycles")
        assert not hasattr(websocket, "timeout_keep_alive_task")
        assert not websocket.handshake_complete
        other = Transport()
        websocket.transport = other
        await bench.settle()
        assert websocket.handshake_complete
        assert other.written.startswith(b"HTTP/1.1 101 ")
        assert b"x-first: 1" in other.written.lower()
        assert len(bench.state.tasks) == 1
        assert websocket.scope["path"] == "/ws"

        websocket.shutdown()
        assert other.written.endswith(b"\x88\x02\x03\xf4")
        assert other.closed
        await bench.settle()
        assert codes == [1012]
        websocket.connection_lost(None)
        assert bench.state.connections == set()

    run(story)


@pytest.mark.filterwarnings("ignore")
def test_the_deprecated_websocket_tells_in_its_own_way() -> None:
    """An event instead of an attribute."""
    module = importlib.import_module("uvicorn.protocols.websockets.websockets_impl")
    source = inspect.getsource(module.WebSocketProtocol)
    assert "self.handshake_completed_event = asyncio.Event()" in source
    assert "self.fail_connection(1012)" in source


def test_what_a_request_is_told_of_state() -> None:
    """Lifespans are the engine's, and put theirs there themselves."""
    assert vars(ServerState()).keys() == {
        "total_requests", "connections", "tasks", "default_headers"
    }  # fmt: skip
    assert SimpleNamespace(**vars(ServerState())).connections == set()


def test_what_is_mended_in_a_websocket_is_still_broken() -> None:
    """A handshake with a long line is waited for, and a refusal is called an error."""

    async def story() -> None:
        records: list[str] = []

        class Log(logging.Logger):
            def handle(self, record: logging.LogRecord) -> None:
                records.append(record.getMessage())

        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            start = {"type": "websocket.http.response.start", "status": 401, "headers": []}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b"no"})

        bench = Bench("httptools", refuse, ws="websockets-sansio")
        bench.protocol.data_received(HANDSHAKE)
        websocket: Any = next(iter(bench.state.connections))
        websocket.logger = Log("mine", logging.ERROR)
        await bench.settle()
        assert b" 401 " in bench.transport.written
        assert websocket.close_sent
        assert websocket.initial_response is not None
        assert records == ["ASGI callable returned without completing handshake."]

        bench = Bench("httptools", refuse, ws="websockets-sansio")
        bench.protocol.data_received(HANDSHAKE[:-2] + b"X: " + b"x" * 20_000 + b"\r\n\r\n")
        websocket = next(iter(bench.state.connections))
        assert not websocket.handshake_initiated
        assert websocket.conn.handshake_exc is not None
        assert not bench.transport.closed
        assert bench.transport.written == b""

    run(story)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_cycle_tells_its_protocol_when_it_is_complete(http: str) -> None:
    """By what the protocol had when the request began; connections are given away then."""
    told: list[bytes] = []

    async def story() -> None:
        bench = Bench(http)
        protocol = bench.protocol
        before = protocol.on_response_complete

        def completed() -> None:
            before()
            told.append(bench.transport.written)

        protocol.on_response_complete = completed
        await bench.ask()
        assert protocol.cycle.on_response is not before
        assert told
        assert told[0].endswith(b"hello")
        bench.end()

    run(story)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_nothing_is_sent_to_one_who_is_forgotten(http: str) -> None:
    """And its application is told."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        await hello(scope, receive, send)

    async def story() -> None:
        bench = Bench(http, app)
        protocol = bench.protocol
        await bench.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert protocol.flow.read_paused is False
        assert protocol.cycle.waiting_for_100_continue is False
        protocol.cycle.disconnected = True
        protocol.cycle.message_event.set()
        await bench.settle()
        assert seen == ["http.disconnect"]
        assert not bench.transport.written
        bench.end()

    run(story)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_who_the_client_is_is_read_for_each_request(http: str) -> None:
    """It may be told after the connection was made."""

    async def story() -> None:
        bench = Bench(http)
        assert bench.protocol.client is None
        assert bench.protocol.server is None
        bench.protocol.client = ("192.0.2.1", 1)
        await bench.ask()
        assert bench.protocol.cycle.scope["client"] == ("192.0.2.1", 1)
        bench.end()

    run(story)


@pytest.mark.parametrize("http", HTTP_1)
def test_an_application_is_given_its_receive_a_turn_later(http: str) -> None:
    """What is put there until then is what it asks; a body that has come is known before."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        await hello(scope, receive, send)

    async def asked() -> Any:
        return {"type": "ours"}

    async def story() -> None:
        bench = Bench(http, app)
        bench.protocol.data_received(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhe"
        )
        cycle = bench.protocol.cycle
        assert cycle.body == b"he"
        assert cycle.waiting_for_100_continue
        cycle.receive = asked
        cycle.default_headers = [(b"connection", b"close")]
        await bench.settle()
        assert seen == ["ours"]
        assert b"connection: close" in bench.transport.written.lower()
        assert bench.transport.closed
        bench.end()

    run(story)


def test_httptools_leaves_what_follows_a_protocol_that_it_does_not_speak() -> None:
    """It says where that is, at a moment when it can be heard."""
    import sys

    import httptools

    heard: list[Any] = []
    request = REQUEST[:-2] + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"

    async def story() -> None:
        bench = Bench("httptools")
        bench.protocol._unsupported_upgrade_warning = lambda: heard.append(sys.exception())
        said = await bench.ask(request + REQUEST)
        assert said.count(b"200 OK") == 1
        bench.end()

    run(story)
    (stopped,) = heard
    assert isinstance(stopped, httptools.HttpParserUpgrade)
    assert stopped.args == (len(request),)


def test_httptools_calls_for_every_field() -> None:
    """Also for those behind a body, which are put among the header; what is raised stops it."""

    async def story() -> None:
        bench = Bench("httptools")
        protocol = bench.protocol
        await bench.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"
        )
        assert protocol.headers is protocol.cycle.scope["headers"]
        assert (b"x", b"y") in protocol.headers
        assert protocol.url == b"/"
        bench.end()

    run(story)


@pytest.mark.parametrize("method", ["on_header", "on_headers_complete"])
def test_what_is_raised_while_httptools_parses_is_a_refusal(method: str) -> None:
    import httptools

    class Told:
        pass

    def refuse(*_: object) -> None:
        raise LookupError

    told = Told()
    setattr(told, method, refuse)
    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(told).feed_data(REQUEST)


def test_h11_is_asked_for_events_by_name() -> None:
    """Its class may be another, and its lines before chunks are its own."""
    import h11
    from h11._receivebuffer import ReceiveBuffer

    lines: list[bytes] = []
    events: list[Any] = []

    class Lines(ReceiveBuffer):
        def maybe_extract_next_line(self) -> bytearray | None:
            line = super().maybe_extract_next_line()
            lines.append(bytes(line or b""))
            return line

    class Noting(h11.Connection):
        def next_event(self) -> Any:
            events.append(super().next_event())
            return events[-1]

    async def story() -> None:
        bench = Bench("h11")
        conn = bench.protocol.conn
        conn.__class__ = Noting
        conn._receive_buffer.__class__ = Lines
        assert conn.their_state is h11.IDLE
        await bench.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n"
        )
        assert conn.trailing_data[0] == b""
        bench.end()

    run(story)
    assert isinstance(events[0], h11.Request)
    assert lines == [b"1;a\r\n", b"0\r\n"]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_transport_that_aborts_shuts_nothing_down(kind: str) -> None:
    """Whoever else has a descriptor of the connection goes on with it."""
    import os
    import socket

    if kind == "uvloop":
        loop = pytest.importorskip("uvloop").new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()

    async def story() -> None:
        ours.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        kept = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        with kept:
            kept.setblocking(False)
            transport.abort()
            await asyncio.sleep(0.01)
            kept.send(b"still here")
            assert theirs.recv(100) == b"still here"
            theirs.send(b"so am I")
            assert kept.recv(100) == b"so am I"

    with theirs:
        loop.run_until_complete(story())
    loop.close()
