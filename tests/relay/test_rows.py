"""What shellbot's bus has, row by row, and its place here: a test is named after each.

The table is in ``docs/reference/relay.rst``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus import assembly
from sitebus.errors import KeysNeeded, NotJson, RelayStopped
from sitebus.process import Engine
from sitebus.relay import DEFAULT_ADDRESS, Relay
from sitebus.relay.configured import from_configuration
from sitebus.relay.envelope import envelope, parse
from tests.helpers import ROOT, environment, nothing_left, wait_for
from tests.relay.nodes import Node, meeting, socket_in

PAGE = ROOT / "docs/reference/relay.rst"
Nodes = tuple[Node, ...]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """One that leads and two that are led."""
    address = socket_in(tmp_path)
    with (
        nothing_left(),
        meeting(
            Node("boss", bind=address),
            Node("one", peers=address, import_="vote"),
            Node("two", peers=address, import_="vote"),
        ) as found,
    ):
        found[0].relay.wait_peers("one", "two")
        yield found


def wanted(node: Node, *channels: str) -> None:
    """Wait until everybody whom a node knows wants these channels."""
    wait_for(lambda: all(set(channels) <= set(peer.wants) for peer in node.relay.peers()))


#: What stands first in each row of the page's table, in order; the tests are in that order too.
ROWS = {
    "``Bus(context)``": "bus",
    "channels and messages": "channels",
    "a group to direct channels": "group_to_direct",
    "direct channels to a group": "direct_to_group",
    "the vote": "voting",
    "``DEFAULT_ADDRESS``": "default_address",
    "``check()``": "check",
    "``bus.publish()``": "publish",
    "``bus.subscribe(channels)``": "subscribe",
    "``Publisher``, a process": "publisher",
    "``put(channels, message)``": "put",
    "the item": "item",
    "``DEFER_DURATION``": "defer_duration",
    "``EMPTY_DELAY``": "empty_delay",
    "``general.switch``, ``fan.put(None)``": "stop",
    "``get(block=False)``": "get",
    "the channel, lost in ``get``": "envelope",
}


def test_every_row_of_the_page_has_its_test() -> None:
    """A place that is written down and not tried may be nowhere."""
    table = PAGE.read_text().partition(".. list-table:: Shellbot")[2].partition("\n\nSecurity")[0]
    assert re.findall(r"^   \* - (.+)$", table, re.MULTILINE) == ["There", *ROWS]
    tests = [name for name in globals() if name.startswith("test_row_")]
    assert tests == [f"test_row_{name}" for name in ROWS.values()]


def test_row_bus(tmp_path: Path) -> None:
    """``Bus(context)``: a relay on a bus, and a configuration that says the rest."""
    file = tmp_path / "site.ini"
    file.write_text("[relay]\nnode = web1\nbind = unix:relay.sock\nexport = cache.*\n")
    engine = Engine()
    (relay,) = from_configuration(assembly.read(file, environ={}), engine)
    with relay:
        assert engine.relay is relay
        assert relay.picture().addresses == (f"unix:{tmp_path}/relay.sock",)
        assert relay.node == "web1"


def test_row_channels(nodes: Nodes) -> None:
    """Channels are names, messages are JSON, and who puts another kind is told at once."""
    boss, one, _ = nodes
    subscriber = one.relay.subscribe("any name, printable")
    wait_for(lambda: "any name, printable" in dict(_wants(boss))["one"])
    message = {"text": "é", "list": [1, 2.5, None, True], "object": {"deep": []}}
    boss.relay.publish().put("any name, printable", message)
    assert subscriber.get(block=True, timeout=10) == message
    with pytest.raises(TypeError):
        boss.relay.publish().put("any name, printable", object())


def _wants(node: Node) -> list[tuple[str, tuple[str, ...]]]:
    return [(peer.node, peer.wants) for peer in node.relay.peers()]


def test_row_group_to_direct(nodes: Nodes) -> None:
    """Instructions to several direct channels, of which each hears its own."""
    boss, one, two = nodes
    subscribers = [node.relay.subscribe(f"direct.{node.relay.node}") for node in (one, two)]
    wait_for(lambda: all(f"direct.{node}" in wants for node, wants in _wants(boss)))
    boss.relay.publish().put(["direct.one", "direct.two"], "go")
    boss.relay.publish().put(["direct.two"], "stop")
    assert [subscriber.get(True, 10) for subscriber in subscribers] == ["go", "go"]
    assert subscribers[1].get(True, 10) == "stop"
    assert subscribers[0].get() is None


def test_row_direct_to_group(nodes: Nodes) -> None:
    """Many tell their state to one who observes."""
    boss, one, two = nodes
    observer = boss.relay.subscribe(["site.*"])
    for node in (one, two):
        wanted(node, "site.*")
        node.relay.publish().put("site.state", node.relay.node)
    assert sorted(observer.get(True, 10) for _ in range(2)) == ["one", "two"]


def test_row_voting(nodes: Nodes) -> None:
    """Asked at once, gathered in one place; the example does it in three ways."""
    boss, one, two = nodes
    one.bus.subscribe("vote", lambda: "tea")
    two.bus.subscribe("vote", lambda: "coffee")
    assert boss.relay.call("vote") == {"one": ["tea"], "two": ["coffee"]}
    assert (ROOT / "examples/voting/vote.py").exists()


def test_row_default_address() -> None:
    """The same as ever; it is below the ports that the system gives to anybody."""
    assert DEFAULT_ADDRESS == "tcp://127.0.0.1:5555"
    assert Relay(Engine()).check() == ()
    program = (
        "import sitebus; from sitebus.relay import Relay\n"
        "with Relay(sitebus.Engine()) as relay: print(*relay.addresses)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # Somebody else may have it on this machine; that is said in a sentence too.
    assert done.stdout == f"{DEFAULT_ADDRESS}\n" or "address already in use" in done.stderr.lower()


def test_row_check(tmp_path: Path) -> None:
    """``tcp://*`` is no default, and nothing is open to others without keys."""
    with pytest.raises(KeysNeeded):
        Relay(Engine(), bind="tcp://0.0.0.0:5555").check()
    with nothing_left():
        assert Relay(Engine(), bind=socket_in(tmp_path)).check() == ()


