"""A zygote as seen from outside, and what is to come of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from sitebus.relay import READ, Link, Poller
from sitebus.workers.nursery import Failure
from sitebus.workers.spawn import Process

Message = Mapping[str, Any]


class Fork(NamedTuple):
    """A process that a zygote has forked, and our end of its link."""

    process: Process
    socket: socket.socket

    def close(self) -> None:
        """Give it up: without its link it leaves."""
        self.socket.close()
        self.process.close()


class Breeder(Protocol):
    """Whoever has a zygote; everything is told in the poller's thread."""

    def heard(self, brood: Brood, message: Message) -> object:
        """Hear a message that is not about a fork."""

    def forked(self, brood: Brood, serial: int, fork: Fork) -> object:
        """Hear that a fork is there."""

    def unforked(self, brood: Brood, serial: int, failure: Failure) -> object:
        """Hear that a fork could not be made."""

    def ended(self, brood: Brood, process: Process) -> object:
        """Hear how a fork has ended."""

    def lost(self, brood: Brood, failure: Failure) -> object:
        """Hear, once, that there is no zygote any more; forks that are wanted were told of."""


class Brood:
    """A zygote, until it ends.

    Args:
        process: It.
        sock: Our end of its link.
        poller: In whose thread all of this happens.
        breeder: Is told what comes of it.
    """

    def __init__(
        self, process: Process, sock: socket.socket, poller: Poller, breeder: Breeder
    ) -> None:
        self.process = process
        self._poller = poller
        self._breeder = breeder
        self._is_lost = False
        self._wanted: dict[int, socket.socket] = {}
        self._forks: dict[int, Process] = {}
        self._cancel: Callable[[], None] = lambda: None
        ended = Failure("the process that loads the site has ended")
        self._link = Link(sock, poller, self._hear, lambda _: self.lose(ended))
        poller.watch(process.fileno(), READ, lambda _: self._reap())

    def send(self, message: Message) -> bool:
        """Send a message; tell whether it will arrive."""
        return self._link.send(message)

    def expect(self, timeout: float, failure: Failure) -> None:
        """End it for *failure* unless `content` is called in time, in seconds."""
        self._cancel()
        self._cancel = self._poller.call_at(
            time.monotonic() + timeout, lambda: self.dismiss(failure)
        )

    def content(self) -> None:
        """Expect nothing any more."""
        self._cancel()

    def fork(self, serial: int, **told: Any) -> None:
        """Have a fork made, named *serial*."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wanted[serial] = ours
        self._link.send({"is": "fork", "serial": serial, **told}, theirs.detach())

    def dismiss(self, failure: Failure) -> None:
        """End it; its forks stay."""
        # What was imported may have an answer to anything less.
        self.process.kill(signal.SIGKILL)
        self.lose(failure)

    def lose(self, failure: Failure) -> None:
        """Do without it; who was to come of it is told why not."""
        self._cancel()
        if self._is_lost:
            return
        self._is_lost = True
        self._link.close()
        wanted, self._wanted = self._wanted, {}
        for serial, sock in wanted.items():
            sock.close()
            self._breeder.unforked(self, serial, failure)
        self._breeder.lost(self, failure)

    def end(self) -> None:
        """Wait for its end: the next image would not know whose it was."""
        self.process.end()
        self._reap()

    @property
    def has_ended(self) -> bool:
        """Whether its process has."""
        return self.process.fileno() < 0

    @property
    def is_over(self) -> bool:
        """Whether nothing will be heard of it any more."""
        return self.has_ended and self._is_lost

    def _hear(self, message: Message, fd: int | None) -> None:
        what = message.get("is")
        if what == "forked" and fd is not None:
            serial, pid = int(message["serial"]), int(message["pid"])
            process = Process(pid, os.dup(fd), of_ours=False)
            self._forks[pid] = process
            self._breeder.forked(self, serial, Fork(process, self._wanted.pop(serial)))
        elif what == "unforked":
            serial = int(message["serial"])
            self._wanted.pop(serial).close()
            self._breeder.unforked(self, serial, Failure(str(message["reason"])))
        elif what == "ended":
            process_or_none = self._forks.pop(int(message["pid"]), None)
            if process_or_none is not None:
                process_or_none.status = int(message["status"])
                self._breeder.ended(self, process_or_none)
        elif what == "unfit":
            reason, status, text = (message[name] for name in ("reason", "status", "text"))
            self.lose(Failure(str(reason), int(status), str(text)))
        else:
            self._breeder.heard(self, message)

    def _reap(self) -> None:
        if not self.has_ended and self.process.reap() is not None:
            self._poller.unwatch(self.process.fileno())
            with suppress(OSError):
                self.process.close()
