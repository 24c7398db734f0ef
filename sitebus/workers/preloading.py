"""Workers that are forked from a process which has loaded the site.

There is a zygote for each release. A job that replaces all workers gets a fresh one, whose code is
really new; if the job is aborted the one before is still there, and whoever has to be replaced
later comes from that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sitebus.workers.brood import Brood, Fork, Message
from sitebus.workers.hand import Hand
from sitebus.workers.nursery import Failure, Nursery
from sitebus.workers.spawn import Process

_UNWANTED = Failure("it is not wanted any more")


class _Wish(NamedTuple):
    slot: int
    lenient: bool


class _Release:
    """A zygote, and who is to come of it."""

    def __init__(self, job: str, brood: Brood) -> None:
        self.job = job
        self.brood = brood
        self.loaded = False
        self.wishes: dict[int, _Wish] = {}
        self.hands: dict[int, Hand] = {}

    def fork(self, serial: int, wish: _Wish) -> None:
        self.wishes[serial] = wish
        if self.loaded:
            self.brood.fork(serial, slot=wish.slot, lenient=wish.lenient)

    def go(self) -> None:
        """Fork everybody who has waited for it to be loaded."""
        self.loaded = True
        self.brood.content()
        for serial, wish in self.wishes.items():
            self.brood.fork(serial, slot=wish.slot, lenient=wish.lenient)


class ZygoteNursery(Nursery):
    """Forks workers from zygotes; see `Nursery`.

    *boot_timeout* is how long one may take to load everything, in seconds.
    """

    def __init__(self, *args: Any, boot_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._boot_timeout = boot_timeout
        self._present: _Release | None = None
        self._coming: _Release | None = None
        #: All that may still be heard of.
        self._releases: dict[Brood, _Release] = {}

    def bear(self, serial: int, slot: int, whole_job: str, lenient: bool) -> None:
        """Fork a worker, from a fresh zygote if *whole_job* has none yet."""
        try:
            release = self._release(whole_job)
        except OSError as error:
            self._born(serial, None, Failure(f"its process could not be started ({error})"))
            return
        release.fork(serial, _Wish(slot, lenient))

    def settled(self, job: str, done: bool) -> None:
        """Keep the zygote that proved good, and end the other."""
        coming = self._coming
        if coming is None or coming.job != job:
            return
        self._coming = None
        if done or self._present is None:
            coming, self._present = self._present, coming
        if coming is not None:
            coming.brood.dismiss(_UNWANTED)

    def give_up(self) -> None:
        """End the zygotes that have not loaded the site yet."""
        for release in (self._present, self._coming):
            if release is not None and not release.loaded:
                release.brood.dismiss(_UNWANTED)

    def close(self) -> None:
        """End the zygotes, and wait for that: the next image would not know whose they were."""
        for brood in tuple(self._releases):
            brood.dismiss(_UNWANTED)
            if not brood.has_ended:
                brood.end()
        self._releases.clear()

    def _release(self, job: str) -> _Release:
        if self._coming is not None and (job in ("", self._coming.job)):
            return self._coming if job else self._present or self._coming
        if job:
            if self._coming is not None:
                self._coming.brood.dismiss(_UNWANTED)
            self._coming = self._hatch(job)
            return self._coming
        if self._present is None:
            self._present = self._hatch("")
        return self._present

    def _hatch(self, job: str) -> _Release:
        self._releases = {
            brood: each for brood, each in self._releases.items() if not brood.is_over
        }
        sockets = self._sockets()
        brood = Brood(*self._spawn("--zygote", sockets, "zygote"), self._poller, self)
        release = self._releases[brood] = _Release(job, brood)
        brood.send(self._terms.boot(0, 0, sockets, lenient=False))
        late = f"the site was not loaded within {self._boot_timeout:g} s (boot_timeout)"
        brood.expect(self._boot_timeout, Failure(late))
        return release

    # What is heard from a zygote.

    def heard(self, brood: Brood, message: Message) -> None:
        """Hear that the site is loaded."""
        if message.get("is") == "loaded":
            self._releases[brood].go()

    def forked(self, brood: Brood, serial: int, fork: Fork) -> None:
        """Have a worker."""
        release = self._releases[brood]
        wish = release.wishes.pop(serial)
        hand = self._hand(serial, wish.slot, fork.process, fork.socket)
        release.hands[fork.process.pid] = hand
        self._born(serial, hand, None)

    def unforked(self, brood: Brood, serial: int, failure: Failure) -> None:
        """Say that there is no worker."""
        self._releases[brood].wishes.pop(serial, None)
        self._born(serial, None, failure)

    def ended(self, brood: Brood, process: Process) -> None:
        """Say how a worker has ended."""
        hand = self._releases[brood].hands.pop(process.pid, None)
        if hand is not None:
            self._reaped(hand)

    def lost(self, brood: Brood, failure: Failure) -> None:
        """Do without a zygote; who was to come of it is told why not."""
        release = self._releases[brood]
        if self._present is release:
            self._present = None
        if self._coming is release:
            self._coming = None
        wishes, release.wishes = release.wishes, {}
        for serial in wishes:
            self._born(serial, None, failure)
