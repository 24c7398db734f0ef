"""Who is sent a message: each peer that wants its channel, or the way to the one it is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sitebus.relay.envelope import Envelope, parts_of
from sitebus.relay.peers import Peer
from sitebus.relay.sequences import Account, Mark
from sitebus.relay.talk import Source

#: So many channels are remembered with the peers that want them.
_REMEMBERED = 4096


class Spreading:
    """Sends messages to those of *peers* that are there; used in the poller's thread."""

    def __init__(self, peers: dict[str, Peer]) -> None:
        self._peers = peers
        self._audiences: dict[str, tuple[Peer, ...]] = {}
        #: Messages to nodes that no peer leads to, by the node.
        self.astray: dict[str, int] = {}

    def peer(self, name: str) -> Peer | None:
        """Answer the peer of this name, if there was ever one."""
        return self._peers.get(name)

    def changed(self) -> None:
        """Somebody has come or gone, or wants something else."""
        self._audiences.clear()

    def spread(self, envelope: Envelope, data: bytes, by: Peer | None = None) -> None:
        """Send a message to all whom it concerns, but not back to where it came from."""
        for peer in self.audience(envelope.ch, envelope.to):
            if peer is not by and peer.name != envelope.src:
                peer.send(data)

    def audience(self, channel: str, to: str | None) -> tuple[Peer, ...]:
        """Answer who is sent what goes out on a channel, to one node or to all."""
        if to is not None:
            return self._way_to(to)
        found = self._audiences.get(channel)
        if found is None:
            if len(self._audiences) >= _REMEMBERED:
                self._audiences.clear()
            found = tuple(
                each for each in self._peers.values() if each.lanes and channel in each.wants
            )
            self._audiences[channel] = found
        return found

    def _way_to(self, node: str) -> tuple[Peer, ...]:
        peer = self._peers.get(node)
        if peer is not None and peer.lanes:
            return (peer,)
        return tuple(each for each in self._peers.values() if each.leads_on and each.lanes)

    def goes_astray(self, to: str) -> None:
        """Count a message to a node that nobody leads to."""
        if to in self.astray or len(self.astray) < _REMEMBERED:
            self.astray[to] = self.astray.get(to, 0) + 1


class Passing:
    """What a hub tells of the streams that it passes on: where they begin, and how far they are."""

    def __init__(self) -> None:
        self._moved: dict[tuple[str, str], tuple[Account, dict[str, bool]]] = {}

    def moved(self, account: Account, streams: Iterable[str]) -> None:
        """These streams have moved, and peers are to be told so."""
        key = (account.src, account.ep)
        _, known = self._moved.setdefault(key, (account, {}))
        known.update(dict.fromkeys(streams, True))

    def news(self, peer: Peer) -> Iterator[Source]:
        """Answer how far those have come that have moved lately, as far as *peer* is concerned."""
        for account, streams in self._moved.values():
            if _may_tell(account, peer):
                marks = {each: account.mark(each) for each in streams}
                if found := concerning(peer, marks):
                    yield Source(account.src, account.ep, found, max(0, account.hops - 1))

    def settle(self) -> None:
        """Let be told what was told twice."""
        for key, (account, streams) in list(self._moved.items()):
            fresh = {each: False for each, is_fresh in streams.items() if is_fresh}
            if fresh:
                self._moved[key] = (account, fresh)
            else:
                del self._moved[key]


def sources(accounts: Iterable[Account], peer: Peer) -> Iterator[Source]:
    """Answer how far all streams have come that a hub passes on to *peer*."""
    for account in accounts:
        if account.begun and account.paths and _may_tell(account, peer):
            marks = concerning(peer, account.marks())
            yield Source(account.src, account.ep, marks, account.hops - 1)


def concerning(peer: Peer, marks: Mapping[str, Mark]) -> dict[str, Mark]:
    """Answer those of *marks* whose streams *peer* is sent."""
    return {
        stream: mark
        for stream, mark in marks.items()
        if mark.number and peer.has_stream(*parts_of(stream))
    }


def _may_tell(account: Account, peer: Peer) -> bool:
    # Who tells us, or is it, knows better. What may go no further is nobody else's concern; of
    # what is over, or away, the last losses are told.
    is_nearer = account.hops > -1 and account.paths.get(peer.name, -1) >= account.hops
    knows_better = account.src == peer.name or is_nearer
    return not knows_better and account.hops != 0
