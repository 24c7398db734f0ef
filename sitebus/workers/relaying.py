"""The relay of a site in its workers: they ask, and the supervisor, which has it, does it for them.

What is exported and imported goes its own way, as all that the processes of a site tell each other
does; here is what an application does with ``engine.relay``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import (
    RelayNoAnswer,
    RelayRefused,
    RelayRemoteError,
    RelayStopped,
    SitebusError,
)
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin
from sitebus.process import Engine
from sitebus.relay.calls import Answers
from sitebus.relay.envelope import Envelope
from sitebus.relay.face import PATIENCE, Face
from sitebus.relay.patterns import Patterns
from sitebus.relay.peers import PeerPicture
from sitebus.relay.room import check_room
from sitebus.relay.subscriber import Audience, Ear
from sitebus.workers.hand import Hand

if TYPE_CHECKING:
    from sitebus.relay.plugin import Relay
    from sitebus.workers.commands import Commands

Message = Mapping[str, Any]
Work = Callable[[], Mapping[str, Any]]

#: How much longer than the others a worker waits for the supervisor; seconds.
GRACE = 1.0


class _Asked(NamedTuple):
    """What was asked of the supervisor, and what it has said so far.

    It answers part by part, since each node may have told as much as fits into a message.
    """

    parts: dict[str, Any]
    done: Future[Message]


class WorkerRelay(Face, Plugin):
    """The relay of the site, as a worker has it.

    Args:
        bus: The worker's.
        send: Sends a message to the supervisor; tells whether it will arrive.
        missed: Is told of each message that a subscriber had no room for.
        most: How many messages may wait for a subscriber.
    """

    def __init__(
        self, bus: Engine, send: Callable[..., bool], missed: Callable[[], object], most: int
    ) -> None:
        super().__init__(bus)
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Asked] = {}
        self._ears: dict[int, Ear] = {}
        self._audience = Audience(most, self._want, self._unwant, missed)

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
            return bool(self._ask("relay.flush", "", timeout, timeout=timeout).get("in time"))
        except (TimeoutError, RelayStopped, RelayRefused):
            return False

    def peers(self) -> tuple[PeerPicture, ...]:
        """Answer every other node, as the supervisor knows it."""
        try:
            found = self._ask("relay.peers", "", PATIENCE)
        except (TimeoutError, RelayStopped, RelayRefused):
            return ()
        return tuple(PeerPicture(*each) for each in found.values())

    def _call(
        self,
        channel: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float,
        nodes: tuple[str, ...] | None,
    ) -> Answers:
        check_room(channel, args, kwargs)
        asked = None if nodes is None else list(nodes)
        told = {"args": list(args), "kwargs": kwargs, "nodes": asked}
        try:
            found = self._ask("relay.call", channel, timeout, **told, timeout=timeout)
        except TimeoutError:
            raise RelayStopped(channel) from None
        return {node: _error_in(node, channel, told) for node, told in found.items()}

    def _ask(self, what: str, channel: str, patience: float, **values: Any) -> dict[str, Any]:
        number, question = next(self._numbers), _Asked({}, Future())
        self._waiting[number] = question
        try:
            self._tell(what, channel, re=number, **values)
            last = question.done.result(patience + GRACE)
        finally:
            del self._waiting[number]
        if last.get("kind") == RelayStopped.__name__:
            raise RelayStopped(channel)
        if "error" in last:
            raise RelayRefused(channel, last["error"])
        return question.parts

    def _tell(self, what: str, channel: str, **values: Any) -> None:
        if not self._send(what, channel=channel, **values):
            raise RelayStopped(channel)

    def _want(self, ear: Ear) -> None:
        number = next(self._numbers)
        self._ears[number] = ear
        self._send("relay.want", ear=number, channels=list(ear.channels))

    def _unwant(self, ear: Ear) -> None:
        for number in [number for number, each in self._ears.items() if each is ear]:
            del self._ears[number]
            self._send("relay.unwant", ear=number)

    # What is heard; in the poller's thread.

    def hear(self, message: Message) -> None:
        """Take a message for a subscriber."""
        ear = self._ears.get(message["ear"])
        if ear is not None:
            ear.offer(Envelope(*message["envelope"]))

    def hear_answer(self, message: Message) -> None:
        """Take an answer to what was asked, or a part of it."""
        question = self._waiting.get(message["re"])
        if question is None:
            return
        if "part" in message:
            question.parts[message["part"]] = message["result"]
        else:
            question.done.set_result(message)


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

    def __init__(
        self, hand: Hand, number: int, channels: Patterns, missed: Callable[[Hand], object]
    ) -> None:
        self.channels = channels
        self.hand = hand
        self.number = number
        self._missed = missed

    def offer(self, envelope: Envelope) -> None:
        if not self.hand.send("relay.heard", ear=self.number, envelope=[*envelope]):
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
        channels = Patterns(message["channels"])
        ear = _WorkerEar(hand, int(message["ear"]), channels, self._crew.missed)

        def join() -> None:
            self._relay.join(ear)
            self._ears.append(ear)

        self._try(hand, join)

    def _unwant(self, hand: Hand, message: Message) -> None:
        for ear in [each for each in self._ears if each.hand is hand]:
            if ear.number == message["ear"]:
                self._leave(ear)

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

        self._in_a_thread(hand, message, work)

    def _flush(self, hand: Hand, message: Message) -> None:
        timeout = float(message["timeout"])
        self._in_a_thread(hand, message, lambda: {"in time": self._relay.flush(timeout)})

    def _peers(self, hand: Hand, message: Message) -> None:
        _answer(hand, message["re"], lambda: {each.node: each for each in self._relay.peers()})

    def _in_a_thread(self, hand: Hand, message: Message, work: Work) -> None:
        def answer() -> None:
            _answer(hand, message["re"], work)

        threading.Thread(target=answer, name="sitebus relay question", daemon=True).start()


def _answer(hand: Hand, re: object, work: Work) -> None:
    """Say what was found, part by part, and that this was all; or why there is nothing."""
    try:
        for part, result in work().items():
            hand.send("relay.answered", re=re, part=part, result=result)
        hand.send("relay.answered", re=re)
    except SitebusError as error:
        hand.send("relay.answered", re=re, error=str(error), kind=type(error).__name__)
