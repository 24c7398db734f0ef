"""One life of the relay, from its start to its end: a mesh, and the threads it takes.

What comes waits for a thread of its own, since listeners may take their time and the mesh must not;
so do questions, which wait for others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import ChannelFailures
from sitebus.listeners import ERROR, INFO, WARNING
from sitebus.process import Engine
from sitebus.relay import transport
from sitebus.relay.dispatch import Dispatcher, Losses, Work
from sitebus.relay.mesh import Mesh
from sitebus.relay.patterns import Patterns
from sitebus.relay.poller import Poller
from sitebus.relay.transport import Settings, Transport

if TYPE_CHECKING:
    from sitebus.config.relay import PeerEntry
    from sitebus.relay.envelope import Envelope

#: How long the last messages may take; seconds.
LINGER = 1.0
#: After so many silent beats a peer is down.
SILENT_BEATS = 3.0


class Plan(NamedTuple):
    """What a life is made of; see `sitebus.relay.plugin.Relay`."""

    node: str
    bind: tuple[str, ...]
    peers: tuple[PeerEntry, ...]
    keys: Any
    hub: bool
    hubs: tuple[str, ...]
    retain: Patterns
    high_water: int
    heartbeat: float


class Running:
    """A relay that runs, once it is told to `open`.

    Args:
        bus: What is told the news.
        plan: What there is to be.
        receive: Takes each message, in the poller's thread.
        news: Hears the news before the bus does, in the poller's thread.
        wants: The channels of which something is to be received.

    Attributes:
        addresses: Where others connect, with real ports.
    """

    def __init__(
        self,
        bus: Engine,
        plan: Plan,
        receive: Callable[[Envelope], object],
        news: Callable[..., object],
        wants: Iterable[Patterns],
    ) -> None:
        self._bus = bus
        self._plan = plan
        self._news = news
        self.addresses: tuple[str, ...] = ()
        self.messages = Dispatcher("sitebus relay messages", self._failed, plan.high_water)
        self.answers = Dispatcher("sitebus relay answers", self._failed, plan.high_water)
        self._losses = Losses(self.messages.post, self._tell_loss)
        self._poller = Poller("sitebus relay mesh", self._stumbled)
        self.mesh = Mesh(
            plan.node,
            self._poller,
            receive,
            self._hear,
            hub=plan.hub,
            hubs=plan.hubs,
            beat=plan.heartbeat,
            patience=SILENT_BEATS * plan.heartbeat,
            high_water=plan.high_water,
        )
        for each in wants:
            self.mesh.want(each)
        self._transports: dict[str, Transport] = {}

    def open(self) -> None:
        """Begin.

        Raises:
            SitebusError: It cannot; nothing is left of it.
        """
        self._poller.start()
        try:
            self.addresses = tuple(
                self._transport(address).listen(address) for address in self._plan.bind
            )
            for peer in self._plan.peers:
                self._transport(peer.address).connect(peer.address, peer.name)
            self.messages.start()
            self.answers.start()
            self.mesh.start()
        except BaseException:
            self.close(0.0)
            raise

    def _transport(self, address: str) -> Transport:
        scheme = transport.scheme(address)
        if scheme not in self._transports:
            told = Settings(self._plan.node, self._plan.high_water, self._plan.keys)
            made = transport.open(address, self._poller, self.mesh, told)
            self._transports[scheme] = made
            self.mesh.add(made)
        return self._transports[scheme]

    def close(self, linger: float = LINGER) -> None:
        """End it; what was sent before has *linger* seconds to get out of here."""
        self.answers.stop(linger)
        self.messages.stop(linger)
        self.mesh.stop(linger)
        self._poller.stop()

    @property
    def is_current(self) -> bool:
        """Whether this is one of its threads."""
        return self._poller.is_current or self.messages.is_current or self.answers.is_current

    def between_messages(self, work: Work) -> None:
        """Do *work* while nothing is received; raises what that raises."""
        if self._poller.is_current:
            work()
            return
        done: Future[None] = Future()

        def do() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                done.set_exception(error)
            else:
                done.set_result(None)

        if self._poller.call_soon(do):
            done.result()

    def flush(self, timeout: float) -> bool:
        """Wait until what was sent before has been handed on; tell whether it has."""
        return self.mesh.flush(timeout)

    def offer(self, work: Work, size: int) -> None:
        """Have a message dealt with, in its turn; what is too much is lost, and that is told."""
        if not self.messages.offer(work, size):
            self.lose()

    def lose(self) -> None:
        """Count a message that somebody on this node has missed."""
        self._losses.add(self._plan.node)

    def tell(self, channel: str, *args: Any) -> None:
        """Publish news, in its turn."""
        self.messages.post(lambda: self._publish(channel, args))

    def _hear(self, channel: str, *args: Any) -> None:
        self._news(channel, *args)
        self.tell(channel, *args)

    def _publish(self, channel: str, args: tuple[Any, ...]) -> None:
        level, text = _SAID[channel]
        self._bus.log(f"relay: {text.format(*args)}", level)
        with suppress(ChannelFailures):  # logged already
            self._bus.publish(channel, *args)

    def _tell_loss(self, who: str, count: int) -> None:
        self._publish("relay.drop", (who, count))

    def _stumbled(self, error: BaseException) -> None:
        self.messages.post(lambda: self._failed(error))

    def _failed(self, error: BaseException) -> None:
        self._bus.log(f"Error in the relay: {error}", ERROR, traceback=error)


#: What is logged of the news, by channel.
_SAID = {
    "relay.peer": (INFO, "{0} is {1}"),
    "relay.synced": (10, "{0} sends what is wanted here"),
    "relay.gap": (WARNING, "{2} messages of {0} on {1} were lost"),
    "relay.drop": (WARNING, "{1} messages for {0} were dropped: it is too slow for them"),
    "relay.bad": (WARNING, "{0}: {1}"),
}


class Denials:
    """Counts what nodes were not allowed to send, and tells of each node and channel once."""

    _MOST = 1000

    def __init__(self, tell: Callable[[str, str], object]) -> None:
        self.count = 0
        self._tell = tell
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, envelope: Envelope) -> None:
        """Count a message that must not be heard here."""
        with self._lock:
            self.count += 1
            mark = envelope.src, envelope.ch
            if mark in self._told or len(self._told) >= self._MOST:
                return
            self._told.add(mark)
        self._tell(envelope.src, f"it may not send on {envelope.ch!r}; see [relay command]")
