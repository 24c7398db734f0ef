"""What `sitebus.servers._hypercorn` relies on in hypercorn, asked of hypercorn alone.

When a new hypercorn fails here, read the top of that module and look at each point again.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import h2.events
import h11
import pytest
from h2.connection import H2Connection
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.typing import LifespanState

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Bare(TCPServer):
    """hypercorn's server for one connection, which notes what it is asked."""

    def __init__(self, app: Any, config: Config, sock: socket.socket) -> None:
        self.sock = sock
        self.made = app, config
        self.idles: list[str] = []

    async def begin(self) -> None:
        app, config = self.made
        reader, writer = await asyncio.open_connection(sock=self.sock)
        loop = asyncio.get_running_loop()
        super().__init__(app, loop, config, WorkerContext(None), LifespanState({}), reader, writer)

    async def _idle_timeout(self) -> None:
        self.idles.append("idle")
        try:
            await asyncio.sleep(60)
        finally:
            self.idles.append("over")


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read_until(self, what: bytes) -> bytes:
        received = b""
        while what not in received:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            assert data, f"closed after {received!r}"
            received += data
        return received


async def hello(scope: Any, receive: Any, send: Any, *_: object) -> None:
    length = (b"content-length", b"5")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"hello"})


def converse(
    talk: Callable[[Bare, Client], Awaitable[None]],
    app: Any = hello,
    config: Config | None = None,
    *,
    kind: type[Bare] = Bare,
) -> None:
    """Let a client *talk* to one connection of hypercorn's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()

    async def both() -> None:
        theirs.setblocking(False)
        bare = kind(app, config or Config(), ours)
        await bare.begin()
        task = asyncio.ensure_future(bare.run())
        try:
            async with asyncio.timeout(10):
                await talk(bare, Client(theirs))
        finally:
            task.cancel()
            await asyncio.wait([task])

    with theirs:
        asyncio.run(both())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - hypercorn tells nobody
        await asyncio.sleep(0.005)


def test_idle_is_told_from_the_beginning_and_ended_by_a_request() -> None:
    """Also again after each response, and not by half a request."""

    async def talk(bare: Bare, client: Client) -> None:
        await until(lambda: bare.idles == ["idle"])
        await client.send(REQUEST[:-2])
        await asyncio.sleep(0.05)
        assert bare.idles == ["idle"]
        await client.send(REQUEST[-2:])
        await client.read_until(b"hello")
        await until(lambda: bare.idles == ["idle", "over", "idle"])

    converse(talk)


def test_what_was_read_and_not_served_is_known() -> None:
    """Half a request, or the next one while one is served."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(*args: Any) -> None:
        begun.set()
        await go_on.wait()
        await hello(*args)

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST + REQUEST)
        await begun.wait()
        assert isinstance(bare.protocol.protocol, H11Protocol)
        assert bare.protocol.protocol.connection.trailing_data[0] == REQUEST
        go_on.set()
        await client.read_until(b"hello")
        await until(lambda: bare.protocol.protocol.connection.trailing_data[0] == b"")  # type: ignore[union-attr]

    converse(talk, wait)


def test_a_connection_is_closed_in_good_order() -> None:
    """By one call."""

    async def talk(bare: Bare, client: Client) -> None:
        await until(lambda: bare.idles)
        await bare._initiate_server_close()
        assert await asyncio.get_running_loop().sock_recv(client.sock, 10) == b""

    converse(talk)


def test_an_application_is_called_with_what_hypercorn_adds() -> None:
    """In a task of its own, with the target as it was sent."""
    told: list[Any] = []

    async def tell(*args: Any) -> None:
        told.append((args, asyncio.current_task()))
        await hello(*args)

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST.replace(b"/ ", b"/a%2Fb?c ") + REQUEST)
        await client.read_until(b"hello")
        await until(lambda: len(told) == 2)

    converse(talk, tell)
    [(args, task), (_, other)] = told
    assert len(args) == 5
    assert task is not other
    assert (args[0]["raw_path"], args[0]["query_string"]) == (b"/a%2Fb", b"c")


def test_an_application_may_close_a_connection_by_a_header() -> None:
    """A response that says so is the last."""

    async def last(scope: Any, receive: Any, send: Any, *_: object) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        await client.read_until(b"onnection: close")
        assert await asyncio.get_running_loop().sock_recv(client.sock, 10) == b""

    converse(talk, last)


def ask_2(connection: H2Connection) -> bytes:
    head = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "a"}
    number = connection.get_next_available_stream_id()
    connection.send_headers(number, list(head.items()), end_stream=True)
    return bytes(connection.data_to_send())


