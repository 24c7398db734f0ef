"""What clients see when any server stops, starts again or is restarted: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from sitebus.machine import State
from sitebus.process import Engine
from sitebus.servers.hosting import SiteServer
from sitebus.sockets.addresses import Address
from tests.helpers import Child, open_descriptors, wait_for
from tests.servers.client import Client
from tests.servers.conformance import (
    KEEPING,
    KINDS,
    NATIVE,
    Host,
    Kind,
    Load,
    begin,
    engine,
    everything,
    host,
    kind,
    last_answer,
    only,
    post,
    shop,
)
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]


#: Found here by pytest.
__all__ = ["engine", "host", "kind", "shop"]


def stop_begins(engine: Engine, server: SiteServer, meanwhile: Meanwhile) -> Future[Any]:
    """Stop *engine* in another thread, and return once *server* has been told to drain."""
    stop = meanwhile(engine.stop)
    wait_for(lambda: server.httpserver.draining)
    return stop


def accepted(server: SiteServer, connect: Connect) -> None:
    """Return when whoever connected before now is in the server's hands."""
    # Accepted in the order in which they came: this one after them.
    with connect(server) as latest:
        assert latest.get().status == 200


@only(
    kind
    for kind in KINDS
    if kind.speech == "asgi" and not kind.is_bridged and kind.can("websocket")
)
def test_a_websocket_is_closed_with_1012_when_the_server_stops(
    engine: Engine, host: Host, shop: Shop, meanwhile: Meanwhile
) -> None:
    """Service restart: the client's script knows that it may come back."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect as open_websocket

    server = host(linger=5.0)
    with open_websocket(f"ws://127.0.0.1:{server.addresses[0].port}/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(5) == "hello"

        stop = stop_begins(engine, server, meanwhile)

        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(5)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        stop.result(2)
    wait_for(lambda: shop.closed_with)
    assert shop.closed_with == [1012]


# Stopping.


def test_a_request_in_flight_is_finished(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Its answer says that the connection closes."""
    server = host()
    client = connect(server)
    client.ask("/gate")
    shop.entered.wait()

    stop = stop_begins(engine, server, meanwhile)
    assert not stop.done()
    shop.opened.give()

    answer = client.answer()
    assert (answer.status, answer.closes, answer.body) == (200, True, HELLO)
    assert client.is_closed()
    stop.result(5)


def test_a_stream_is_finished(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Its head was sent before the stop; it ends whole all the same."""
    server = host()
    client = connect(server)
    client.ask("/stream")
    response = begin(client)
    shop.entered.wait()

    stop = stop_begins(engine, server, meanwhile)
    shop.opened.give()

    assert response.read() == b"first second last"
    assert client.is_closed()
    stop.result(5)


def test_an_idle_connection_is_closed_after_the_linger(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """Kept-alive and fresh ones alike; a silent client does not hold the stop."""
    server = host(linger=0.3)
    kept, fresh = connect(server), connect(server)
    kept.get()
    accepted(server, connect)

    began = time.monotonic()
    engine.stop()

    assert 0.25 <= time.monotonic() - began < 2.0
    assert everything(kept) == everything(fresh) == b""


@only(KEEPING)
def test_an_idle_connection_may_still_be_used_during_the_linger(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """A client that had not heard of the stop gets its answer, and hears of it."""
    server = host(linger=10.0)
    client = connect(server)
    assert not client.get().closes

    stop = stop_begins(engine, server, meanwhile)

    last_answer(client)
    assert client.is_closed()
    stop.result(3)


@only(kind for kind in KEEPING if kind.can("tls"))
def test_a_drain_answers_within_tls(
    engine: Engine,
    host: Host,
    shop: Shop,
    connect: Connect,
    meanwhile: Meanwhile,
    certificate: Certificate,
) -> None:
    """Those in flight and those in their linger, as without."""
    trust = ssl.create_default_context(cafile=certificate.root)
    server = host(tls=certificate.tls, linger=10.0)
    slow, kept = connect(server, tls=trust), connect(server, tls=trust)
    kept.get()
    slow.ask("/gate")
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)

    last_answer(kept)
    shop.opened.give()
    answer = slow.answer()
    assert (answer.status, answer.closes) == (200, True)
    assert kept.is_closed()
    assert slow.is_closed()
    stop.result(3)


def test_who_was_just_accepted_is_answered(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Its request was on its way when the stop began."""
    server = host(linger=10.0)
    client = connect(server)
    accepted(server, connect)

    stop = stop_begins(engine, server, meanwhile)

    last_answer(client)
    assert client.is_closed()
    stop.result(3)


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", post("/echo", HELLO)],
    ids=["head", "body"],
)  # fmt: skip
def test_half_a_request_is_waited_for(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile, request_: bytes
) -> None:
    """Longer than the linger: somebody is in the middle of a word."""
    server = host(linger=0.1)
    client, silent = connect(server), connect(server)
    client.send(request_[:-3])
    accepted(server, connect)

    stop = stop_begins(engine, server, meanwhile)
    assert silent.is_closed()  # the linger is over
    client.send(request_[-3:])

    answer = client.answer()
    assert (answer.status, answer.closes, answer.body) == (200, True, HELLO)
    assert client.is_closed()
    stop.result(5)


