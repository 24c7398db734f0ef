"""Clients of waitress that say more than was asked for, and what they are told all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from sitebus.errors import BadServerOption
from sitebus.process import Engine
from sitebus.servers.waitress import WaitressServer
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conformance import everything, post
from tests.servers.conftest import Gate
from tests.servers.waitress_fixtures import Connect, Meanwhile, Serve, serve, stop_begins

#: Found here by pytest.
__all__ = ["serve"]


def test_a_request_that_comes_too_late_does_not_cost_the_answer_before_it(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Unread when the connection is closed, it would reset it."""
    server = serve(gate, linger=0.3)
    client = connect(server)
    client.ask("/gate")
    assert gate.entered.wait(5)
    client.ask("/late")

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()
    wait_for(lambda: all(each.is_silent for each in server.httpserver.channels))

    said = everything(client)
    assert said.endswith(b"hello")
    assert b"Connection: close" in said
    client.close()
    stop.result(5)


def test_who_uploads_too_much_is_told(serve: Serve, connect: Connect) -> None:
    """Also one that looks at the answer only when all is sent."""
    server = serve(max_body=1000)
    client = connect(server)
    client.send(post("/", bytes(6 << 20)))
    answer = client.answer()
    assert answer.status == 413
    assert answer.closes
    assert client.is_closed()
    client.close()
    wait_for(lambda: not server.httpserver.channels)


def test_who_never_stops_uploading_is_left(serve: Serve, connect: Connect) -> None:
    """What is heard out is heard for the time of a silent client, however much it says."""
    server = serve(max_body=1000, timeout=0.3)
    client = connect(server)
    ended = threading.Event()

    def upload() -> None:
        try:
            client.send(post("/", bytes(64))[:-64].replace(b"64", b"9999999999"))
            while True:
                client.send(bytes(10000))
        except OSError:
            ended.set()

    thread = threading.Thread(target=upload)
    thread.start()
    assert ended.wait(5)
    thread.join()
    wait_for(lambda: not server.httpserver.channels)


def test_an_answer_comes_in_one_piece(serve: Serve, connect: Connect) -> None:
    """Its head and its body cost one system call, and one packet."""
    client = connect(serve())
    for _ in range(20):
        client.ask()
        assert client.socket.recv(65536).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_a_body_of_any_size_comes_whole(serve: Serve, connect: Connect, size: int) -> None:
    """Whether it is sent with the head or after it."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(size * 2))])
        return [b"x" * size, b"y" * size]

    client = connect(serve(app))
    for _ in range(3):
        assert client.get().body == b"x" * size + b"y" * size


def test_a_head_that_cannot_be_written_is_an_error(serve: Serve, connect: Connect) -> None:
    """And the next answer on the connection is not mixed up with it."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "1"), ("X-Name", "\u20ac")])
        return [b"x"]

    answer = connect(serve(app)).get()
    assert (answer.status, answer.closes) == (500, True)


def test_options_that_do_not_go_together_can_be_asked_about() -> None:
    """Each is good by itself."""
    native = {"trusted_proxy_headers": {"x-forwarded-for"}}
    assert WaitressServer.checked(native) == native
    with pytest.raises(BadServerOption, match="trusted_proxy"):
        WaitressServer.check_together(native)
    WaitressServer.check_together({**native, "trusted_proxy": "127.0.0.1"})


def test_a_client_of_the_last_moment_is_closed_with_the_server(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate
) -> None:
    """The end of a drain does not wait for those who are only heard out."""
    server = serve(max_body=10, drain_timeout=0.2, linger=60.0)
    client: Client = connect(server)
    client.send(post("/", bytes(1000))[:-500])
    assert client.answer().status == 413
    engine.stop()
    assert not server.httpserver.channels
