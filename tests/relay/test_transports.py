"""What every transport promises the mesh; each is asked the same, between two real ends.

A transport adds a row to `KINDS`: how its ends are told who they are, and where they listen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sitebus.errors import BadRelayAddress, RelayBindError
from sitebus.relay import LIMIT, Poller
from sitebus.relay.keys import Keys, load
from sitebus.relay.mesh import Mesh
from sitebus.relay.transport import Connection, Settings, Transport
from sitebus.relay.transport import open as open_transport
from tests.helpers import PATIENCE, wait_for
from tests.relay.ears import make_keys

HELLO = b"hello"


class Side:
    """One end: a poller of its own, a transport, and all that it was told."""

    def __init__(self, kind: Kind, folder: Path, name: str, high_water: int = 10_000) -> None:
        self.name = name
        self.errors: list[BaseException] = []
        self.poller = Poller(f"{name}'s poller", self.errors.append)
        self.connections: list[Connection] = []
        self.all: list[Connection] = []
        self.messages: list[bytes] = []
        self.gone: list[str] = []
        self.refusals: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self.settings = Settings(name, high_water, kind.keys(folder, name))
        self.transport: Transport = open_transport(
            kind.address(folder), self.poller, self, self.settings
        )

    def joined(self, connection: Connection) -> None:
        self.threads.add(threading.get_ident())
        self.connections.append(connection)
        self.all.append(connection)
        # As the mesh does: one side of some transports learns of a connection by that.
        assert connection.send(HELLO)

    def heard(self, connection: Connection, data: bytes) -> None:
        self.threads.add(threading.get_ident())
        assert connection in self.connections
        if data != HELLO:
            self.messages.append(data)

    def left(self, connection: Connection, why: str) -> None:
        self.connections.remove(connection)
        self.gone.append(why)

    def refused(self, who: str, why: str) -> None:
        self.refusals.append((who, why))

    def do(self, work: Callable[[], Any]) -> Any:
        """Answer what *work* does in the poller's thread."""
        found: list[Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                found.append(work())
            finally:
                done.set()

        self.poller.call_soon(run)
        assert done.wait(PATIENCE)
        return found[0]

    def send(self, *messages: bytes) -> list[bool]:
        answers: list[bool] = self.do(lambda: [self.connections[0].send(each) for each in messages])
        return answers

    def end(self) -> None:
        self.transport.close(0)
        self.poller.stop()
        assert self.errors == []


class Kind(NamedTuple):
    """How one transport is used.

    Attributes:
        address: Answers where to listen.
        keys: Answers the keys of a node.
    """

    address: Callable[[Path], str]
    keys: Callable[[Path, str], Any]
    names: bool = False


def no_keys(folder: Path, name: str) -> None:
    """Whoever may connect may say any name."""


def keys_of(folder: Path, name: str) -> Keys:
    """Answer the keys of one of three nodes that know each other."""
    keys = folder / "keys"
    if not keys.exists():
        make_keys(keys, "one", "two", "three")
    return load(keys / name, name)


KINDS = {
    "unix": Kind(lambda folder: f"unix:{folder}/relay.sock", no_keys),
    "zeromq": Kind(lambda folder: "tcp://127.0.0.1:0", no_keys),
    "zeromq with keys": Kind(lambda folder: "tcp://127.0.0.1:0", keys_of, names=True),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


Make = Callable[..., Side]


@pytest.fixture
def make(kind: Kind, tmp_path: Path) -> Iterator[Make]:
    """Answer what makes sides, which end with the test."""
    sides: list[Side] = []

    def make(name: str, high_water: int = 10_000) -> Side:
        sides.append(Side(kind, tmp_path, name, high_water))
        return sides[-1]

    yield make
    for side in sides:
        side.end()


@pytest.fixture
def sides(make: Make, kind: Kind, tmp_path: Path) -> tuple[Side, Side]:
    """Two that are connected; the first listens."""
    one, two = make("one"), make("two")
    join(one, two, kind, tmp_path)
    return one, two


def join(one: Side, two: Side, kind: Kind, folder: Path) -> str:
    """Connect the second with the first; answer where."""
    address = one.transport.listen(kind.address(folder))
    two.transport.connect(address, "one")
    wait_for(lambda: one.connections and two.connections)
    return address


def test_messages_arrive_whole_and_in_order(sides: tuple[Side, Side]) -> None:
    """From none to as many bytes as a message may have, both ways."""
    one, two = sides
    for here, there in ((one, two), (two, one)):
        messages = [b"", b"x" * LIMIT, *(b"%d" % number for number in range(3000)), b"\0" * 70_000]
        assert all(here.send(*messages))
        wait_for(lambda: len(there.messages) >= len(messages))  # noqa: B023
        assert there.messages == messages


def test_all_is_told_in_the_poller_s_thread(sides: tuple[Side, Side]) -> None:
    """The mesh has no locks."""
    one, two = sides
    one.send(b"x")
    wait_for(lambda: two.messages)
    for side in sides:
        assert side.threads == {side.do(threading.get_ident)}


def test_both_sides_learn_who_is_there(sides: tuple[Side, Side], kind: Kind) -> None:
    """By whose key it has, or whom it was to connect to; else the other says so itself."""
    expected = ["two" if kind.names else None, "one"]
    assert [each.connections[0].name for each in sides] == expected
    assert all(each.connections[0].address for each in sides)


def test_who_listens_later_is_found(make: Make, kind: Kind, tmp_path: Path) -> None:
    """Sites start in any order."""
    first = make("one")
    address = first.transport.listen(kind.address(tmp_path))
    first.end()
    two = make("two")
    two.transport.connect(address, "one")
    one = make("one")
    one.transport.listen(address)
    wait_for(lambda: one.connections and two.connections)


def test_a_connection_that_ends_is_made_again(make: Make, kind: Kind, tmp_path: Path) -> None:
    """Each time it is a new one, which knows nothing of the old one's messages."""
    one, two = make("one"), make("two")
    address = join(one, two, kind, tmp_path)
    for _ in range(2):
        one.end()
        wait_for(lambda: two.gone)
        assert not two.connections
        two.gone.clear()
        one = make("one")
        one.transport.listen(address)
        wait_for(lambda: one.connections and two.connections)  # noqa: B023
        two.send(b"again")
        wait_for(lambda: one.messages == [b"again"])  # noqa: B023
    assert len({id(each) for each in two.all}) == 3


def test_who_is_closed_here_is_told_there_and_comes_again(sides: tuple[Side, Side]) -> None:
    """A connection is closed for a reason that may be gone soon."""
    one, two = sides
    closed = one.connections.pop()
    one.do(lambda: closed.close("it has said nothing"))
    assert one.do(lambda: closed.send(b"x")) is False
    wait_for(lambda: two.gone)
    assert one.gone == []
    wait_for(lambda: one.connections and two.connections)


def test_the_last_word_before_a_close_arrives(sides: tuple[Side, Side]) -> None:
    """It says why."""
    one, two = sides
    connection = one.connections.pop()
    assert one.do(lambda: connection.send(b"bye"))
    one.do(lambda: connection.close("so"))
    wait_for(lambda: two.gone)
    assert two.messages == [b"bye"]


def test_who_does_not_read_costs_so_many_messages_and_no_more(
    make: Make, kind: Kind, tmp_path: Path
) -> None:
    """What was taken arrives all the same, and what was not is known to whom it concerns."""
    one, two = make("one", high_water=50), make("two", high_water=50)
    join(one, two, kind, tmp_path)
    goes_on = threading.Event()
    two.poller.call_soon(goes_on.wait)
    taken = 0
    text = b"x" * 10_000
    while one.send(text) == [True]:
        taken += 1
        assert taken < 100_000
    assert taken >= 50
    assert one.send(text) == [False]
    assert two.messages == []
    goes_on.set()
    wait_for(lambda: len(two.messages) >= taken)
    wait_for(lambda: one.send(b"more") == [True])
    wait_for(lambda: two.messages[-1] == b"more")
    assert two.messages[:-1] == [text] * taken


def test_one_that_does_not_read_holds_up_nobody(make: Make, kind: Kind, tmp_path: Path) -> None:
    """Others are written to by the same thread."""
    one, slow, quick = make("one", high_water=100), make("two"), make("three")
    address = join(one, slow, kind, tmp_path)
    to_slow = one.connections[0]
    goes_on = threading.Event()
    slow.poller.call_soon(goes_on.wait)
    quick.transport.connect(address, "one")
    wait_for(lambda: len(one.connections) == 2)
    text = b"x" * 10_000
    while one.do(lambda: to_slow.send(text)):
        pass
    start = time.monotonic()
    one.do(lambda: one.connections[1].send(b"quick"))
    wait_for(lambda: quick.messages)
    assert time.monotonic() - start < 1
    goes_on.set()


def test_what_was_taken_is_sent_before_the_end(sides: tuple[Side, Side]) -> None:
    """As long as there is time for it."""
    one, two = sides
    goes_on = threading.Event()
    two.poller.call_soon(goes_on.wait)
    text = b"x" * 100_000
    assert all(one.send(*[text] * 50))
    timer = threading.Timer(0.2, goes_on.set)
    timer.start()
    one.transport.close(PATIENCE)
    timer.join()
    wait_for(lambda: two.gone)
    assert two.messages == [text] * 50


def test_who_does_not_read_does_not_hold_up_the_end(sides: tuple[Side, Side]) -> None:
    """A stop takes as long as it was given."""
    one, two = sides
    goes_on = threading.Event()
    two.poller.call_soon(goes_on.wait)
    assert all(one.send(*[b"x" * 100_000] * 100))
    start = time.monotonic()
    one.transport.close(0.2)
    assert time.monotonic() - start < 2
    goes_on.set()


def test_nothing_is_connected_after_the_end(make: Make, kind: Kind, tmp_path: Path) -> None:
    """Neither by who closed it nor with them."""
    one, two = make("one"), make("two")
    address = join(one, two, kind, tmp_path)
    two.transport.close(0)
    wait_for(lambda: one.gone)
    joined = len(one.all)
    three = make("three")
    three.transport.connect(address, "one")
    wait_for(lambda: three.connections and one.connections)
    assert len(one.all) == joined + 1


def test_an_address_that_is_taken_is_said_so(make: Make, kind: Kind, tmp_path: Path) -> None:
    """At once, in the thread that asked."""
    address = make("one").transport.listen(kind.address(tmp_path))
    with pytest.raises(RelayBindError) as raised:
        make("two").transport.listen(address)
    assert str(raised.value).startswith(f"cannot relay at {address}: ")


@pytest.mark.parametrize("address", ["", "web1", "ipx:1", "tcp://", "unix:", "http://a:1"])
def test_what_is_no_address_is_said_so(address: str) -> None:
    """With what would be one."""
    with pytest.raises(BadRelayAddress, match=r"write tcp://127\.0\.0\.1:5555"):
        open_transport(address, Poller(), Side.__new__(Side), Settings("one"))


class Member:
    """A mesh over a transport, as a relay has it."""

    def __init__(self, kind: Kind, folder: Path, name: str, **options: Any) -> None:
        self.received: list[Any] = []
        self.news: list[tuple[Any, ...]] = []
        self.errors: list[BaseException] = []
        self.poller = Poller(f"{name}'s poller", self.errors.append)
        self.mesh = Mesh(
            name, self.poller, self.received.append, lambda *what: self.news.append(what), **options
        )
        settings = Settings(name, keys=kind.keys(folder, name))
        self.transport = open_transport(kind.address(folder), self.poller, self.mesh, settings)
        self.mesh.add(self.transport)
        self.mesh.start()

    def end(self) -> None:
        self.mesh.stop(1.0)
        self.poller.stop()
        assert self.errors == []


@pytest.fixture
def members(kind: Kind, tmp_path: Path) -> Iterator[tuple[Member, Member]]:
    """Two nodes that are synced; the second wants ``c.*``."""
    one, two = Member(kind, tmp_path, "one", beat=0.1), Member(kind, tmp_path, "two", beat=0.1)
    two.mesh.want(["c.*"])
    address = one.transport.listen(kind.address(tmp_path))
    two.transport.connect(address, "one")
    wait_for(lambda: ("relay.synced", "one") in two.news and ("relay.synced", "two") in one.news)
    yield one, two
    one.end()
    two.end()


def test_a_burst_arrives_without_a_loss(members: tuple[Member, Member]) -> None:
    """Of as many messages as one second is to have room for."""
    one, two = members
    for number in range(20_000):
        one.mesh.send("c.x", [number])
        if number % 1000 == 999:
            assert one.mesh.flush(PATIENCE)
    wait_for(lambda: two.mesh.counts.rx + two.mesh.counts.gap >= 20_000)
    assert two.mesh.counts.gap == one.mesh.counts.drop
    assert len(two.received) + two.mesh.counts.gap == 20_000
    numbers = [each.args[0] for each in two.received]
    assert numbers == sorted(set(numbers))


def test_a_member_that_stops_is_down_and_loses_nothing_it_sent(
    members: tuple[Member, Member],
) -> None:
    """Its last messages, then its leave."""
    one, two = members
    for number in range(100):
        one.mesh.send("c.x", [number])
    one.mesh.stop(PATIENCE)
    wait_for(lambda: ("relay.peer", "one", "down") in two.news)
    assert [each.args[0] for each in two.received] == list(range(100))


def test_random_bytes_hurt_nobody(members: tuple[Member, Member], make: Make, kind: Kind) -> None:
    """Somebody who may connect says nothing that makes sense."""
    one, two = members
    third = make("three")
    address = one.mesh.peers() and two.mesh.peers()[0].address.partition(" ")[0]
    third.transport.connect(address or "", "one")
    wait_for(lambda: third.connections)
    for _ in range(10):
        third.send(*(os.urandom(number % 50) for number in range(1000)))
    wait_for(lambda: one.mesh.counts.bad >= 10_000)
    one.mesh.send("c.x", ["still"])
    wait_for(lambda: two.received)
    assert len([what for what in one.news if what[0] == "relay.bad"]) <= 20
