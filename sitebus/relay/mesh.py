"""One node among others: sends to those who want it, receives what it wants, and tells of losses.

A message is delivered once at most, never again later: whoever wants an answer or certainty asks
for it. What is lost is counted and told, exactly. See `sitebus.relay.sequences` for how.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sitebus.config.relay import HIGH_WATER
from sitebus.errors import TooManyWants
from sitebus.relay import talk
from sitebus.relay.circle import Circle
from sitebus.relay.envelope import Envelope, check_name, parse, parts_of
from sitebus.relay.envelope import envelope as read
from sitebus.relay.intake import Intake, Receive
from sitebus.relay.outgoing import Outgoing
from sitebus.relay.patterns import NONE, Patterns
from sitebus.relay.peers import Peer, PeerPicture
from sitebus.relay.poller import Poller
from sitebus.relay.spreading import Spreading
from sitebus.relay.telling import Counts, News, Telling
from sitebus.relay.transport import Connection, Transport

#: So many messages go out before others have their turn in the poller.
_AT_ONCE = 500
#: How long `Mesh.stop` waits for the poller, beyond its linger; seconds.
_PATIENCE = 5.0


class Mesh:
    """One node for one life; the `Hearer` of its transports.

    Args:
        node: Its name, which no other has.
        poller: In whose thread everything happens.
        receive: Is given each message that is wanted here, in that thread: once, and in order for
            each source and channel.
        news: Is given what happens, in that thread: ``relay.peer`` with a node and ``up`` or
            ``down``; ``relay.gap`` with a source, a channel and how many messages are lost;
            ``relay.drop`` with a peer and how many it was not sent because too many waited;
            ``relay.bad`` with a peer and what is wrong with it; ``relay.synced`` with a peer that
            sends from here on what is wanted.
        hub: Pass messages on between peers.
        hubs: The nodes that may pass on messages of others.
        beat: Seconds between two signs of life.
        patience: After so many seconds without one a peer is down.
        high_water: For the transports: see `Settings`.
        retain: Channels whose last value is sent to those who come later.
        epoch: Of this life, which no other life of the node has; made up if left out.
        clock: The poller's.

    Attributes:
        node: Its name.
        epoch: Of this life; a later one sorts after it.
    """

    def __init__(
        self,
        node: str,
        poller: Poller,
        receive: Receive,
        news: News,
        *,
        hub: bool = False,
        hubs: Iterable[str] = (),
        beat: float = 1.0,
        patience: float = 3.0,
        high_water: int = HIGH_WATER,
        retain: Patterns = NONE,
        epoch: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = check_name("node", node)
        self.epoch = epoch or f"{int(time.time()):08x}{secrets.token_hex(4)}"
        self.high_water = high_water
        self._poller = poller
        self._beat = beat
        self._clock = clock
        self._retain = retain
        self._peers: dict[str, Peer] = {}
        self._telling = Telling(lambda *what: poller.guarded(news, *what))
        self._spreading = Spreading(self._peers)
        self._receive: Receive = lambda envelope: poller.guarded(receive, envelope)
        self._intake = Intake(
            node,
            self._receive,
            self._spreading,
            self._telling,
            hub=hub,
            patience=patience,
            clock=clock,
        )
        self._circle = Circle(
            node,
            self.epoch,
            self._peers,
            self._spreading,
            self._intake,
            self._telling,
            hub=hub,
            hubs=frozenset(hubs),
            beat=beat,
            patience=patience,
            clock=clock,
        )
        self.joined: Callable[[Connection], None] = self._circle.joined
        self.heard: Callable[[Connection, bytes], None] = self._circle.heard
        self.left: Callable[[Connection, str], None] = self._circle.left
        self.refused: Callable[[str, str], None] = self._circle.refused
        self._outgoing = Outgoing(node, self.epoch, self._ring)
        self._transports: list[Transport] = []
        self._wanted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._cancel: Callable[[], None] = lambda: None
        self._running = False

    def __repr__(self) -> str:
        return f"<Mesh {self.node} {self.epoch}: {len(self._peers)} peers>"

    def add(self, transport: Transport) -> None:
        """Have *transport* closed by `stop`; whose hearer this is."""
        self._transports.append(transport)

    def start(self) -> None:
        """Take messages, and beat."""
        self._running = True
        self._outgoing.open()
        self._poller.call_soon(self._tick)

    def stop(self, linger: float = 1.0) -> None:
        """Take leave of the peers and close the transports; there is no new start.

        What was sent before has *linger* seconds to go out. In another thread than the poller's
        this waits for that.
        """
        self._outgoing.close()
        self._in_poller(self._end, linger + _PATIENCE)
        for transport in self._transports:
            transport.close(linger)

    def send(
        self,
        channel: str,
        args: list[Any] | tuple[Any, ...] = (),
        kw: Mapping[str, Any] | None = None,
        *,
        retain: bool = False,
        to: str | None = None,
        re: str | None = None,
        call: str | None = None,
    ) -> Envelope:
        """Send a message to all peers that want its channel; any thread may, and none waits.

        Args:
            channel: Its channel.
            args: Its values.
            kw: Its named values.
            retain: Send it also to those who come later, until there is a later value.
            to: The only node that it is for, which gets it whether it wants the channel or not.
            re: The *call* that it answers.
            call: Ask for answers, with this in their *re*.

        Raises:
            NotJson: It holds what JSON cannot say; a TypeError.
            MessageTooLarge: It is too large.
            BadName: The channel or the node cannot be called so.
            RelayStopped: The mesh has not started, or has stopped.
        """
        keep = to is None and (retain or channel in self._retain)
        return self._outgoing.put(channel, args, kw or {}, keep=keep, to=to, re=re, call=call)

    def want(self, patterns: Iterable[str]) -> None:
        """Receive what is sent on channels that *patterns* mean; any thread may, at any time.

        Raises:
            BadName: Something is no pattern.
            TooManyWants: There are more than peers take.
            MessageTooLarge: They are too long together.
        """
        texts = [check_name("pattern", text) for text in Patterns(patterns)]
        with self._lock:
            counter = self._wanted + Counter(texts)
            if len(counter) > talk.MOST_WANTS:
                raise TooManyWants(len(counter), talk.MOST_WANTS)
            # The longest of what is said with them.
            talk.hello(talk.Hello(self.node, self.epoch, Patterns(counter), 2**53, False))
            self._wanted = counter
        self._poller.call_soon(self._rewant)

    def unwant(self, patterns: Iterable[str]) -> None:
        """Take back one `want` of each of *patterns*."""
        with self._lock:
            self._wanted -= Counter(list(Patterns(patterns)))
        self._poller.call_soon(self._rewant)

    def peers(self) -> tuple[PeerPicture, ...]:
        """Answer all nodes that were ever connected, as they are now."""
        return tuple(peer.picture() for peer in list(self._peers.values()))

    @property
    def counts(self) -> Counts:
        """What was counted since the start."""
        return self._telling.counts()

    def flush(self, timeout: float) -> bool:
        """Wait until the transports have all that was sent before; tell whether they have.

        Not to be called in the poller's thread.
        """
        done = threading.Event()
        self._poller.call_soon(lambda: self._flushed(done))
        return done.wait(timeout)

    def last_values(self, patterns: Patterns, timeout: float = 1.0) -> tuple[Envelope, ...]:
        """Answer the last values of retained channels that are known here, the node's own too."""
        found: list[Envelope] = []
        self._in_poller(lambda: found.extend(self._intake.retained.of(patterns)), timeout)
        return tuple(found)

    # Below is the poller's thread.

    def _ring(self) -> None:
        self._poller.call_soon(self._drain)

    def _drain(self) -> None:
        for envelope, stream, mark, data in self._outgoing.take(_AT_ONCE):
            self._circle.positions.move(stream, mark)
            self._telling.tx += 1
            if envelope.keep:
                self._intake.retained.put(self.node, envelope.ch, data)
            if envelope.to is None:
                self._spreading.spread(envelope, data)
            else:
                self._send_to(envelope.to, envelope, data)
        spilled = self._outgoing.rest()
        if spilled is None:
            self._poller.call_soon(self._drain)
            return
        for stream, (mark, count) in spilled.items():
            self._circle.positions.move(stream, mark)
            self._telling.tx += count
            channel, to = parts_of(stream)
            for peer in self._spreading.audience(channel, to or None):
                peer.dropped += count

    def _send_to(self, node: str, envelope: Envelope, data: bytes) -> None:
        if node == self.node:
            # As any other gets it: what was sent is not changed by what the sender does with it.
            self._receive(read(parse(data), len(data)))
        elif self._spreading.audience(envelope.ch, node):
            self._spreading.spread(envelope, data)
        else:
            self._spreading.goes_astray(node)

    def _tick(self) -> None:
        if not self._running:
            return
        for transport in self._transports:
            self._poller.guarded(transport.look_again)
        self._circle.tick()
        self._cancel = self._poller.call_at(self._clock() + self._beat, self._tick)

    def _rewant(self) -> None:
        with self._lock:
            wants = Patterns(self._wanted)
        if wants != self._intake.wants:
            self._circle.rewant(wants)

    def _flushed(self, done: threading.Event) -> None:
        if len(self._outgoing):
            self._poller.call_soon(lambda: self._flushed(done))
        else:
            done.set()

    def _end(self) -> None:
        while len(self._outgoing):
            self._drain()
        self._running = False
        self._cancel()
        self._circle.bye()

    def _in_poller(self, work: Callable[[], object], timeout: float) -> None:
        if self._poller.is_current:
            work()
            return
        done = threading.Event()

        def do() -> None:
            try:
                work()
            finally:
                done.set()

        if self._poller.call_soon(do):
            done.wait(timeout)
