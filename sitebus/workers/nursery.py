"""Where workers come from: a process each, or a fork of one that has loaded everything.

With preloading there is a zygote for each release. A job that replaces all workers gets a fresh
one, whose code is really new; if the job is aborted the one before is still there, and whoever has
to be replaced later comes from that. Everything here is done in the poller's thread.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from sitebus.relay import NOTHING, READ, Link, Poller, Rest
from sitebus.workers.estate import Heirloom
from sitebus.workers.hand import Gone, Hand, Heard
from sitebus.workers.launch import Terms, command_line, environment
from sitebus.workers.spawn import Process, spawn

Message = Mapping[str, Any]


class Birth(Protocol):
    """Is told what became of a wish for a worker: it is there, or there is a reason why not."""

    def __call__(self, serial: int, hand: Hand | None, failure: Failure | None) -> object: ...


class Failure:
    """Why there is no worker: as it would say itself."""

    def __init__(self, reason: str, status: int = 70, text: str = "") -> None:
        self.reason = reason
        self.status = status
        self.text = text


class Nursery:
    """Starts workers, each by exec.

    Args:
        poller: In whose thread all of this happens.
        terms: What each is told.
        name: The site's.
        sockets: Answers the listening sockets that each gets.
        heard: Is told what a worker says.
        cut_off: Is told that a worker's link has ended.
        reaped: Is told that the status of one that is no child of ours is known.
        born: Is told of each worker.
    """

    def __init__(
        self,
        poller: Poller,
        terms: Terms,
        name: str,
        sockets: Callable[[], Sequence[tuple[int, str]]],
        heard: Heard,
        cut_off: Gone,
        reaped: Gone,
        born: Birth,
    ) -> None:
        self._poller = poller
        self._terms = terms
        self._name = name
        self._sockets = sockets
        self._heard = heard
        self._cut_off = cut_off
        self._reaped = reaped
        self._born = born

    def bear(self, serial: int, slot: int, whole_job: str) -> None:
        """Start a worker; *whole_job* names the job that replaces all of them, if one does."""
        sockets = self._sockets()
        boot = self._terms.boot(serial, slot, sockets)
        try:
            process, ours = self._spawn("--link", sockets, f"worker {slot}")
        except OSError as error:
            self._born(serial, None, Failure(f"its process could not be started ({error})"))
            return
        hand = self._hand(serial, slot, process, ours)
        hand.link.send(boot)
        self._born(serial, hand, None)

    def _spawn(
        self, option: str, sockets: Sequence[tuple[int, str]], role: str
    ) -> tuple[Process, socket.socket]:
        """Start a process of the site, and answer it and our end of its link."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                fds = [theirs.fileno(), *(fd for fd, _ in sockets)]
                argv = command_line(option, theirs.fileno(), self._name, role)
                return spawn(argv, environment(), fds), ours
        except BaseException:
            ours.close()
            raise

    def _hand(
        self, serial: int, slot: int, process: Process, sock: socket.socket, rest: Rest = NOTHING
    ) -> Hand:
        link = Link(
            sock,
            self._poller,
            lambda message, fd: self._heard(hand, message, fd),
            lambda _: self._cut_off(hand),
            rest,
        )
        hand = Hand(serial, slot, process, link)
        return hand

    def adopt(self, left: Heirloom) -> Hand:
        """Go on with a worker of the image before this one."""
        process = Process(left.pid, left.pidfd, of_ours=left.of_ours)
        hand = self._hand(left.serial, left.slot, process, left.link, left.rest)
        hand.mounts = left.mounts
        return hand

    def settled(self, job: str, done: bool) -> None:
        """Hear how the job that replaced all workers has ended."""

    def give_up(self) -> None:
        """Wait no longer for what has to be there before a worker can be: none is wanted."""

    def close(self) -> None:
        """End what is not a worker."""


class Brood:
    """A zygote as seen from outside, and the workers that are to come from it."""

    def __init__(self, job: str, process: Process, link: Link) -> None:
        self.job = job
        self.process = process
        self.link = link
        self.loaded = False
        self.waiting: dict[int, int] = {}
        self.forks: dict[int, tuple[int, socket.socket]] = {}
        self.hands: dict[int, Hand] = {}
        self.cancel: Callable[[], None] = lambda: None

    def end(self) -> None:
        """Have it leave; its workers stay."""
        self.cancel()
        self.link.close()
        # What an application has imported may have an answer to anything less.
        self.process.kill(signal.SIGKILL)


