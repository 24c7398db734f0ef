"""Watch thousands of connections that say nothing, on an event loop, for next to nothing each.

For connections that come from elsewhere and become the server's own with their first word: until
then all of them share one descriptor of the loop's and one timer. What it means that one speaks, or
has been silent for too long, is for others to say.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

#: How many are heard before others have their turn.
AT_ONCE = 64


class Sleeper(Protocol):
    """Whoever has a socket."""

    socket: socket.socket


S = TypeVar("S", bound=Sleeper)


class Sleepers(Generic[S]):
    """Those who are silent, longest first.

    Args:
        loop: The running loop; everything but the constructor is called on it.
        woken: Is given each that has said something, or has left.
        overdue: Is given each that was silent for too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        woken: Callable[[S], object],
        overdue: Callable[[S], object],
    ) -> None:
        self._loop = loop
        self._woken = woken
        self._overdue = overdue
        self._all: dict[int, tuple[float, S]] = {}
        self._poll: select.epoll | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def add(self, sleeper: S, seconds: float) -> None:
        """Watch one more, for no less time than those before it."""
        if not self._all:
            self._open()
        number = sleeper.socket.fileno()
        until = self._loop.time() + seconds
        self._all[number] = until, sleeper
        if self._poll is None:
            self._loop.add_reader(number, self._wake, number)
        else:
            self._poll.register(number, select.EPOLLIN)
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look)

    def take_first(self) -> S | None:
        """Take the one that has been silent longest, if there is any."""
        for number in self._all:
            return self._take(number)
        return None

    def take_all(self) -> list[S]:
        """Take all; nobody is watched any more."""
        return [self._take(number) for number in list(self._all)]

    def hurry(self, seconds: float) -> None:
        """Leave each of them so much time, from now on."""
        until = self._loop.time() + seconds
        self._all = {number: (until, sleeper) for number, (_, sleeper) in self._all.items()}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(until, self._look)

    def _open(self) -> None:
        # Where there is none, or no descriptor for it, the loop looks at each by itself.
        try:
            self._poll = select.epoll()
        except (AttributeError, OSError):
            return
        self._loop.add_reader(self._poll.fileno(), self._hear)

    def _take(self, number: int) -> S:
        _, sleeper = self._all.pop(number)
        if self._poll is None:
            self._loop.remove_reader(number)
        else:
            # Not by itself with the descriptor: there may be another of the same connection.
            self._poll.unregister(number)
        if not self._all:
            self._close()
        return sleeper

    def _close(self) -> None:
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hear(self) -> None:
        if self._poll is not None:
            for number, _ in self._poll.poll(0, AT_ONCE):
                self._wake(number)

    def _wake(self, number: int) -> None:
        if number in self._all:
            self._woken(self._take(number))

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for number, (until, _) in list(self._all.items()):
            if until > now:
                self._timer = self._loop.call_at(until, self._look)
                return
            self._overdue(self._take(number))
