"""The relay: what joins the bus of this site with those of others.

It listens on the bus, and sends on what may leave; what comes from other nodes and may enter, it
publishes. The mesh, in a thread of its own, knows who the others are and how far they have come;
here is what that means for a site: its life, its bus, its questions, its commands.

It begins after a site has gone to the background, since threads do not survive that, and before it
gives up privileges, since keys may be its owner's alone. From then on it runs until the site exits,
also while that is stopped: somebody else may be the one to start it again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sitebus.config.channels import is_own
from sitebus.config.relay import (
    ANYBODY,
    HIGH_WATER,
    PeerEntry,
    is_on_this_machine,
    peer_entry,
    relay_address,
)
from sitebus.errors import KeysNeeded, NameNeeded, RelayStopped, WouldDeadlock
from sitebus.listeners import WARNING
from sitebus.plugins import Plugin, call_off, listens
from sitebus.process import Engine, Priority
from sitebus.relay import calls
from sitebus.relay.answering import Answering
from sitebus.relay.calls import Answers, Questions
from sitebus.relay.exports import Exports
from sitebus.relay.face import Face
from sitebus.relay.patterns import Patterns
from sitebus.relay.picture import COUNTS, RelayPicture
from sitebus.relay.policy import Policy
from sitebus.relay.ports import doubts_about
from sitebus.relay.running import Denials, Plan, Running
from sitebus.relay.subscriber import Audience, Ear
from sitebus.relay.transport import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from sitebus.relay.envelope import Envelope
    from sitebus.relay.peers import PeerPicture

__all__ = ["DEFAULT_ADDRESS", "Relay", "RelayPicture"]

#: After a site is a daemon, and before it gives up privileges.
BEGIN = Priority.PIDFILE + 1
#: Almost at the end: what others say on exit is still sent.
END = 95


class Relay(Face, Plugin):
    """Join the bus of this process with those of other nodes.

    As a plugin of a site it begins when that starts and ends when it exits. A program without a
    site writes ``with Relay(engine, ...) as relay:``.

    ``engine.relay`` while it is subscribed.

    Args:
        bus: The bus; a supervisor's, where there are workers.
        node: What this node is called; the host's name if left out.
        bind: Where others may connect; `DEFAULT_ADDRESS` if there are no peers either.
        peers: Where to connect to, such as ``web2=tcp://10.0.0.2:5555``.
        keys: The directory of this node's key pair and its peers' public keys.
        export: Channels of the bus whose messages go out, or patterns of them.
        import_: Channels of the bus on which others' messages are published.
        commands: By channel the nodes that may send on it, whatever it is.
        hub: Whether what one peer sends is passed on to others.
        hubs: The peers that pass on what others sent.
        retain: Channels whose last message goes to who comes later.
        high_water: How many messages may wait for a peer, and for a subscriber here.
        heartbeat: Seconds between signs of life; a peer is down after three without any.

    Raises:
        BadRelayAddress: An address is none.
    """

    def __init__(
        self,
        bus: Engine,
        *,
        node: str | None = None,
        bind: str | Iterable[str] = (),
        peers: str | Iterable[str | PeerEntry] = (),
        keys: str | os.PathLike[str] | None = None,
        export: str | Iterable[str] = (),
        import_: str | Iterable[str] = (),
        commands: Mapping[str, Iterable[str]] = {},
        hub: bool = False,
        hubs: str | Iterable[str] = (),
        retain: str | Iterable[str] = (),
        high_water: int = HIGH_WATER,
        heartbeat: float = 1.0,
    ) -> None:
        super().__init__(bus)
        entries = tuple(map(peer_entry, (peers,) if isinstance(peers, str) else peers))
        wanted = _several(bind) or (() if entries else (DEFAULT_ADDRESS,))
        self.keys = keys
        self._plan = Plan(
            node or socket.gethostname().partition(".")[0],
            tuple(map(relay_address, wanted)),
            entries,
            None,
            hub,
            _several(hubs),
            Patterns(_several(retain)),
            high_water,
            heartbeat,
        )
        self._policy = Policy(_several(export), _several(import_), commands)
        self._ruled = Patterns(self._policy.commands)
        self._exports = Exports(bus, _several(export), self._export)
        self._answering = Answering(bus, self._exports)
        self._questions = Questions()
        self._audience = Audience(high_water, self._want, self._unwant, self._missed)
        self._denials = Denials(self._denied)
        self._lock = threading.RLock()
        self._running: Running | None = None
        self._changed = threading.Condition()
        self._counts = dict.fromkeys(COUNTS, 0)

    @property
    def node(self) -> str:
        """What this node is called."""
        return self._plan.node

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others connect, with real ports; empty while it does not run."""
        running = self._running
        return () if running is None else running.addresses

    def __repr__(self) -> str:
        return f"<Relay {self.node} {'runs' if self._running else 'rests'}>"

    # The life.

    def _begin(self) -> None:
        Plugin.subscribe(self)
        self._exports.subscribe()
        self.bus.relay = self

    def unsubscribe(self) -> None:
        """Listen on the bus no more."""
        if self.bus.relay is self:
            self.bus.relay = None
        self._exports.unsubscribe()
        super().unsubscribe()

    @listens("trial")
    def check(self) -> tuple[str, ...]:
        """Look whether this can run, without running it.

        Returns:
            What is allowed and not wise, a sentence each.

        Raises:
            KeysNeeded: It reaches beyond this machine without keys.
            NameNeeded: There are keys, and a peer has no name.
            SitebusError: The keys cannot be read.
        """
        self._load_keys()
        return tuple(doubts_about(self._plan.bind))

    def _load_keys(self) -> Any:
        if self.keys is not None:
            from sitebus.relay import keys

            for peer in self._plan.peers:
                if peer.name is None and peer.address.startswith("tcp:"):
                    raise NameNeeded(peer.address)
            return keys.load(self.keys, self.node)
        for address in (*self._plan.bind, *(peer.address for peer in self._plan.peers)):
            if not is_on_this_machine(address):
                raise KeysNeeded(address)
            if self._policy.commands and address.startswith("tcp:"):
                raise KeysNeeded(address, ANYBODY, "unix:/run/relay.sock")
        return None

    @listens("start", priority=BEGIN)
    def start(self) -> None:
        """Begin, unless it has begun; it does not wait for peers.

        Raises:
            RelayBindError: Others cannot connect where they should.
            SitebusError: What `check` raises.
        """
        with self._lock:
            if self._running is not None:
                return
            try:
                for doubt in self.check():
                    self.bus.log(f"relay: {doubt}", WARNING)
                # Set before it runs: what comes at once is not to be missed.
                self._running = self._made()
                self._running.open()
            except Exception:
                self._running = None
                call_off(self.bus)
                raise
        at = ", ".join(self._running.addresses) or "no address of its own"
        self.bus.log(f"relay: {self.node} at {at}")

    def _made(self) -> Running:
        plan = self._plan._replace(keys=self._load_keys())
        wants = (self._policy.wants, *self._audience.wants)
        return Running(self.bus, plan, self._receive, self._hear_news, filter(len, wants))

    @listens("exit", priority=END)
    def stop(self) -> None:
        """End; what was sent before is still sent, if it does not take long."""
        with self._lock:
            running, self._running = self._running, None
            if running is None:
                return
            for name, count in running.mesh.counts._asdict().items():
                self._counts[name] += count
        running.close()
        self._audience.close()

    def __enter__(self) -> Self:
        self._begin()
        try:
            self.start()
        except BaseException:
            self.unsubscribe()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self.unsubscribe()

    # What others are.

    def peers(self) -> tuple[PeerPicture, ...]:
        """Answer every other node that there is, or was, and how it stands."""
        running = self._running
        return () if running is None else running.mesh.peers()

    def picture(self) -> RelayPicture:
        """Answer what it is like now."""
        running = self._running
        epoch = "" if running is None else running.mesh.epoch
        return RelayPicture(self.node, epoch, self.addresses, self.peers(), self.counts())

    def counts(self) -> dict[str, int]:
        """Answer what was counted since this process began, see `COUNTS`."""
        with self._lock:
            running = self._running
            now = {} if running is None else running.mesh.counts._asdict()
            found = {name: before + now.get(name, 0) for name, before in self._counts.items()}
        found["bad"] += self._denials.count
        return found

    def wait_peers(self, *names: str, timeout: float = 10.0) -> bool:
        """Wait until nodes are there that send what is wanted here and get what is sent.

        Args:
            names: Which ones; any one if left out.
            timeout: Seconds to wait at most.

        Returns:
            Whether they are.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._are_up(names):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _are_up(self, names: tuple[str, ...]) -> bool:
        up = {peer.node for peer in self.peers() if peer.state == "up"}
        return up.issuperset(names) if names else bool(up)

    # What goes out.

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what was sent before is out of here; tell whether it is in time."""
        running = self._running
        return running is not None and running.flush(timeout)

    def _export(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        with suppress(RelayStopped):  # before its start and after its end nobody is there
            self._send(channel, args, kwargs)

    def put(self, channel: str, args: tuple[Any, ...]) -> None:
        """Send a message, as a publisher does."""
        self._send(channel, args, {})

    def _send(
        self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], **more: Any
    ) -> None:
        running = self._running
        if running is None:
            raise RelayStopped(channel)
        # What was asked or commanded once is not asked again of whoever comes later.
        retain = not more and channel in self._plan.retain and not is_own(channel)
        envelope = running.mesh.send(channel, args, kwargs, retain=retain, **more)
        if "to" not in more and self._audience.has_ear_for(channel):
            # As others get it: what is in it now is not changed by who goes on with it.
            copy = json.loads(json.dumps({"args": envelope.args, "kw": envelope.kw}))
            self._audience.hear(envelope._replace(**copy))

    def _call(
        self,
        channel: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float,
        nodes: tuple[str, ...] | None,
    ) -> Answers:
        running = self._running
        if running is None:
            raise RelayStopped(channel)
        if running.is_current:
            raise WouldDeadlock("relay.call", "a thread of its own", "the relay's own threads")
        question, receivers = calls.question(channel, running.mesh.peers(), nodes)
        call = f"{self.node}-{running.mesh.epoch}-{os.urandom(8).hex()}"
        self._questions.add(call, question)
        try:
            for node in receivers:
                told = {"call": call} if node is None else {"call": call, "to": node}
                self._send(channel, args, kwargs, **told)
            return question.wait(timeout)
        finally:
            self._questions.remove(call)

    def answer(self, envelope: Envelope, value: Any) -> None:
        """Answer a call that a subscriber got; see `Face`."""
        self._reply(envelope, calls.result(value))

    def _reply(self, envelope: Envelope, told: Mapping[str, Any]) -> None:
        if envelope.call is not None:
            self._send(envelope.ch, (told,), {}, to=envelope.src, re=envelope.call)

    def _tell(self, envelope: Envelope, told: Mapping[str, Any]) -> None:
        with suppress(RelayStopped):  # who asked is told that this node is gone
            self._reply(envelope, told)

    def join(self, ear: Ear) -> None:
        """Have an ear hear what is sent on its channels, until it is told to `leave`.

        It begins with the last values of retained channels that are known here.
        """
        running = self._running
        if running is None:
            self._audience.join(ear)
            return

        def begin() -> None:
            for envelope in running.mesh.last_values(ear.channels):
                ear.offer(envelope)
            self._audience.join(ear)

        running.between_messages(begin)

    def leave(self, ear: Ear) -> None:
        """Have an ear hear no more."""
        self._audience.leave(ear)

    # What comes in; in the poller's thread.

    def _receive(self, envelope: Envelope) -> None:
        running = self._running
        if running is None:
            return  # it ends
        if envelope.re is not None:
            told = envelope.args[0] if envelope.args else None
            self._questions.hear(envelope.re, envelope.src, told)
            return
        taken = self._audience.hear(envelope)
        tell = partial(self._tell, envelope)
        if self._policy.may_enter(envelope.ch, envelope.src):
            self._admit(envelope, running)
        elif envelope.ch in self._ruled:
            self._denials.add(envelope)
            tell(calls.error(f"{envelope.src} may not send it; see [relay command] there"))
        elif not taken:
            tell(calls.error("it is not imported there"))

    def _admit(self, envelope: Envelope, running: Running) -> None:
        tell = partial(self._tell, envelope)
        if self._answering.is_command(envelope.ch):
            self._answering.obey(envelope, tell)
        elif envelope.call is not None:
            question = partial(self._answering.answer, envelope, tell)
            if not running.answers.offer(question, envelope.size):
                tell(calls.error("too many questions wait there"))
        else:
            running.offer(lambda: self._answering.publish(envelope), envelope.size)

    def _hear_news(self, channel: str, *args: Any) -> None:
        if channel == "relay.peer" and args[1] == "down":
            self._questions.lose(args[0], "it is gone")
        with self._changed:
            self._changed.notify_all()

    def _denied(self, node: str, why: str) -> None:
        running = self._running
        if running is not None:
            running.tell("relay.bad", node, why)

    # What subscribers here want; any thread may.

    def _want(self, ear: Ear) -> None:
        running = self._running
        if running is not None:
            running.mesh.want(ear.channels)

    def _unwant(self, ear: Ear) -> None:
        running = self._running
        if running is not None:
            running.mesh.unwant(ear.channels)

    def _missed(self) -> None:
        running = self._running
        if running is not None:
            running.lose()


def _several(texts: str | Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)
