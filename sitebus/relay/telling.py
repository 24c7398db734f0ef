"""News of the relay: told as they happen, and what strangers do not more often than is good."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

News = Callable[..., object]

#: Complaints that are told in one minute at most, and those that are remembered.
_A_MINUTE = 20
_REMEMBERED = 1000
_LONGEST = 200
#: Losses that are told one by one between two beats, and those that are told together then.
_GAPS = 100
_SUMS = 1000
#: The channel of losses on more channels than that.
_MANY = "*"


class Counts(NamedTuple):
    """What a node has counted since it started.

    Attributes:
        tx: Messages that it sent.
        rx: Messages that came and were new.
        gap: Messages that did not come.
        drop: Messages that a peer was not sent because too many waited, for each peer.
        bad: What came and was no message, or none that its sender may send.
    """

    tx: int
    rx: int
    gap: int
    drop: int
    bad: int


class Telling:
    """Tells the news, and counts.

    Args:
        news: Takes a channel and its values.
    """

    def __init__(self, news: News) -> None:
        self.tell = news
        self.tx = self.rx = self.gaps = self.drops = self.bads = 0
        self._told: set[tuple[str, str]] = set()
        self._window = float("-inf")
        self._in_window = 0
        self._told_gaps = 0
        self._sums: dict[tuple[str, str], int] = {}

    def gap(self, src: str, channel: str, lost: int) -> None:
        """Messages of a source are lost.

        Each loss is told at once, but of many only how much they are together, with the next beat:
        one message may speak of ten thousand.
        """
        self.gaps += lost
        self._told_gaps += 1
        if self._told_gaps <= _GAPS:
            self.tell("relay.gap", src, channel, lost)
            return
        key = (src, channel)
        if key not in self._sums and len(self._sums) >= _SUMS:
            key = (src, _MANY)
        self._sums[key] = self._sums.get(key, 0) + lost

    def beat(self) -> None:
        """Tell what has been added up."""
        sums, self._sums, self._told_gaps = self._sums, {}, 0
        for (src, channel), lost in sums.items():
            self.tell("relay.gap", src, channel, lost)

    def drop(self, peer: str, count: int) -> None:
        """A peer was not sent so many messages."""
        self.drops += count
        self.tell("relay.drop", peer, count)

    def bad(self, peer: str, why: str, now: float) -> None:
        """A peer has sent something bad; told once for each reason."""
        self.bads += 1
        self.complain(peer, why, now)

    def complain(self, peer: str, why: str, now: float) -> None:
        """Tell what is wrong with a peer, once, and not too much in a minute."""
        key = (plain(peer), plain(why))
        if key in self._told or not self._may_tell(now):
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told.add(key)
        self.tell("relay.bad", *key)

    def _may_tell(self, now: float) -> bool:
        if now - self._window >= 60:
            self._window, self._in_window = now, 0
        self._in_window += 1
        return self._in_window <= _A_MINUTE

    def counts(self) -> Counts:
        """Answer what was counted."""
        return Counts(self.tx, self.rx, self.gaps, self.drops, self.bads)


def plain(text: str) -> str:
    """Answer what a stranger said, as one line."""
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST])
