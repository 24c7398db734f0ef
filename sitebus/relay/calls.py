"""Questions to other nodes: one message, and from each an answer, or why there is none.

What comes in is told by the relay, in the poller's thread; whoever asks waits in another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sitebus.errors import RelayNoAnswer, RelayRemoteError
from sitebus.relay.patterns import Patterns
from sitebus.relay.peers import PeerPicture

Answers = dict[str, Any]

#: The longest reason that is sent, in characters.
_LONGEST = 4000


class Question:
    """One call, while it waits.

    Args:
        channel: What is asked.
        wanted: The nodes that are to answer.
        open_ended: Whether others may answer as well of whom nothing is known.
    """

    def __init__(self, channel: str, wanted: Iterable[str], open_ended: bool) -> None:
        self.channel = channel
        self._answers: Answers = {}
        self._missing = set(wanted)
        self._open_ended = open_ended
        self._changed = threading.Condition()

    def hear(self, node: str, told: object) -> None:
        """Take what a node has answered; its first answer counts."""
        with self._changed:
            if node not in self._answers:
                self._answers[node] = self._read(node, told)
                self._missing.discard(node)
                self._changed.notify_all()

    def lose(self, node: str, why: str) -> None:
        """Expect nothing of a node any more."""
        with self._changed:
            if node in self._missing:
                self._missing.discard(node)
                self._answers[node] = RelayNoAnswer(node, self.channel, why)
                self._changed.notify_all()

    def wait(self, timeout: float) -> Answers:
        """Answer what every node has answered, *timeout* seconds later at most."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._missing or self._open_ended:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            why = f"nothing came within {timeout:g} s"
            silent = {node: RelayNoAnswer(node, self.channel, why) for node in self._missing}
            found = {**self._answers, **silent}
        return {node: found[node] for node in sorted(found)}

    def _read(self, node: str, told: object) -> Any:
        if isinstance(told, Mapping) and "result" in told:
            return told["result"]
        reason = told.get("error") if isinstance(told, Mapping) else None
        return RelayRemoteError(node, self.channel, str(reason or "it said nothing of use"))


def question(
    channel: str, peers: Iterable[PeerPicture], nodes: Iterable[str] | None
) -> tuple[Question, tuple[str | None, ...]]:
    """Answer a question, and to whom it is to be sent: to some nodes, or, by None, to all.

    Args:
        channel: What is asked.
        peers: Those that are known.
        nodes: The nodes that are asked; None for all that want the channel.
    """
    there = [each for each in peers if each.state != "down"]
    has_hub = any(each.hub for each in there)
    if nodes is None:
        wanted = (each for each in there if each.state == "up" and not each.hub)
        takers = (each.node for each in wanted if channel in Patterns(each.wants))
        return Question(channel, takers, has_hub), (None,)
    asked = tuple(dict.fromkeys(nodes))
    found = Question(channel, asked, False)
    ways = asked if has_hub else {each.node for each in there}
    for node in asked:
        if node not in ways:
            found.lose(node, "it is not connected")
    return found, tuple(node for node in asked if node in ways)


class Questions:
    """The calls that wait."""

    def __init__(self) -> None:
        self._waiting: dict[str, Question] = {}

    def add(self, id: str, question: Question) -> None:
        """Have answers to *id* go to a question."""
        self._waiting[id] = question

    def remove(self, id: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(id, None)

    def hear(self, id: str, node: str, told: object) -> None:
        """Take an answer; one that comes too late is nobody's."""
        question = self._waiting.get(id)
        if question is not None:
            question.hear(node, told)

    def lose(self, node: str, why: str) -> None:
        """Expect nothing of a node any more."""
        for question in tuple(self._waiting.values()):
            question.lose(node, why)


def result(value: object) -> dict[str, Any]:
    """Answer the message that carries a result."""
    return {"result": value}


def error(reason: str) -> dict[str, Any]:
    """Answer the message that says why there is no result."""
    return {"error": " ".join(reason.split())[:_LONGEST]}
