"""A network in memory whose every message a test delivers, loses or doubles as it likes.

Each node has a poller that does nothing by itself: `Network.settle` has them work until nothing
is left to be done. Time passes when a test says so.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from sitebus.relay.envelope import Envelope
from sitebus.relay.mesh import Mesh
from sitebus.relay.patterns import Patterns
from sitebus.relay.poller import Poller

Work = Callable[[], object]


class Turns:
    """What a node takes for its poller."""

    is_current = True

    def __init__(self, network: Network) -> None:
        self._network = network
        self._soon: deque[Work] = deque()
        self._timers: list[tuple[float, int, list[Work]]] = []
        self._numbers = itertools.count()

    def call_soon(self, work: Work) -> bool:
        self._soon.append(work)
        return True

    def call_at(self, moment: float, work: Work) -> Work:
        cell = [work]
        heapq.heappush(self._timers, (moment, next(self._numbers), cell))
        return cell.clear

    def guarded(self, work: Callable[..., object], *arguments: Any) -> None:
        work(*arguments)

    def turn(self) -> bool:
        """Do what is to be done now; tell whether there was anything."""
        found = bool(self._soon)
        while self._soon:
            self._soon.popleft()()
        while self._timers and self._timers[0][0] <= self._network.now:
            _, _, cell = heapq.heappop(self._timers)
            if cell:
                cell[0]()
                found = True
        return found


class End:
    """One end of a wire."""

    def __init__(self, node: Node, other: Node, name: str | None, room: int) -> None:
        self.name = name
        self.address = f"memory:{other.name}"
        self.node = node
        self.other: End = self
        self.waiting: deque[bytes] = deque()
        self.room = room
        self.open = True
        self.closed_for = ""

    def send(self, data: bytes) -> bool:
        if not self.open or len(self.waiting) >= self.room:
            return False
        self.waiting.append(data)
        return True

    def close(self, why: str) -> None:
        self.open = False
        self.closed_for = why

    def deliver(self) -> None:
        """Have the other end get the first message that waits."""
        data = self.waiting.popleft()
        if self.other.open:
            self.other.node.mesh.heard(self.other, data)

    def settle(self) -> bool:
        """Deliver all; tell whether there was anything."""
        found = bool(self.waiting)
        while self.waiting:
            self.deliver()
        if not self.open and self.other.open:
            self.other.open = False
            self.other.node.mesh.left(self.other, "the other closed it")
            found = True
        return found


class Node:
    """A mesh, and all that it was told."""

    def __init__(self, network: Network, name: str, **options: Any) -> None:
        self.name = name
        self.turns = Turns(network)
        self.received: list[Envelope] = []
        self.news: list[tuple[Any, ...]] = []
        options.setdefault("patience", 3.0)
        self.mesh = Mesh(
            name,
            cast("Poller", self.turns),
            self.received.append,
            lambda *what: self.news.append(what),
            clock=lambda: network.now,
            **options,
        )
        self.mesh.start()

    def told(self, channel: str) -> list[tuple[Any, ...]]:
        """Answer the news of one kind."""
        return [what[1:] for what in self.news if what[0] == channel]

    def lost(self) -> dict[tuple[str, str], int]:
        """Answer how many are lost, by source and channel."""
        found: dict[tuple[str, str], int] = defaultdict(int)
        for src, channel, count in self.told("relay.gap"):
            found[src, channel] += count
        return dict(found)

    def numbers(self, src: str, channel: str) -> list[int]:
        """Answer the numbers that came of a source and a channel."""
        return [each.seq for each in self.received if (each.src, each.ch) == (src, channel)]

    def values(self, channel: str) -> list[Any]:
        """Answer the first value of each message that came on a channel."""
        return [each.args[0] for each in self.received if each.ch == channel]


class Network:
    """Nodes, and the wires between them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: list[Node] = []
        self.ends: list[End] = []

    def node(self, name: str, wants: Iterable[str] = (), **options: Any) -> Node:
        """Make a node."""
        node = Node(self, name, **options)
        if wants:
            node.mesh.want(wants)
        self.nodes.append(node)
        return node

    def wire(
        self, one: Node, two: Node, *, named: bool = True, room: int = 10_000
    ) -> tuple[End, End]:
        """Connect two nodes; *named* if the transport can tell who they are."""
        ends = (
            End(one, two, two.name if named else None, room),
            End(two, one, one.name if named else None, room),
        )
        ends[0].other, ends[1].other = ends[1], ends[0]
        self.ends += ends
        for end in ends:
            end.node.mesh.joined(end)
        return ends

    def cut(self, ends: Iterable[End]) -> None:
        """Have a connection break, with all that is under way."""
        for end in ends:
            end.waiting.clear()
            if end.open:
                end.open = False
                end.node.mesh.left(end, "it was cut")

    def turn(self) -> bool:
        """Have all nodes do what they have to do; tell whether there was anything."""
        # All of them, though the first has found something.
        return sum(node.turns.turn() for node in self.nodes) > 0

    def settle(self) -> None:
        """Deliver all that is under way, and what follows from it."""
        for _ in range(10_000):
            work = self.turn()
            if not work + sum(end.settle() for end in list(self.ends)):
                return
        raise AssertionError("there is no end of it")

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Have time pass, with everything delivered."""
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.settle()


class Stranger:
    """The other end of a connection, which may say anything; *name* is whose key it has."""

    def __init__(self, network: Network, node: Node, name: str | None = None) -> None:
        self.network = network
        self.node = node
        self.end = End(node, node, name, 10_000)
        self.end.address = "memory:stranger"
        node.mesh.joined(self.end)

    def say(self, *messages: dict[str, Any] | bytes) -> None:
        for each in messages:
            data = each if isinstance(each, bytes) else json.dumps(each).encode()
            self.node.mesh.heard(self.end, data)
        self.network.turn()

    def hello(self, node: str = "stranger", ep: str = "e1", **fields: Any) -> None:
        self.say({"v": 1, "is": "hello", "node": node, "ep": ep, "wants": ["*"], **fields})

    def synced(self, **fields: Any) -> None:
        no = json.loads(self.said("hello")[0])["no"]
        self.say({"v": 1, "is": "synced", "no": no, "at": {}, **fields})

    def send(self, **fields: Any) -> None:
        envelope = {"v": 1, "id": "x", "src": "stranger", "ep": "e1", "ch": "c.x", "seq": 1}
        self.say({**envelope, "ts": 1.0, "args": [], "kw": {}, **fields})

    def said(self, what: str) -> list[bytes]:
        """Answer what it was told of one kind."""
        return [each for each in self.end.waiting if json.loads(each).get("is") == what]


RETAIN_ALL: Patterns = Patterns(("*",))