async def answer_2(connection: H2Connection, client: Client, kind: type) -> Any:
    while True:
        data = await asyncio.get_running_loop().sock_recv(client.sock, 65536)
        assert data
        for event in connection.receive_data(data):
            if isinstance(event, kind):
                return event


def test_http_2_refuses_streams_once_it_is_terminated() -> None:
    """And knows the last one that it did not."""

    async def talk(bare: Bare, client: Client) -> None:
        connection = H2Connection()
        connection.initiate_connection()
        await client.send(ask_2(connection))
        await answer_2(connection, client, h2.events.StreamEnded)
        assert isinstance(bare.protocol.protocol, H2Protocol)
        assert bare.protocol.protocol.connection.highest_inbound_stream_id == 1

        protocol = bare.protocol.protocol
        await until(lambda: not protocol.streams)
        await bare.context.terminated.set()
        await client.send(ask_2(connection))
        assert (await answer_2(connection, client, h2.events.StreamReset)).stream_id == 3

    converse(talk)


def test_http_2_still_loses_the_request_after_the_last() -> None:
    """The reason for which there is no last one; when this fails, there may be one again."""
    config = Config()
    config.keep_alive_max_requests = 1

    async def talk(bare: Bare, client: Client) -> None:
        connection = H2Connection()
        connection.initiate_connection()
        await client.send(ask_2(connection))
        await answer_2(connection, client, h2.events.StreamEnded)
        await client.send(ask_2(connection))
        await answer_2(connection, client, h2.events.ConnectionTerminated)
        with pytest.raises((AssertionError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await answer_2(connection, client, h2.events.ResponseReceived)

    converse(talk, config=config)


def test_the_headers_are_asked_of_the_configuration() -> None:
    """For each response, by protocol, and what is answered is not changed."""
    given: list[tuple[bytes, bytes]] = [(b"server", b"shelf")]
    asked: list[str] = []

    class Own(Config):
        def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
            asked.append(protocol)
            return given

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        assert b"server: shelf\r\n" in await client.read_until(b"hello")

    converse(talk, config=Own())
    assert asked == ["h11"]
    assert given == [(b"server", b"shelf")]


def test_the_logger_is_made_once_and_awaited() -> None:
    """With what it is asked for."""
    made: list[Any] = []

    class Own:
        def __init__(self, config: Config) -> None:
            made.append(self)
            self.said: list[str] = []

        def __getattr__(self, name: str) -> Any:
            async def say(*_: object) -> None:
                self.said.append(name)

            return say

    async def fail(*_: object) -> None:
        raise LookupError

    config = Config()
    config.logger_class = Own  # type: ignore[assignment]

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        await client.read_until(b"500")
        await until(lambda: made and len(made[0].said) == 2)

    converse(talk, fail, config)
    assert len(made) == 1
    assert sorted(made[0].said) == ["access", "exception"]


def test_the_constructor_takes_what_it_took() -> None:
    """In that order."""
    names = list(inspect.signature(TCPServer.__init__).parameters)
    assert names == ["self", "app", "loop", "config", "context", "state", "reader", "writer"]


def test_a_request_is_told_by_a_stream_and_a_queue() -> None:
    """Which is as large as the configuration says, and knows when the stream is closed."""
    told: list[Any] = []
    config = Config()
    config.max_app_queue_size = 7

    async def tell(scope: Any, receive: Any, send: Any, *_: object) -> None:
        told.extend((receive.__self__, send.__self__, send.__self__.state))
        await hello(scope, receive, send)

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        await client.read_until(b"hello")
        queue, stream, state = told
        await until(lambda: stream.closed)
        assert isinstance(queue, asyncio.Queue)
        assert queue.maxsize == 7
        assert (stream.stream_id, state) == (1, ASGIHTTPState.REQUEST)
        assert stream.state is ASGIHTTPState.CLOSED
        await stream.app_put({"type": "last"})
        assert {"type": "last"} in [queue.get_nowait() for _ in range(queue.qsize())]

    converse(talk, tell, config)


def test_h11_is_changed_before_anything_is_read() -> None:
    """For one that says why, in the status line."""

    class Own(h11.Connection):
        def send(self, event: Any) -> Any:
            if type(event) is h11.Response:
                object.__setattr__(event, "reason", b"Because")
            return super().send(event)

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        assert (await client.read_until(b"hello")).startswith(b"HTTP/1.1 200 Because\r\n")

    class Changed(Bare):
        async def _read_data(self) -> None:
            assert isinstance(self.protocol.protocol, H11Protocol)
            self.protocol.protocol.connection.__class__ = Own
            await super()._read_data()

    converse(talk, kind=Changed)


def test_all_that_is_to_be_done_on_a_connection_comes_by_one_way() -> None:
    """What is written, that it is idle, and its end."""
    seen: list[str] = []

    class Seen(Bare):
        async def protocol_send(self, event: Any) -> None:
            seen.append(type(event).__name__)
            await super().protocol_send(event)

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.read_until(b"hello")
        await until(lambda: seen[-1:] == ["Closed"])

    converse(talk, kind=Seen)
    assert seen[0] == "Updated"
    assert "RawData" in seen


def test_a_stream_of_http_2_can_be_let_go() -> None:
    """By itself, with the application told; and again without harm."""
    heard: list[str] = []

    async def listen(_scope: Any, receive: Any, _send: Any, *_: object) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])

    async def talk(bare: Bare, client: Client) -> None:
        connection = H2Connection()
        connection.initiate_connection()
        await client.send(ask_2(connection))
        await until(lambda: heard)
        protocol = bare.protocol.protocol
        assert isinstance(protocol, H2Protocol)
        protocol.streams = dict(protocol.streams)
        await protocol._close_stream(1)
        assert not protocol.streams
        await until(lambda: heard[-1] == "http.disconnect")
        protocol.connection.reset_stream(1)
        await protocol._flush()
        await protocol._window_updated(1)
        await answer_2(connection, client, h2.events.StreamReset)
        idle = bare.idles.count("idle")
        await protocol.stream_send(StreamClosed(stream_id=1))
        await until(lambda: bare.idles.count("idle") == idle + 1)

    converse(talk, listen)


