"""What the thread of the workers says on the bus: listeners may take their time, it may not.

Everything goes through a dispatcher, in order. What workers send themselves may be more than
listeners can take: of that, what is too much is lost, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sitebus.errors import ChannelFailures
from sitebus.listeners import ERROR
from sitebus.process import Engine
from sitebus.relay.dispatch import Dispatcher, Losses

DEBUG, INFO, WARNING = 10, 20, 30


class Voice:
    """Speaks on a bus in a thread of its own.

    Attributes:
        dispatcher: That thread.
        losses: Counts messages that a process of the site does not get, and says so.
    """

    def __init__(self, bus: Engine) -> None:
        self.bus = bus
        self.dispatcher = Dispatcher("sitebus relay", self.failed)
        self.losses = Losses(self.dispatcher.post, self._tell_loss)
        self._fault = ""

    def log(self, text: str, level: int = INFO) -> None:
        """Log a line."""
        self.dispatcher.post(lambda: self.bus.log(text, level))

    def log_of(self, text: str, level: int) -> None:
        """Log a line that a worker has sent, if there is room for it."""
        lost = self.dispatcher.lost
        if self.dispatcher.offer(lambda: self.bus.log(text, level)) and lost:
            self.dispatcher.lost = 0
            self.log(f"{lost} messages of workers were lost: listeners are too slow", WARNING)

    def log_fault(self, text: str) -> None:
        """Log a traceback, once: each worker would say the same."""
        if text and text != self._fault:
            self._fault = text
            self.log(text, ERROR)

    def forget_fault(self) -> None:
        """Log the same traceback again: who asks once more will want to see it once more."""
        self._fault = ""

    def tell(self, channel: str, args: Sequence[Any]) -> None:
        """Publish a message."""
        self.dispatcher.post(lambda: self._publish(channel, args))

    def _tell_loss(self, who: str, count: int) -> None:
        self.bus.log(f"{who} has missed {count} messages: it is too slow for them", WARNING)
        self._publish("relay.drop", (who, count))

    def _publish(self, channel: str, args: Sequence[Any]) -> None:
        with suppress(ChannelFailures):  # logged already
            self.bus.publish(channel, *args)

    def stumbled(self, error: BaseException) -> None:
        """Log what was raised in the poller's thread."""
        self.dispatcher.post(lambda: self.failed(error))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, here and now."""
        self.bus.log(f"Error among the workers: {error}", ERROR, traceback=error)
