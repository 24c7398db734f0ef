"""The relay of a site in its workers: they ask, and the supervisor, which has it, does it for them.

What is exported and imported goes its own way, as all that the processes of a site tell each other
does; here is what an application does with ``engine.relay``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sitebus.errors import RelayNoAnswer, RelayRemoteError, RelayStopped, SitebusError
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin
from sitebus.process import Engine
from sitebus.relay.calls import Answers
from sitebus.relay.envelope import Envelope
from sitebus.relay.face import PATIENCE, Face
from sitebus.relay.patterns import Patterns
from sitebus.relay.peers import PeerPicture
from sitebus.relay.room import check_room
from sitebus.relay.subscriber import Audience
from sitebus.workers.hand import Hand

if TYPE_CHECKING:
    from sitebus.relay.plugin import Relay
    from sitebus.workers.commands import Commands

Message = Mapping[str, Any]

#: How much longer than the others a worker waits for the supervisor; seconds.
GRACE = 1.0
#: How many messages may wait for a subscriber.
MOST = 10_000


class WorkerRelay(Face, Plugin):
    """The relay of the site, as a worker has it.

    Args:
        bus: The worker's.
        send: Sends a message to the supervisor; tells whether it will arrive.
        missed: Is told of each message that a subscriber had no room for.
    """

    def __init__(
        self, bus: Engine, send: Callable[..., bool], missed: Callable[[], object]
    ) -> None:
        super().__init__(bus)
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._audience = Audience(MOST, self._want, self._unwant, missed)

    def _begin(self) -> None:
        Plugin.subscribe(self)
        self.bus.relay = self

    def unsubscribe(self) -> None:
        """Be there no more."""
        if self.bus.relay is self:
            self.bus.relay = None
        self._audience.close()
        super().unsubscribe()

    def put(self, channel: str, args: tuple[Any, ...]) -> None:
        """Send a message, as a publisher does."""
        check_room(channel, args, {})
        self._tell("relay.put", channel, args=list(args))

    def answer(self, envelope: Envelope, value: Any) -> None:
        """Answer a call that a subscriber got; see `Face`."""
        check_room(envelope.ch, (value,), {})
        self._tell("relay.answer", envelope.ch, envelope=[*envelope._replace(args=[])], value=value)

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what was sent before is out of here; tell whether it is in time."""
        try:
            return bool(self._ask("relay.flush", "", timeout, timeout=timeout))
        except (TimeoutError, RelayStopped):
            return False

    def peers(self) -> tuple[PeerPicture, ...]:
        """Answer every other node, as the supervisor knows it."""
        try:
            found = self._ask("relay.peers", "", PATIENCE)
        except (TimeoutError, RelayStopped):
            return ()
        return tuple(PeerPicture(*each) for each in found)

    def _call(
        self,
        channel: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float,
        nodes: tuple[str, ...] | None,
    ) -> Answers:
        check_room(channel, args, kwargs)
        told = {"args": list(args), "kwargs": kwargs, "nodes": nodes and list(nodes)}
        try:
            found = self._ask("relay.call", channel, timeout, **told, timeout=timeout)
        except TimeoutError:
            raise RelayStopped(channel) from None
        return {node: _error_in(node, channel, told) for node, told in found.items()}

    def _ask(self, what: str, channel: str, patience: float, **values: Any) -> Any:
        number, question = next(self._numbers), Future[Any]()
        self._waiting[number] = question
        try:
            self._tell(what, channel, re=number, **values)
            found = question.result(patience + GRACE)
        finally:
            del self._waiting[number]
        if "error" in found:
            raise RelayStopped(channel)
        return found["result"]

    def _tell(self, what: str, channel: str, **values: Any) -> None:
        if not self._send(what, channel=channel, **values):
            raise RelayStopped(channel)

    def _want(self, channels: Patterns) -> None:
        self._send("relay.want", channels=list(channels))

    def _unwant(self, channels: Patterns) -> None:
        self._send("relay.unwant", channels=list(channels))

    # What is heard; in the poller's thread.

    def hear(self, message: Message) -> None:
        """Take a message for a subscriber."""
        self._audience.hear(Envelope(*message["envelope"]))

    def hear_answer(self, message: Message) -> None:
        """Take an answer to what was asked."""
        question = self._waiting.get(message["re"])
        if question is not None:
            question.set_result(message)


