"""Connections that cheroot leaves to who serves next, with whatever was read of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest

from sitebus.servers.cheroot import CherootServer
from sitebus.sockets import Idle
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Gate, Logged, Serve

Connect = Callable[..., Client]


class Box(list[tuple[int, Idle]]):
    """What a server has left."""

    def __call__(
        self, door: int, sock: socket.socket, peer: tuple[str, int] | None, begun: bytes
    ) -> None:
        self.append((door, Idle(sock, "", peer, begun)))


def who(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "14")])
    return [environ["REMOTE_ADDR"].encode().ljust(14)]


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """Start one server after the other, on one engine."""
    # The same address would be the same listening socket.
    hosts = (f"127.0.0.{number}:0" for number in range(1, 9))

    def start(*arguments: Any, **settings: Any) -> CherootServer:
        server = serve(*arguments, binds=[next(hosts)], **settings)
        if server.httpserver is None:
            server.start()  # the bus was started already
        return server

    return start


def leave(server: CherootServer) -> Box:
    """Have *server* leave all that it can."""
    box = Box()
    server.httpserver.drain(0.2, leave=box)
    assert server.httpserver.drained.wait(5)
    return box


def count(server: CherootServer) -> int:
    return len(server.httpserver._keeper.connections)


def test_a_kept_connection_goes_on_with_another_server(serve: Serve, connect: Connect) -> None:
    """Its client sees two answers on one connection, and no Connection: close."""
    first, second = serve(hello), serve(who)
    client = connect(first)
    assert not client.get().closes
    wait_for(lambda: first.httpserver._keeper.idle)
    box = leave(first)
    assert [(door, each.begun) for door, each in box] == [(0, b"")]
    assert box[0][1].peer == client.socket.getsockname()[:2]
    second.httpserver.adopt(box)
    answer = client.get()
    assert (answer.closes, answer.body.strip()) == (False, b"127.0.0.1")
    assert not client.get().closes


def test_what_was_read_of_a_request_goes_along(serve: Serve, connect: Connect) -> None:
    first, second = serve(hello), serve(hello)
    client = connect(first)
    client.send(b"GET / HTTP/1.1\r\nHo")
    wait_for(lambda: first.httpserver._keeper.midway)
    box = leave(first)
    assert box[0][1].begun == b"GET / HTTP/1.1\r\nHo"
    second.httpserver.adopt(box)
    client.send(b"st: localhost\r\n\r\n")
    assert client.answer().status == 200


def test_half_a_request_that_was_adopted_has_a_limit(serve: Serve, connect: Connect) -> None:
    first, second = serve(hello), serve(hello, header_timeout=0.2)
    client = connect(first)
    client.send(b"GET / HTTP/1.1\r\nHo")
    wait_for(lambda: first.httpserver._keeper.midway)
    second.httpserver.adopt(leave(first))
    assert client.answer().status == 408


def test_who_is_being_answered_is_left_afterwards(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    """The answer was promised to keep the connection, and does."""
    first, second = serve(gate), serve(hello)
    busy, leaving = connect(first), connect(first)
    busy.ask("/gate")
    leaving.get()
    assert gate.entered.wait(5)
    box = Box()
    first.httpserver.drain(0.2, leave=box)
    wait_for(lambda: len(box) == 1)
    assert not first.httpserver.drained.is_set()
    gate.opened.set()
    assert not busy.answer().closes
    assert first.httpserver.drained.wait(5)
    second.httpserver.adopt(box)
    assert busy.get().status == leaving.get().status == 200


def test_a_request_that_comes_in_between_waits_in_the_kernel(
    serve: Serve, connect: Connect
) -> None:
    first, second = serve(hello), serve(hello)
    client = connect(first)
    client.get()
    wait_for(lambda: first.httpserver._keeper.idle)
    box = leave(first)
    client.ask()
    second.httpserver.adopt(box)
    assert client.answer().status == 200


def test_who_asked_to_close_is_closed(serve: Serve, connect: Connect, gate: Gate) -> None:
    server = serve(gate)
    client = connect(server)
    client.send(b"GET /gate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert gate.entered.wait(5)
    box = Box()
    server.httpserver.drain(0.2, leave=box)
    gate.opened.set()
    assert client.answer().closes
    assert client.is_closed()
    assert server.httpserver.drained.wait(5)
    assert box == []


def test_who_has_hung_up_is_forgotten(serve: Serve, connect: Connect) -> None:
    """Adopted or not, nothing of it stays."""
    first, second = serve(hello), serve(hello)
    client = connect(first)
    client.get()
    wait_for(lambda: first.httpserver._keeper.idle)
    box = leave(first)
    client.close()
    second.httpserver.adopt(box)
    wait_for(lambda: count(second) == 0)


def test_what_tls_knows_cannot_be_left(
    serve: Serve, connect: Connect, certificate: Certificate
) -> None:
    """Its keys are in this process: it is closed after the linger."""
    server = serve(hello, tls=certificate.tls)
    client = connect(server)
    client.get()
    assert leave(server) == []
    assert client.is_closed()


def test_a_connection_whose_proxy_header_is_missing_cannot_be_left(
    serve: Serve, connect: Connect
) -> None:
    """Who serves next would take the header for a request; once it was read, it can."""
    server = serve(hello, proxy_protocol="all")
    silent, known = connect(server), connect(server)
    known.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n")
    known.get()
    wait_for(lambda: count(server) == 2)
    box = leave(server)
    assert [each.peer for _, each in box] == [("203.0.113.7", 4711)]
    assert silent.is_closed()
    second = serve(who)
    second.httpserver.adopt(box)
    assert known.get().body.strip() == b"203.0.113.7"


@pytest.mark.parametrize("at_once", [False, True])
def test_who_does_not_wait_for_answers_gets_all_of_them(
    serve: Serve, connect: Connect, gate: Gate, at_once: bool
) -> None:
    """What it has asked for is left to who serves next, or it could hold a restart for ever."""

    def once(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        return gate(environ, start_response)

    asked: list[str] = []
    first, second = serve(once), serve(who)
    client = connect(first)
    more = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    client.send(b"GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n" + more * at_once)
    assert gate.entered.wait(5)
    client.send(more * (not at_once))
    box = Box()
    first.httpserver.drain(0.2, leave=box)
    gate.opened.set()
    assert first.httpserver.drained.wait(5)
    second.httpserver.adopt(box)
    received = b""
    while received.count(b"200 OK") < 21:
        received += client.socket.recv(65536)
    assert b"close" not in received
    assert asked == ["/gate"]


def test_an_end_at_the_last_moment_spoils_nothing_that_was_left(
    serve: Serve, connect: Connect
) -> None:
    """A connection is shared from then on: to shut it down would be to shut it down for both."""
    first, second = serve(hello), serve(hello)
    client = connect(first)
    client.get()
    wait_for(lambda: first.httpserver._keeper.idle)
    box = Box()

    def leave_and_end(*row: Any) -> None:
        box(*row)
        first.httpserver.finish(0.0)  # as the main thread does when the time is over

    first.httpserver.drain(0.2, leave=leave_and_end)
    assert first.httpserver.drained.wait(5)
    with pytest.raises(BlockingIOError):
        box[0][1].socket.recv(1)
    second.httpserver.adopt(box)
    assert client.get().status == 200


def test_at_the_end_of_the_time_nothing_is_promised_any_more(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    """Who is answered after the deadline is not kept, and is told so."""
    server = serve(gate)
    client = connect(server)
    client.ask("/gate")
    assert gate.entered.wait(5)
    box = Box()
    server.httpserver.drain(0.2, leave=box)
    assert server.httpserver.finish(0.0)
    gate.opened.set()
    assert client.answer().closes
    assert box == []


def test_nobody_stands_at_the_door_but_clients(serve: Serve, connect: Connect) -> None:
    """Servers that wake themselves by a connection leave one to who serves next."""
    server = serve(hello)
    connect(server).get()
    listening = server._listeners[0].socket
    for _, each in leave(server):
        each.socket.close()
    assert server.httpserver.finish(1.0) == []
    with pytest.raises(BlockingIOError):
        listening.accept()


def test_no_more_are_adopted_than_may_be_open(serve: Serve, connect: Connect) -> None:
    """The limit may be another than before; those who were silent longest make room."""
    first, second = serve(hello), serve(hello, max_connections=2)
    clients: list[Client] = []
    for at in range(1, 6):
        clients.append(connect(first))
        clients[-1].get()
        wait_for(lambda at=at: len(first.httpserver._keeper.idle) == at)  # type: ignore[misc]
    second.httpserver.adopt(leave(first))
    assert all(client.is_closed() for client in clients[:3])
    assert [client.get().status for client in clients[3:]] == [200, 200]
    assert count(second) == 2


@pytest.mark.parametrize("many", [200])
def test_none_of_many_is_served_twice_or_not_at_all(
    serve: Serve, connect: Connect, many: int, logged: Logged
) -> None:
    """They ask all the time while they are left and adopted, again and again."""
    servers = [serve(hello) for _ in range(4)]
    clients = [connect(servers[0]) for _ in range(many)]
    for each in clients:
        each.get()
    for one, other in pairwise(servers):
        for each in clients[::2]:
            each.ask()
        box = Box()
        one.httpserver.drain(5.0, leave=box)
        for each in clients[1::2]:
            each.ask()
        assert one.httpserver.drained.wait(10)
        assert len(box) == many
        other.httpserver.adopt(box)
        assert {each.answer().status for each in clients} == {200}
    assert count(servers[-1]) == many
    assert not [message for level, message in logged if level >= 30], logged
