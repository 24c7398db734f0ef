"""Nodes and hubs connected anyhow: nothing goes round, and what can arrive does, once."""

from __future__ import annotations

import itertools
from collections import deque
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay.memory import RETAIN_ALL, Network, Node

SETTINGS = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
NAMES = "abcdefg"
#: A hub passes on what may still pass two, so that much lies between two nodes.
MOST_HUBS = 2


class Graph:
    """Some nodes, some of them hubs, and who is connected to whom, perhaps twice."""

    def __init__(self, count: int, hubs: set[int], edges: set[tuple[int, int]], seed: int) -> None:
        self.network = Network()
        self.random = Random(seed)
        names = NAMES[:count]
        self.hubs = {names[number] for number in hubs if number < count}
        self.nodes = {
            name: self.network.node(name, ["c.*"], hub=name in self.hubs, hubs=tuple(self.hubs))
            for name in names
        }
        self.edges = {
            (names[one], names[two]) for one, two in edges if one != two and max(one, two) < count
        }
        for one, two in sorted(self.edges):
            self.network.wire(self.nodes[one], self.nodes[two])

    def neighbours(self, name: str) -> set[str]:
        pairs = itertools.chain(self.edges, ((two, one) for one, two in self.edges))
        return {two for one, two in pairs if one == name}

    def toggle(self, one: str, two: str) -> None:
        """Connect two nodes, or cut them off from each other if they are."""
        pairs = {(one, two), (two, one)}
        if self.edges & pairs:
            self.edges -= pairs
            for end in list(self.network.ends):
                if (end.node.name, end.other.node.name) in pairs:
                    self.network.cut((end,))
        else:
            self.edges.add((one, two))
            self.network.wire(self.nodes[one], self.nodes[two])

    def in_reach(self, source: str) -> set[str]:
        """Answer who gets what *source* sends, and whose messages it gets."""
        hubs_before = {source: 0}
        queue = deque([source])
        while queue:
            name = queue.popleft()
            passes = name == source or (name in self.hubs and hubs_before[name] < MOST_HUBS)
            for each in self.neighbours(name) if passes else ():
                if each not in hubs_before:
                    hubs_before[each] = hubs_before[name] + (name != source)
                    queue.append(each)
        return set(hubs_before) - {source}

    def deliver_anyhow(self) -> None:
        """Deliver all messages, always the next of any connection."""
        for _ in range(20_000):
            self.network.turn()
            waiting = [end for end in self.network.ends if end.waiting]
            if not waiting:
                return
            self.random.choice(waiting).deliver()
        raise AssertionError("there is no end of it")


GRAPHS = st.builds(
    Graph,
    st.integers(2, 7),
    st.sets(st.integers(0, 6)),
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=21),
    st.integers(0, 2**16),
)


@SETTINGS
@given(GRAPHS)
def test_what_can_arrive_does_so_once(graph: Graph) -> None:
    """Through cycles, hubs connected with hubs, and two connections between the same two."""
    graph.network.pass_time(2)
    for name, node in graph.nodes.items():
        for number in range(3):
            node.mesh.send("c.x", [f"{name}{number}"])
        graph.network.settle()
    graph.network.pass_time(8)
    for name, node in graph.nodes.items():
        came = sorted(node.values("c.x"))
        assert came == sorted(
            f"{src}{n}" for src in graph.nodes for n in range(3) if name in graph.in_reach(src)
        )
        assert node.lost() == {}
        assert node.mesh.counts.bad == 0


@SETTINGS
@given(GRAPHS)
def test_in_any_order_it_comes_once_or_is_counted_once(graph: Graph) -> None:
    """One way may be quicker than another, and another the next time."""
    graph.deliver_anyhow()
    for name, node in graph.nodes.items():
        for number in range(5):
            node.mesh.send("c.x", [f"{name}{number}"])
    graph.deliver_anyhow()
    graph.network.pass_time(8)
    for name, node in graph.nodes.items():
        lost = node.lost()
        for src in graph.nodes:
            numbers = node.numbers(src, "c.x")
            assert numbers == sorted(set(numbers))
            count = len(numbers) + lost.get((src, "c.x"), 0)
            assert count == (5 if name in graph.in_reach(src) else 0)