def test_row_publish(nodes: Nodes) -> None:
    """A factory, under both of its names."""
    relay = nodes[0].relay
    assert type(relay.publish()) is type(relay.publisher())


def test_row_subscribe(nodes: Nodes) -> None:
    """One name, or several, or patterns; and it makes the channels heard of."""
    boss, one, _ = nodes
    single, several = one.relay.subscribe("a.1"), one.relay.subscribe(["a.*", "b"])
    wait_for(lambda: {"a.1", "a.*", "b"} <= set(dict(_wants(boss))["one"]))
    boss.relay.publish().put(["a.1", "a.2", "b"], 0)
    assert [single.get(True, 10, True).ch] == ["a.1"]
    assert [several.get(True, 10, True).ch for _ in range(3)] == ["a.1", "a.2", "b"]


def test_row_publisher(nodes: Nodes) -> None:
    """Without a process of its own: start and join are there, and cost nothing."""
    boss, one, _ = nodes
    subscriber = one.relay.subscribe("x")
    wait_for(lambda: "x" in dict(_wants(boss))["one"])
    before = threading.active_count()
    publisher = boss.relay.publish()
    assert publisher.start() is publisher
    publisher.process(("x", 1))
    publisher.fan.put(("x", 2))
    assert threading.active_count() == before
    assert not publisher.join(timeout=0.01)
    publisher.stop()
    assert publisher.join(timeout=5)
    with pytest.raises(RelayStopped):
        publisher.process(("x", 3))
    assert [subscriber.get(True, 10) for _ in range(2)] == [1, 2]


def test_row_put(nodes: Nodes) -> None:
    """It returns at once, whoever hears; ``flush`` waits until it is out of here."""
    boss, *_ = nodes
    publisher = boss.relay.publish()
    publisher.put("nobody.hears", 1)
    publisher.put(["nobody.hears"], 2, flush=5)
    assert boss.relay.counts()["tx"] == 2
    assert publisher.flush()


