"""uvicorn's idle connections go to who serves next, by hand and over re-executions."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_websocket

from sitebus.servers.uvicorn import UvicornServer
from sitebus.sockets import Idle
from sitebus.sockets.addresses import Address
from tests.helpers import Child, open_descriptors, wait_for
from tests.servers.client import Client
from tests.servers.conftest import Certificate
from tests.servers.shop import BLOCK, HELLO, Shop
from tests.servers.uvicorn_fixtures import Host, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

PARSERS = ("httptools", "h11")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"


class Relay:
    """Has one of uvicorn's servers drained, and what it gives away taken over by another."""

    def __init__(self, server: UvicornServer) -> None:
        self.server = server
        self.first = server.httpserver
        self.given: list[tuple[int, Idle]] = []
        self.next: Any = None
        self.thread: threading.Thread | None = None
        # The first one's end is expected.
        server.running = False

    def drain(self, linger: float = 5.0) -> None:
        self.first.drain(linger, leave=self.leave)

    def leave(
        self, door: int, sock: socket.socket, peer: tuple[str, int] | None, begun: bytes
    ) -> None:
        self.given.append((door, Idle(sock, "", peer, begun)))

    def take_over(self) -> None:
        """Start the other, and give it what there is."""
        assert self.first.drained.wait(5), f"{len(self.given)} were given"
        self.next = self.server.make()
        self.thread = threading.Thread(target=self.next.start)
        self.thread.start()
        self.next.serving.wait()
        given, self.given = self.given, []
        self.next.adopt(given)

    def run(self) -> None:
        self.drain()
        self.take_over()

    def close(self) -> None:
        if self.next is not None:
            self.next.stop()
        if self.thread is not None:
            self.thread.join(5)
        for _, each in self.given:
            each.socket.close()


Run = Callable[[UvicornServer], Relay]


@pytest.fixture
def relay() -> Iterator[Run]:
    with ExitStack() as made:

        def make(server: UvicornServer) -> Relay:
            relay = Relay(server)
            made.callback(relay.close)
            return relay

        yield make


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name)
    return name


@pytest.fixture
def serving(host: Host, loop_kind: str, parser: str) -> UvicornServer:
    """A server for each kind of loop, and of parser."""
    return host(native={"http": parser})


def goes_on(client: Client, path: str = "/") -> None:
    answer = client.get(path)
    assert (answer.status, answer.body, answer.closes) == (200, HELLO, False)