@SETTINGS
@given(GRAPHS)
def test_a_message_for_one_node_reaches_it_alone(graph: Graph) -> None:
    """Through two hubs as well; and nobody else knows a gap by its number."""
    graph.network.pass_time(2)
    for name, node in graph.nodes.items():
        for to in graph.nodes:
            node.mesh.send("for one", [name], to=to)
    graph.network.pass_time(8)
    for name, node in graph.nodes.items():
        # Directly, or by hubs alone.
        expected = {src for src in graph.nodes if src == name or name in graph.in_reach(src)}
        assert {*node.values("for one")} == expected
        assert len(node.values("for one")) == len(expected)
        assert node.lost() == {}


@SETTINGS
@given(
    GRAPHS, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=12)
)
def test_when_connections_have_come_and_gone_it_is_as_if_they_had_always_been_so(
    graph: Graph, changes: list[tuple[int, int, bool]]
) -> None:
    """A source comes nearer to a hub or goes away from it, and those behind it know."""
    names = sorted(graph.nodes)
    sent = 0
    for one, two, settles in changes:
        if one != two and max(one, two) < len(names):
            graph.toggle(names[one], names[two])
        for node in graph.nodes.values():
            node.mesh.send("c.x", ["before"])
        sent += 1
        if settles:
            graph.network.pass_time(2)
        else:
            graph.network.settle()
    graph.network.pass_time(8)
    for name, node in graph.nodes.items():
        node.mesh.send("c.x", [name])
    graph.network.pass_time(8)
    for name, node in graph.nodes.items():
        lost = node.lost()
        # A way that was shorter may be remembered, so that it may go a hub further than before.
        assert {*node.values("c.x")} - {"before"} >= graph.in_reach(name)
        for src in graph.nodes:
            numbers = node.numbers(src, "c.x")
            assert numbers == sorted(set(numbers))
            assert len(numbers) + lost.get((src, "c.x"), 0) <= sent + 1


def line(*kinds: str) -> tuple[Network, list[Node]]:
    """Answer nodes of which each is connected with the next; *kinds* are ``node`` or ``hub``."""
    network = Network()
    names = [f"{kind}{number}" for number, kind in enumerate(kinds)]
    hubs = tuple(name for name in names if name.startswith("hub"))
    nodes = [network.node(name, hub=name in hubs, hubs=hubs) for name in names]
    for one, two in itertools.pairwise(nodes):
        network.wire(one, two)
    network.pass_time(2)
    return network, nodes


@pytest.mark.parametrize(("hubs", "arrives"), [(1, True), (2, True), (3, False)])
def test_a_message_passes_two_hubs(hubs: int, arrives: bool) -> None:
    """Should all else fail, that is where it ends."""
    network, nodes = line("node", *["hub"] * hubs, "node")
    nodes[-1].mesh.want(["*"])
    network.settle()
    nodes[0].mesh.send("c", [1])
    network.settle()
    assert nodes[-1].values("c") == ([1] if arrives else [])


def test_a_node_that_is_no_hub_passes_nothing_on() -> None:
    """Two networks that share a member stay two."""
    network, nodes = line("node", "node", "node")
    for node in nodes:
        node.mesh.want(["*"])
    network.settle()
    nodes[0].mesh.send("c", [1])
    network.pass_time(3)
    assert [node.values("c") for node in nodes] == [[], [1], []]


def test_a_loss_before_the_hub_is_counted_behind_it() -> None:
    """Also when nothing follows: the hub tells what it was told."""
    network, (source, hub, reader) = line("node", "hub", "node")
    reader.mesh.want(["c"])
    network.settle()
    source.mesh.send("c", [1])
    network.settle()
    source.mesh.send("c", [2])
    network.turn()
    network.ends[0].waiting.clear()
    network.pass_time(3)
    assert reader.lost() == {("node0", "c"): 1}
    assert hub.lost() == {("node0", "c"): 1}


def test_a_loss_behind_the_hub_is_counted_there() -> None:
    """The hub had it, and only its reader did not get it."""
    network, (source, hub, reader) = line("node", "hub", "node")
    reader.mesh.want(["c"])
    network.settle()
    source.mesh.send("c", [1])
    network.turn()
    network.ends[0].deliver()
    network.ends[2].waiting.clear()
    network.pass_time(3)
    assert reader.lost() == {("node0", "c"): 1}
    assert hub.lost() == {}


