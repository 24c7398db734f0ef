"""What peers send: which of it is new, what is lost, what is passed on, what is delivered here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sitebus.errors import BadEnvelope, MessageTooLarge
from sitebus.relay.envelope import HOPS, Envelope, parts_of
from sitebus.relay.patterns import NONE, Patterns
from sitebus.relay.peers import Peer
from sitebus.relay.retained import Retained
from sitebus.relay.sequences import MOST_READ, Account, Books, Mark
from sitebus.relay.spreading import Passing, Spreading
from sitebus.relay.talk import Source, Told
from sitebus.relay.telling import Telling

Receive = Callable[[Envelope], object]

#: A hub may tell of so many streams in all when it says where they begin.
_MOST_OF_A_HUB = 50 * MOST_READ

#: What a hub wants.
EVERYTHING = Patterns(("*",))


class Intake:
    """Reads what comes from peers; used in the poller's thread.

    Args:
        node: This one's name.
        receive: Is given each message that is wanted here.
        hub: Messages are passed on to other peers.
        patience: How long what one peer says of another's streams may be too early; seconds.
        clock: Tells seconds.

    Attributes:
        wants: What is wanted here.
        no: The number of the list of wants that peers were told last.
        begun: Is told of a source whose streams begin here, and by which peer.
    """

    def __init__(
        self,
        node: str,
        receive: Receive,
        spreading: Spreading,
        telling: Telling,
        *,
        hub: bool,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self.wants = NONE
        self.no = 0
        self.books = Books()
        self.passing = Passing()
        self.retained = Retained()
        self.begun: Callable[[Account, Peer], object] = lambda account, by: None
        self._node = node
        self._receive = receive
        self._spreading = spreading
        self._telling = telling
        self._hub = hub
        self._patience = patience
        self._clock = clock

    @property
    def told_wants(self) -> Patterns:
        """What peers are told that this node wants."""
        return EVERYTHING if self._hub else self.wants

    def change_wants(self, wants: Patterns) -> bool:
        """Want something else from here on; tell whether peers are to be told."""
        removed = self.told_wants
        self.wants = wants
        removed -= self.told_wants
        for account in self.books:
            if len(removed):
                account.forget(removed)
        self.no += 1
        return not self._hub

    def take(self, peer: Peer, envelope: Envelope, data: bytes) -> None:
        """Take a message, which came as *data*.

        Raises:
            BadEnvelope: This peer may not send it.
        """
        if envelope.src == self._node and peer.trusted:
            return  # it has come round
        account = self._account_for(peer, envelope)
        if account is None:
            return
        stream = envelope.stream
        lost = account.take(stream, envelope.seq, envelope.base, envelope.ret)
        if lost < 0:
            return
        self._telling.rx += 1
        if lost:
            self._lose(account, stream, lost)
        if envelope.keep:
            self._retain(envelope, data)
        if self._hub:
            self.passing.moved(account, (stream,))
            self._pass_on(account, envelope, peer)
        if envelope.to == self._node or (envelope.to is None and envelope.ch in self.wants):
            self._receive(envelope)

    def _retain(self, envelope: Envelope, data: bytes) -> None:
        # A replay of what nobody asked for is kept for nobody.
        if envelope.to is None and envelope.ch in self.told_wants:
            self.retained.put(envelope.src, envelope.ch, data)

    def told(self, peer: Peer, told: Told) -> None:
        """Take a beat: how far streams have come."""
        for account, marks in self._accounts(peer, told):
            until = self._until(account, peer)
            for stream, mark in marks.items():
                self._lose(account, stream, account.claim(stream, mark, until))

    def synced(self, peer: Peer, told: Told) -> bool:
        """Take a part of where streams begin; tell whether it was the last one."""
        if told.first:
            peer.gathered = {}
        parts = [Source(peer.name, peer.ep, told.at), *(told.of if peer.trusted else ())]
        for src, ep, marks, hops in parts:
            peer.gathered.setdefault((src, ep, hops), {}).update(marks)
        most = _MOST_OF_A_HUB if peer.trusted else MOST_READ
        if sum(map(len, peer.gathered.values())) > most:
            peer.gathered = {}
            raise BadEnvelope("it tells of too many streams")
        if not told.last:
            return False
        gathered, peer.gathered = peer.gathered, {}
        whole = Told(
            {}, tuple(Source(src, ep, marks, hops) for (src, ep, hops), marks in gathered.items())
        )
        for account, marks in self._accounts(peer, whole, announced=True):
            self._begin(account, peer, marks, told.no)
        return True

    def due(self, now: float) -> None:
        """Count what is lost by what peers said a while ago."""
        for account in self.books:
            for stream, lost in account.due(now):
                self._lose(account, stream, lost)

    def _begin(self, account: Account, peer: Peer, marks: Mapping[str, Mark], no: int) -> None:
        if self.books.is_over(account.src, account.ep):
            no = -1  # what is over does not begin
        wants = self.told_wants if no == self.no or (self._hub and no >= 0) else NONE
        lost = account.begin(marks, wants, self._until(account, peer))
        for stream, count in lost.items():
            self._lose(account, stream, count)
        if self._hub:
            self.passing.moved(account, lost)
            if no >= 0 and account.hops - 1 > account.told:
                # It is new here, or may go further from here than before.
                account.told = account.hops - 1
                self.begun(account, peer)

    def _until(self, account: Account, peer: Peer) -> float:
        """Answer when to believe what *peer* says of streams that others bring, too."""
        if account.paths.keys() <= {peer.name}:
            return 0.0
        return self._clock() + self._patience

    def _lose(self, account: Account, stream: str, lost: int) -> None:
        if not lost:
            return
        if self._hub:
            self.passing.moved(account, (stream,))
        channel, to = parts_of(stream)
        if to and to != self._node:
            return  # whom it was meant for counts it
        peer = self._spreading.peer(account.src)
        if peer is not None:
            peer.lost += lost
        self._telling.gap(account.src, channel, lost)

    def _account_for(self, peer: Peer, envelope: Envelope) -> Account | None:
        """Answer the account that a message belongs to; None if that epoch is over."""
        src = envelope.src
        if src == peer.name:
            if envelope.ep != peer.ep:
                raise BadEnvelope("it is of another epoch than its hello")
        elif not peer.trusted:
            raise BadEnvelope("it names another node as its source, and comes from no hub")
        if envelope.to not in (None, self._node) and not self._hub:
            raise BadEnvelope("it is meant for another node")
        peer.received += 1
        account = self.books.of(src)
        if account is None or account.ep != envelope.ep:
            account = self._by_hub(peer, src, envelope.ep)
            if account.ep != envelope.ep or self.books.is_over(src, envelope.ep):
                self._lose(
                    account,
                    envelope.stream,
                    account.claim(envelope.stream, Mark(envelope.seq, envelope.base)),
                )
                return None
        account.paths.setdefault(peer.name, envelope.hops)
        return account

    def _accounts(
        self, peer: Peer, told: Told, *, announced: bool = False
    ) -> list[tuple[Account, Mapping[str, Mark]]]:
        found: list[tuple[Account, Mapping[str, Mark]]] = []
        own = self.books.of(peer.name)
        if told.at and own is not None and own.ep == peer.ep:
            found.append((own, told.at))
        for src, ep, marks, hops in told.of:
            if src == peer.name and ep == peer.ep and own is not None:
                found.append((own, marks))
            elif src != self._node and peer.trusted:
                account = self._by_hub(peer, src, ep, announced=announced)
                if not self.books.is_over(src, ep):
                    account.paths.setdefault(peer.name, hops)
                    if announced:
                        account.paths[peer.name] = hops
                found.append((account, marks))
        return found

    def _by_hub(self, hub: Peer, src: str, ep: str, *, announced: bool = False) -> Account:
        """Answer the account of an epoch that a hub speaks of.

        Who is connected here knows itself which is its present one. Else it is the latest, or what
        the only hub that speaks of it says: clocks are set back at times.
        """
        account = self.books.of(src)
        if account is not None and account.ep != ep:
            direct = self._spreading.peer(src)
            knows_better = direct is not None and bool(direct.lanes)
            if announced:
                is_former = ep < account.ep and not account.paths.keys() <= {hub.name}
            else:
                is_former = ep < account.ep or self.books.is_over(src, ep)
            if knows_better or is_former:
                return self.books.open_over(src, ep)
        return self.books.open(src, ep)

    def _pass_on(self, account: Account, envelope: Envelope, peer: Peer) -> None:
        # What came by a detour may go as far as what comes straight, for that will not go on now.
        hops = min(max(envelope.hops, account.hops), HOPS)
        if not hops:
            return
        onward = envelope._replace(hops=hops - 1)
        try:
            data = onward.encode()
        except MessageTooLarge as error:
            # The same values may have more bytes as they are written here.
            raise BadEnvelope("it cannot be passed on") from error
        self._spreading.spread(onward, data, peer)
