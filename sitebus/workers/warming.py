"""Workers that are forked from a process which keeps the libraries of the site.

The first one is started by exec, and so is any other while there is nothing to fork from. What it
has imported that is not the project's it says, and a zygote imports that in the background. When
that turns out to depend on the project, another zygote is started without it; when it cannot be
forked at all, that is said, once, and everybody is started by exec.

One fork is made ahead, while there is time: the next worker need not wait for the system to copy a
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sitebus.errors import NotWarm
from sitebus.workers.brood import Brood, Fork, Message
from sitebus.workers.hand import Hand
from sitebus.workers.nursery import Failure, Nursery
from sitebus.workers.spawn import Process
from sitebus.workers.stock import Stock, Wish

#: How long news of imported libraries are gathered before the zygote is told; seconds.
GATHERING = 0.2
#: How many zygotes are tried, each without what the one before it could not import by itself.
TRIES = 6
_UNWANTED = Failure("it is not wanted any more")


class WarmNursery(Nursery):
    """Forks workers that have the libraries already; see `Nursery`.

    *boot_timeout* is how long the libraries may take to be imported, in seconds; *warn* is called
    with the reason if that is of no use, or of none for now.
    """

    def __init__(
        self, *args: Any, boot_timeout: float, warn: Callable[[str], object], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._boot_timeout = boot_timeout
        self._warn = warn
        self._is_off = False
        #: Nobody wants workers now.
        self._rests = False
        #: Libraries in the order in which workers have imported them.
        self._names: dict[str, None] = {}
        self._stock: Stock | None = None
        self._tries = 0
        #: Libraries that only a worker can import.
        self._refused: set[str] = set()
        self._hands: dict[Process, Hand] = {}
        #: All that may still be heard of.
        self._broods: set[Brood] = set()
        self._cancel: Callable[[], None] | None = None

    def learn(self, hand: Hand, message: Message) -> None:
        """Hear which libraries a worker has imported."""
        names = [str(each) for each in message.get("libraries", ())]
        if self._is_off or self._rests or self._names.keys() >= set(names):
            return
        self._names |= dict.fromkeys(names)
        if self._cancel is None:
            due = time.monotonic() + GATHERING
            self._cancel = self._poller.call_at(due, self._refresh)

    def bear(self, serial: int, slot: int, whole_job: str, lenient: bool) -> None:
        """Make a worker of a fork, or start one by exec if nothing can be forked."""
        self._rests = False
        self._hands = {each: hand for each, hand in self._hands.items() if not hand.has_ended}
        wish = Wish(serial, slot, whole_job, lenient)
        stock = self._fresh_stock()
        if stock is None:
            super().bear(*wish)
        elif (fork := stock.take()) is not None:
            self._make(wish, fork)
        elif not stock.wish(wish):
            super().bear(*wish)

    def _make(self, wish: Wish, fork: Fork) -> None:
        """Make a worker of *fork*."""
        hand = self._hand(wish.serial, wish.slot, fork.process, fork.socket)
        self._hands[fork.process] = hand
        boot = self._terms.boot(wish.serial, wish.slot, self._sockets(), wish.lenient)
        hand.link.send(boot)
        self._born(wish.serial, hand, None)

    def settled(self, job: str, done: bool) -> None:
        """Have the next fork made, now that there is time."""
        if self._stock is not None:
            self._stock.fork()
        elif self._names and self._cancel is None and not self._rests:
            self._refresh()

    def give_up(self) -> None:
        """Keep nothing: the sockets, too, may be others at the next start."""
        self._rests = True
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        if self._stock is not None:
            self._stock.brood.dismiss(_UNWANTED)

    def close(self) -> None:
        """End the zygotes, and wait for that."""
        self.give_up()
        for brood in self._broods:
            if not brood.has_ended:
                brood.end()
        self._broods.clear()

    def _fresh_stock(self) -> Stock | None:
        """Answer what to fork from, if that is as it would be if it was started now."""
        stock = self._stock
        if stock is None or not stock.is_warm:
            return None
        if stock.is_stale:
            # The next worker says what there is now.
            self._names.clear()
            self._refused.clear()
            self._tries = 0
            stock.brood.dismiss(_UNWANTED)
            return None
        return stock

    # The zygote.

    def _refresh(self) -> None:
        """Have all known libraries kept."""
        self._cancel = None
        if self._is_off:
            return
        try:
            if self._stock is None:
                self._stock = self._hatch()
        except OSError as error:
            self._stop(f"no process could be started ({error})")
            return
        self._stock.load(self._names)

    def _hatch(self) -> Stock:
        self._broods = {brood for brood in self._broods if not brood.is_over}
        sockets = self._sockets()
        brood = Brood(*self._spawn("--warm", sockets, "libraries"), self._poller, self)
        self._broods.add(brood)
        self._tries += 1
        boot = self._terms.boot(0, 0, sockets, lenient=False)
        brood.send({**boot, "refused": sorted(self._refused)})
        return Stock(brood, self._boot_timeout)

    def _stop(self, reason: str) -> None:
        """Start every worker by exec from here on."""
        self._is_off = True
        self._warn(str(NotWarm(reason)))
        if self._stock is not None:
            self._stock.brood.dismiss(_UNWANTED)

    # What is heard from it.

    def heard(self, brood: Brood, message: Message) -> None:
        """Hear that libraries are there, or why they cannot be."""
        stock = self._stock
        if stock is None or stock.brood is not brood:
            return
        if message.get("is") == "cold":
            self._stop(str(message["reason"]))
        elif message.get("is") == "warm":
            self._take_stock(stock, message)

    def _take_stock(self, stock: Stock, message: Message) -> None:
        if not stock.loaded(message):
            return
        if not stock.tainted:
            self._tries = 0
            stock.settle()
            return
        self._refused |= stock.tainted
        stock.brood.dismiss(_UNWANTED)
        if self._tries < TRIES:
            self._refresh()
        else:
            names = ", ".join(sorted(stock.tainted)[:3])
            self._stop(f"libraries depend on the project in too many ways ({names})")

    def forked(self, brood: Brood, serial: int, fork: Fork) -> None:
        """Make a worker of the fork, or keep it for the next one."""
        stock = self._stock
        if stock is None or stock.brood is not brood:
            fork.close()
            return
        stock.answered()
        if stock.wishes:
            self._make(stock.wishes.pop(0), fork)
            if stock.wishes:
                stock.fork()
        else:
            stock.keep(fork)

    def unforked(self, brood: Brood, serial: int, failure: Failure) -> None:
        """Start by exec who was to be made of it."""
        stock = self._stock
        if stock is not None and stock.brood is brood:
            stock.answered()
            self._do_without(stock)

    def _do_without(self, stock: Stock) -> None:
        wishes, stock.wishes = stock.wishes, []
        for wish in wishes:
            if self._rests:
                self._born(wish.serial, None, _UNWANTED)
            else:
                super().bear(*wish)

    def ended(self, brood: Brood, process: Process) -> None:
        """Say how a worker has ended."""
        hand = self._hands.pop(process, None)
        if hand is not None:
            self._reaped(hand)

    def lost(self, brood: Brood, failure: Failure) -> None:
        """Do without until a worker has been started by exec; say so if nobody meant it."""
        stock = self._stock
        if stock is None or stock.brood is not brood:
            return
        self._stock = None
        stock.drop()
        self._do_without(stock)
        if failure is _UNWANTED:
            return
        if stock.is_warm:
            self._warn(
                "the process that keeps the libraries has ended; "
                "the next reload imports everything, and then there is another"
            )
        elif self._tries >= TRIES:
            self._stop(failure.reason)