def test_row_item(nodes: Nodes) -> None:
    """Channel and message travel in an envelope that says who sent which one when."""
    boss, one, _ = nodes
    subscriber = one.relay.subscribe("x")
    wait_for(lambda: "x" in dict(_wants(boss))["one"])
    began = time.time()
    for number in range(2):
        boss.relay.publish().put("x", number)
    found = [subscriber.get(True, 10, envelope=True) for _ in range(2)]
    assert [each.seq for each in found] == [1, 2]
    assert {(each.src, each.ep, each.ch) for each in found} == {
        ("boss", boss.relay.picture().epoch, "x")
    }
    assert began - 1 < found[0].ts < time.time() + 1
    written = found[0].encode()
    assert json.loads(written)["v"] == 1
    assert found[0].size > len(b'{"v":1}')
    assert envelope(parse(written), found[0].size) == found[0]
    with pytest.raises(NotJson):
        boss.relay.publish().put("x", {1: 2})


def test_row_defer_duration(tmp_path: Path) -> None:
    """No pause that may be too short: who waits for a peer loses none of its first messages."""
    address = socket_in(tmp_path)
    for _ in range(5):
        boss, one = Node("boss", bind=address), Node("one", peers=address)
        subscriber = one.relay.subscribe("x")
        with boss.relay, one.relay:
            assert boss.relay.wait_peers("one")
            for number in range(100):
                boss.relay.publish().put("x", number)
            assert [subscriber.get(True, 10) for _ in range(100)] == list(range(100))


def test_row_empty_delay(tmp_path: Path) -> None:
    """Nobody looks again and again: while nothing is said, nothing runs but a beat now and then."""
    address = socket_in(tmp_path)
    boss = Node("boss", bind=address, heartbeat=60)
    one = Node("one", peers=address, heartbeat=60)
    with meeting(boss, one):
        subscriber = one.relay.subscribe("x")
        wait_for(lambda: "x" in dict(_wants(boss))["one"])
        waiting = threading.Thread(target=lambda: subscriber.get(block=True, timeout=30))
        waiting.start()
        before = switches()
        threading.Event().wait(0.5)
        assert switches() - before < 10
        boss.relay.publish().put("x", 1)
        waiting.join(10)
        assert not waiting.is_alive()


def switches() -> int:
    """Answer how often threads of this process other than this one have gone to sleep."""
    own = threading.get_native_id()
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != own:
            match = re.search(
                r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M
            )
            assert match
            total += int(match[1])
    return total


def test_row_stop(nodes: Nodes) -> None:
    """A pill ends a publisher; the end of the bus ends all."""
    boss, one, _ = nodes
    publisher = boss.relay.publish()
    publisher.fan.put(None)
    with pytest.raises(RelayStopped):
        publisher.put("x", 1)
    subscriber = one.relay.subscribe("x")
    one.bus.start()
    one.bus.exit()
    assert subscriber.closed
    assert list(subscriber) == []


def test_row_get(nodes: Nodes) -> None:
    """At once or waiting, for a while or for ever, in a loop, and without a thread."""
    boss, one, _ = nodes
    subscriber = one.relay.subscribe("x")
    assert subscriber.get() is None
    assert subscriber.get(block=True, timeout=0.01) is None
    wait_for(lambda: "x" in dict(_wants(boss))["one"])
    boss.relay.publish().put("x", {"a": 1})
    assert next(subscriber) == {"a": 1}


def test_row_envelope(nodes: Nodes) -> None:
    """The channel is not lost, for those who want to know it."""
    boss, one, _ = nodes
    subscriber = one.relay.subscribe(["x", "y"])
    wait_for(lambda: "y" in dict(_wants(boss))["one"])
    boss.relay.publish().put("y", "message")
    found = subscriber.get(block=True, timeout=10, envelope=True)
    assert (found.ch, found.src, found.args) == ("y", "boss", ["message"])
