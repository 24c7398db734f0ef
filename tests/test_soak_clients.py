"""The soak's clients count what they claim: each is let down in a known way, and must say so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import applications, clients
from benchmarks.soak.clients import SECURE, Client, Load, New, Polite, Strict, Talker, Thoughtful
from benchmarks.soak.site import certified
from benchmarks.soak.talk import CLOSE, PING, PONG, TEXT, accepting, frame
from benchmarks.soak.tally import Tally
from benchmarks.soak.wire import Failure, Lost
from sitebus.process import Engine
from sitebus.servers import TLS
from sitebus.servers.cheroot import CherootServer
from sitebus.sockets.addresses import Address
from tests.helpers import nothing_left, wait_for

Behaviour = Callable[[socket.socket], object]
Start = Callable[[Behaviour], Address]


class Host:
    """A server of whose every connection *behave* does what it likes."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.door = socket.create_server(("127.0.0.1", 0))
        self.guests: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    @property
    def address(self) -> Address:
        return Address.parse(f"127.0.0.1:{self.door.getsockname()[1]}")

    def accept(self) -> None:
        with suppress(OSError):  # the door is closed
            while True:
                guest, _ = self.door.accept()
                self.guests.append(guest)
                self.threads.append(threading.Thread(target=self.receive, args=(guest,)))
                self.threads[-1].start()

    def receive(self, guest: socket.socket) -> None:
        with suppress(OSError):  # the guest has left
            self.behave(guest)
        guest.close()

    def close(self) -> None:
        for each in (self.door, *self.guests):
            with suppress(OSError):  # closed before
                each.shutdown(socket.SHUT_RDWR)
        self.door.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def serve() -> Iterator[Start]:
    with nothing_left(), ExitStack() as running:

        def start(behave: Behaviour) -> Address:
            host = Host(behave)
            running.callback(host.close)
            return host.address

        yield start


def heard(guest: socket.socket) -> bytes:
    """Read a request without a body; answer what it asks ``/echo`` for."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = guest.recv(4096)
        if not data:
            raise OSError("left")
        head += data
    return head.split(b" ", 2)[1].partition(b"?")[2]


def say(guest: socket.socket, body: bytes, *headers: bytes, status: bytes = b"200 OK") -> None:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body]
    guest.sendall(b"\r\n".join(lines[:-1]) + b"\r\n" + body)


def drops_after(answers: int, *headers: bytes) -> Behaviour:
    """Close after some answers, of which the last has these *headers*."""

    def behave(guest: socket.socket) -> None:
        for number in range(1, answers + 1):
            say(guest, heard(guest), *(headers if number == answers else ()))

    return behave


def echoes(guest: socket.socket) -> None:
    while True:
        say(guest, heard(guest))


def visit(kind: type[Client], address: Address, times: int = 6, **settings: Any) -> Tally:
    """Let one client try so often; answer what it has counted."""
    tally = Tally(kind.kind)
    world = clients.World(address, [""], [clients.echo()], threading.Event(), **settings)
    client = kind(world, tally, 1)
    for _ in range(times):
        try:
            client.visit()
        except Lost as lost:
            tally.lose(lost)
    client.leave()
    return tally


def cuts_off(guest: socket.socket) -> None:
    heard(guest)
    guest.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")


def cuts_off_the_head(guest: socket.socket) -> None:
    heard(guest)
    guest.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")


def resets(guest: socket.socket) -> None:
    heard(guest)
    guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def mixes_up(guest: socket.socket) -> None:
    heard(guest)
    say(guest, b"somebody else's")


def fails(guest: socket.socket) -> None:
    heard(guest)
    say(guest, b"", status=b"500 Internal Server Error")


def babbles(guest: socket.socket) -> None:
    heard(guest)
    guest.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def frames_badly(guest: socket.socket) -> None:
    heard(guest)
    guest.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n")


def says_nothing(guest: socket.socket) -> None:
    heard(guest)
    guest.recv(1)


@pytest.mark.parametrize("kind", [New, Strict, Polite])
@pytest.mark.parametrize(
    ("behave", "failure"),
    [
        (socket.socket.close, Failure.EOF_UNANSWERED),
        (heard, Failure.EOF_UNANSWERED),
        (cuts_off, Failure.EOF_MIDWAY),
        (cuts_off_the_head, Failure.EOF_MIDWAY),
        (resets, Failure.RESET),
        (mixes_up, Failure.WRONG),
        (babbles, Failure.WRONG),
        (frames_badly, Failure.WRONG),
        (fails, Failure.SERVER_ERROR),
        (says_nothing, Failure.TIMEOUT),
    ],
)
def test_each_loss_has_its_name(
    kind: type[Client], behave: Behaviour, failure: Failure, serve: Start
) -> None:
    """The report says what went wrong; a loss under another name would mislead who reads it."""
    address = serve(behave)

    tally = visit(kind, address, times=2, patience=0.2)

    # A close while the request is on its way is a reset to some.
    allowed = {failure, Failure.RESET} if behave is socket.socket.close else {failure}
    assert set(tally.failures) <= allowed, tally.examples
    assert (tally.failed, tally.ok) == (2, 0)
    assert len(tally.examples) == 2


@pytest.mark.parametrize("address", ["127.0.0.1", "unix"])
def test_a_closed_port_is_a_refusal(address: str, tmp_path: Any) -> None:
    """Nobody listens, or the socket's file is gone."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    where = f"unix:{tmp_path}/none.sock" if address == "unix" else f"{address}:{port}"

    tally = visit(New, Address.parse(where))

    assert tally.failures == {Failure.REFUSED: 6}