def test_a_refused_handshake_still_keeps_its_connection() -> None:
    """When this fails, there is less to be mended."""
    asked = (
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )

    async def talk(bare: Bare, client: Client) -> None:
        await client.send(asked)
        await client.read_until(b" 400 ")
        stream: Any = bare.protocol.protocol.stream  # type: ignore[union-attr]
        await until(lambda: stream.closed)
        assert stream.app_put is None
        assert stream.state is ASGIWebsocketState.HANDSHAKE
        assert not bare.writer.is_closing()

    converse(talk)


def test_h11_asks_for_a_reader_with_each_state() -> None:
    """By role and state; it is called with the buffer, and may be another than h11's own."""
    asked: list[tuple[Any, Any]] = []

    class Own(h11.Connection):
        def _get_io_object(self, role: Any, event: Any, io_dict: Any) -> Any:
            made: Any = super()._get_io_object(role, event, io_dict)
            if role is h11.CLIENT:
                asked.append((self.their_state, hasattr(made, "_length")))
            return made

    connection = Own(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    assert bytes(connection._receive_buffer._data).startswith(b"POST / ")
    events = [type(connection.next_event()) for _ in range(3)]
    assert events == [h11.Request, h11.Data, h11.EndOfMessage]
    assert asked == [(h11.IDLE, False), (h11.SEND_BODY, True), (h11.DONE, False)]
    assert connection._request_method == b"POST"

    seen: list[Any] = []
    other = h11.Connection(h11.SERVER)
    other._reader = seen.append
    other.receive_data(b"x")
    assert other.next_event() is h11.NEED_DATA
    assert [bytes(each) for each in seen] == [b"x"]


def test_who_the_client_is_can_be_changed() -> None:
    """Before the first request; also for the protocol that may come after this one."""
    told: list[Any] = []

    class Other(Bare):
        async def _read_data(self) -> None:
            protocol: Any = self.protocol.protocol
            self.protocol.client = protocol.client = ("203.0.113.7", 4711)
            await super()._read_data()

    async def tell(scope: Any, receive: Any, send: Any, *_: object) -> None:
        told.append(scope["client"])
        await hello(scope, receive, send)

    async def first(bare: Bare, client: Client) -> None:
        await client.send(REQUEST)
        await client.read_until(b"hello")

    async def second(bare: Bare, client: Client) -> None:
        connection = H2Connection()
        connection.initiate_connection()
        await client.send(ask_2(connection))
        await until(lambda: len(told) == 2)

    converse(first, tell, kind=Other)
    converse(second, tell, kind=Other)
    assert told == [("203.0.113.7", 4711)] * 2


def test_an_error_can_be_answered_before_there_is_a_stream() -> None:
    """Also for a WebSocket, whose h11 is still there."""

    async def talk(bare: Bare, client: Client) -> None:
        await until(lambda: bare.idles)
        protocol: Any = bare.protocol.protocol
        protocol.connection = H11WSConnection(protocol.connection)
        assert isinstance(protocol.connection.h11_connection, h11.Connection)
        await protocol._send_error_response(408)
        assert b"content-length: 0" in await client.read_until(b"\r\n\r\n")

    converse(talk)
