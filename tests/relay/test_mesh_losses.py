"""Whatever happens on the way: each message comes once, or is counted once in a gap."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay.memory import End, Network, Node

SETTINGS = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

#: What happens next, and by chance how.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "send", "send", "deliver", "lose", "double", "swap", "cut", "join", "time"]
        ),
        st.integers(0, 2**16),
    ),
    max_size=50,
)
CHANNELS = ("c.x", "c.y", "c.z")


def is_message(data: bytes) -> bool:
    """Tell what counts from what is said about it: a transport loses nothing of a connection."""
    return b'"is":' not in data


class World:
    """One node that sends, one that receives, and what a connection does to messages."""

    def __init__(self, **options: Any) -> None:
        self.network = Network()
        self.source = self.network.node("s", **options)
        self.reader = self.network.node("r", ["c.*"], hubs=["hub"])
        self.sent: Counter[str] = Counter()
        self.wires: list[tuple[End, End]] = []
        self.join()
        self.network.settle()

    def join(self) -> None:
        self.wires.append(self.network.wire(self.source, self.reader))

    def do(self, what: str, chance: int) -> None:
        random = Random(chance)
        if what == "send":
            channel = random.choice(CHANNELS)
            for _ in range(random.randrange(1, 4)):
                self.sent[channel] += 1
                self.source.mesh.send(channel, [self.sent[channel]])
            self.network.turn()
        elif what == "time":
            self.network.pass_time(random.choice([0.5, 1.0, 2.5, 7.0]))
        elif what == "join":
            self.join()
        elif self.wires:
            getattr(self, f"_{what}")(random, random.choice(self.wires))

    def _cut(self, random: Random, wire: tuple[End, End]) -> None:
        self.network.cut(wire)
        self.wires.remove(wire)

    def _deliver(self, random: Random, wire: tuple[End, End]) -> None:
        end = random.choice(wire)
        for _ in range(min(len(end.waiting), random.randrange(5))):
            end.deliver()

    def _lose(self, random: Random, wire: tuple[End, End]) -> None:
        kept = [data for data in wire[0].waiting if not is_message(data) or random.random() < 0.5]
        wire[0].waiting.clear()
        wire[0].waiting.extend(kept)

    def _double(self, random: Random, wire: tuple[End, End]) -> None:
        again = [data for data in wire[0].waiting if is_message(data)]
        wire[0].waiting.extend(again[: random.randrange(5)])

    def _swap(self, random: Random, wire: tuple[End, End]) -> None:
        places = [number for number, data in enumerate(wire[0].waiting) if is_message(data)]
        others = random.sample(places, len(places))
        moved = [wire[0].waiting[number] for number in others]
        for number, data in zip(places, moved, strict=True):
            wire[0].waiting[number] = data

    def end(self) -> None:
        """Let it come to rest, connected."""
        for wire in list(self.wires):
            self.network.cut(wire)
        self.wires.clear()
        self.join()
        self.network.pass_time(8)


@SETTINGS
@given(EVENTS)
def test_each_message_comes_once_or_is_counted_once(events: list[tuple[str, int]]) -> None:
    """Losses, doubles, other orders, breaks, several connections at once."""
    world = World()
    for what, chance in events:
        world.do(what, chance)
    world.end()
    lost = world.reader.lost()
    for channel in CHANNELS:
        numbers = world.reader.numbers("s", channel)
        assert numbers == sorted(set(numbers))
        assert len(numbers) + lost.get(("s", channel), 0) == world.sent[channel]
        assert world.reader.values(channel) == numbers
    counts = world.reader.mesh.counts
    assert (counts.rx, counts.gap) == (len(world.reader.received), sum(lost.values()))
    assert counts.bad == world.source.mesh.counts.bad == 0


class HubWorld(World):
    """The same with a hub between the two; what happens, happens on either side of it."""

    def join(self) -> None:
        known = [node for node in self.network.nodes if node.name == "hub"]
        self.hub = known[0] if known else self.network.node("hub", hub=True, hubs=["hub"])
        self.wires.append(self.network.wire(self.source, self.hub))
        self.wires.append(self.network.wire(self.hub, self.reader))


@SETTINGS
@given(EVENTS)
def test_behind_a_hub_each_message_comes_once_or_is_counted_once(
    events: list[tuple[str, int]],
) -> None:
    """Lost before the hub, behind it, or on both sides; the hub tells what it was told."""
    world = HubWorld()
    for what, chance in events:
        world.do(what, chance)
    world.end()
    world.network.pass_time(8)
    lost = world.reader.lost()
    for channel in CHANNELS:
        numbers = world.reader.numbers("s", channel)
        assert numbers == sorted(set(numbers))
        assert len(numbers) + lost.get(("s", channel), 0) == world.sent[channel]
    assert world.reader.mesh.counts.bad == world.source.mesh.counts.bad == 0


@SETTINGS
@given(EVENTS)
def test_without_losses_nothing_is_counted_as_lost(events: list[tuple[str, int]]) -> None:
    """A gap that was none would have people look for what is not broken."""
    world = World()
    for what, chance in events:
        if what not in ("lose", "swap", "cut"):
            world.do(what, chance)
    world.network.pass_time(8)
    assert world.reader.lost() == {}
    for channel in CHANNELS:
        assert world.reader.values(channel) == list(range(1, world.sent[channel] + 1))


@SETTINGS
@given(EVENTS, st.integers(0, 30))
def test_who_comes_late_has_lost_nothing(events: list[tuple[str, int]], before: int) -> None:
    """What was sent before somebody was there, or wanted it, was not for them."""
    network = Network()
    source, early = network.node("s"), network.node("early", ["*"])
    network.wire(source, early)
    network.settle()
    random = Random(before)
    for number in range(before):
        source.mesh.send(random.choice(CHANNELS), [number])
    late = network.node("late", ["c.x"])
    wants_more = False
    network.wire(source, late)
    for number, (what, chance) in enumerate(events):
        if what == "send":
            source.mesh.send(CHANNELS[chance % 3], [number])
        elif what == "join":
            wants_more = not wants_more
            (late.mesh.want if wants_more else late.mesh.unwant)(["c.*"])
        elif what == "time":
            network.pass_time(1)
        else:
            network.turn()
            for end in network.ends:
                for _ in range(min(len(end.waiting), chance % 4)):
                    end.deliver()
    network.pass_time(8)
    assert late.lost() == {}
    assert early.lost() == {}
    numbers = late.numbers("s", "c.x")
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


@SETTINGS
@given(EVENTS)
def test_what_is_wanted_for_a_while_is_exact_for_that_while(
    events: list[tuple[str, int]],
) -> None:
    """Wants change while others go on, and losses are of what was wanted when it was sent."""
    world = World()
    other = 0
    wanted = False
    for what, chance in events:
        if what == "join":
            world.network.pass_time(8)
            wanted = not wanted
            (world.reader.mesh.want if wanted else world.reader.mesh.unwant)(["d*"])
            world.network.settle()
        elif what == "send":
            world.source.mesh.send("d1", [0])
            other += wanted
            world.do(what, chance)
        elif what != "cut":
            world.do(what, chance)
    world.end()
    lost = world.reader.lost()
    assert len(world.reader.values("d1")) + lost.get(("s", "d1"), 0) == other
    for channel in CHANNELS:
        count = len(world.reader.values(channel)) + lost.get(("s", channel), 0)
        assert count == world.sent[channel]


@SETTINGS
@given(EVENTS, st.integers(1, 6))
def test_drops_at_the_high_water_mark_are_the_gaps_of_the_reader(
    events: list[tuple[str, int]], room: int
) -> None:
    """One reads slowly; both sides say the same about it."""
    network = Network()
    source, reader = network.node("s"), network.node("r", ["c.*"])
    network.wire(source, reader, room=room)
    network.pass_time(3)
    sent = 0
    for what, chance in events:
        if what == "send":
            for _ in range(chance % 9):
                sent += 1
                source.mesh.send("c.x", [sent])
            network.turn()
        elif what == "time":
            network.pass_time(1)
        else:
            for _ in range(min(len(network.ends[0].waiting), chance % 4)):
                network.ends[0].deliver()
    network.pass_time(8)
    dropped = sum(count for peer, count in source.told("relay.drop"))
    assert len(reader.received) + dropped == sent
    assert reader.lost().get(("s", "c.x"), 0) == dropped == source.mesh.counts.drop


def restarted(network: Network, node: Node, **options: Any) -> Node:
    """Answer a new life of a node."""
    for end in list(network.ends):
        if end.node is node:
            network.cut((end, end.other))
    network.nodes.remove(node)
    network.now += 1
    return network.node(node.name, **options)


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_restarted_source_has_lost_nothing(rounds: int) -> None:
    """It counts from one again, in an epoch of its own."""
    network = Network()
    reader = network.node("r", ["*"])
    source = network.node("s")
    for number in range(rounds):
        source = restarted(network, source)
        network.wire(source, reader)
        network.settle()
        for _ in range(3):
            source.mesh.send("c", [number])
        network.pass_time(2)
    assert reader.numbers("s", "c") == [1, 2, 3] * rounds
    assert reader.lost() == {}


def test_a_restarted_reader_has_lost_nothing() -> None:
    """It is another process, which did not exist before."""
    network = Network()
    source, reader = network.node("s"), network.node("r", ["*"])
    network.wire(source, reader)
    network.settle()
    source.mesh.send("c", [1])
    network.settle()
    reader = restarted(network, reader)
    reader.mesh.want(["*"])
    source.mesh.send("c", [2])
    network.wire(source, reader)
    network.settle()
    source.mesh.send("c", [3])
    network.pass_time(3)
    assert reader.values("c") == [3]
    assert reader.lost() == {}


def test_a_partition_ends_with_the_exact_count() -> None:
    """Nobody sends while it is mended, so only the answer to the hello can tell."""
    network = Network()
    source, reader = network.node("s"), network.node("r", ["c.*"])
    wire = network.wire(source, reader)
    network.settle()
    source.mesh.send("c.x", [0])
    network.settle()
    for number in range(993):
        source.mesh.send("c.x" if number % 2 else "c.new", [number])
    network.turn()
    network.cut(wire)
    network.pass_time(4.5)
    assert reader.lost() == {}
    network.wire(source, reader)
    network.settle()
    assert reader.lost() == {("s", "c.x"): 496, ("s", "c.new"): 497}
    assert len(reader.told("relay.gap")) == 2
