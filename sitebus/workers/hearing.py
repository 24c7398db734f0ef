"""What is heard from a worker: each kind of message, and whom it is for.

A worker runs strangers' code, and what it sends may make no sense: that is said, and hurts nobody.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from sitebus.control.aggregate import Aggregate
from sitebus.listeners import ERROR
from sitebus.relay.exports import Exports
from sitebus.relay.frames import size_of
from sitebus.workers.hand import Hand
from sitebus.workers.keeper import Keeper
from sitebus.workers.member import Beat
from sitebus.workers.voice import WARNING, Voice

Message = Mapping[str, Any]
Handler = Callable[[Hand, Message], object]

#: More than a worker can have of anything: what JSON says exactly everywhere.
LARGE = 1 << 53


class Hearing:
    """Takes the messages of all workers, in the poller's thread.

    Args:
        keeper: Is told how workers are.
        voice: Says what they want to be said.
        exports: Publishes what they publish.
        aggregate: Answers what keeps what they have counted.
    """

    def __init__(
        self,
        keeper: Keeper,
        voice: Voice,
        exports: Exports,
        aggregate: Callable[[], Aggregate],
    ) -> None:
        self._keeper = keeper
        self._voice = voice
        self._exports = exports
        self._aggregate = aggregate
        self._turns = itertools.count()
        self._handlers: dict[str, list[Handler]] = {
            "ready": [self._ready],
            "unfit": [self._unfit],
            "beat": [self._beat],
            "log": [self._log],
            "publish": [self._publish],
            "answer": [keeper.questions.answered],
            "stacks": [self._stacks],
            "metrics": [self._metrics],
            "draining": [self._draining],
        }

    def add(self, what: str, handler: Handler) -> None:
        """Have *handler* called for messages of that name, after those who are called already."""
        self._handlers.setdefault(what, []).append(handler)

    def hear(self, hand: Hand, message: Message, fd: int | None) -> None:
        """Take a message, and the descriptor that came with it."""
        what = str(message.get("is"))
        if what == "kept":
            self._pass_on(hand, fd)
        for handler in self._handlers.get(what, ()):
            try:
                handler(hand, message)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                said = f"worker {hand.slot} sent what makes no sense ({what:.40}): {error!r:.400}"
                self._voice.log_of(said, ERROR)

    def _ready(self, hand: Hand, message: Message) -> None:
        hand.mounts = [(str(a), str(b), str(c)) for a, b, c in message["mounts"]]
        self._keeper.tell(lambda pool, now: pool.ready(hand.serial, now))

    def _unfit(self, hand: Hand, message: Message) -> None:
        self._keeper.unfit(hand.serial, message)

    def _beat(self, hand: Hand, message: Message) -> None:
        requests, in_flight, rss = (int(message[name]) for name in ("requests", "in_flight", "rss"))
        oldest, lag, next_one = (float(message[name]) for name in ("oldest", "lag", "next"))
        beat = Beat(requests, in_flight, oldest, lag, rss, next_one)
        if not all(0 <= each < LARGE for each in beat):
            raise ValueError(f"{beat} cannot be")
        self._keeper.tell(lambda pool, now: pool.beat(hand.serial, beat, now))

    def _draining(self, hand: Hand, message: Message) -> None:
        self._keeper.tell(lambda pool, now: pool.draining(hand.serial, now))

    def _log(self, hand: Hand, message: Message) -> None:
        text, level = f"worker {hand.slot}: {message['message']}", int(message["level"])
        self._voice.log_of(text, level)

    def _publish(self, hand: Hand, message: Message) -> None:
        channel, args, kwargs = (message[name] for name in ("channel", "args", "kwargs"))
        if not isinstance(channel, str) or not self._exports.carries(channel):
            raise ValueError(f"channel {channel!r} is not exported")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise TypeError("args and kwargs are a list and an object")
        self.spread({"channel": channel, "args": args, "kwargs": kwargs}, but=hand)
        dispatcher = self._voice.dispatcher
        work = partial(self._exports.publish, channel, args, kwargs)
        if not dispatcher.offer(work, size_of(message)):
            self._voice.losses.add("the supervisor")

    def ask(self, channel: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Publish in this process alone, and answer what listeners return."""
        return self._exports.ask(channel, args, kwargs)

    def spread(self, told: Message, but: Hand | None = None) -> None:
        """Have what was published heard in every worker that is there, but for one.

        Who comes up has read what is told to have changed, maybe, and who drains is still asked.
        """
        for hand in self._keeper.present():
            if hand is not but and not hand.send("publish", **told):
                self._voice.losses.add(f"worker {hand.slot}")

    def _metrics(self, hand: Hand, message: Message) -> None:
        snapshot = message["snapshot"]
        if not isinstance(snapshot, dict):
            raise TypeError("a snapshot is an object")
        self._aggregate().take(hand.slot, hand.serial, snapshot)

    def _stacks(self, hand: Hand, message: Message) -> None:
        if message["re"]:
            told = {"re": message["re"], "result": message["text"]}
            self._keeper.questions.answered(hand, told)
        else:
            self._voice.log(f"worker {hand.slot}, all threads:\n{message['text']}", WARNING)

    def _pass_on(self, hand: Hand, fd: int | None) -> None:
        """Give idle connections to a worker that serves, in turn."""
        others = [each for each in self._keeper.serving() if each is not hand]
        if others and fd is not None:  # else they are closed, as at any stop
            others[next(self._turns) % len(others)].send("kept", os.dup(fd))
