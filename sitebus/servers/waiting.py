"""The connections that are waited with: who may ask again, who began to, and who is leaving.

Three sorts, each with its own idea of how long. Nothing is closed here and nothing is read but what
leaving ones still say; `sitebus.servers.connections` decides what becomes of whom.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import threading
import time
from collections import OrderedDict
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

NEVER = float("inf")
#: What is read of a connection that was told its last, for so long; bytes, seconds.
SWALLOWED, SWALLOWING = 16 << 20, 3.0
_GULP = 65536


class Connection(Protocol):
    """What needs to be known of a connection."""

    socket: Any
    last_used: float

    def close(self) -> None: ...


class _Parting(NamedTuple):
    """One that was told its last: until when it may read, and how much it may still say."""

    connection: Any
    until: float
    left: int


C = TypeVar("C", bound=Connection)


class WaitingRoom(Generic[C]):
    """Who is watched by a selector, from any thread; it is opened before and closed for good.

    Each connection is of one sort at a time, or not here at all. What adds one answers whether it
    did: not once the room is closed, nor if the system cannot watch one more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Oldest first: all wait equally long. (A dict finds its first key slowly after deletions.)
        self._idle: OrderedDict[int, C] = OrderedDict()
        # Each with the time until which the rest is waited for.
        self._midway: dict[int, tuple[C, float]] = {}
        # When to look at which of these, once each; they may have gone on or left since.
        self._alarms: list[tuple[float, int]] = []
        self._alarmed: set[int] = set()
        self._parting: OrderedDict[int, _Parting] = OrderedDict()
        self._closed = False
        # Made when it is needed, so that a room that was never used has nothing to be closed.
        self._selector: selectors.BaseSelector

    def open(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector

    @property
    def idle(self) -> tuple[C, ...]:
        """Those of whose next request nothing was read yet, longest silent first."""
        with self._lock:
            return tuple(self._idle.values())

    @property
    def midway(self) -> tuple[C, ...]:
        """Those that began to say something whose rest is waited for."""
        with self._lock:
            return tuple(connection for connection, _ in self._midway.values())

    def __len__(self) -> int:
        """Count those that are idle."""
        return len(self._idle)

    def add_idle(self, connection: C) -> bool:
        with self._lock:
            added = self._watch(connection)
            if added:
                self._idle[connection.socket.fileno()] = connection
            return added

    def add_midway(self, connection: C, until: float, *, to_write: bool = False) -> bool:
        with self._lock:
            added = self._watch(connection, to_write=to_write)
            if added:
                number = connection.socket.fileno()
                self._midway[number] = connection, until
                # Whoever had this number before was due sooner.
                if number not in self._alarmed and until != NEVER:
                    self._alarmed.add(number)
                    heapq.heappush(self._alarms, (until, number))
            return added

    def add_parting(self, connection: C) -> bool:
        with self._lock:
            added = self._watch(connection)
            if added:
                until = time.monotonic() + SWALLOWING
                parting = _Parting(connection, until, SWALLOWED)
                self._parting[connection.socket.fileno()] = parting
            return added

    def remove(self, number: int, connection: C) -> bool:
        """Watch *connection* no more; tell whether it was here, under this *number*."""
        with self._lock:
            if self._idle.get(number) is connection:
                del self._idle[number]
            elif number in self._midway and self._midway[number][0] is connection:
                del self._midway[number]
            elif number in self._parting and self._parting[number].connection is connection:
                del self._parting[number]
            else:
                return False
            self._selector.unregister(number)
            return True

    def is_parting(self, number: int) -> bool:
        # Not before whoever adds it is done: until then it is watched already, and of no sort.
        with self._lock:
            return number in self._parting

    def has_left(self, number: int) -> bool:
        """Forget what a parting one says; tell whether it hung up, or said too much."""
        connection, until, left = self._parting[number]
        try:
            # Below TLS, if there is any; nobody wants to know what it says.
            data = socket.socket.recv(connection.socket, _GULP, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._parting[number] = _Parting(connection, until, left - len(data))
        return not data or left <= len(data)

    def first_idle(self) -> C | None:
        with self._lock:
            return next(iter(self._idle.values()), None)

    def first_to_go(self) -> C | None:
        """Answer who can be closed with the least harm: it has been silent longest."""
        with self._lock:
            for parting in self._parting.values():
                return cast(C, parting.connection)
            for connection in self._idle.values():
                return connection
            return next((connection for connection, _ in self._midway.values()), None)

    def next_due(self) -> float:
        """Answer when the first that is not idle will have taken too long."""
        with self._lock:
            due = self._alarms[0][0] if self._alarms else NEVER
            first = next(iter(self._parting.values()), None)
            return due if first is None else min(due, first.until)

    def remove_late(self, now: float) -> list[C]:
        """Answer those whose rest did not come in time, which are here no more."""
        with self._lock:
            late: list[C] = []
            while self._alarms and self._alarms[0][0] <= now:
                _, number = heapq.heappop(self._alarms)
                self._alarmed.discard(number)
                connection, until = self._midway.get(number, (None, NEVER))
                if connection is None:
                    continue  # it went on, or left
                if until > now:
                    self._alarmed.add(number)
                    heapq.heappush(self._alarms, (until, number))
                else:
                    del self._midway[number]
                    self._selector.unregister(number)
                    late.append(connection)
            return late

    def late_parting(self, now: float) -> list[C]:
        with self._lock:
            return [each.connection for each in self._parting.values() if each.until <= now]

    def close(self) -> list[C]:
        """Let nobody in any more, and answer who was here; the selector is its owner's."""
        with self._lock:
            self._closed = True
            here = [
                *self._idle.values(),
                *(connection for connection, _ in self._midway.values()),
                *(parting.connection for parting in self._parting.values()),
            ]
            self._idle.clear()
            self._midway.clear()
            self._parting.clear()
            return here

    def _watch(self, connection: C, *, to_write: bool = False) -> bool:
        events = selectors.EVENT_WRITE if to_write else selectors.EVENT_READ
        try:
            if not self._closed:
                self._selector.register(connection.socket.fileno(), events, connection)
                return True
        except (OSError, ValueError, KeyError):
            pass  # no room to watch it, or closed behind our back
        return False