def test_a_kept_connection_that_is_dropped_is_seen_by_the_strict(serve: Start) -> None:
    """This is the loss that careless restarts inflict, and that client libraries hide."""
    tally = visit(Strict, serve(drops_after(2)))

    assert tally.ok == 4
    assert tally.failed == 2
    # What was sent may have met a connection that is gone.
    assert set(tally.failures) <= {Failure.EOF_REUSED, Failure.RESET}
    assert (tally.opened, tally.reopened) == (2, 1)


def test_a_connection_that_is_closed_between_requests_is_no_loss_to_the_polite(
    serve: Start,
) -> None:
    """They look first; that they had to connect again is told apart."""
    closed = threading.Event()

    def drops(guest: socket.socket) -> None:
        drops_after(1)(guest)
        guest.shutdown(socket.SHUT_RDWR)
        closed.set()

    class Watching(Polite):
        def visit(self) -> None:
            super().visit()
            assert closed.wait(5)
            closed.clear()
            wait_for(lambda: self.connection is None or self.connection.is_readable)

    tally = visit(Watching, serve(drops))

    assert (tally.ok, tally.failed) == (6, 0)
    assert (tally.opened, tally.reopened) == (6, 5)


@pytest.mark.parametrize("kind", [Strict, Polite, Thoughtful])
def test_an_announced_close_is_no_loss(kind: type[Client], serve: Start) -> None:
    """``Connection: close`` is the server's good right; connecting again is counted."""
    tally = visit(kind, serve(drops_after(2, b"Connection: close")))

    assert (tally.ok, tally.failed) == (6, 0)
    assert (tally.opened, tally.reopened) == (3, 2)


@pytest.mark.parametrize("kind", [Strict, Polite, Thoughtful])
def test_a_connection_that_is_kept_is_used_for_all(kind: type[Client], serve: Start) -> None:
    """Else a hand-over could not be told from a new connection."""
    tally = visit(kind, serve(echoes))

    assert (tally.ok, tally.failed) == (6, 0)
    assert (tally.opened, tally.reopened) == (1, 0)


def test_a_delay_is_seen_in_the_latencies(serve: Start) -> None:
    """The longest of them is what a restart costs the clients."""
    pause = threading.Event()

    def hesitates(guest: socket.socket) -> None:
        for number in range(6):
            token = heard(guest)
            pause.wait(0.3 if number == 3 else 0)
            say(guest, token)

    tally = visit(Strict, serve(hesitates))

    assert 0.3 <= tally.longest < 3
    assert tally.quantile(0.5) < 0.3
    assert tally.quantile(0.99) == tally.longest


def test_chunks_are_read(serve: Start) -> None:
    """What applications stream has no length."""

    def streams(guest: socket.socket) -> None:
        while True:
            token = heard(guest)
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in token)
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            guest.sendall(head + chunks + b"0\r\n\r\n")

    assert visit(Strict, serve(streams)).ok == 6


def test_a_client_that_crashes_is_noticed(serve: Start) -> None:
    """A load that has become smaller by a mistake of its own proves less than it claims."""

    class Crashing(New):
        def visit(self) -> None:
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"), Load([serve(echoes)], {Crashing: 1}):
        pass


def test_tallies_of_two_loads_add_up(serve: Start) -> None:
    """A soak has several parts, and one report."""
    total = Tally("all")
    for behave in (echoes, mixes_up):
        total += visit(Strict, serve(behave))

    assert (total.ok, total.failed, total.opened, total.reopened) == (6, 6, 7, 5)
    assert total.failures == {Failure.WRONG: 6}
    assert len(total.examples) == 3
    assert total.longest > 0


