"""What workers were asked, until they answer or cannot any more."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from sitebus.errors import NoWorkerAnswer
from sitebus.relay import Poller
from sitebus.workers.hand import Hand


class Questions:
    """The open questions; everything but `wait` is done in the poller's thread."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[int, Future[Any]]] = {}

    def ask(self, hand: Hand, what: str, **values: Any) -> Future[Any]:
        """Send a question, and answer what its answer will be in."""
        number = next(self._numbers)
        question: Future[Any] = Future()
        self._open[number] = hand.serial, question
        if not hand.send(what, re=number, **values):
            self.forget(hand.serial)
        return question

    def wait(self, slot: int, what: str, question: Future[Any], timeout: float) -> Any:
        """Wait for an answer, and answer it.

        Raises:
            NoWorkerAnswer: None came in time, or it was an error.
        """
        try:
            return question.result(timeout)
        except TimeoutError:
            self._poller.call_soon(lambda: self._forget(question))
            raise NoWorkerAnswer(slot, what, f"nothing came within {timeout:g} s") from None

    def answered(self, hand: Hand, message: Mapping[str, Any]) -> None:
        """Hear an answer; one that nobody waits for any more is nobody's business."""
        _, question = self._open.pop(int(message["re"]), (0, None))
        if question is None or question.done():
            return
        if "error" in message:
            what = "what it was asked"
            question.set_exception(NoWorkerAnswer(hand.slot, what, str(message["error"])))
        else:
            question.set_result(message["result"])

    def forget(self, serial: int | None = None) -> None:
        """Give up on what a worker, or everybody, was asked."""
        for number, (whose, question) in list(self._open.items()):
            if serial in (None, whose):
                del self._open[number]
                if not question.done():
                    question.set_exception(NoWorkerAnswer(0, "what it was asked", "it has ended"))

    def _forget(self, question: Future[Any]) -> None:
        for number, (_, each) in list(self._open.items()):
            if each is question:
                del self._open[number]
