"""What clients see when cheroot is stopped: nothing that the kernel accepted is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sitebus.machine import State
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Gate, Logged, Serve

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]


def stop_begins(engine: Engine, server: CherootServer, meanwhile: Meanwhile) -> Future[Any]:
    """Stop *engine* in another thread, and return once *server* drains."""
    stop = meanwhile(engine.stop)
    wait_for(lambda: not server.httpserver.can_add_keepalive_connection)
    return stop


def test_a_request_in_flight_is_finished(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Its answer says that the connection closes."""
    server = serve(gate)
    client = connect(server)
    client.ask("/gate")
    assert gate.entered.wait(5)

    stop = stop_begins(engine, server, meanwhile)
    assert not stop.done()
    gate.opened.set()

    answer = client.answer()
    assert (answer.status, answer.closes, answer.body) == (200, True, b"hello")
    assert client.is_closed()
    stop.result(5)


def test_a_stream_is_finished(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Its headers were sent before the stop; it ends whole all the same."""

    def stream(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first "
        gate.entered.set()
        gate.opened.wait(10)
        yield b"last"

    server = serve(stream)
    client = connect(server)
    client.ask()
    assert gate.entered.wait(5)

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()

    assert client.answer().body == b"first last"
    assert client.is_closed()
    stop.result(5)


def test_an_idle_connection_is_closed_after_the_linger(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """Kept-alive and fresh ones alike; a silent client does not hold the stop."""
    server = serve(linger=0.2)
    kept, fresh = connect(server), connect(server)
    kept.get()
    wait_for(lambda: len(server.httpserver._keeper.connections) == 2)

    began = time.monotonic()
    engine.stop()

    assert 0.2 <= time.monotonic() - began < 1.0
    assert kept.is_closed()
    assert fresh.is_closed()


@pytest.mark.parametrize("used_before", [True, False], ids=["kept alive", "fresh"])
def test_a_request_within_the_linger_is_answered(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile, used_before: bool
) -> None:
    """A client that had not heard of the stop gets its answer, and hears of it."""
    server = serve(linger=5.0)
    client = connect(server)
    if used_before:
        assert not client.get().closes
    wait_for(lambda: server.httpserver._keeper.connections)

    stop = stop_begins(engine, server, meanwhile)
    answer = client.get()

    assert (answer.status, answer.closes) == (200, True)
    assert client.is_closed()
    stop.result(1)


def test_half_a_request_is_waited_for(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Longer than the linger: somebody is in the middle of a word."""
    server = serve(linger=0.0)
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: loc")
    wait_for(lambda: server.httpserver._keeper.midway)

    stop = stop_begins(engine, server, meanwhile)
    client.send(b"alhost\r\n\r\n")

    assert client.answer().closes
    stop.result(5)


def test_half_a_request_is_given_up_at_the_deadline(
    engine: Engine, serve: Serve, connect: Connect, logged: Logged
) -> None:
    """And holds no thread after it."""
    server = serve(drain_timeout=0.2)
    client = connect(server)
    client.send(b"GET / HT")
    wait_for(lambda: server.httpserver._keeper.midway)

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 0.6
    client.is_closed()
    assert "left behind" not in str(logged)


def test_requests_queued_for_a_thread_are_answered(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Accepted, read by nobody yet, and more of them than threads."""
    server = serve(gate, threads=1)
    first, *others = (connect(server) for _ in range(6))
    first.ask("/gate")
    assert gate.entered.wait(5)
    for client in others:
        client.ask()
    wait_for(lambda: server.httpserver.requests.qsize == 5)

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()

    assert [client.answer().closes for client in (first, *others)] == [True] * 6
    stop.result(5)


def test_a_connection_made_while_stopped_is_answered_after_the_next_start(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """The kernel keeps it; the port refuses nobody."""
    server = serve()
    engine.stop()
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.ask()

    engine.start()

    assert [client.answer().status for client in clients] == [200] * 20


def test_a_connection_made_during_a_drain_waits_for_the_next_start(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Accept nothing new means from the first moment of the stop."""
    server = serve(gate)
    slow = connect(server)
    slow.ask("/gate")
    assert gate.entered.wait(5)
    stop = stop_begins(engine, server, meanwhile)
    newcomer = connect(server)
    newcomer.ask()
    gate.opened.set()
    slow.answer()
    stop.result(5)
    assert server.httpserver._keeper.connections == frozenset()

    engine.start()

    assert not newcomer.answer().closes


def test_no_request_is_lost_through_ten_stops_and_starts(engine: Engine, serve: Serve) -> None:
    """Clients that connect, or keep their connection while they may, never notice."""
    server = serve()
    address = server.addresses[0]
    over = threading.Event()
    answered: list[int] = []
    failed: list[BaseException] = []

    def ask(times: int) -> None:
        while not over.is_set():
            with Client(address) as client:
                for _ in range(times):
                    answer = client.get()
                    answered.append(answer.status)
                    if answer.closes:
                        break

    def count(times: int) -> None:
        try:
            ask(times)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=count, args=(times,)) for times in (1, 1, 20, 20)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        enough = len(answered) + 20
        wait_for(lambda enough=enough: failed or len(answered) > enough)  # type: ignore[misc]
        engine.stop()
        engine.start()
    over.set()
    for thread in threads:
        thread.join()

    assert failed == []
    assert set(answered) == {200}


def test_a_stuck_application_is_named_and_left_behind(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, logged: Logged
) -> None:
    """Our own deadline counts; its thread cannot hold the process."""
    server = serve(gate, drain_timeout=0.1)
    connect(server).ask("/gate")
    assert gate.entered.wait(5)
    stuck = list(server.httpserver.requests.busy)

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 1.0
    assert engine.state is State.STOPPED
    assert f"{stuck[0].name!r} is still busy with GET /gate after " in str(logged)
    assert [thread.daemon for thread in stuck] == [True]
    gate.opened.set()
    stuck[0].join(5)


def test_a_stuck_request_cannot_forge_the_log(
    engine: Engine, serve: Serve, connect: Connect, logged: Logged
) -> None:
    """A client chooses its path, and must not choose what an operator reads."""
    entered, opened = threading.Event(), threading.Event()

    def stuck(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        entered.set()
        opened.wait(20)
        return hello(environ, start_response)

    server = serve(stuck, drain_timeout=0.1)
    connect(server).send(
        b"GET /%0A%1bERROR/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert entered.wait(5)
    [thread] = server.httpserver.requests.busy
    engine.stop()

    [line] = [message for _, message in logged if "still busy" in message]
    assert "GET /%0A%1bERROR/aaa" in line
    assert line.isprintable()
    assert len(line) < 400
    opened.set()
    thread.join(5)


def test_an_impatient_bus_cuts_the_drain_short(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """The second Ctrl-C does not wait for a slow request."""
    server = serve(gate, drain_timeout=30)
    connect(server).ask("/gate")
    assert gate.entered.wait(5)
    stop = stop_begins(engine, server, meanwhile)

    engine.hurry()

    stop.result(2)
    gate.opened.set()


def test_a_drain_ends_when_clients_have_left(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Nobody there is nothing to wait for."""
    server = serve(linger=20)
    clients = [connect(server) for _ in range(5)]
    for client in clients:
        client.get()
    stop = stop_begins(engine, server, meanwhile)

    for client in clients:
        client.close()

    stop.result(5)


def test_a_body_still_on_its_way_is_read(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """An upload that began before the stop arrives whole."""
    entered = threading.Event()

    def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        entered.set()
        body = environ["wsgi.input"].read(6)
        return list(hello(environ, start_response)) if body == b"abcdef" else []

    server = serve(echo)
    client = connect(server)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    assert entered.wait(5)
    stop = stop_begins(engine, server, meanwhile)
    client.send(b"def")

    assert client.answer().body == b"hello"
    stop.result(5)


def test_a_body_that_nobody_reads_does_not_cost_the_answer(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Closing on an upload resets the connection, and the client may never see what it got."""
    server = serve(gate)
    client = connect(server)
    body = b"x" * 300_000
    client.send(b"POST /gate HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + body)
    assert gate.entered.wait(5)
    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()
    client.send(body)

    answer = client.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert client.socket.recv(1) == b""
    stop.result(5)


def test_several_servers_drain_at_the_same_time(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """Their lingers do not add up, and none accepts while another drains."""
    others = [CherootServer(engine, hello, binds=["127.0.0.1:0"], linger=0.3) for _ in range(3)]
    for other in others:
        other.subscribe()
    servers = [serve(linger=0.3), *others]
    for server in servers:
        connect(server).get()

    began = time.monotonic()
    engine.stop()

    assert 0.3 <= time.monotonic() - began < 0.8


def test_a_server_that_has_drained_early_is_no_crash(engine: Engine, serve: Serve) -> None:
    """Its thread ends before stop() comes to it."""
    serve()
    engine.subscribe("stop", lambda: engine.pause(0.1), priority=24.5)
    engine.stop()
    assert engine.exit_code == 0


def test_a_client_that_reset_its_connection_is_no_news(
    engine: Engine, serve: Serve, connect: Connect, logged: Logged
) -> None:
    """It costs neither a log line nor the stop."""
    server = serve()
    client = connect(server)
    client.get()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    engine.stop()

    assert "rror" not in str(logged)


def test_who_waits_when_the_process_leaves_is_served_and_newcomers_are_refused(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Nobody comes after: better refused at once than kept waiting and then cut off."""
    server = serve(gate)
    client = connect(server)
    client.ask("/gate")
    assert gate.entered.wait(5)

    leaving = meanwhile(engine.exit)
    wait_for(lambda: engine.addresses == ())
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    gate.opened.set()

    assert client.answer().status == 200
    leaving.result(5)
