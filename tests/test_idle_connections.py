"""Idle connections go to the next image of the process, and none of them notices."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sitebus import legacy
from sitebus.sockets import Address, Idle, Sockets
from sitebus.sockets.connections import pack, unpack
from tests.helpers import open_descriptors

HERE = "127.0.0.1:8080"


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Clients and their connections."""
    made: list[tuple[socket.socket, socket.socket]] = []
    yield made
    for pair in made:
        for each in pair:
            each.close()


def connect(pairs: list[tuple[socket.socket, socket.socket]], many: int = 1) -> list[socket.socket]:
    new = [socket.socketpair() for _ in range(many)]
    pairs += new
    return [theirs for _, theirs in new]


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_everything_about_a_connection_arrives(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    first, second = connect(pairs, 2)
    fd = pack(
        [Idle(first, HERE, ("::1", 50_000), b"GET /\xff"), Idle(second, "unix:/run/site", None)]
    )
    assert first.fileno() == second.fileno() == -1
    tcp, unix = unpack(fd)
    assert tcp[1:] == (HERE, ("::1", 50_000), b"GET /\xff")
    assert unix[1:] == ("unix:/run/site", None, b"")
    for each, (client, _) in zip((tcp, unix), pairs, strict=True):
        assert not each.socket.get_inheritable()
        assert not each.socket.getblocking()
        each.socket.send(b"hello")
        assert client.recv(9) == b"hello"
        each.socket.close()


def test_the_clients_see_nothing_of_it(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """Closing the descriptor of a connection must not end what others hold of it."""
    connections = connect(pairs, 3)
    for client, _ in pairs:
        client.sendall(b"asked meanwhile")
    for each in unpack(pack([Idle(each, HERE) for each in connections])):
        assert each.socket.recv(99) == b"asked meanwhile"
        each.socket.sendall(b"answered")
        each.socket.close()
    for client, _ in pairs:
        assert client.recv(99) == b"answered"
        assert client.recv(99) == b""


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("many", [249, 250, 251, 6000])
def test_any_number_goes_at_once(
    pairs: list[tuple[socket.socket, socket.socket]], many: int
) -> None:
    """One message takes 253, and a pipe of the kernel's only so many bytes."""
    connections = connect(pairs, many)
    rows = [Idle(each, HERE, ("host", at), b"x" * 20) for at, each in enumerate(connections)]
    before = len(open_descriptors())
    arrived = unpack(pack(rows))
    assert len(arrived) == many
    assert len(open_descriptors()) == before
    for at, each in enumerate(arrived):
        assert each.peer == ("host", at)
        each.socket.send(b"%d" % at)
        each.socket.close()
    assert [int(client.recv(9)) for client, _ in pairs] == list(range(many))


def test_what_nobody_takes_is_closed(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    fd = pack([Idle(each, HERE) for each in connect(pairs, 300)])
    os.close(fd)
    assert all(client.recv(1) == b"" for client, _ in pairs)


def test_too_few_descriptors_lose_what_does_not_fit_and_mix_up_nothing(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    """The kernel leaves out what a process cannot hold, and says so only by their number."""
    rows = [Idle(each, HERE, ("host", at)) for at, each in enumerate(connect(pairs, 600))]
    fd = pack(rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(open_descriptors()) + 1
    free = len(set(range(room)) - set(open_descriptors()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    try:
        arrived = unpack(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(arrived) <= free
    for each in arrived:
        assert each.peer is not None
        each.socket.send(b"%d" % each.peer[1])
        each.socket.close()
    told = {at: client.recv(9) for at, (client, _) in enumerate(pairs)}
    assert all(said in (b"", b"%d" % at) for at, said in told.items())
    assert sum(map(bool, told.values())) == len(arrived)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_without_descriptors_a_few_make_room_for_the_others(
    pairs: list[tuple[socket.socket, socket.socket]], free: int
) -> None:
    """A restart may be what somebody tries against the shortage."""
    rows = [Idle(each, HERE, ("host", at)) for at, each in enumerate(connect(pairs, 10))]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 4, hard))
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.dup(rows[0].socket.fileno()))
        for _ in range(free):
            os.close(fillers.pop())
        fd = pack(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in fillers:
            os.close(each)
    arrived = unpack(fd)
    assert [each.peer for each in arrived] == [("host", at) for at in range(7)]
    for idle in arrived:
        idle.socket.close()
    assert all(client.recv(1) == b"" for client, _ in pairs)


def test_no_connection_ever_blocks_on_its_way(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    """The flag is shared: one that clears it has a loop in another process hang in a read."""
    (connection,) = connect(pairs)
    connection.setblocking(False)
    witness = os.dup(connection.fileno())
    try:
        fd = pack([Idle(connection, HERE)])
        assert not os.get_blocking(witness)
        (idle,) = unpack(fd)
        assert not os.get_blocking(witness)
        with idle.socket, idle.socket.dup():
            assert not os.get_blocking(witness)
    finally:
        os.close(witness)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[HERE]],
        [[HERE, 2, ["host"], ""]],
        [[HERE, 2, ["host", "no port"], ""]],
        [[HERE, "AF_INET", None, ""]],
        [[HERE, 2, None, "\u2028"]],
        [{"address": HERE}],
        "text",
        None,
    ],
)
def test_what_makes_no_sense_is_closed(
    pairs: list[tuple[socket.socket, socket.socket]], rows: object
) -> None:
    """It may come from another version of ours; a site must start all the same."""
    (connection,) = connect(pairs)
    before = len(open_descriptors())
    box, slot = socket.socketpair()
    with slot:
        file = legacy.write({"idle": rows})
        socket.send_fds(slot, [bytes(8)], [file])
        os.close(file)
        socket.send_fds(slot, [bytes(8)], [connection.fileno()])
        connection.close()
    assert unpack(box.detach()) == []
    assert len(open_descriptors()) == before - 1
    assert pairs[0][0].recv(1) == b""


def test_no_socket_is_no_connection() -> None:
    before = open_descriptors()
    with open(os.devnull, "rb") as file, socket.socket() as unused:
        stranger = socket.socket(fileno=os.dup(unused.fileno()))
        os.dup2(file.fileno(), stranger.fileno())
        assert unpack(pack([Idle(stranger, HERE)])) == []
    assert open_descriptors() == before


def test_they_are_found_by_the_address_that_they_came_by(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    """A site may have several servers, and they know nothing of each other."""
    sockets, environ = Sockets({}), {}
    for at, each in enumerate(connect(pairs, 4)):
        sockets.leave(Idle(each, HERE if at % 2 else "unix:/run/site", None, b"%d" % at))
    with sockets.hand_down() as legacy_:
        environ = dict(legacy_.environ)
        fd, copy = legacy_.fds[0], os.dup(legacy_.fds[0])
        environ = {key: value.replace(f":{fd}.", f":{copy}.") for key, value in environ.items()}
    successor = Sockets(environ)
    assert [each.begun for each in successor.adopt(Address.parse("127.0.0.1:9"))] == []
    here = successor.adopt(Address.parse(HERE))
    assert sorted(each.begun for each in here) == [b"1", b"3"]
    assert successor.adopt(Address.parse(HERE)) == []
    for idle in here:
        idle.socket.close()
    successor.close()
    assert pairs[0][0].recv(1) == b""


def test_those_that_nobody_adopts_are_counted_and_closed(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    """Whether they were looked at or not: their clients would wait for an answer."""
    sockets = Sockets({})
    for each in connect(pairs, 3):
        sockets.leave(Idle(each, HERE))
    with sockets.hand_down() as legacy_:
        successor = Sockets(dict(legacy_.environ))
        assert successor.close_idle() == 3
        assert successor.close_idle() == 0
        legacy_.fds.clear()  # they were the successor's
    assert all(client.recv(1) == b"" for client, _ in pairs)


def test_those_left_for_an_exec_that_does_not_come_are_closed(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    sockets = Sockets({})
    for each in connect(pairs, 2):
        sockets.leave(Idle(each, HERE))
    sockets.close()
    assert all(client.recv(1) == b"" for client, _ in pairs)
