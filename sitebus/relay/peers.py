"""What a node knows of another: the ways to it, what it wants, what became of what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sitebus.relay.patterns import NONE, Patterns
from sitebus.relay.sequences import Mark
from sitebus.relay.transport import Connection


class PeerPicture(NamedTuple):
    """A peer as it was at one moment.

    Attributes:
        node: Its name.
        state: ``up``; ``joining`` until it has said that it sends what is wanted here; ``down``.
        address: Where the connection in use leads; nothing while there is none.
        hub: It passes messages on.
        epoch: Of its present or last life.
        wants: The patterns of the channels that it wants.
        sent: Messages that its connection took.
        received: Messages that came from it.
        lost: Messages of its own that did not come.
        dropped: Messages that it was not sent because too many waited.
        bad: What it sent that was no message, or none that it may send.
    """

    node: str
    state: str
    address: str
    hub: bool
    epoch: str
    wants: tuple[str, ...]
    sent: int
    received: int
    lost: int
    dropped: int
    bad: int


class Lane:
    """One connection, and whose it is once that is known.

    Attributes:
        heard: When something last came by it.
        no: The number of the wants that went with the hello.
        own: It leads to this very node.
    """

    __slots__ = ("connection", "heard", "no", "own", "peer")

    def __init__(self, connection: Connection, now: float, no: int) -> None:
        self.connection = connection
        self.no = no
        self.heard = now
        self.peer: Peer | None = None
        self.own = False


class Sync:
    """What a peer is still to be sent before it is told where streams begin for it.

    Args:
        replay: Last values, each as it goes out.
    """

    __slots__ = ("_next", "_replay")

    def __init__(self, replay: Iterator[bytes]) -> None:
        self._replay = replay
        self._next: bytes | None = None

    def push(self, connection: Connection) -> bool:
        """Send on, and tell whether all was sent."""
        while True:
            if self._next is None:
                self._next = next(self._replay, None)
            if self._next is None:
                return True
            if not connection.send(self._next):
                return False
            self._next = None


class Peer:
    """Another node.

    Attributes:
        lanes: The connections to it; the first is the one that is sent on.
        ready: It is told where streams begin: what it wants is sent to it.
        sync: What is still to be sent before it can be told that.
        owes_wants: It is still to be told what is wanted here.
        up: It has said that it sends what is wanted here.
        trusted: It is a hub that this node was told to believe.
        rival: Where from another node of this name has tried to connect, and when.
        gathered: How far streams had come, of an answer whose last part has not come.
        synced_no: The number of the wants by which it has said that it sends what is wanted.
    """

    def __init__(self, name: str, *, trusted: bool) -> None:
        self.name = name
        self.trusted = trusted
        self.ep = ""
        self.hub = False
        self.lanes: list[Lane] = []
        self.wants: Patterns = NONE
        self.no = 0
        self.ready = self.up = self.owes_wants = False
        self.sync: Sync | None = None
        self.rival, self.rival_since = "", 0.0
        self.gathered: dict[tuple[str, str, int], dict[str, Mark]] = {}
        self.synced_no = -1
        self.sent = self.received = self.lost = self.dropped = self.bad = 0
        #: Of those dropped, how many were told of.
        self.told = 0

    @property
    def connection(self) -> Connection:
        """The connection that is sent on."""
        return self.lanes[0].connection

    def send(self, data: bytes) -> None:
        """Send a message, or count it as dropped."""
        if self.ready and self.lanes[0].connection.send(data):
            self.sent += 1
        else:
            self.dropped += 1

    def renew(self, ep: str) -> None:
        """Have it begin a new life."""
        self.ep = ep
        self.rest()

    def rest(self) -> None:
        """Have it be down."""
        self.wants, self.no = NONE, 0
        self.ready = self.up = self.owes_wants = False
        self.sync = None
        self.rival = ""
        self.gathered = {}
        self.synced_no = -1

    @property
    def leads_on(self) -> bool:
        """Whether it passes on what is meant for others."""
        return self.trusted and self.hub

    def has_stream(self, channel: str, to: str) -> bool:
        """Tell whether it is sent what goes out on a channel, to one node or to all."""
        if to:
            return to == self.name or self.leads_on
        return channel in self.wants

    def picture(self) -> PeerPicture:
        """Answer what it looks like now."""
        lanes = self.lanes[:1]
        return PeerPicture(
            self.name,
            "up" if self.up and lanes else "joining" if lanes else "down",
            lanes[0].connection.address if lanes else "",
            self.hub,
            self.ep,
            tuple(self.wants),
            self.sent,
            self.received,
            self.lost,
            self.dropped,
            self.bad,
        )