def test_half_a_request_is_given_up_at_the_deadline(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """Who says no more cannot hold the stop."""
    server = host(drain_timeout=0.3, linger=0.1)
    client = connect(server)
    client.send(b"GET / HT")
    accepted(server, connect)

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 2.0
    everything(client)


def test_a_stuck_application_is_left_behind(
    engine: Engine, host: Host, kind: Kind, shop: Shop, connect: Connect, logged: Logged
) -> None:
    """The deadline counts, and the log says what was not finished."""
    server = host(drain_timeout=0.3)
    connect(server).ask("/gate")
    shop.entered.wait()

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 3.0
    assert engine.state is State.STOPPED
    assert "still busy with GET /gate after " in str(logged)


def test_an_impatient_bus_cuts_the_drain_short(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """The second Ctrl-C does not wait for a slow request."""
    server = host(drain_timeout=30)
    connect(server).ask("/gate")
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)

    engine.hurry()

    stop.result(3)


def test_a_drain_ends_when_clients_have_left(
    engine: Engine, host: Host, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Nobody there is nothing to wait for."""
    server = host(linger=20)
    clients = [connect(server) for _ in range(5)]
    for client in clients:
        client.get()
    stop = stop_begins(engine, server, meanwhile)

    for client in clients:
        client.close()

    stop.result(3)


def test_a_newcomer_waits_for_the_next_start(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """One who came during the drain, and one while nobody served: neither is refused."""
    server = host()
    slow = connect(server)
    slow.ask("/gate")
    shop.entered.wait()
    stop = stop_begins(engine, server, meanwhile)
    early = connect(server)
    early.ask()
    shop.opened.give()
    assert slow.answer().status == 200
    stop.result(5)
    late = connect(server)
    late.ask()

    engine.start()

    assert [early.answer().status, late.answer().status] == [200, 200]


def test_a_crowd_at_the_door_is_served_by_the_next_start(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """Accepted by the server or only by the kernel when the stop came, each gets its answer."""
    server = host()
    clients = [connect(server) for _ in range(30)]
    for client in clients:
        client.ask()

    engine.stop()
    engine.start()

    assert [client.answer().status for client in clients] == [200] * 30


def test_a_crowd_at_the_door_is_served_before_the_process_leaves(
    engine: Engine, host: Host, connect: Connect
) -> None:
    """Nobody comes after: whom the kernel has let in is served by us."""
    server = host()
    clients = [connect(server) for _ in range(30)]
    for client in clients:
        client.ask()

    engine.exit()

    assert [client.answer().status for client in clients] == [200] * 30


def test_newcomers_are_refused_while_the_process_leaves(
    engine: Engine, host: Host, shop: Shop, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Better refused at once than kept waiting and then cut off; who is inside is served."""
    server = host()
    client = connect(server)
    client.ask("/gate")
    shop.entered.wait()

    leaving = meanwhile(engine.exit)
    # Not in the same moment: a loop closes its copy of the socket in its next turn.
    wait_for(lambda: engine.addresses == () and is_refused(connect, server), 1.0)
    shop.opened.give()

    assert client.answer().status == 200
    leaving.result(5)


def is_refused(connect: Connect, server: SiteServer) -> bool:
    try:
        connect(server)
    except ConnectionRefusedError:
        return True
    return False


# Again and again.


def test_twenty_cycles_leave_nothing(engine: Engine, host: Host) -> None:
    """Threads, descriptors and the loop's tasks are level: nothing is kept per start."""
    server = host(linger=0.0)

    def cycle() -> None:
        with Client(server.addresses[0]) as client:
            assert client.get().status == 200
        engine.stop()
        engine.start()

    def held() -> tuple[int, int, int]:
        tasks = asyncio.run_coroutine_threadsafe(count_tasks(), engine.loop).result(5)
        return len(open_descriptors()), threading.active_count(), tasks

    async def count_tasks() -> int:
        return len(asyncio.all_tasks())

    cycle()
    before = held()
    for _ in range(20):
        cycle()
    wait_for(lambda: held() <= before, what=f"{before} again")


@only(kind for kind in KINDS if kind.speech == "wsgi" or kind in NATIVE)
def test_two_servers_of_different_kinds_in_one_engine(
    engine: Engine, kind: Kind, host: Host, connect: Connect
) -> None:
    """Public over one, internal over the other; they start, drain and start again together."""
    other_kind = next(k for k in NATIVE[:2] if k.server != kind.server)
    settings: dict[str, Any] = {"binds": ["[::1]:0"], "linger": 0.5, "name": "other"}
    other = other_kind.make(engine, Shop().face(other_kind.speech), **settings)
    other.subscribe()
    server = host(linger=0.5)

    for _ in range(2):
        clients = [connect(each) for each in (server, other)]
        assert [client.get().status for client in clients] == [200, 200]
        began = time.monotonic()
        engine.stop()
        assert time.monotonic() - began < 2
        engine.start()


@pytest.mark.slow
def test_no_request_is_lost_through_ten_stops_and_starts(engine: Engine, host: Host) -> None:
    """Clients that connect, or use the connection they keep, never notice."""
    server = host()
    with Load(server.addresses[0]) as load:
        for _ in range(10):
            wait_for(load.enough(40), 20)
            engine.stop()
            engine.start()
        wait_for(load.enough(20), 20)

    assert load.failures == []
    assert set(load.bodies) == {HELLO}
    assert load.late < 10


@pytest.mark.slow
@only(NATIVE)
def test_no_request_is_lost_through_ten_restarts(kind: Kind) -> None:
    """Same port, same process, nobody refused, and as many descriptors as before."""
    program = [sys.executable, "-m", "tests.servers.conformance", *kind]
    with Child(program) as child:
        line = r"^serving on (\S+) (\d+)$"
        address = Address.parse(child.wait_for_output(line)[1])
        with Load(address) as load:
            for times in range(2, 12):
                wait_for(load.enough(20), 20)
                child.signal(signal.SIGUSR2)
                child.wait_for_output(rf"(?:^serving on .*\n[^~]*){{{times}}}")
            wait_for(load.enough(20), 20)

        assert load.failures == []
        assert load.late < 10
        assert set(load.bodies) == {b"%d" % child.pid}
        assert child.stop() == os.EX_OK
    lives = re.findall(line, child.output, re.MULTILINE)
    assert {address for address, _ in lives} == {str(address)}
    # The first life inherited nothing, each later one the same listening socket.
    assert len({inherited for _, inherited in lives[1:]}) == 1
