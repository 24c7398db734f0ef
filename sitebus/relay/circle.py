"""The peers of a node: who they are, whether they live, and what is said between them.

A peer may be connected more than once, when each side connects to the other: what is sent goes by
the connection that was there first, the others stand by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from sitebus.errors import BadEnvelope, MessageTooLarge
from sitebus.relay import talk
from sitebus.relay.envelope import HOPS, Envelope, envelope, parse
from sitebus.relay.intake import Intake
from sitebus.relay.patterns import NONE, Patterns
from sitebus.relay.peers import Lane, Peer, Sync
from sitebus.relay.sequences import Account, Positions
from sitebus.relay.spreading import Spreading, concerning, sources
from sitebus.relay.telling import Telling, plain
from sitebus.relay.transport import Connection

#: Nodes that are known at a time, and connections to each.
MOST_PEERS = 1000
MOST_LANES = 8


class Circle:
    """Speaks with all peers; a `Hearer`, used in the poller's thread.

    Args:
        node: This one's name.
        epoch: Of this life.
        hub: Messages are passed on.
        hubs: The nodes that may pass on messages of others.
        beat: Seconds between two signs of life.
        patience: After so many seconds without one a peer is down.
        clock: Tells seconds.
    """

    def __init__(
        self,
        node: str,
        epoch: str,
        peers: dict[str, Peer],
        spreading: Spreading,
        intake: Intake,
        telling: Telling,
        *,
        hub: bool,
        hubs: frozenset[str],
        beat: float,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self.positions = Positions()
        self._node = node
        self._epoch = epoch
        self._peers = peers
        self._spreading = spreading
        self._intake = intake
        self._telling = telling
        self._hub = hub
        self._hubs = hubs
        self._beat = beat
        self._patience = patience
        self._lanes: dict[Connection, Lane] = {}
        self._clock = clock
        self._ticked = clock()
        self._talk: dict[object, Callable[[Lane, Mapping[str, Any]], object]] = {
            "hello": self._hello,
            "wants": self._wants,
            "synced": self._synced,
            "beat": self._beats,
            "bye": self._bye,
        }
        intake.begun = self._announce

    # What transports tell.

    def joined(self, connection: Connection) -> None:
        """Say hello."""
        intake = self._intake
        self._lanes[connection] = Lane(connection, self._clock(), intake.no)
        hello = talk.Hello(self._node, self._epoch, intake.told_wants, intake.no, self._hub)
        if not connection.send(talk.hello(hello)):
            self._close(connection, "it takes no message")

    def left(self, connection: Connection, why: str) -> None:
        """Have it be gone."""
        lane = self._lanes.pop(connection, None)
        if lane is not None:
            self._leave(lane)

    def heard(self, connection: Connection, data: bytes) -> None:
        """Take a message, whatever it is."""
        lane = self._lanes.get(connection)
        if lane is None:
            return
        lane.heard = self._clock()
        peer = lane.peer
        try:
            message = parse(data)
            if "is" in message:
                self._say(lane, message)
            elif peer is not None:
                self._intake.take(peer, envelope(message, len(data)), data)
            elif not lane.own:
                raise BadEnvelope("it came before a hello")
        except BadEnvelope as error:
            self._bad(lane, error.reason)

    def refused(self, who: str, why: str) -> None:
        """Complain of a stranger."""
        self._telling.bad(who, why, self._clock())

    # What the node itself has to say.

    def tick(self) -> None:
        """Beat, and look who does not; to be called every *beat* seconds."""
        now = self._clock()
        late = now - self._ticked > 2 * self._beat + self._patience / 3
        self._ticked = now
        for connection, lane in list(self._lanes.items()):
            if late:
                # This process has slept: what others said meanwhile is still to be read.
                lane.heard = now
            elif now - lane.heard > self._patience:
                self._give_up(connection, lane)
        for peer in list(self._peers.values()):
            if peer.lanes:
                self._tend(peer)
        self.positions.settle()
        self._intake.passing.settle()
        self._intake.due(now)
        self._tell_sums()

    def rewant(self, wants: Patterns) -> None:
        """Want something else from now on, and tell the peers."""
        if self._intake.change_wants(wants):
            for peer in self._peers.values():
                if peer.lanes:
                    self._tell_wants(peer)

    def bye(self) -> None:
        """Take leave of everybody."""
        self._tell_sums()
        for connection in list(self._lanes):
            connection.send(talk.bye())

    # What peers say.

    def _say(self, lane: Lane, message: Mapping[str, Any]) -> None:
        what = message["is"]
        if lane.peer is None and what not in ("hello", "bye"):
            if lane.own:
                return
            raise BadEnvelope("it came before a hello")
        # Later versions may have more to say.
        known = self._talk.get(what) if isinstance(what, str) else None
        if known is not None:
            known(lane, message)
        peer = lane.peer
        # What it said before that may have waited to be read.
        if peer is not None and peer.rival and lane.heard > peer.rival_since + self._beat / 2:
            self._two_of(peer, lane.heard)

    def _hello(self, lane: Lane, message: Mapping[str, Any]) -> None:
        if lane.peer is not None or lane.own:
            raise BadEnvelope("it said hello twice")
        hello = talk.read_hello(message)
        name = lane.connection.name
        if name is not None and name != hello.node:
            self._turn_away(lane, name, f"it is known as {name}, and says it is another")
        elif hello.node == self._node:
            lane.own = hello.ep == self._epoch
            if not lane.own:
                self._turn_away(lane, hello.node, "another node has the name of this one")
        else:
            self._welcome(lane, hello)

    def _welcome(self, lane: Lane, hello: talk.Hello) -> None:
        peer = self._peers.get(hello.node) or self._new_peer(hello.node)
        if peer is None:
            self._close(lane.connection, "there are too many nodes")
            return
        if peer.lanes and peer.ep != hello.ep:
            # Either it has started anew, and the old connection is dead without having said so:
            # then it will be given up soon. Or the old one speaks on: see `_two_of`.
            peer.rival, peer.rival_since = lane.connection.address, lane.heard
            self._send_away(lane.connection, f"another node is called {hello.node}")
            return
        if len(peer.lanes) >= MOST_LANES:
            self._turn_away(lane, peer.name, f"it has {MOST_LANES} connections already")
            return
        if peer.ep != hello.ep:
            peer.renew(hello.ep)
        lane.peer = peer
        peer.lanes.append(lane)
        peer.hub = hello.hub
        self._intake.books.open(peer.name, peer.ep).paths[peer.name] = HOPS
        if len(peer.lanes) == 1:
            peer.wants, peer.no = hello.wants, hello.no
            self._spreading.changed()
            self._begin_sync(peer, NONE)
        if lane.no != self._intake.no:
            self._tell_wants(peer)

    def _wants(self, lane: Lane, message: Mapping[str, Any]) -> None:
        peer = _of(lane)
        wants, no = talk.read_wants(message)
        if no <= peer.no:
            return
        before, peer.wants, peer.no = peer.wants, wants, no
        self._spreading.changed()
        # What is still to be replayed of an earlier answer is found anew.
        self._begin_sync(peer, before if peer.sync is None else NONE)

    def _synced(self, lane: Lane, message: Mapping[str, Any]) -> None:
        peer = _of(lane)
        told = talk.read_told(message)
        if not self._intake.synced(peer, told):
            return
        if not peer.up:
            peer.up = True
            self._telling.tell("relay.peer", peer.name, "up")
        if told.no == self._intake.no != peer.synced_no:
            peer.synced_no = told.no
            self._telling.tell("relay.synced", peer.name)

    def _beats(self, lane: Lane, message: Mapping[str, Any]) -> None:
        self._intake.told(_of(lane), talk.read_told(message))

    def _bye(self, lane: Lane, message: Mapping[str, Any]) -> None:
        why = message.get("why")
        if isinstance(why, str) and why:
            who = lane.peer.name if lane.peer else lane.connection.address
            self._telling.complain(who, f"it turned this node away: {plain(why)}", lane.heard)
        self._close(lane.connection, "the other said bye")

    def _two_of(self, peer: Peer, now: float) -> None:
        """The one that was there first lives, so the one that came is another."""
        rival, peer.rival = peer.rival, ""
        self._telling.bad(
            peer.name, f"two nodes have this name, and the one at {rival} was turned away", now
        )

    # Coming and going.

    def _new_peer(self, name: str) -> Peer | None:
        if len(self._peers) >= MOST_PEERS:
            gone = next((each for each in self._peers.values() if not each.lanes), None)
            if gone is None:
                return None
            del self._peers[gone.name]
        self._peers[name] = Peer(name, trusted=name in self._hubs)
        return self._peers[name]

    def _turn_away(self, lane: Lane, who: str, why: str) -> None:
        self._telling.bad(who, why, lane.heard)
        self._send_away(lane.connection, why)

    def _send_away(self, connection: Connection, why: str) -> None:
        connection.send(talk.bye(why))
        self._close(connection, why)

    def _give_up(self, connection: Connection, lane: Lane) -> None:
        if not lane.own:
            self._close(connection, f"nothing was heard for {self._patience:g} s")

    def _close(self, connection: Connection, why: str) -> None:
        lane = self._lanes.pop(connection, None)
        connection.close(why)
        if lane is not None:
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        peer, lane.peer = lane.peer, None
        if peer is None:
            return
        was_first = peer.lanes[0] is lane
        peer.lanes.remove(lane)
        if peer.lanes:
            if was_first:
                # What was under way is lost, and is told of at once; the wants may be among it.
                self._tell_wants(peer)
                self._begin_sync(peer, NONE)
            return
        self._intake.books.leave(peer.name)
        was_up = peer.up
        peer.rest()
        self._spreading.changed()
        if was_up:
            self._telling.tell("relay.peer", peer.name, "down")

    # What peers are told.

    def _begin_sync(self, peer: Peer, before: Patterns) -> None:
        """Replay the last values of what it did not want before, and tell where streams begin."""
        if not len(before):
            peer.ready = False
        peer.sync = Sync(self._replay(peer, before))
        self._go_on(peer)

    def _replay(self, peer: Peer, before: Patterns) -> Iterator[bytes]:
        retained = self._intake.retained
        src = None if self._hub else self._node
        for each in retained.of(peer.wants, src):
            hops = each.hops if each.src == self._node else self._hops_onward(each)
            if each.ch in before or each.src == peer.name or hops < 0:
                continue
            # Another's value may have more bytes than it had when it came.
            with suppress(MessageTooLarge):
                yield each._replace(ret=True, hops=hops).encode()

    def _hops_onward(self, envelope: Envelope) -> int:
        account = self._intake.books.of(envelope.src)
        return max(envelope.hops, account.hops if account is not None else 0) - 1

    def _go_on(self, peer: Peer) -> None:
        """Send what is owed for a sync as far as the connection takes it."""
        if peer.sync is None or not peer.sync.push(peer.connection):
            return
        passing = sources(self._intake.books.present, peer) if self._hub else ()
        parts = talk.synced(peer.no, concerning(peer, self.positions.marks), passing)
        if all(map(peer.connection.send, parts)):
            peer.sync, peer.ready = None, True

    def _announce(self, account: Account, by: Peer) -> None:
        """Tell the peers of a hub of a source whose messages they are going to see."""
        for peer in self._peers.values():
            if peer.ready and peer is not by:
                passing = sources((account,), peer)
                if not all(map(peer.connection.send, talk.synced(peer.no, {}, passing))):
                    self._begin_sync(peer, NONE)

    def _tell_wants(self, peer: Peer) -> None:
        intake = self._intake
        peer.owes_wants = not peer.connection.send(talk.wants(intake.told_wants, intake.no))

    def _tend(self, peer: Peer) -> None:
        """Beat, and send what is owed."""
        if peer.owes_wants:
            self._tell_wants(peer)
        if peer.sync is not None:
            self._go_on(peer)
        for lane in peer.lanes[1:]:
            lane.connection.send(next(talk.beats({})))
        at = concerning(peer, self.positions.news()) if peer.ready else {}
        of = self._intake.passing.news(peer) if peer.ready and self._hub else ()
        if not all(map(peer.connection.send, talk.beats(at, of))) and peer.ready:
            # It must know how far streams have come, be it later.
            peer.sync = peer.sync or Sync(iter(()))

    def _tell_sums(self) -> None:
        self._telling.beat()
        for peer in self._peers.values():
            if peer.dropped > peer.told:
                self._telling.drop(peer.name, peer.dropped - peer.told)
                peer.told = peer.dropped
        astray, self._spreading.astray = self._spreading.astray, {}
        for name, count in astray.items():
            self._telling.drop(name, count)

    def _bad(self, lane: Lane, why: str) -> None:
        peer = lane.peer
        if peer is not None:
            peer.bad += 1
        who = peer.name if peer else lane.connection.name or lane.connection.address
        self._telling.bad(who, why, self._clock())


def _of(lane: Lane) -> Peer:
    if lane.peer is None:
        raise BadEnvelope("it came before a hello")
    return lane.peer
