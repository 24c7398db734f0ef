"""Two nodes on two hosts, with keys: cut off, halted, killed. What is lost is known exactly."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.netns import Network, NoNamespaces, network
from tests.helpers import Child, wait_for
from tests.relay.ears import make_keys

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("mesh_node.py")
RATE = 200
#: Seconds.
CUT, HALTED = 4.5, 2.0
NUMBERS = itertools.count()


class Node(Child):
    """The process, and the pipe by which it is told what to do."""

    def __init__(
        self, folder: Path, name: str, *addresses: str, inside: Sequence[str] = ()
    ) -> None:
        pipe = folder / f"{name}-{next(NUMBERS)}.pipe"
        os.mkfifo(pipe)
        # Both ways, or it would wait here for a process that may never come.
        self._pipe = os.open(pipe, os.O_RDWR)
        argv = [*inside, sys.executable, PROGRAM, pipe, name, folder / name, *addresses]
        super().__init__([str(each) for each in argv])

    def tell(self, command: str) -> None:
        os.write(self._pipe, f"{command}\n".encode())

    def ask(self, command: str, answer: str) -> str:
        """Tell it something, and answer what it says to that."""
        before = self.output.count(f"\n{answer} ")
        self.tell(command)
        wait_for(lambda: self.output.count(f"\n{answer} ") > before, 10, what=self.title)
        return self.output.rpartition(f"\n{answer} ")[2].partition("\n")[0]

    def report(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask("report", "report"))
        return told

    def peer(self, name: str) -> str:
        """Answer the last that it said of a peer."""
        return self.output.rpartition(f"relay.peer {name} ")[2].partition("\n")[0]

    def wait_peer(self, name: str, state: str) -> None:
        wait_for(lambda: self.peer(name) == state, 20, what=f"{name} {state}: {self.output}")

    def wait_received(self, count: int) -> None:
        wait_for(lambda: self.count() >= count, 10, what=self.output)

    def count(self) -> int:
        received: dict[str, int] = self.report()["received"]
        return sum(received.values())

    def close(self) -> None:
        super().close()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def wait(seconds: float) -> None:
    """Let time pass: that is what happens while a link is down."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > end, seconds + 5)


def mend(hosts: Network, host: int) -> None:
    """Let everything through again; nobody listens there whom `Network.mend` could ask."""
    subprocess.run(["ip", "link", "set", hosts._port(host), "up"], check=True)


def settled(sender: Node, receiver: Node) -> tuple[int, int, int]:
    """Have it send no more; answer how many it has sent, how many came, and how many are missed."""
    sent = int(sender.ask("halt", "sent"))

    def is_all() -> bool:
        told = receiver.report()
        return bool(sum(told["received"].values()) + told["gaps"] >= sent)

    wait_for(is_all, 10, what=f"{sent}: {receiver.output[-500:]}")
    told = receiver.report()
    assert told["in_order"]
    return sent, sum(told["received"].values()), told["gaps"]


@pytest.fixture
def hosts() -> Iterator[Network]:
    """Two machines, joined by a link that can be cut."""
    try:
        with network(2) as made:
            yield made
    except NoNamespaces as error:
        if "CI" in os.environ:
            pytest.fail(f"needs network namespaces: {error}")
        pytest.skip(str(error))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("sender", ["bound", "dialed"])
def test_a_partition_ends_with_the_exact_gap(hosts: Network, tmp_path: Path, sender: str) -> None:
    """Neither too many nor too few, whoever had connected; and both knew of it while it lasted."""
    make_keys(tmp_path, "a", "b")
    address = f"tcp://{hosts.address(1)}:5555"
    with (
        Node(tmp_path, "a", f"bind={address}", inside=hosts.inside(1)) as bound,
        Node(tmp_path, "b", f"a={address}", inside=hosts.inside(2)) as dialed,
    ):
        source, sink = (bound, dialed) if sender == "bound" else (dialed, bound)
        sink.tell("want cache.*")
        bound.wait_peer("b", "up")
        dialed.wait_peer("a", "up")
        source.tell(f"go {RATE}")
        sink.wait_received(RATE)
        hosts.cut(2)
        wait(CUT)
        bound.wait_peer("b", "down")
        dialed.wait_peer("a", "down")
        before = sink.count()
        mend(hosts, 2)
        bound.wait_peer("b", "up")
        dialed.wait_peer("a", "up")
        sink.wait_received(before + RATE)
        sent, came, gaps = settled(source, sink)
    assert gaps == sent - came
    assert RATE < gaps < RATE * 15


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """One that sends and one that receives, on this host."""
    make_keys(tmp_path, "a", "b")
    with Node(tmp_path, "a", "bind=tcp://127.0.0.1:0") as source:
        address = source.wait_for_output(r"^bound (\S+)$")[1]
        with Node(tmp_path, "b", f"a={address}") as sink:
            sink.tell("want cache.*")
            source.wait_peer("b", "up")
            sink.wait_peer("a", "up")
            yield source, sink


def test_who_was_halted_for_a_while_has_missed_nothing(pair: tuple[Node, Node]) -> None:
    """It is given what came meanwhile, by a peer that did not wait for it."""
    source, sink = pair
    source.tell(f"go {RATE}")
    sink.wait_received(RATE // 2)
    sink.signal(signal.SIGSTOP)
    wait(HALTED)
    sink.signal(signal.SIGCONT)
    sent, came, gaps = settled(source, sink)
    assert (came, gaps) == (sent, 0)
    assert sent > RATE * HALTED
    assert "down" not in source.output + sink.output


def test_a_source_that_was_killed_begins_anew(pair: tuple[Node, Node], tmp_path: Path) -> None:
    """Its numbers begin again at one, and that is no gap."""
    source, sink = pair
    address = source.wait_for_output(r"^bound (\S+)$")[1]
    source.tell(f"go {RATE}")
    sink.wait_received(RATE // 2)
    source.signal(signal.SIGKILL)
    sink.wait_peer("a", "down")
    before = sink.report()
    with Node(tmp_path, "a", f"bind={address}") as again:
        sink.wait_peer("a", "up")
        again.wait_peer("b", "up")
        again.tell(f"go {RATE}")
        sink.wait_received(sum(before["received"].values()) + RATE // 2)
        sent = int(again.ask("halt", "sent"))
        wait_for(
            lambda: (
                sum(sink.report()["received"].values()) - sum(before["received"].values()) == sent
            ),
            10,
        )
        told = sink.report()
    assert len(told["received"]) == 2
    assert told["gaps"] == 0
    assert told["in_order"]


def test_a_receiver_that_was_killed_begins_where_it_comes_in(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    """What was sent while it was not there is not lost: nobody had asked for it."""
    source, sink = pair
    address = source.wait_for_output(r"^bound (\S+)$")[1]
    source.tell(f"go {RATE}")
    sink.wait_received(RATE // 2)
    sink.signal(signal.SIGKILL)
    source.wait_peer("b", "down")
    with Node(tmp_path, "b", f"a={address}") as again:
        again.tell("want cache.*")
        again.wait_peer("a", "up")
        again.wait_received(RATE // 2)
        sent = int(source.ask("halt", "sent"))
        wait_for(lambda: sent - 1 == max(again.report()["last"].values()), 10)
        told = again.report()
    assert told["gaps"] == 0
    assert sum(told["received"].values()) < sent
    assert told["in_order"]
