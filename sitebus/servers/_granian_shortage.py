"""Accept nobody while the process has no descriptors left, say so, and be able to stop without any.

granian's thread asks for the next connection again and again then: the kernel refuses it before it
looks whether there is anybody. So one looks whether there is a descriptor to be had whenever
somebody waits at a door, which is seldom and for a moment; and when granian says that it was
refused, for the last may go to one who did not have to wait.

When there is none, granian is not woken for its doors any more, and shown others, where nobody
comes. But it is in the middle of asking, and has to be told once that there is nobody; that takes a
descriptor, if only for that moment. So some are kept for it. When there are descriptors again, it
is shown its doors, and woken (`sitebus.servers._granian_epoll`). Where the kernel does not tell who
watches a socket (other systems than Linux), granian cannot be kept from asking.

What a stop needs is made beforehand.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from sitebus.errors import CannotAccept
from sitebus.servers._granian_crew import Crew
from sitebus.servers._granian_ear import Ear
from sitebus.servers._granian_sockets import dead_listener
from sitebus.servers.connections import BREATHER, EXHAUSTED, SHORTAGE, Door

#: How many descriptors are kept to be given to granian, one at a time.
SPARES = 4
#: With fewer left than this one looks again without being called.
FEW = 16
#: How soon is looked again: while nothing changes, and when something has.
SELDOM, SOON = BREATHER / 8, 0.002
#: The share of a processor that is too much for a process that waits.
BUSY = 0.5


class Shortage:
    """Whether there are descriptors, and what stands for the doors while there are none.

    Args:
        doors: For each, a socket is made here: later that may not be possible.
        log: Is told, as ``log(message, level)``, that nobody is accepted.
        ring: Is called, in any thread, when it should be looked at.
    """

    def __init__(
        self,
        doors: Iterable[Door],
        log: Callable[[str, int], object],
        ring: Callable[[], object],
    ) -> None:
        self.dead: Sequence[socket.socket] = [dead_listener(door.socket.family) for door in doors]
        #: How soon to look again, and whether to do so if nobody waits, too.
        self.pause = SELDOM
        self.is_near = False
        self._log = log
        self._ring = ring
        self._told_at = float("-inf")
        self._spares: list[socket.socket] = []
        self._is_there = self._has_rung = False
        self._looked_at = self._used = 0.0
        self._take()

    def listen(self) -> None:
        """Look when granian says so, too."""
        Ear.told.add(self._notice)

    def look(self, crews: Sequence[Crew], *, waits: bool) -> bool:
        """Tell whether there is none left; then *crews* rest until there is one.

        *waits* is whether somebody waits at a door.
        """
        was_there, self._has_rung = self._is_there, False
        error = self._find_out()
        self._is_there = error is not None
        is_calm = self._is_there is was_there and (self._is_there or not (self.is_near and waits))
        self.pause = SELDOM if is_calm else SOON
        if error is not None:
            self._tell(error)
            self._calm(crews, is_news=not was_there)
        else:
            for crew in crews:
                crew.go_on()
        return self._is_there

    def leave_some(self) -> None:
        """Leave some free, for who stops the server."""
        while self._spares:
            self._spares.pop().close()

    def close(self) -> None:
        Ear.told.discard(self._notice)
        self.leave_some()
        for each in self.dead:
            each.close()

    def _notice(self) -> None:
        if not self._is_there and not self._has_rung:
            self.is_near = self._has_rung = True
            self._ring()

    def _find_out(self) -> OSError | None:
        try:
            self._take()
            # Not a copy: the system may be short of more than descriptors.
            with socket.socket(socket.AF_UNIX) as next_one:
                most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                self.is_near = 0 <= most < next_one.fileno() + FEW
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self.is_near = True
            return error
        return None

    def _take(self) -> None:
        while len(self._spares) < SPARES:
            self._spares.append(socket.socket(socket.AF_UNIX))

    def _tell(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._told_at > SHORTAGE:
            self._log(f"{CannotAccept(error)}; pausing", 40)
        self._told_at = now

    def _calm(self, crews: Sequence[Crew], *, is_news: bool) -> None:
        now, used = time.monotonic(), time.process_time()
        is_busy = used - self._used > BUSY * (now - self._looked_at)
        self._looked_at, self._used = now, used
        for crew in crews:
            crew.rest()
        # Perhaps somebody was faster the last time.
        if self._spares and (is_news or is_busy):
            self._spares.pop().close()
