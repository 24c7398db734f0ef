"""How losses are known: the numbers of what goes out, and accounts of those that come in.

Every message has a number in its stream: those of one source, of one epoch of it (one life of its
process), on one channel, and for one node if it is meant for one only. Whoever reads a stream keeps
one number of it, the highest that it has passed. What comes with a lower one has been delivered or
has been counted as lost; what comes with a higher one is delivered, and whatever it leaves out is
lost from then on. So each message is delivered once or counted as lost once, whatever happens on
the way, and the order is kept.

Peers also say how far a stream has come (`Account.claim`): then a loss is known without a message
that follows. And they say where it begins for who has just come or has just begun to want a channel
(`Account.begin`): what was sent before is not lost.

Nothing here knows of threads, sockets or clocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sitebus.relay.envelope import parts_of
from sitebus.relay.patterns import NONE

#: So many streams a node numbers; the one that was used least lately is forgotten for another.
MOST_STREAMS = 10_000
#: Who reads keeps twice as many, so that what it has forgotten the source forgot before.
MOST_READ = 2 * MOST_STREAMS
#: Sources, and former epochs of them, of which accounts are kept.
MOST_SOURCES = 1_000
_MOST_RETIRED = 256

#: What `Account.take` answers for a message that is not to be delivered.
PASSED = -1
EARLY = -2


class Mark(NamedTuple):
    """How far a stream has come.

    Attributes:
        number: Of the last message.
        base: The number before the first, 0 but for a channel that was forgotten meanwhile.
    """

    number: int
    base: int = 0


Marks = Mapping[str, Mark]


class Numbers:
    """The numbers of what a node sends.

    A stream that was forgotten begins again above all that were, and says so by its base.
    """

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._marks: OrderedDict[str, Mark] = OrderedDict()
        self._floor = 0

    def __len__(self) -> int:
        return len(self._marks)

    def following(self, stream: str) -> Mark:
        """Answer what the next message of a stream is numbered, which changes nothing yet."""
        mark = self._marks.get(stream)
        if mark is None:
            return Mark(self._floor + 1, self._floor)
        return Mark(mark.number + 1, mark.base)

    def use(self, stream: str, mark: Mark) -> None:
        """Have *mark* used, which `following` has answered."""
        self._marks[stream] = mark
        self._marks.move_to_end(stream)
        if len(self._marks) > self._most:
            _, oldest = self._marks.popitem(last=False)
            self._floor = max(self._floor, oldest.number)


class Positions:
    """How far the streams have come that a node sends: those that peers are told of."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self.marks: OrderedDict[str, Mark] = OrderedDict()
        #: Those that have moved since `settle` was called the time before the last.
        self.moved: dict[str, bool] = {}

    def move(self, stream: str, mark: Mark) -> None:
        """Have the stream come as far as *mark*."""
        known = self.marks.get(stream)
        if known is None or mark.number > known.number:
            self.marks[stream] = mark
        self.marks.move_to_end(stream)
        self.moved[stream] = True
        while len(self.marks) > self._most and next(iter(self.marks)) not in self.moved:
            self.marks.popitem(last=False)

    def news(self) -> dict[str, Mark]:
        """Answer the marks of those that have moved lately."""
        return {stream: self.marks[stream] for stream in self.moved}

    def settle(self) -> None:
        """Let be told what was told twice; each may have been told to some in vain once."""
        self.moved = dict.fromkeys((each for each, fresh in self.moved.items() if fresh), False)


class _Held(NamedTuple):
    """Claims that wait: the first, which is due at a moment, and the latest after it."""

    first: Mark
    due: float
    latest: Mark
    latest_due: float


