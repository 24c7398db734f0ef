"""What `sitebus.servers._waitress` relies on in waitress, asked of waitress alone.

When a new waitress fails here, read the top of that module and look at each point again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waitress import channel, server, task, wasyncore
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Gate


class Bare:
    """waitress's own server on a socket of ours, its loop turned by the test."""

    def __init__(self, application: Callable[..., Any], **settings: Any) -> None:
        self.map: dict[int, Any] = {}
        self.dispatcher = task.ThreadedTaskDispatcher()
        self.dispatcher.set_thread_count(1)
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        self.server = server.TcpWSGIServer(
            application,
            self.map,
            _sock=listening,
            dispatcher=self.dispatcher,
            adj=Adjustments(**settings),
            sockinfo=(listening.family, listening.type, listening.proto, self.address),
            bind_socket=False,
        )

    @property
    def channel(self) -> Any:
        [only] = self.server.active_channels.values()
        return only

    def turn(self, condition: Callable[[], Any]) -> None:
        """Turn the loop until *condition* holds."""
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            wasyncore.loop(0.01, use_poll=True, map=self.map, count=1)

    def close(self) -> None:
        self.dispatcher.shutdown(timeout=5)
        wasyncore.close_all(self.map)
        self.server.trigger.close()


@pytest.fixture
def bare() -> Iterator[Callable[..., Bare]]:
    made: list[Bare] = []

    def make(application: Callable[..., Any] = hello, **settings: Any) -> Bare:
        made.append(Bare(application, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Bare], Client]]:
    clients: list[Client] = []

    def make(server: Bare) -> Client:
        from sitebus.sockets.addresses import Address

        clients.append(Client(Address.parse(server.address)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_server_puts_itself_into_the_map(bare: Callable[..., Bare]) -> None:
    """With a trigger that may be closed, and what the environ says of the port."""
    made = bare()
    assert set(made.map.values()) == {made.server, made.server.trigger}
    assert made.server.accepting
    assert made.server.effective_port == str(made.address[1])
    made.server.trigger.close()
    assert list(made.map.values()) == [made.server]
    made.server.trigger.close()


def test_the_names_in_the_environ_are_the_servers(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """They are looked up for each request, and the client's are what fix_addr answers."""
    told: list[Any] = []

    def tell(environ: dict[str, Any], start_response: Any) -> Any:
        told.append([environ[f"{name}"] for name in ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")])
        return hello(environ, start_response)

    made = bare(tell)
    made.server.server_name, made.server.effective_port = "shop", "7"
    made.server.fix_addr = lambda _: ("nobody", "")
    connect(made).ask()
    made.turn(lambda: told)
    assert told == [["shop", "7", "nobody"]]


def test_channels_only_ask_for_pull_trigger(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """So that one bell of ours can stand for every trigger."""
    made = bare()
    made.server.trigger.close()
    pulled: list[None] = []
    made.server.pull_trigger = lambda: pulled.append(None)
    client = connect(made)
    client.ask()
    made.turn(lambda: pulled)
    assert client.answer().status == 200


def test_accepting_nobody_is_no_error(bare: Callable[..., Bare]) -> None:
    """None means that there is nobody."""
    made = bare()
    made.server.accept = lambda: None
    made.server.handle_accept()
    assert not made.server.active_channels


def test_readable_alone_closes_silent_connections(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """Ours does not, and nothing else of waitress's looks at the time."""
    made = bare(channel_timeout=0)
    made.server.readable = lambda: made.server.accepting
    connect(made)
    made.turn(lambda: made.server.active_channels)
    made.channel.last_activity -= 1000
    made.server.next_channel_cleanup = 0
    for _ in range(3):
        wasyncore.loop(0.01, use_poll=True, map=made.map, count=1)
    assert made.server.active_channels
    del made.server.readable
    made.turn(lambda: not made.server.active_channels)


def test_a_channel_says_what_it_is_at(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client], gate: Gate
) -> None:
    """Silent, in the middle of a request, being served, and silent again."""
    made = bare(gate)
    client = connect(made)
    made.turn(lambda: made.server.active_channels)
    idle = (made.channel.requests, made.channel.request, made.channel.total_outbufs_len)
    assert idle == ([], None, 0)
    assert abs(made.channel.last_activity - time.time()) < 5

    client.send(b"GET /gate HTTP/1.1\r\n")
    made.turn(lambda: made.channel.request is not None)
    assert made.channel.requests == []
    client.send(b"Host: a\r\n\r\n")
    made.turn(gate.entered.is_set)
    [serving] = made.channel.requests
    assert made.channel.request is None
    assert (serving.command, serving.request_uri, serving.error) == ("GET", "/gate", None)

    gate.opened.set()
    made.turn(lambda: not made.channel.requests and not made.channel.total_outbufs_len)
    assert client.answer().status == 200


def test_a_channel_is_served_in_a_thread_and_closed_in_the_loop(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """handle_close() ends the wait of a thread whose client does not read."""
    threads: list[threading.Thread] = []
    ended = threading.Event()

    def endless(environ: object, start_response: Any) -> Iterator[bytes]:
        threads.append(threading.current_thread())
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    made = bare(endless, outbuf_high_watermark=65536)
    connect(made).ask()
    made.turn(lambda: made.server.active_channels and made.channel.total_outbufs_len > 65536)
    assert threads[0] is not threading.current_thread()
    with made.channel.outbuf_lock:
        made.channel.handle_close()
    assert ended.wait(5)
    assert not made.server.active_channels


def test_the_head_heeds_what_the_request_wanted_of_its_connection(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked just before it is written: after the application began its answer."""
    order: list[str] = []
    build = task.Task.build_response_header

    def late(self: Any) -> bytes:
        order.append("head")
        self.request.headers["CONNECTION"] = "close"
        return build(self)  # type: ignore[no-any-return]

    def application(environ: Any, start_response: Any) -> Any:
        order.append("application")
        return hello(environ, start_response)

    monkeypatch.setattr(task.Task, "build_response_header", late)
    made = bare(application)
    client = connect(made)
    client.ask()
    made.turn(lambda: not made.server.active_channels and order)
    assert client.answer().closes
    assert order == ["application", "head"]


def test_the_dispatcher_starts_and_ends_its_threads() -> None:
    """Each by one call that can be overridden, all by setting their number."""
    started: list[threading.Thread] = []

    class Own(task.ThreadedTaskDispatcher):  # type: ignore[misc]
        def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
            started.append(threading.Thread(target=target, args=(thread_no,)))
            started[-1].start()

    dispatcher = Own()
    dispatcher.set_thread_count(3)
    assert len(started) == 3
    dispatcher.set_thread_count(0)
    wait_for(lambda: not any(thread.is_alive() for thread in started))


def test_no_timeout_is_for_ever() -> None:
    """The loop waits for what happens and nothing else, and one turn is one turn."""
    hears, says = socket.socketpair()
    heard = threading.Event()

    class Ear(wasyncore.dispatcher):  # type: ignore[misc]
        def writable(self) -> bool:
            return False

        def handle_read(self) -> None:
            self.recv(10)
            heard.set()

    map_: dict[int, Any] = {}
    ear = Ear(hears, map_)
    ear.connected = True
    turn = threading.Thread(
        target=wasyncore.loop, kwargs={"timeout": None, "use_poll": True, "map": map_, "count": 1}
    )
    turn.start()
    assert not heard.wait(0.2)
    assert turn.is_alive()
    says.send(b"!")
    turn.join(5)
    assert heard.is_set()
    ear.close()
    says.close()


def test_everything_logs_to_its_logger() -> None:
    """Ours is put in its place."""
    from waitress.utilities import logger, queue_logger

    assert wasyncore.dispatcher.logger is logger
    assert task.Task.logger is logger
    assert task.ThreadedTaskDispatcher.logger is logger
    assert task.ThreadedTaskDispatcher.queue_logger is queue_logger
    assert channel.HTTPChannel.task_class is task.WSGITask
    assert server.BaseWSGIServer.channel_class is channel.HTTPChannel


def test_options_are_a_table_of_names_and_readers() -> None:
    """Those whose reader is none of these are taken as text."""
    readers = {kind.__name__ for _, kind in Adjustments._params}
    known = {"str", "int", "asbool", "asset", "aslist", "str_iftruthy", "slash_fixed_str"}
    assert readers <= known | {"asoctal", "as_socket_list"}
    assert all(hasattr(Adjustments, name) for name, _ in Adjustments._params)


def test_the_head_is_written_before_the_first_data(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """By two calls of the channel, in the thread that writes; it makes the task by a function."""
    written: list[tuple[int, bytes]] = []

    class Seen(channel.HTTPChannel):  # type: ignore[misc]
        @staticmethod
        def task_class(client: Any, request: Any) -> Any:
            assert request.command == "GET"
            return task.WSGITask(client, request)

        def write_soon(self, data: bytes) -> Any:
            written.append((threading.get_ident(), bytes(data)))
            return super().write_soon(data)

    ours = bare()
    ours.server.channel_class = Seen
    client = connect(ours)
    client.ask()
    ours.turn(lambda: len(written) == 2)
    (one, head), (other, data) = written
    assert one == other
    assert head.endswith(b"\r\n\r\n")
    assert data == b"hello"


def test_a_channel_is_closed_when_all_is_sent(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """By ``handle_close``, with ``will_close`` set; a request that was refused is known by it."""
    closed: list[bool] = []
    refused: list[Any] = []

    class Seen(channel.HTTPChannel):  # type: ignore[misc]
        def service(self) -> None:
            refused.append(self.requests[0].error)
            super().service()

        def handle_close(self) -> None:
            closed.append(self.will_close)
            super().handle_close()

    ours = bare(max_request_body_size=10)
    ours.server.channel_class = Seen
    client = connect(ours)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    ours.turn(lambda: closed)
    assert closed == [True]
    assert refused[0] is not None


def test_a_parser_is_all_that_reads(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """Made with the first byte, asked how much is its own, and what it found is what is served."""
    made: list[Any] = []

    class Own(HTTPRequestParser):  # type: ignore[misc]
        def __init__(self, adj: Any) -> None:
            super().__init__(adj)
            made.append(self)

        def received(self, data: bytes) -> int:
            end = data.find(b"!")
            if end < 0:
                return len(data)
            self.command, self.path, self.request_uri = "GET", "/", "/"
            self.query, self.url_scheme, self.version = "", "http", "1.1"
            self.headers, self.completed = {"HOST": "a"}, True
            return end + 1

    class Seen(channel.HTTPChannel):  # type: ignore[misc]
        parser_class = Own

    ours = bare()
    ours.server.channel_class = Seen
    client = connect(ours)
    client.send(b"anything")
    ours.turn(lambda: made)
    client.send(b"!any!")
    ours.turn(lambda: len(made) == 2 and made[1].completed)
    assert next(iter(ours.server.active_channels.values())).parser_class is Own


def test_an_error_answers_for_itself(
    bare: Callable[..., Bare], connect: Callable[[Bare], Client]
) -> None:
    """It is asked for a response with what the server is called, which may be nothing."""
    asked: list[Any] = []

    class Wrong:
        def to_response(self, ident: Any) -> Any:
            asked.append(ident)
            return "408 Late", [("Content-Type", "text/plain")], b"late"

    class Seen(channel.HTTPChannel):  # type: ignore[misc]
        def received(self, data: bytes) -> None:
            request = HTTPRequestParser(self.adj)
            request.version, request.error = "1.1", Wrong()
            made = self.error_task_class(self, request)
            made.service()
            assert made.close_on_finish
            self.close_when_flushed = True

    ours = bare(ident=None)
    ours.server.channel_class = Seen
    client = connect(ours)
    client.send(b"x")
    ours.turn(lambda: asked and not ours.server.active_channels)
    assert asked == [None]
    answer = client.answer()
    assert (answer.status, answer.body, answer.closes) == (408, b"late", True)
    assert "server" not in answer.headers
