"""Say that the process has no descriptors left, and be able to stop without any.

granian's thread asks for the next connection again and again then, and tells nobody. So whenever
somebody waits at a door, which is seldom and for a moment, one looks whether there is a descriptor
to be had. What a stop needs is made beforehand.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from sitebus.errors import CannotAccept
from sitebus.servers._granian_sockets import dead_listener
from sitebus.servers.connections import BREATHER, EXHAUSTED, SHORTAGE, Door


class Shortage:
    """Whether there are descriptors, and what stands for the doors while there are none.

    Args:
        doors: For each, a socket is made here: later that may not be possible.
        log: Is told, as ``log(message, level)``, that nobody is accepted.
    """

    #: How often is looked, at most.
    pause = BREATHER / 4

    def __init__(self, doors: Iterable[Door], log: Callable[[str, int], object]) -> None:
        self.dead: Sequence[socket.socket] = [dead_listener(door.socket.family) for door in doors]
        self._log = log
        self._told_at = float("-inf")
        self._spare: int | None = None
        self._take()

    def is_there(self) -> bool:
        """Tell whether there is none left, and say so if that is news."""
        try:
            self._take()
            os.close(os.dup(self.dead[0].fileno()))
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            now = time.monotonic()
            if now - self._told_at > SHORTAGE:
                self._log(f"{CannotAccept(error)}; trying again", 40)
            self._told_at = now
            return True
        return False

    def leave_one(self) -> None:
        """Leave one free, for who stops the server."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def close(self) -> None:
        self.leave_one()
        for each in self.dead:
            each.close()

    def _take(self) -> None:
        if self._spare is None:
            self._spare = os.dup(self.dead[0].fileno())
