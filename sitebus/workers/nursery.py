"""Where workers come from: a process each, started by exec.

Others fork them: `sitebus.workers.preloading` from one that has loaded the site, and
`sitebus.workers.warming` from one that keeps libraries. Everything here is done in the poller's
thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sitebus.relay import NOTHING, Link, Poller, Rest
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

    def message(self) -> Message:
        """Answer what a worker would have sent."""
        told = {"reason": self.reason, "status": self.status, "text": self.text}
        return {"is": "unfit", **told}


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

    def bear(self, serial: int, slot: int, whole_job: str, lenient: bool) -> None:
        """Start a worker.

        Args:
            serial: Its number for ever.
            slot: Its number to people.
            whole_job: Names the job that replaces all of them, if one does.
            lenient: Whether it is to serve what it can even if the site does not load.
        """
        sockets = self._sockets()
        boot = self._terms.boot(serial, slot, sockets, lenient)
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
