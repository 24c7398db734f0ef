"""What the ZeroMQ transport promises to those who use it, over real sockets on loopback."""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from sitebus.errors import BadRelayAddress, KeysNeeded, MissingExtra, NameNeeded, RelayBindError
from sitebus.relay import Poller, tcp
from sitebus.relay.batches import unpack
from sitebus.relay.keys import Keys
from sitebus.relay.transport import Connection, Settings
from sitebus.relay.transport import open as open_transport
from sitebus.relay.zeromq import ZeroMQTransport
from tests.helpers import PATIENCE, open_descriptors, wait_for
from tests.relay.ears import ANYWHERE, Ear, Node, make_keys

Make = Callable[..., Node]
Stranger = Callable[[str], "zmq.Socket[bytes]"]


@pytest.fixture
def make(poller: Poller) -> Iterator[Make]:
    """Make nodes, which are closed when the test has ended."""
    nodes: list[Node] = []

    def new(keys: Keys | None = None, **options: object) -> Node:
        nodes.append(Node(poller, keys, **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield new
    for node in nodes:
        node.close(0)


@pytest.fixture
def stranger(poller: Poller) -> Iterator[Stranger]:
    """Make sockets that are not ours, connected to an address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def new(address: str) -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.DEALER))
        made[-1].setsockopt(zmq.RCVHWM, 1)
        made[-1].setsockopt(zmq.RCVBUF, 4096)
        made[-1].connect(address)
        return made[-1]

    yield new
    context.destroy(linger=0)


def joined(make: Make, keys: dict[str, Keys] | None = None, **options: object) -> tuple[Node, Node]:
    """Answer a node that listens, and one that is connected to it and has said so."""
    told = keys or {}
    bound, dialed = make(told.get("a"), **options), make(told.get("b"), **options)
    dialed.transport.connect(bound.transport.listen(ANYWHERE), "a" if keys else None)
    dialed.ear.wait_for_peers()
    dialed.send(b"hello")
    bound.ear.wait_for_peers()
    bound.ear.wait_for_words(b"hello")
    bound.ear.heard_.clear()
    return bound, dialed


def test_words_go_both_ways_in_order(make: Make) -> None:
    bound, dialed = joined(make)
    words = [b"%d" % number for number in range(1000)]
    assert all(dialed.send(*words))
    assert all(bound.send(*words))
    bound.ear.wait_for_words(*words)
    dialed.ear.wait_for_words(*words)


def test_any_bytes_are_a_word(make: Make) -> None:
    """Batches are none of the mesh's business."""
    bound, dialed = joined(make)
    words = [b"x", b"\0\0\0\1", b"\n", b"", b"y" * 262144, bytes(range(256)) * 300]
    dialed.send(*words)
    bound.ear.wait_for_words(*words)


def test_keys_tell_who_is_there(make: Make, tmp_path: Path) -> None:
    """Both ends, for each has the other's key."""
    bound, dialed = joined(make, make_keys(tmp_path, "a", "b"))
    assert bound.ear.connections[0].name == "b"
    assert dialed.ear.connections[0].name == "a"
    bound.send(b"welcome")
    dialed.ear.wait_for_words(b"welcome")


def test_several_peers_are_told_apart(make: Make, tmp_path: Path) -> None:
    """By their keys, whatever they say."""
    keys = make_keys(tmp_path, "a", "b", "c", "d")
    bound = make(keys["a"])
    address = bound.transport.listen(ANYWHERE)
    for name in "bcd":
        node = make(keys[name])
        node.transport.connect(address, "a")
        node.ear.wait_for_peers()
        node.send(name.encode())
    bound.ear.wait_for_peers(3)
    wait_for(lambda: len(bound.ear.said) == 3)
    assert sorted(bound.ear.said, key=str) == [("b", b"b"), ("c", b"c"), ("d", b"d")]


def test_a_burst_both_ways_never_stalls(poller: Poller, make: Make) -> None:
    """A descriptor of ZeroMQ's tells once; whoever misses it waits for ever."""
    dice = random.Random(8)
    sizes = [dice.choice((0, 1, 20, 200, 3000, 40_000, 120_000)) for _ in range(300)]

    def echo(connection: Connection, data: bytes) -> None:
        assert connection.send(data)

    bound = make(ear=Ear(echo))
    nodes = [make() for _ in range(3)]
    address = bound.transport.listen(ANYWHERE)
    for node in nodes:
        node.transport.connect(address)
        node.ear.wait_for_peers()
    for size in sizes:
        word = bytes([size % 251]) * size
        for node in nodes:
            poller.call_soon(lambda node=node, word=word: node.ear.connections[0].send(word))  # type: ignore[misc]
    for node in nodes:
        wait_for(lambda node=node: len(node.ear.heard_) == len(sizes), 30)  # type: ignore[misc]
        assert [len(word) for word in node.ear.heard_] == sizes


def test_questions_and_answers_never_stall(make: Make) -> None:
    """One word at a time: nothing that follows would make up for a signal that was missed."""
    turns = 3000

    def answer(connection: Connection, data: bytes) -> None:
        (number,) = struct.unpack("!I", data)
        if number < turns:
            connection.send(struct.pack("!I", number + 1))

    bound, dialed = make(ear=Ear(answer)), make(ear=Ear(answer))
    dialed.transport.connect(bound.transport.listen(ANYWHERE))
    dialed.ear.wait_for_peers()
    dialed.send(struct.pack("!I", 1))
    wait_for(lambda: len(bound.ear.heard_) + len(dialed.ear.heard_) == turns, 30)


def test_what_does_not_fit_is_refused(poller: Poller, make: Make) -> None:
    """Whoever sends counts; nothing is dropped behind its back."""
    bound, dialed = joined(make, high_water=100)
    words = [b"%d" % number + b"x" * 9000 for number in range(20_000)]
    sent = dialed.send(*words)
    assert sent.count(True) >= 100
    assert sent.count(False) > 0
    taken = [word for word, took in zip(words, sent, strict=True) if took]
    wait_for(lambda: len(bound.ear.heard_) == len(taken))
    assert bound.ear.heard_ == taken
    assert dialed.send(b"again") == [True]


def test_who_does_not_read_holds_up_nobody(make: Make, stranger: Stranger) -> None:
    """Each has its own queue; and whoever reads again gets all that was taken for it."""
    bound = make(high_water=30)
    address = bound.transport.listen(ANYWHERE)
    slow = [stranger(address) for _ in range(3)]
    for number, sock in enumerate(slow):
        sock.send(b"\0\0\0\1%d" % number)
        bound.ear.wait_for_peers(number + 1)
    fast = make()
    fast.transport.connect(address)
    fast.ear.wait_for_peers()
    fast.send(b"3")
    bound.ear.wait_for_peers(4)

    # Large ones: whoever does not read for three seconds is gone.
    words = [b"%d" % number + b"x" * 200_000 for number in range(150)]
    taken: list[list[bytes]] = [[], [], [], []]
    for word in words:

        def send(word: bytes = word) -> None:
            for mine, connection in zip(taken, bound.ear.connections, strict=True):
                if connection.send(word):
                    mine.append(word)

        bound.poller.call_soon(send)
        # It has read it before the next one comes.
        wait_for(lambda word=word: fast.ear.heard_[-1:] == [word], 20)  # type: ignore[misc]
    assert fast.ear.heard_ == words
    for mine, sock in zip(taken, slow, strict=False):
        assert len(mine) < len(words)
        found: list[bytes] = []
        while len(found) < len(mine):
            assert sock.poll(5000), f"{len(found)} of {len(mine)}"
            found += unpack(sock.recv()) or []
        assert found == mine


def test_nothing_is_made_before_it_is_used(poller: Poller) -> None:
    """A process may fork until then: libzmq does not survive that."""
    before, threads = open_descriptors(), threading.active_count()
    node = Node(poller)
    assert open_descriptors() == before
    assert threading.active_count() == threads
    node.close()


def test_those_who_say_nothing_keep_nobody_out(make: Make, tmp_path: Path) -> None:
    """Anybody may connect, and each connection is a descriptor of the site's."""
    keys = make_keys(tmp_path, "a", "b")
    bound, dialed = make(keys["a"]), make(keys["b"])
    address = bound.transport.listen(ANYWHERE)
    place = ("127.0.0.1", tcp.read(address).port)
    with ExitStack() as stack:
        mute = [stack.enter_context(socket.create_connection(place)) for _ in range(250)]
        dialed.transport.connect(address, "a")
        dialed.ear.wait_for_peers()
        dialed.send(b"hello")
        bound.ear.wait_for_words(b"hello")
        for each in mute[:50]:
            each.settimeout(PATIENCE)
            assert is_over(each)
        mute[-1].setblocking(False)
        assert not is_over(mute[-1])
        assert set(bound.ear.turned_away) == {
            ("127.0.0.1", "more than 200 connections do not say who they are")
        }
        assert bound.send(b"still there") == [True]
        dialed.ear.wait_for_words(b"still there")


def is_over(sock: socket.socket) -> bool:
    """Tell whether the other end has closed a connection, after what it said."""
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_frames_that_are_no_batch_end_the_connection(make: Make, stranger: Stranger) -> None:
    """Whoever sends such a thing is no node of ours."""
    bound = make()
    sock = stranger(bound.transport.listen(ANYWHERE))
    sock.send_multipart([b"\0\0\0\1a", b"\0\0\0\1b", b"c" * 1000])
    bound.ear.wait_for_words(b"a")
    sock.send(b"\0\0\0\x05abc")
    wait_for(lambda: bound.ear.turned_away != [])
    assert [why for _, why in bound.ear.turned_away] == ["it sent what is no message"]
    # That it is not wanted any more.
    assert sock.poll(5000)
    assert sock.recv() == b""
    assert bound.ear.heard_ == [b"a"]


def test_a_peer_that_comes_back_is_another_connection(poller: Poller, make: Make) -> None:
    """And it is found again at the same address, by itself."""
    bound, dialed = joined(make)
    first = dialed.ear.connections[0]
    address = first.address
    bound.close()
    wait_for(lambda: dialed.ear.gone != [])
    assert dialed.ear.gone[0][0] is first
    assert not dialed.ear.connections

    again = make()
    assert again.transport.listen(address) == address
    dialed.ear.wait_for_peers()
    second = dialed.ear.connections[0]
    assert second is not first
    sent: list[bool] = []
    poller.call_soon(lambda: sent.extend([first.send(b"lost"), second.send(b"found")]))
    again.ear.wait_for_words(b"found")
    assert sent == [False, True]


def test_who_listens_learns_that_a_peer_has_left(make: Make) -> None:
    """At once, and after all that it had said."""
    bound, dialed = joined(make)
    words = [b"%d" % number for number in range(500)]
    dialed.send(*words)
    dialed.close()
    wait_for(lambda: bound.ear.gone != [])
    assert bound.ear.heard_ == words
    assert not bound.ear.connections


def test_who_connects_may_come_before_who_listens(make: Make) -> None:
    """Sites start in any order."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    dialed, bound = make(), make()
    dialed.transport.connect(f"tcp://127.0.0.1:{port}")
    bound.transport.listen(f"tcp://127.0.0.1:{port}")
    dialed.ear.wait_for_peers()


def test_a_name_is_looked_up(make: Make) -> None:
    bound, dialed = make(), make()
    address = bound.transport.listen("tcp://localhost:0")
    dialed.transport.connect(f"tcp://localhost:{tcp.read(address).port}")
    dialed.ear.wait_for_peers()


def test_a_closed_connection_is_closed_for_the_other(poller: Poller, make: Make) -> None:
    """What was said before is still heard; and whoever had connected tries again."""
    bound, dialed = joined(make)

    def part() -> None:
        connection = bound.ear.connections.pop()
        connection.send(b"bye")
        connection.close("enough")
        assert not connection.send(b"more")

    poller.call_soon(part)
    wait_for(lambda: dialed.ear.gone != [])
    assert dialed.ear.heard_ == [b"bye"]
    assert bound.ear.gone == []
    wait_for(lambda: len(dialed.ear.connections) == 1)
    dialed.send(b"again")
    bound.ear.wait_for_words(b"again")


def test_who_connected_may_close_and_comes_again(poller: Poller, make: Make) -> None:
    bound, dialed = joined(make)

    def part() -> None:
        connection = dialed.ear.connections.pop()
        connection.send(b"bye")
        connection.close("enough")

    poller.call_soon(part)
    wait_for(lambda: bound.ear.gone != [])
    assert bound.ear.heard_ == [b"bye"]
    assert dialed.ear.gone == []
    dialed.ear.wait_for_peers()


@pytest.mark.parametrize("closes", ["bound", "dialed"])
def test_closing_sends_what_waits(make: Make, closes: str) -> None:
    """As long as the other end reads."""
    bound, dialed = joined(make)
    one, other = (bound, dialed) if closes == "bound" else (dialed, bound)
    words = [b"%d" % number + b"x" * 5000 for number in range(5000)]
    assert all(one.send(*words))
    one.close(10)
    wait_for(lambda: len(other.ear.heard_) == len(words))
    assert other.ear.heard_ == words


def test_nothing_is_left_of_those_that_were_closed(poller: Poller, tmp_path: Path) -> None:
    """A site that restarts its relay for a year has as many descriptors as on the first day."""
    keys = make_keys(tmp_path, "a", "b")
    before: frozenset[int] = frozenset()
    for turn in range(50):
        bound, dialed = Node(poller, keys["a"]), Node(poller, keys["b"])
        dialed.transport.connect(bound.transport.listen(ANYWHERE), "a")
        dialed.transport.connect("tcp://127.0.0.1:9", "a")
        dialed.ear.wait_for_peers()
        dialed.send(b"hello")
        bound.ear.wait_for_peers()
        (dialed if turn % 2 else bound).close(1)
        (bound if turn % 2 else dialed).close(1)
        before = before or open_descriptors()
    assert open_descriptors() == before


def test_closing_twice_is_closing(make: Make) -> None:
    node = make()
    node.transport.listen(ANYWHERE)
    node.close()
    node.close()
    with pytest.raises(RelayBindError):
        node.transport.listen(ANYWHERE)


def test_a_stopped_poller_keeps_nothing_open(poller: Poller) -> None:
    """Whoever stops things in another order is not held up."""
    own = Poller("own")
    node = Node(own)
    node.transport.listen(ANYWHERE)
    own.stop()
    node.close(5)


# Who may come.


def test_a_foreign_key_gets_nothing_and_says_nothing(make: Make, tmp_path: Path) -> None:
    """It is turned away, and counted."""
    keys = make_keys(tmp_path, "a", "b", "mallory")
    (tmp_path / "a" / "peers" / "mallory.key").unlink()
    bound, foreign = make(keys["a"]), make(keys["mallory"])
    address = bound.transport.listen(ANYWHERE)
    foreign.transport.connect(address, "a")
    wait_for(lambda: len(bound.ear.turned_away) >= 2)
    who, why = bound.ear.turned_away[0]
    assert who == "127.0.0.1"
    assert keys["mallory"].public.decode() in why
    wait_for(lambda: foreign.ear.turned_away != [])
    # Once, however often it tries.
    assert foreign.ear.turned_away == [("a", "it does not know our key")]
    assert bound.ear.connections == foreign.ear.connections == []


def test_a_key_that_is_added_is_known_at_once(make: Make, tmp_path: Path) -> None:
    """And one that is taken away has been a peer's; neither side is restarted."""
    keys = make_keys(tmp_path, "a", "b")
    kept = tmp_path / "a" / "peers" / "b.key"
    said = kept.read_bytes()
    kept.unlink()
    bound, dialed = make(keys["a"]), make(keys["b"])
    dialed.transport.connect(bound.transport.listen(ANYWHERE), "a")
    wait_for(lambda: dialed.ear.turned_away != [])
    kept.write_bytes(said)
    dialed.ear.wait_for_peers()


@pytest.mark.parametrize("whose", ["who listens", "who connects"])
@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_key_that_is_not_known_any_more_ends_the_connection(
    make: Make, tmp_path: Path, whose: str, what: str
) -> None:
    """Whose key was stolen shall not hear on because it had been connected before."""
    keys = make_keys(tmp_path, "a", "b", "c")
    bound, dialed = joined(make, keys)
    bound.send(b"before")
    dialed.ear.wait_for_words(b"before")
    one, other, name = (bound, dialed, "b") if whose == "who listens" else (dialed, bound, "a")
    kept = tmp_path / ("a" if one is bound else "b") / "peers" / f"{name}.key"
    connection = one.ear.connections[0]
    sent: list[bool] = []

    def revoke() -> None:
        one.transport.look_again()
        assert one.ear.connections
        kept.unlink()
        if what == "replaced":
            (kept.parent / "c.key").rename(kept)
        one.transport.look_again()
        sent.append(connection.send(b"after"))

    one.poller.call_soon(revoke)
    one.ear.wait_for_peers(0)
    other.ear.wait_for_peers(0)
    assert one.ear.gone == [(connection, "its key is not known any more")]
    assert (name, "its key is gone, or cannot be read") in one.ear.turned_away
    assert sent == [False]
    assert other.ear.heard_ == ([b"before"] if other is dialed else [])


@contextmanager
def thief(place: str, mine: Keys, theirs: Keys) -> Iterator[tuple[Any, Any]]:
    """Connect with a key, and answer a socket that heeds nothing, and what tells what happens."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.curve_publickey, dealer.curve_secretkey = mine.public, mine.secret
        dealer.curve_serverkey = theirs.public
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        with dealer.get_monitor_socket(events) as seen:
            dealer.connect(place)
            assert seen.poll(5000)
            assert recv_monitor_message(seen)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            yield dealer, seen
            dealer.disable_monitor()


def test_who_does_not_heed_that_its_key_is_gone_is_cut_off(make: Make, tmp_path: Path) -> None:
    """Whoever has stolen it has no reason to be polite."""
    keys = make_keys(tmp_path, "a", "b")
    bound = make(keys["a"])
    with thief(bound.transport.listen(ANYWHERE), keys["b"], keys["a"]) as (dealer, seen):
        dealer.send(b"")
        bound.ear.wait_for_peers()
        (tmp_path / "a" / "peers" / "b.key").unlink()
        bound.poller.call_soon(bound.transport.look_again)
        bound.ear.wait_for_peers(0)
        assert seen.poll(5000), "it is still connected"


def test_who_speaks_when_its_key_is_gone_is_cut_off(make: Make, tmp_path: Path) -> None:
    """It was known when it connected, and has said nothing until now."""
    keys = make_keys(tmp_path, "a", "b")
    bound = make(keys["a"])
    with thief(bound.transport.listen(ANYWHERE), keys["b"], keys["a"]) as (dealer, seen):
        (tmp_path / "a" / "peers" / "b.key").unlink()
        dealer.send(b"")
        assert seen.poll(5000), "it is still connected"
    assert bound.ear.connections == []


def test_who_has_another_key_is_not_connected_to(make: Make, tmp_path: Path) -> None:
    """An impostor at the right address gets nothing either."""
    keys = make_keys(tmp_path, "a", "b", "impostor")
    bound, dialed = make(keys["impostor"]), make(keys["b"])
    dialed.transport.connect(bound.transport.listen(ANYWHERE), "a")
    wait_for(lambda: dialed.ear.turned_away != [] and bound.ear.turned_away != [])
    assert bound.ear.connections == dialed.ear.connections == []


def test_who_has_no_key_is_turned_away(make: Make, tmp_path: Path) -> None:
    """And is named by its address, if it stays long enough to be asked."""
    bound, plain = make(make_keys(tmp_path, "a", "b")["a"]), make()
    plain.transport.connect(bound.transport.listen(ANYWHERE))
    wait_for(lambda: bound.ear.turned_away != [])
    who, why = bound.ear.turned_away[0]
    assert who.startswith("127.0.0.1:") or who == "somebody"
    assert "key" in why
    assert bound.ear.connections == plain.ear.connections == []


def test_a_peer_without_a_key_here_is_not_called(make: Make, tmp_path: Path) -> None:
    """Its file may come later."""
    node = make(make_keys(tmp_path, "a", "b")["a"])
    node.transport.connect("tcp://127.0.0.1:9", "unknown")
    wait_for(lambda: node.ear.turned_away != [])
    assert "no key of unknown" in node.ear.turned_away[0][1]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\0" * 64,
        b"\xff" * 64,
        # A greeting of ZMTP 3.1 that wants no security.
        b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL" + b"\0" * 48,
        random.Random(1).randbytes(4096),
    ],
)
def test_a_stranger_hurts_nobody(make: Make, tmp_path: Path, said: bytes) -> None:
    """Scanners come to every port."""
    bound, dialed = joined(make, make_keys(tmp_path, "a", "b"))
    host, _, port = dialed.ear.connections[0].address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(said)
        dialed.send(b"still here")
        bound.ear.wait_for_words(b"still here")
    assert len(bound.ear.connections) == 1


def test_a_word_that_is_too_large_ends_the_connection(make: Make) -> None:
    """Nobody has this process hold what it will not read."""
    bound, dialed = joined(make)
    dialed.send(b"x" * 300_000)
    wait_for(lambda: bound.ear.gone != [])
    assert bound.ear.heard_ == []


# Where.


@pytest.mark.parametrize("address", ["tcp://*:0", "tcp://0.0.0.0:5555", "tcp://[::]:0", "tcp://:0"])
def test_others_are_let_in_with_keys_alone(make: Make, address: str) -> None:
    """Anybody could read along otherwise."""
    with pytest.raises(KeysNeeded) as caught:
        make().transport.listen(address)
    assert caught.value.status == 78
    assert "keygen" in str(caught.value)


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:5555", "tcp://[2001:db8::1]:1", "tcp://a:1"])
def test_others_are_connected_to_with_keys_alone(make: Make, address: str) -> None:
    with pytest.raises(KeysNeeded):
        make().transport.connect(address)


def test_with_keys_it_is_said_whose(make: Make, tmp_path: Path) -> None:
    with pytest.raises(NameNeeded):
        make(make_keys(tmp_path, "a")["a"]).transport.connect("tcp://127.0.0.1:1")


def test_every_interface_is_to_be_had_with_keys(make: Make, tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "a", "b")
    bound, dialed = make(keys["a"]), make(keys["b"])
    address = bound.transport.listen("tcp://*:0")
    assert address.startswith("tcp://0.0.0.0:")
    dialed.transport.connect(f"tcp://127.0.0.1:{tcp.read(address).port}", "a")
    dialed.ear.wait_for_peers()


def test_several_addresses_are_one_transport(make: Make) -> None:
    bound = make()
    for address in [bound.transport.listen(ANYWHERE) for _ in range(3)]:
        node = make()
        node.transport.connect(address)
        node.ear.wait_for_peers()
        node.send(b"x")
    bound.ear.wait_for_peers(3)


def test_ipv6(make: Make) -> None:
    bound, dialed = make(), make()
    address = bound.transport.listen("tcp://[::1]:0")
    assert address.startswith("tcp://[::1]:")
    dialed.transport.connect(address)
    dialed.ear.wait_for_peers()
    dialed.send(b"six")
    bound.ear.wait_for_words(b"six")


def test_an_address_in_use_is_one_sentence(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RelayBindError) as caught:
            make().transport.listen(address)
    assert caught.value.status == 69
    sentence = str(caught.value)
    assert sentence.startswith(f"cannot relay at {address}: address already in use")
    assert "--bind" not in sentence
    assert "\n" not in sentence


def test_an_address_of_another_host_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RelayBindError, match="no interface of this host"):
        make(make_keys(tmp_path, "a")["a"]).transport.listen("tcp://192.0.2.7:5555")


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:99999",
        "tcp://:x",
        "tcp://unix:/a",
        "unix:/a",
        "tcp://[::1]",
    ],
)
def test_what_is_no_address_is_refused(make: Make, address: str) -> None:
    for use in (make().transport.listen, make().transport.connect):
        with pytest.raises(BadRelayAddress):
            use(address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://0.0.0.0:1", "tcp://*:1"])
def test_what_cannot_be_connected_to_is_refused(make: Make, address: str) -> None:
    with pytest.raises(BadRelayAddress):
        make().transport.connect(address)


def test_a_name_that_nobody_knows_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RelayBindError, match=r"nosuch\.invalid"):
        make(make_keys(tmp_path, "a")["a"]).transport.listen("tcp://nosuch.invalid:1")


def test_without_pyzmq_it_says_what_to_install(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of sitebus does without."""
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtra) as caught:
        open_transport(ANYWHERE, poller, Ear(), Settings("n"))
    assert str(caught.value) == "pyzmq is not installed; run: pip install 'sitebus[relay]'"


def test_it_is_found_by_its_address(poller: Poller) -> None:
    assert isinstance(open_transport(ANYWHERE, poller, Ear(), Settings("n")), ZeroMQTransport)
