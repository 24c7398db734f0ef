"""Accept connections and watch the silent ones, in one thread that never wakes without a reason.

Whoever answers requests is left out: a connection that has something to say is handed to ``serve``,
and comes back through `Doorkeeper.park` when it was answered and may say more.

A connection is handed over only once its first byte is there.
So one that says nothing holds no worker thread, and a drain can tell it from a request half read:
the first may be closed after a moment, the second must be waited for.

A drain only stops looking at the doors (listening sockets), unless it is told that it is the last.
What the kernel has queued meanwhile is left to whoever looks at those sockets next: ourselves after
a stop and a start, or our successor.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

#: The process or the system has no descriptor or memory left for one more connection.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: The door itself is gone or broken. Any other error belongs to the one connection that was lost.
BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
#: How long nothing is accepted when descriptors ran out: at once again would be a busy loop.
BREATHER = 0.2
#: How many of those who wait are still let in before a door is closed for good.
LAST_ROUND = 4096

NEVER = float("inf")
#: Seconds. The system's clocks of milliseconds end at 24 days; whoever waits longer waits again.
LONGEST_WAIT = 86400.0


class Door(NamedTuple):
    """A listening socket, and what the applications behind it are told it is called."""

    socket: socket.socket
    name: str
    port: str


class Connection(Protocol):
    """What the doorkeeper needs to know of a connection."""

    socket: Any
    last_used: float

    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Doorkeeper(Generic[C]):
    """The thread that accepts, and that waits with those who wait.

    Args:
        doors: The listening sockets, non-blocking: others may accept from them too.
        timeout: Seconds after which a connection that says nothing is closed.
        welcome: Makes a connection of an accepted socket.
        serve: Takes a connection that has something to say; must not block.
        log: Is told, as ``log(message, level)``, what nobody else would notice.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        timeout: float,
        welcome: Callable[[Door, socket.socket, Any], C],
        serve: Callable[[C], None],
        log: Callable[[str, int], object],
    ) -> None:
        self.doors = tuple(doors)
        self.serving = threading.Event()
        self.ended = threading.Event()
        self.shut = threading.Event()
        self._timeout = timeout
        self._welcome = welcome
        self._serve = serve
        self._log = log
        self._open: set[C] = set()
        # Oldest first: all wait equally long. (A dict finds its first key slowly after deletions.)
        self._parked: OrderedDict[int, C] = OrderedDict()
        self._lock = threading.Lock()
        self._drained_since: float | None = None
        self._linger = 0.0
        self._for_good = False
        self._cut = False
        # None while the doors are open.
        self._resume_at: float | None = None
        # Made when it runs, so that one that never ran has nothing to be closed.
        self._selector: selectors.BaseSelector
        self._bell: socket.socket | None = None

    @property
    def draining(self) -> bool:
        return self._drained_since is not None

    @property
    def connections(self) -> frozenset[C]:
        """Those accepted and not yet closed."""
        with self._lock:
            return frozenset(self._open)

    def run(self) -> None:
        """Accept and watch until a drain is complete or was cut short."""
        alarm, bell = socket.socketpair()
        with alarm, bell, selectors.DefaultSelector() as self._selector:
            alarm.setblocking(False)
            bell.setblocking(False)
            self._selector.register(alarm, selectors.EVENT_READ)
            self._bell = bell
            try:
                self._open_doors()
                self.serving.set()
                while not self._is_over():
                    now = time.monotonic()
                    due = self._next_due(now)
                    self._wait_for_words(None if due == NEVER else max(0.0, due - now))
                    # Only who was due before it was asked for words is closed as silent.
                    if due <= now:
                        self._do_what_is_due(now)
            finally:
                self._leave()

    def park(self, connection: C) -> None:
        """Wait with *connection* for its next request (from any thread)."""
        connection.last_used = time.monotonic()
        if not self._watch(connection):
            connection.close()
        elif self.draining:
            self._ring()

    def _watch(self, connection: C) -> bool:
        number = connection.socket.fileno()
        with self._lock:
            if self.ended.is_set():
                return False
            try:
                self._selector.register(number, selectors.EVENT_READ, connection)
            except (OSError, ValueError, KeyError):
                return False  # no room to watch it, or closed behind our back
            self._parked[number] = connection
            return True

    def gone(self, connection: C) -> None:
        """Be told that *connection* was closed (from any thread)."""
        with self._lock:
            self._open.discard(connection)
        if self.draining:
            self._ring()

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more, and end when every connection is closed.

        Silent ones are closed when they said nothing for *linger* more seconds. With *for_good*
        nobody will look at these doors again: who waits there is let in first, and then they are
        closed, which is told by ``shut``.
        """
        with self._lock:
            if self._drained_since is None:
                self._linger = linger
                self._for_good = for_good
                self._drained_since = time.monotonic()
        self._ring()

    def cut(self) -> None:
        """End now: silent connections are closed, those being served are left to their threads."""
        self._cut = True
        self._ring()

    def _ring(self) -> None:
        if self._bell is not None:
            # Full: it rings already. Closed: nobody sleeps any more.
            with suppress(OSError):
                self._bell.send(b"!")

    def _is_over(self) -> bool:
        if self.draining and not self.shut.is_set():
            if self._for_good:
                self._let_in_who_waits()
            self._close_doors(until=NEVER)
            for door in self.doors if self._for_good else ():
                door.socket.close()
            self.shut.set()
        return self._cut or (self.draining and not self._open)

    def _wait_for_words(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout and min(timeout, LONGEST_WAIT)):
            self._attend(key)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, Door):
            self._accept(key.data)
        elif key.data is None:
            cast(socket.socket, key.fileobj).recv(4096)
        else:
            with self._lock:
                self._unpark(key.fd)
            self._serve(key.data)

    def _accept(self, door: Door) -> None:
        if self.draining or self._resume_at is not None:
            return  # closed since this event was reported
        try:
            accepted, peer = door.socket.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            self._refused(door, error)
            return
        self._usher(door, accepted, peer)

    def _let_in_who_waits(self) -> None:
        for door in self.doors:
            # Bounded: under load newcomers would never end.
            for _ in range(LAST_ROUND):
                try:
                    accepted, peer = door.socket.accept()
                except OSError:
                    break  # nobody waits, or nobody more can be let in
                self._usher(door, accepted, peer)

    def _refused(self, door: Door, error: OSError) -> None:
        if error.errno in BROKEN:
            raise error
        if error.errno in EXHAUSTED:
            self._log(f"cannot accept on {door.name}:{door.port}: {error.strerror}; pausing", 40)
            self._close_doors(until=time.monotonic() + BREATHER)

    def _usher(self, door: Door, accepted: socket.socket, peer: Any) -> None:
        spoken = _has_spoken(accepted)
        accepted.settimeout(min(self._timeout, LONGEST_WAIT))
        try:
            connection = self._welcome(door, accepted, peer)
        except OSError:
            accepted.close()  # it left before it was welcomed
            return
        with self._lock:
            self._open.add(connection)
        if spoken:
            self._serve(connection)
        else:
            self.park(connection)

    def _open_doors(self) -> None:
        self._resume_at = None
        with self._lock:
            for door in self.doors:
                self._selector.register(door.socket, selectors.EVENT_READ, door)

    def _close_doors(self, until: float) -> None:
        were_open, self._resume_at = self._resume_at is None, until
        if were_open:
            with self._lock:
                for door in self.doors:
                    self._selector.unregister(door.socket)

    def _next_due(self, now: float) -> float:
        """Answer when something is to be done that no event announces."""
        due = NEVER if self._resume_at is None else self._resume_at
        oldest = self._oldest()
        if oldest is not None:
            return min(due, self._due(oldest))
        if self._open and not self.draining:
            # Whoever is parked from now on is due after this, so that parking needs not wake us.
            return min(due, now + self._timeout)
        return due

    def _do_what_is_due(self, now: float) -> None:
        if self._resume_at is not None and self._resume_at <= now:
            self._open_doors()
        while (oldest := self._oldest()) is not None and self._due(oldest) <= now:
            with self._lock:
                self._unpark(oldest.socket.fileno())
            oldest.close()

    def _oldest(self) -> C | None:
        with self._lock:
            return next(iter(self._parked.values()), None)

    def _due(self, connection: C) -> float:
        if self._drained_since is None:
            return connection.last_used + self._timeout
        return max(connection.last_used, self._drained_since) + self._linger

    def _unpark(self, number: int) -> None:
        del self._parked[number]
        self._selector.unregister(number)

    def _leave(self) -> None:
        with self._lock:
            self.ended.set()
            silent = list(self._parked.values())
            self._parked.clear()
        for connection in silent:
            connection.close()


def _has_spoken(accepted: socket.socket) -> bool:
    """Tell whether the first bytes (or the end) of a just accepted connection are there."""
    try:
        accepted.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # whoever reads will meet the error, and knows what to do
    return True