def talks(guest: socket.socket, texts: int, *last: bytes, beside: bytes = b"") -> None:
    """Answer so many texts with the same, *beside* it what else is said, and say *last*."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += guest.recv(4096)
    key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {accepting(key)}", "", ""]
    guest.sendall("\r\n".join(lines).encode())
    for _ in range(texts):
        guest.sendall(frame(PING, b"") + frame(TEXT, uttered(guest)) + beside)
    for each in last:
        guest.sendall(each)
    while not beside and guest.recv(4096):  # its goodbye
        pass


def uttered(guest: socket.socket, pongs: list[bytes] | None = None) -> bytes:
    """Read frames up to a text, and answer that; *pongs* gets what came with pongs before."""
    while True:
        first, length = guest.recv(2, socket.MSG_WAITALL)
        mask = guest.recv(4, socket.MSG_WAITALL)
        data = guest.recv(length & 127, socket.MSG_WAITALL) if length & 127 else b""
        data = bytes(a ^ mask[at % 4] for at, a in enumerate(data))
        if first & 15 == TEXT:
            return data
        if pongs is not None and first & 15 == PONG:
            pongs.append(data)


def closing(code: int) -> bytes:
    return frame(CLOSE, code.to_bytes(2) + b"bye")


@pytest.mark.parametrize("code", [1001, 1012])
def test_a_websocket_that_is_told_of_a_restart_is_no_loss(code: int, serve: Start) -> None:
    """It connects again, which is counted: a site that never said so is found by that."""
    tally = visit(Talker, serve(lambda guest: talks(guest, 2, closing(code))), times=9)

    assert (tally.ok, tally.failed) == (6, 0), tally.examples
    assert (tally.opened, tally.reopened) == (3, 2)


def test_a_websocket_is_kept_while_the_server_says_nothing(serve: Start) -> None:
    tally = visit(Talker, serve(lambda guest: talks(guest, 6)))

    assert (tally.ok, tally.failed, tally.opened) == (6, 0, 1), tally.examples


def test_a_ping_between_two_texts_is_answered(serve: Start) -> None:
    """And not waited for to be followed by something, which would be for ever: more pings come."""
    pongs: list[bytes] = []

    def pings(guest: socket.socket) -> None:
        # Together with the answer: the client must not be quicker.
        talks(guest, 1, beside=frame(PING, b"first") + frame(PING, b"more"))
        guest.sendall(frame(TEXT, uttered(guest, pongs)))
        while guest.recv(4096):
            pass

    tally = visit(Talker, serve(pings), times=2)

    assert (tally.ok, tally.failed) == (2, 0), tally.examples
    assert pongs == [b"", b"first", b"more"]


@pytest.mark.parametrize(
    ("last", "failure"),
    [
        (closing(1011), Failure.WRONG),
        (frame(CLOSE, b""), Failure.WRONG),
        (frame(TEXT, b"somebody else's"), Failure.WRONG),
    ],
)
def test_what_no_websocket_should_be_told_is_a_loss(
    last: bytes, failure: Failure, serve: Start
) -> None:
    tally = visit(Talker, serve(lambda guest: talks(guest, 1, last)), times=2)

    assert tally.ok == 1
    assert set(tally.failures) == {failure}, tally.examples


def test_a_websocket_that_ends_without_a_word_is_a_loss(serve: Start) -> None:
    """A site that is killed, or forgets its WebSockets in a restart."""

    def drops(guest: socket.socket) -> None:
        with suppress(OSError):
            talks(guest, 1)

    def leaves(guest: socket.socket) -> None:
        guest.settimeout(0.2)
        drops(guest)

    tally = visit(Talker, serve(leaves), times=2)

    assert tally.ok == 1
    assert set(tally.failures) <= {Failure.EOF_MIDWAY, Failure.RESET}, tally.examples
    assert tally.failed == 1


def test_a_server_without_websockets_is_a_loss(serve: Start) -> None:
    assert visit(Talker, serve(echoes), times=1).failures == {Failure.WRONG: 1}


@pytest.mark.slow
def test_clients_of_tls_are_content_as_well(engine: Engine, tmp_path: Path) -> None:
    """They check the certificate, and are told apart in reports."""
    trust = certified(tmp_path)
    tls = TLS(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = CherootServer(engine, applications.wsgi, binds=["127.0.0.1:0"], tls=tls)
    server.subscribe()
    engine.start()

    with Load(server.addresses, SECURE, tls=trust, manner="TLS, ") as load:
        tallies = load.tallies.values()
        wait_for(lambda: all(each.ok + each.own for each in tallies), 20, "all to be answered")

    assert load.failed == 0, load.examples
    assert {each.kind for each in tallies} == {f"TLS, {kind.kind}" for kind in SECURE}
    assert visit(New, server.addresses[0], times=1).failed == 1


@pytest.mark.slow
@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
def test_everybody_is_content_with_a_site_in_peace(speech: str, engine: Engine) -> None:
    """Else a soak could not tell the clients' mistakes from the site's."""
    application = getattr(applications, speech)
    server = CherootServer(engine, application, binds=["127.0.0.1:0"], threads=30)
    server.subscribe()
    engine.start()

    with Load(server.addresses) as load:
        tallies = load.tallies.values()
        wait_for(lambda: all(each.ok + each.own for each in tallies), 20, "all to be answered")

    assert load.failed == 0, load.examples
    assert load.ok > 100
    assert load.tallies["strict kept-alive"].reopened == 0
    left = {"aborted uploads", "abandoned downloads", "silent connections", "endless heads"}
    assert {each.kind for each in tallies if each.own} == left