class ZygoteNursery(Nursery):
    """Forks workers from zygotes; see `Nursery`.

    *boot_timeout* is how long one may take to load everything, in seconds.
    """

    def __init__(self, *args: Any, boot_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._boot_timeout = boot_timeout
        self._present: Brood | None = None
        self._coming: Brood | None = None
        #: All whose processes have not ended.
        self._broods: set[Brood] = set()

    def bear(self, serial: int, slot: int, whole_job: str) -> None:
        """Fork a worker, from a fresh zygote if *whole_job* has none yet."""
        try:
            brood = self._brood(whole_job)
        except OSError as error:
            self._born(serial, None, Failure(f"its process could not be started ({error})"))
            return
        if brood.loaded:
            self._fork(brood, serial, slot)
        else:
            brood.waiting[serial] = slot

    def settled(self, job: str, done: bool) -> None:
        """Keep the zygote that proved good, and end the other."""
        coming = self._coming
        if coming is None or coming.job != job:
            return
        self._coming = None
        if done or self._present is None:
            coming, self._present = self._present, coming
        if coming is not None:
            self._dismiss(coming)

    def give_up(self) -> None:
        """End the zygotes that have not loaded the site yet."""
        for brood in (self._present, self._coming):
            if brood is not None and not brood.loaded:
                self._dismiss(brood)

    def close(self) -> None:
        """End the zygotes, and wait for that: the next image would not know whose they were."""
        for brood in (self._present, self._coming):
            if brood is not None:
                self._dismiss(brood)
        for brood in tuple(self._broods):
            brood.process.end()
            self._reap(brood)

    def _dismiss(self, brood: Brood) -> None:
        brood.end()
        self._lose(brood, Failure("it is not wanted any more"))

    def _brood(self, job: str) -> Brood:
        if self._coming is not None and (job in ("", self._coming.job)):
            return self._coming if job else self._present or self._coming
        if job:
            if self._coming is not None:
                self._dismiss(self._coming)
            self._coming = self._hatch(job)
            return self._coming
        if self._present is None:
            self._present = self._hatch("")
        return self._present

    def _hatch(self, job: str) -> Brood:
        sockets = self._sockets()
        boot = self._terms.boot(0, 0, sockets)
        process, ours = self._spawn("--zygote", sockets, "zygote")
        link = Link(
            ours,
            self._poller,
            lambda message, fd: self._hear(brood, message, fd),
            lambda _: self._lose(brood, Failure("the process that loads the site has ended")),
        )
        brood = Brood(job, process, link)
        self._broods.add(brood)
        link.send(boot)
        self._poller.watch(process.fileno(), READ, lambda _: self._reap(brood))
        late = f"the site was not loaded within {self._boot_timeout:g} s (boot_timeout)"
        brood.cancel = self._poller.call_at(
            time.monotonic() + self._boot_timeout, lambda: self._give_up(brood, late)
        )
        return brood

    def _give_up(self, brood: Brood, reason: str) -> None:
        brood.process.kill(signal.SIGKILL)
        self._lose(brood, Failure(reason))

    def _hear(self, brood: Brood, message: Message, fd: int | None) -> None:
        what = message.get("is")
        if what == "loaded":
            brood.cancel()
            brood.loaded = True
            waiting, brood.waiting = brood.waiting, {}
            for serial, slot in waiting.items():
                self._fork(brood, serial, slot)
        elif what == "forked" and fd is not None:
            self._forked(brood, int(message["serial"]), int(message["pid"]), os.dup(fd))
        elif what == "unforked":
            _, sock = brood.forks.pop(int(message["serial"]))
            sock.close()
            self._born(int(message["serial"]), None, Failure(str(message["reason"])))
        elif what == "ended":
            hand = brood.hands.pop(int(message["pid"]), None)
            if hand is not None:
                hand.process.status = int(message["status"])
                self._reaped(hand)
        elif what == "unfit":
            reason, status, text = (message[name] for name in ("reason", "status", "text"))
            self._lose(brood, Failure(str(reason), int(status), str(text)))

    def _fork(self, brood: Brood, serial: int, slot: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        brood.forks[serial] = slot, ours
        brood.link.send({"is": "fork", "serial": serial, "slot": slot}, theirs.detach())

    def _forked(self, brood: Brood, serial: int, pid: int, pidfd: int) -> None:
        slot, ours = brood.forks.pop(serial)
        hand = self._hand(serial, slot, Process(pid, pidfd, of_ours=False), ours)
        brood.hands[pid] = hand
        self._born(serial, hand, None)

    def _lose(self, brood: Brood, failure: Failure) -> None:
        """Do without a zygote; who was to come of it is told why not."""
        brood.cancel()
        if self._present is brood:
            self._present = None
        if self._coming is brood:
            self._coming = None
        waiting = [*brood.waiting, *brood.forks]
        for _, sock in brood.forks.values():
            sock.close()
        brood.waiting, brood.forks = {}, {}
        for serial in waiting:
            self._born(serial, None, failure)

    def _reap(self, brood: Brood) -> None:
        if brood.process.reap() is not None and brood in self._broods:
            self._broods.discard(brood)
            self._poller.unwatch(brood.process.fileno())
            with suppress(OSError):
                brood.process.close()