def test_who_joins_a_hub_late_gets_the_last_values_and_no_gap() -> None:
    """Those of others as well, who may be gone."""
    network, (source, hub, _) = line("node", "hub", "node")
    source.mesh.send("state", [1], retain=True)
    source.mesh.send("state", [2], retain=True)
    source.mesh.send("event", [3])
    network.settle()
    network.cut(network.ends[:2])
    late = network.node("late", ["*"], hubs=["hub1"])
    network.wire(hub, late)
    network.pass_time(2)
    assert [(each.ch, each.args[0], each.ret) for each in late.received] == [("state", 2, True)]
    assert late.lost() == {}


def test_a_source_that_joins_a_hub_late_is_known_from_where_it_is() -> None:
    """It has sent to others for a day."""
    network, (hub, reader) = line("hub", "node")
    reader.mesh.want(["c"])
    source = network.node("s", retain=RETAIN_ALL)
    for number in range(100):
        source.mesh.send("c", [number])
    network.wire(source, hub)
    network.pass_time(2)
    source.mesh.send("c", [100])
    network.pass_time(2)
    assert reader.values("c") == [99, 100]
    assert reader.lost() == {}


def test_a_hub_that_is_away_for_a_while_costs_what_was_sent_meanwhile() -> None:
    """The hub was another process then, and yet its reader knows."""
    network, (source, _, reader) = line("node", "hub", "node")
    reader.mesh.want(["c"])
    network.settle()
    source.mesh.send("c", [1])
    network.settle()
    network.cut(network.ends)
    source.mesh.send("c", [2])
    network.pass_time(1)
    new = network.node("hub1", hub=True, hubs=["hub1"])
    network.wire(new, reader)
    network.pass_time(1)
    network.wire(source, new)
    network.pass_time(1)
    source.mesh.send("c", [3])
    network.settle()
    assert reader.values("c") == [1, 3]
    assert reader.lost() == {("node0", "c"): 1}


def test_a_node_that_is_connected_with_itself_hears_no_echo() -> None:
    """All hosts may share one list of peers."""
    network = Network()
    node = network.node("a", ["*"])
    ends = network.wire(node, node)
    network.pass_time(9)
    node.mesh.send("c", [1])
    network.pass_time(1)
    assert node.received == []
    assert node.news == []
    assert all(end.open for end in ends)
    assert node.mesh.peers() == ()


def reborn(network: Network, node: Node, epoch: str) -> Node:
    """Answer a new life of *node*, in an epoch that its clock has made."""
    for end in list(network.ends):
        if end.node is node:
            network.cut((end, end.other))
    network.nodes.remove(node)
    return network.node(node.name, hubs=["hub1"], epoch=epoch)


@pytest.mark.parametrize("epoch", ["0", "f"])
def test_a_source_behind_a_hub_may_start_anew(epoch: str) -> None:
    """Also with a clock that was set back: then its epoch sorts before the last one."""
    network, (source, hub, reader) = line("node", "hub", "node")
    reader.mesh.want(["c"])
    network.settle()
    source.mesh.send("c", [1])
    network.settle()
    source = reborn(network, source, epoch)
    network.wire(source, hub)
    network.pass_time(1)
    source.mesh.send("c", [2])
    network.pass_time(3)
    assert reader.values("c") == [1, 2]
    assert [*reader.lost(), *reader.told("relay.bad")] == []


def test_what_a_second_hub_says_of_a_former_life_is_not_taken_for_the_present_one() -> None:
    """It has not noticed yet that the source was started anew."""
    network = Network()
    hubs = [network.node(name, hub=True, hubs=["hub1", "hub2"]) for name in ("hub1", "hub2")]
    source = network.node("s", hubs=["hub1"], epoch="a")
    reader = network.node("r", ["c"], hubs=["hub1", "hub2"])
    for hub in hubs:
        network.wire(source, hub)
        network.wire(hub, reader)
    network.pass_time(2)
    source.mesh.send("c", [1])
    network.pass_time(5)
    again = reborn(network, source, "b")
    network.wire(again, hubs[0])
    network.settle()
    late = network.node("late", ["c"], hubs=["hub1", "hub2"])
    for hub in hubs:
        network.wire(hub, late)
    network.pass_time(1)
    again.mesh.send("c", [2])
    network.pass_time(5)
    assert reader.values("c") == [1, 2]
    assert late.values("c") == [2]
    assert [*reader.lost(), *late.lost()] == []