def _error_in(node: str, channel: str, told: Mapping[str, Any]) -> Any:
    if "error" not in told:
        return told["result"]
    kind = RelayNoAnswer if told["silent"] else RelayRemoteError
    return kind(node, channel, told["error"])


def _told(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, RelayRemoteError):
        return {"result": answer}
    return {"error": answer.reason, "silent": isinstance(answer, RelayNoAnswer)}


class _WorkerEar:
    """What one worker wants of some channels."""

    def __init__(self, hand: Hand, channels: Patterns, missed: Callable[[Hand], object]) -> None:
        self.channels = channels
        self.hand = hand
        self._missed = missed

    def offer(self, envelope: Envelope) -> None:
        if not self.hand.send("relay.heard", envelope=[*envelope]):
            self._missed(self.hand)

    def close(self) -> None:
        """Nothing is kept here."""


class Desk:
    """Does with the relay what workers ask for; in the poller's thread of the workers.

    Args:
        crew: The workers.
        relay: The relay of the site.
    """

    def __init__(self, crew: Commands, relay: Relay) -> None:
        self._crew = crew
        self._relay = relay
        self._ears: list[_WorkerEar] = []
        for what, handler in (
            ("relay.put", self._put),
            ("relay.answer", self._answer),
            ("relay.want", self._want),
            ("relay.unwant", self._unwant),
            ("relay.call", self._call),
            ("relay.flush", self._flush),
            ("relay.peers", self._peers),
        ):
            crew.hear(what, handler)
        crew.on_gone(self._gone)

    def _put(self, hand: Hand, message: Message) -> None:
        self._try(hand, lambda: self._relay.put(message["channel"], tuple(message["args"])))

    def _answer(self, hand: Hand, message: Message) -> None:
        envelope = Envelope(*message["envelope"])
        self._try(hand, lambda: self._relay.answer(envelope, message["value"]))

    def _try(self, hand: Hand, work: Callable[[], object]) -> None:
        try:
            work()
        except SitebusError as error:
            self._crew.say(f"worker {hand.slot}: {error}", ERROR)

    def _want(self, hand: Hand, message: Message) -> None:
        ear = _WorkerEar(hand, Patterns(message["channels"]), self._crew.missed)
        self._ears.append(ear)
        self._relay.join(ear)

    def _unwant(self, hand: Hand, message: Message) -> None:
        channels = Patterns(message["channels"])
        for ear in self._ears:
            if ear.hand is hand and ear.channels == channels:
                self._leave(ear)
                return

    def _gone(self, serial: int) -> None:
        for ear in [each for each in self._ears if each.hand.serial == serial]:
            self._leave(ear)

    def _leave(self, ear: _WorkerEar) -> None:
        self._ears.remove(ear)
        self._relay.leave(ear)

    def _call(self, hand: Hand, message: Message) -> None:
        nodes, timeout = message["nodes"], float(message["timeout"])

        def work() -> dict[str, Any]:
            found = self._relay.call(
                message["channel"],
                *message["args"],
                timeout=timeout,
                nodes=nodes,
                **message["kwargs"],
            )
            return {node: _told(answer) for node, answer in found.items()}

        self._in_a_thread(hand, message["re"], work)

    def _flush(self, hand: Hand, message: Message) -> None:
        timeout = float(message["timeout"])
        self._in_a_thread(hand, message["re"], lambda: self._relay.flush(timeout))

    def _peers(self, hand: Hand, message: Message) -> None:
        hand.send("relay.answered", re=message["re"], result=self._relay.peers())

    def _in_a_thread(self, hand: Hand, re: object, work: Callable[[], object]) -> None:
        def answer() -> None:
            try:
                hand.send("relay.answered", re=re, result=work())
            except SitebusError as error:
                hand.send("relay.answered", re=re, error=str(error))

        threading.Thread(target=answer, name="sitebus relay question", daemon=True).start()