class Account:
    """What is known of one source's epoch.

    Args:
        src: The source.
        ep: Its epoch.

    Attributes:
        begun: Whether it is known where its streams began.
        covered: The patterns of the channels that are known from where they began.
        paths: The peers by which it comes, and how many more hubs it may pass then.
        told: How many it may pass behind this node, as far as peers have been told.
    """

    def __init__(self, src: str, ep: str, most: int = MOST_READ) -> None:
        self.src = src
        self.ep = ep
        self.begun = False
        self.covered = NONE
        self.paths: dict[str, int] = {}
        self.told = -1
        self._most = most
        self._marks: OrderedDict[str, int] = OrderedDict()
        #: Of those streams that have one.
        self._bases: dict[str, int] = {}
        #: The highest base of those that there was no room for. A source's bases grow: a stream
        #: with a higher one is new, and one with a lower one may be one of these.
        self._forgotten = -1
        #: Retained values that came before it was said where their streams begin.
        self._early: dict[str, int] = {}
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._marks) + len(self._early)

    @property
    def hops(self) -> int:
        """How many more hubs it may pass, by the best of its paths; -1 if there is none."""
        return max(self.paths.values(), default=-1)

    def take(self, stream: str, number: int, base: int = 0, ret: bool = False) -> int:
        """Answer how many messages were lost before this one, which is to be delivered.

        Returns:
            `PASSED` for one that was delivered or counted before, `EARLY` for one that was sent
            before its stream began for this reader: neither is to be delivered.
        """
        high = self._marks.get(stream)
        if high is None:
            if not self._covers(stream):
                return self._take_early(stream, number, ret)
            high = number - 1 if base <= self._forgotten else 0
        if number <= high:
            return PASSED
        self._pass(stream, number, base)
        return number - (high if high > base else base) - 1

    def claim(self, stream: str, mark: Mark, until: float = 0.0) -> int:
        """Note that a stream has come so far; answer how many are lost by that.

        Args:
            stream: The stream.
            mark: How far.
            until: Hold the claim till `due` is asked at this moment: what it speaks of may still
                come another way. At once if it is 0.
        """
        high = self._marks.get(stream, 0)
        if mark.number <= high or (not high and not self._begins(stream, mark.base)):
            return 0
        held = self._held.get(stream)
        if until and (held or len(self._held) < self._most):
            first, due = (held.first, held.due) if held else (mark, until)
            self._held[stream] = _Held(first, due, mark, until)
            return 0
        self._pass(stream, mark.number, mark.base)
        return mark.number - max(high, mark.base)

    def due(self, now: float) -> Iterator[tuple[str, int]]:
        """Answer the streams in which messages are lost by claims held until *now*."""
        for stream, held in list(self._held.items()):
            if held.due <= now:
                del self._held[stream]
                if lost := self.claim(stream, held.first):
                    yield stream, lost
                if held.latest != held.first:
                    self._held[stream] = _Held(
                        held.latest, held.latest_due, held.latest, held.latest_due
                    )

    def begin(self, marks: Marks, covered: Iterable[str], until: float = 0.0) -> dict[str, int]:
        """Note where streams begin for who wants *covered*; answer what is lost of those known.

        Args:
            marks: How far all streams have come that are covered; those not named have none.
            covered: Patterns.
            until: As for `claim`.
        """
        lost: dict[str, int] = {}
        for stream, mark in marks.items():
            if self._covers(stream):
                if count := self.claim(stream, mark, until):
                    lost[stream] = count
            else:
                self._pass(stream, max(mark.number, self._early.get(stream, 0)), mark.base)
        self.begun = True
        self.covered |= covered
        for stream, number in self._early.items():
            if stream not in self._marks and self._covers(stream):
                self._pass(stream, number)
        self._early = {
            stream: number for stream, number in self._early.items() if not self._covers(stream)
        }
        return lost

    def forget(self, patterns: Iterable[str]) -> None:
        """Have channels be unknown that only *patterns* cover: they may begin anew later."""
        self.covered -= patterns
        tables: tuple[dict[str, Any], ...] = (self._marks, self._bases, self._early, self._held)
        for table in tables:
            for stream in [each for each in table if not self._covers(each)]:
                del table[stream]

    def marks(self) -> dict[str, Mark]:
        """Answer how far its streams have come here."""
        return {stream: self.mark(stream) for stream in self._marks}

    def mark(self, stream: str) -> Mark:
        """Answer how far a stream has come here."""
        return Mark(self._marks.get(stream, 0), self._bases.get(stream, 0))

    def _pass(self, stream: str, number: int, base: int = 0) -> None:
        self._marks[stream] = number
        self._marks.move_to_end(stream)
        if base:
            self._bases[stream] = base
        if len(self._marks) > self._most:
            gone, _ = self._marks.popitem(last=False)
            self._forgotten = max(self._forgotten, self._bases.pop(gone, 0))

    def _begins(self, stream: str, base: int) -> bool:
        """Tell whether a stream that is not known has surely begun after those were forgotten."""
        return base > self._forgotten and self._covers(stream)

    def _covers(self, stream: str) -> bool:
        channel, to = parts_of(stream)
        return self.begun if to else channel in self.covered

    def _take_early(self, stream: str, number: int, ret: bool) -> int:
        if not ret or len(self._early) >= self._most:
            return EARLY
        if number <= self._early.get(stream, 0):
            return PASSED
        self._early[stream] = number
        return 0


class Books:
    """The accounts of all sources: of the present epoch of each, and of some that are over."""

    def __init__(self, most: int = MOST_SOURCES) -> None:
        self._most = most
        self._present: dict[str, Account] = {}
        self._retired: OrderedDict[tuple[str, str], Account] = OrderedDict()

    def __iter__(self) -> Iterator[Account]:
        return iter([*self._present.values(), *self._retired.values()])

    @property
    def present(self) -> list[Account]:
        """The accounts of the present epochs."""
        return list(self._present.values())

    def __len__(self) -> int:
        return len(self._present) + len(self._retired)

    def of(self, src: str) -> Account | None:
        """Answer the account of the present epoch of a source."""
        return self._present.get(src)

    def is_over(self, src: str, ep: str) -> bool:
        """Tell whether an epoch has been followed by another."""
        return (src, ep) in self._retired

    def open(self, src: str, ep: str) -> Account:
        """Answer the account of an epoch, which is the present one from here on."""
        account = self._present.get(src)
        if account is not None:
            if account.ep == ep:
                return account
            self._retire(account)
        account = self._retired.pop((src, ep), None)
        if account is None:
            account = Account(src, ep)
        self._present[src] = account
        self._make_room()
        return account

    def open_over(self, src: str, ep: str) -> Account:
        """Answer the account of an epoch that is over, of a source that has a present one."""
        if (src, ep) not in self._retired:
            self._retire(Account(src, ep))
        return self._retired[src, ep]

    def leave(self, peer: str) -> None:
        """Nothing comes by this peer any more."""
        for account in self._present.values():
            account.paths.pop(peer, None)
            account.told = min(account.told, account.hops - 1)

    def _retire(self, account: Account) -> None:
        account.paths.clear()
        account.told = -1
        self._retired[account.src, account.ep] = account
        if len(self._retired) > _MOST_RETIRED:
            self._retired.popitem(last=False)

    def _make_room(self) -> None:
        if len(self._present) <= self._most:
            return
        for src, account in self._present.items():
            if not account.paths:
                del self._present[src]
                return