def test_idle_connections_are_answered_by_the_next(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """Those that were answered, and those that never said a word."""
    clients = [connect(serving) for _ in range(20)]
    for client in clients[:15]:
        goes_on(client)
    wait_for(lambda: len(serving.httpserver._crowd) == 20)
    handing = relay(serving)

    handing.drain()
    assert handing.first.drained.wait(5)

    assert len(handing.given) == 20
    # The flag is shared with everybody who has the connection.
    assert not any(os.get_blocking(each.socket.fileno()) for _, each in handing.given)
    peers = {each.peer for _, each in handing.given}
    assert peers == {client.socket.getsockname() for client in clients}
    handing.take_over()
    for client in clients:
        goes_on(client)


def test_they_are_handed_on_again_without_a_word(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """As with several restarts, one after the other."""
    client = connect(serving)
    goes_on(client)
    handing = relay(serving)
    handing.run()
    again = relay(serving)
    again.first = handing.next

    again.run()

    goes_on(client)
    goes_on(client)


def test_a_request_under_way_is_answered_and_its_connection_goes_on(
    serving: UvicornServer, shop: Shop, connect: Connect, relay: Run
) -> None:
    """Nothing in the answer tells that anything is special."""
    client = connect(serving)
    client.ask("/gate")
    shop.entered.wait()
    handing = relay(serving)

    handing.drain()
    assert not handing.first.drained.wait(0.1)
    shop.opened.give()
    answer = client.answer()
    assert (answer.status, answer.closes) == (200, False)
    handing.take_over()

    goes_on(client)


def test_requests_that_wait_for_another_are_answered_first(
    serving: UvicornServer, shop: Shop, connect: Connect, relay: Run
) -> None:
    """They were read, so nobody else could."""
    client = connect(serving)
    client.ask("/gate")
    client.send(2 * GET)
    shop.entered.wait()
    handing = relay(serving)
    handing.drain()

    shop.opened.give()
    said = b""
    while said.count(HELLO) < 3:
        said += client.socket.recv(65536)

    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert b"close" not in said
    handing.take_over()
    goes_on(client)


@pytest.mark.parametrize("pieces", [1, 3])
def test_half_a_head_is_handed_on(
    serving: UvicornServer, connect: Connect, relay: Run, pieces: int
) -> None:
    """With all that has come of it, of a first request as of a later one."""
    clients = [connect(serving), connect(serving)]
    goes_on(clients[0])
    for client in clients:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, 30, 30 // pieces):
        for client in clients:
            client.send(GET[at : at + 30 // pieces])
        wait_for(lambda at=at: all_have_come(serving, at + 30 // pieces))  # type: ignore[misc]
    handing = relay(serving)

    handing.drain()
    assert handing.first.drained.wait(5)
    assert [each.begun for _, each in handing.given] == [GET[:30]] * 2
    handing.take_over()

    for client in clients:
        client.send(GET[30:])
        assert client.answer().body == HELLO
        goes_on(client)


def all_have_come(server: UvicornServer, many: int) -> bool:
    crowd = server.httpserver._crowd
    return len(crowd) == 2 and all(len(each.half_a_head) == many for each in list(crowd))


def test_half_a_head_is_handed_on_again(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """It may take longer than two restarts."""
    client = connect(serving)
    client.send(GET[:9])
    wait_for(lambda: any(each.half_a_head for each in serving.httpserver._crowd))
    handing = relay(serving)
    handing.run()
    client.send(GET[9:20])
    wait_for(lambda: any(len(each.half_a_head) == 20 for each in handing.next._crowd))
    again = relay(serving)
    again.first = handing.next

    again.run()

    client.send(GET[20:])
    assert client.answer().body == HELLO
    goes_on(client)


def test_half_a_head_that_came_with_a_request_is_completed(
    serving: UvicornServer, shop: Shop, connect: Connect, relay: Run
) -> None:
    """Here, or by the next: where it has begun may be known to its parser alone."""
    client = connect(serving)
    client.send(POST + GET[:9])
    assert client.answer().body == b"hi"
    handing = relay(serving)

    handing.drain()
    client.send(GET[9:])
    handing.take_over()

    assert client.answer().body == HELLO
    goes_on(client)


def test_what_is_asked_meanwhile_is_answered_by_the_next(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """It waits in the kernel."""
    client = connect(serving)
    goes_on(client)
    handing = relay(serving)
    handing.drain()
    assert handing.first.drained.wait(5)
    client.send(GET)

    handing.take_over()

    assert client.answer().body == HELLO
    goes_on(client)


def test_what_another_has_read_of_a_request_is_not_lost(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """Other servers can hand on what they have begun to read."""
    clients = [connect(serving) for _ in range(2)]
    for client in clients:
        goes_on(client)
    handing = relay(serving)
    handing.drain()
    assert handing.first.drained.wait(5)
    begun = {clients[0].socket.getsockname(): GET[:20], clients[1].socket.getsockname(): GET}
    handing.given = [
        (door, each._replace(begun=begun[each.peer]))
        for door, each in handing.given
        if each.peer is not None
    ]

    handing.take_over()
    clients[0].send(GET[20:])

    for client in clients:
        assert client.answer().body == HELLO
        goes_on(client)


def test_the_client_is_who_it_was(serving: UvicornServer, connect: Connect, relay: Run) -> None:
    """Behind a proxy that says so once, at the beginning, nobody else knows."""
    client = connect(serving)
    goes_on(client)
    handing = relay(serving)
    handing.drain()
    assert handing.first.drained.wait(5)
    handing.given = [
        (door, each._replace(peer=("192.0.2.7", 4711))) for door, each in handing.given
    ]

    handing.take_over()

    assert b'"client": "192.0.2.7"' in client.get("/told").body


def test_who_asked_for_an_end_gets_it(
    serving: UvicornServer, shop: Shop, connect: Connect, relay: Run
) -> None:
    client = connect(serving)
    client.send(b"GET /gate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    shop.entered.wait()
    handing = relay(serving)
    handing.drain()
    shop.opened.give()

    assert client.answer().closes
    assert client.is_closed()
    assert handing.first.drained.wait(5)
    assert not handing.given


def test_a_slow_reader_gets_the_whole_answer_first(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """What is written and not yet sent is in nobody else's hands."""
    client = connect(serving)
    client.ask("/big?200")
    assert client.socket.recv(1, socket.MSG_PEEK)
    handing = relay(serving)

    handing.drain()
    assert not handing.first.drained.wait(0.2)
    answer = client.answer()

    assert len(answer.body) == 200 * len(BLOCK)
    handing.take_over()
    goes_on(client)


def test_a_body_that_comes_after_the_answer_is_heard_out(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    client = connect(serving)
    client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
    assert client.answer().body == HELLO
    handing = relay(serving)

    handing.drain()
    assert not handing.first.drained.wait(0.1)
    client.send(b"67890")

    handing.take_over()
    goes_on(client)


def test_who_hangs_up_meanwhile_leaves_nothing_behind(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """In good order, or with a reset."""
    clients = [connect(serving) for _ in range(4)]
    for client in clients:
        goes_on(client)
    handing = relay(serving)
    handing.drain()
    assert handing.first.drained.wait(5)
    now = struct.pack("ii", 1, 0)
    clients[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    for client in clients[:3]:
        client.close()

    handing.take_over()

    goes_on(clients[3])
    wait_for(lambda: handing.next.arrivals.arriving == 0 and len(handing.next._crowd) == 1)


def test_a_kept_client_that_says_nothing_is_let_go_in_time(
    host: Host, loop_kind: str, connect: Connect, relay: Run
) -> None:
    """As if it had been here all the time."""
    server = host(timeout=0.3)
    client = connect(server)
    goes_on(client)
    handing = relay(server)
    handing.run()

    assert client.is_closed()


def test_websockets_are_told_to_come_back(
    serving: UvicornServer, connect: Connect, relay: Run
) -> None:
    """They have more than a descriptor."""
    client = connect(serving)
    goes_on(client)
    address = serving.addresses[0]
    with open_websocket(f"ws://{address.host}:{address.port}/") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        handing = relay(serving)

        handing.drain()

        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(5)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    handing.take_over()
    goes_on(client)


def test_tls_is_not_handed_on(
    host: Host, certificate: Certificate, connect: Connect, relay: Run
) -> None:
    """What was agreed on is in this process only: the client is told in the answer."""
    import ssl

    server = host(tls=certificate.tls)
    trust = ssl.create_default_context(cafile=certificate.root)
    client = connect(server, tls=trust)
    goes_on(client)
    handing = relay(server)

    handing.drain(linger=0.5)
    wait_for(lambda: handing.first._linger is not None)
    assert client.get().closes

    assert handing.first.drained.wait(5)
    assert not handing.given


def test_hundreds_of_connections_take_few_descriptors_more(
    serving: UvicornServer, relay: Run
) -> None:
    """Each has two for a moment, but not all at the same moment."""
    most = 0
    with ExitStack() as open_clients:
        clients = [open_clients.enter_context(Client(serving.addresses[0])) for _ in range(500)]
        for client in clients:
            client.send(GET)
        for client in clients:
            assert client.answer().body == HELLO
        before = len(open_descriptors())
        handing = relay(serving)
        leave = handing.leave

        def counting(*row: Any) -> None:
            nonlocal most
            leave(*row)
            if len(handing.given) % 50 == 0:
                most = max(most, len(open_descriptors()))

        handing.leave = counting  # type: ignore[method-assign, assignment]
        handing.run()

        assert most < before + 200
        for client in clients:
            client.send(GET)
        for client in clients:
            assert client.answer().body == HELLO
        assert len(open_descriptors()) <= before + 2


# The same over re-executions.

PROGRAM = """
import asyncio, os, signal, sys
kind, parser = sys.argv[1:]
if kind == "asyncio":
    sys.modules["uvloop"] = None
from sitebus.process import Engine
from sitebus.servers.uvicorn import UvicornServer

async def application(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    body = b"%d" % images
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

images = int(os.environ.get("IMAGES", "0")) + 1
os.environ["IMAGES"] = str(images)
engine = Engine()
server = UvicornServer(engine, application, binds=["127.0.0.1:0"], native={"http": parser})
server.subscribe()
signal.signal(signal.SIGUSR2, lambda *_: engine.call_in_main(engine.restart))
signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
engine.start()
print("serving on", server.addresses[0], len(os.listdir("/dev/fd")), flush=True)
sys.exit(engine.block())
"""
RESTARTS = 10
LINE = r"^serving on (\S+) (\d+)$"


class Strict(threading.Thread):
    """A client that has one connection, and asks again and again, without a second try."""

    def __init__(self, address: Address, path: str) -> None:
        super().__init__()
        self.client = Client(address)
        self.path = path
        self.images: list[int] = []
        self.failure: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            with self.client:
                while not self.over.is_set():
                    answer = self.client.get(self.path)
                    assert (answer.status, answer.closes) == (200, False)
                    self.images.append(int(answer.body))
        except (OSError, ValueError, AssertionError) as error:
            self.failure = error

    def close(self) -> None:
        self.over.set()
        self.join(20)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "parser"), [("uvloop", "httptools"), ("asyncio", "h11")])
def test_one_connection_lives_through_ten_images(kind: str, parser: str, tmp_path: Path) -> None:
    """Each answers on it in its turn, also who is always asking; nothing piles up."""
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    program = tmp_path / "serve.py"
    program.write_text(PROGRAM)
    with Child([sys.executable, program, kind, parser]) as child:
        address = Address.parse(child.wait_for_output(LINE)[1])
        idle = [Client(address) for _ in range(10)]
        strict = [Strict(address, path) for path in ("/", "/", "/", "/slow", "/slow")]
        for each in strict:
            each.start()
        for image in range(2, RESTARTS + 2):
            assert {int(client.get().body) for client in idle} == {image - 1}
            child.signal(signal.SIGUSR2)
            if image % 2:
                # While nobody is there to read it.
                assert int(idle[0].get().body) in (image - 1, image)
            child.wait_for_output(rf"(?:{LINE}\n?[^\0]*){{{image}}}")
            wait_for(lambda image=image: all(image in each.images for each in strict), 20)  # type: ignore[misc]
        for each in strict:
            each.close()
        for client in idle:
            client.close()

        assert [each.failure for each in strict] == [None] * len(strict)
        assert child.stop() == os.EX_OK
    found = re.findall(LINE, child.output, re.MULTILINE)
    counts = [int(count) for _, count in found]
    assert len(counts) == RESTARTS + 1
    # The first one inherited nothing, each later one the same.
    assert max(counts[1:]) - min(counts[1:]) <= 1, counts
    assert "Traceback" not in child.output
