"""Accept connections and watch the silent ones, in one thread that never wakes without a reason.

Whoever answers requests is left out: a connection that has something to say is handed to ``serve``,
and comes back through `Doorkeeper.park` when it was answered and may say more.

A connection is handed over only once its first byte is there.
So one that says nothing holds no worker thread, and a drain can tell it from a request half read:
the first may be closed after a moment, the second must be waited for.

Whoever began to say something and was not understood yet is waited for too, with a deadline
(`Doorkeeper.await_rest`), and so is one that was told its last and may not have read it
(`Doorkeeper.part`): closed on unread bytes, a connection is reset, and loses what was sent.

A drain only stops looking at the doors (listening sockets), unless it is told that it is the last.
What the kernel has queued meanwhile is left to whoever looks at those sockets next: ourselves after
a stop and a start, or our successor.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar, cast

from sitebus.servers.sharing import Share
from sitebus.servers.waiting import NEVER, Connection, WaitingRoom

#: The process or the system has no descriptor or memory left for one more connection.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: The door itself is gone or broken. Any other error belongs to the one connection that was lost.
BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
#: How long nothing is accepted when descriptors ran out: at once again would be a busy loop.
BREATHER = 0.2
#: For how long a shortage that goes on and off is not told again.
SHORTAGE = 10.0
#: As many connections at most, and this share of the descriptors that the process may have.
MOST_CONNECTIONS, SHARE = 10_000, 0.75
#: How many of those who wait are still let in before a door is closed for good.
LAST_ROUND = 4096

#: Seconds. The system's clocks of milliseconds end at 24 days; whoever waits longer waits again.
LONGEST_WAIT = 86400.0


class Door(NamedTuple):
    """A listening socket, and what the applications behind it are told it is called."""

    socket: socket.socket
    name: str
    port: str


C = TypeVar("C", bound=Connection)


class Doorkeeper(Generic[C]):
    """The thread that accepts, and that waits with those who wait.

    Args:
        doors: The listening sockets, non-blocking: others may accept from them too.
        timeout: Seconds after which a connection that says nothing is closed.
        welcome: Makes a connection of an accepted socket.
        serve: Takes a connection that has something to say; must not block.
        log: Is told, as ``log(message, level)``, what nobody else would notice.
        most: How many connections are open at once; 0 is any. For one more, the one that has been
            silent longest is closed; if all are busy, it waits in the kernel's queue.
        patience: The timeout of accepted sockets, *timeout* if not given; 0 for sockets that never
            block.
        has_spoken: Tells whether the first bytes of a new connection are there; may take them.
        give_up: Is told of one whose rest did not come in time, in place of its ``close``; it is
            not waited for any more, and must be closed or handed to `part`.
        header_timeout: The shortest time that `await_rest` is asked for, from the first byte on.
        has_hands: Tells whether one more could be served at once; is given where other processes
            accept from *doors* too, of which those that have less to do shall go first.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        timeout: float,
        welcome: Callable[[Door, socket.socket, Any], C],
        serve: Callable[[C], None],
        log: Callable[[str, int], object],
        most: int = 0,
        patience: float | None = None,
        has_spoken: Callable[[C], bool] | None = None,
        give_up: Callable[[C], object] | None = None,
        header_timeout: float = 0.0,
        has_hands: Callable[[], bool] | None = None,
    ) -> None:
        self.doors = tuple(doors)
        self.serving = threading.Event()
        self.ended = threading.Event()
        self.shut = threading.Event()
        self._timeout = timeout
        self._welcome = welcome
        self._serve = serve
        self._log = log
        self._most = most
        self._patience = min(timeout, LONGEST_WAIT) if patience is None else patience
        self._has_spoken = has_spoken
        self._give_up = give_up or (lambda connection: connection.close())
        #: Nobody becomes due sooner than this after the loop was awake.
        self._horizon = min(timeout, header_timeout or timeout)
        self._share = None if has_hands is None else Share(has_hands)
        # Whether somebody has become free while the doors were closed since nobody was.
        self._is_free = False
        self._open: set[C] = set()
        self._room = WaitingRoom[C]()
        self._full = False
        self._short_at = -NEVER
        self._lock = threading.Lock()
        self._drained_since: float | None = None
        self._linger = 0.0
        self._for_good = False
        self._give: Callable[[C], bool] | None = None
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

    @property
    def idle(self) -> tuple[C, ...]:
        """Those of whose next request nothing was read yet, longest silent first."""
        return self._room.idle

    @property
    def midway(self) -> tuple[C, ...]:
        """Those that began to say something whose rest is waited for."""
        return self._room.midway

    def run(self) -> None:
        """Accept and watch until a drain is complete or was cut short."""
        alarm, bell = socket.socketpair()
        with alarm, bell, selectors.DefaultSelector() as self._selector:
            alarm.setblocking(False)
            bell.setblocking(False)
            self._selector.register(alarm, selectors.EVENT_READ)
            self._bell = bell
            self._room.open(self._selector)
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
        self._kept(connection, self._room.add_idle(connection))

    def await_rest(self, connection: C, until: float, *, to_write: bool = False) -> None:
        """Wait until *until* for the rest of what *connection* began to say (from any thread).

        With *to_write*, for its taking what it was sent.
        """
        is_kept = self._room.add_midway(connection, until, to_write=to_write)
        self._kept(connection, is_kept)

    def part(self, connection: C) -> None:
        """Close *connection* once it has hung up, or in a moment (from any thread).

        What it still says is read and forgotten. It was told already that nothing more will come.
        """
        self._kept(connection, self._room.add_parting(connection))
        self._ring()

    def _kept(self, connection: C, is_kept: bool) -> None:
        if not is_kept:
            connection.close()
        elif self.draining or self._full:
            self._ring()

    def gone(self, connection: C) -> None:
        """Be told that *connection* was closed (from any thread)."""
        with self._lock:
            self._open.discard(connection)
        if self.draining or self._full:
            self._ring()

    def free(self) -> None:
        """Be told that somebody has time for one more (from any thread)."""
        if self._share is not None and self._share.wants_hands and not self._is_free:
            self._is_free = True
            self._ring()

    def drain(
        self,
        linger: float,
        *,
        for_good: bool = False,
        give: Callable[[C], bool] | None = None,
    ) -> None:
        """Accept nothing more, and end when every connection is closed.

        Silent ones are closed when they said nothing for *linger* more seconds. With *for_good*
        nobody will look at these doors again: who waits there is let in first, and then they are
        closed, which is told by ``shut``.

        *give* is called, in the doorkeeper's thread, with each connection that waits for its next
        request or for the rest of one. If it answers true, the connection is another's.
        """
        with self._lock:
            if self._drained_since is None:
                self._linger = linger
                self._for_good = for_good
                self._give = give
                self._drained_since = time.monotonic()
        self._ring()

    def adopt(self, found: Iterable[tuple[C, bool]]) -> None:
        """Go on with connections that somebody else has accepted (from any thread).

        Each with whether something of its next request was read already. Who is too many makes room
        as among newcomers; if nobody is silent, it is closed.
        """
        for connection, has_begun in found:
            has_room = self._make_room()
            with self._lock:
                self._open.add(connection)
            if not has_room:
                connection.close()
            elif has_begun:
                self._serve(connection)
            else:
                connection.last_used = time.monotonic()
                if not self._room.add_idle(connection):
                    connection.close()
        # Whoever sleeps does not know yet that somebody may become due.
        self._ring()

    def cut(self) -> None:
        """End now: silent connections are closed, those being served are left to their threads."""
        with self._lock:
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
        for connection in (*self._room.idle, *self._room.midway) if self._gives else ():
            self._give_away(connection)
        if self._full and self._resume_at == NEVER and not self.draining and self._has_room():
            self._open_doors()
        return self._cut or (self.draining and not self._open)

    @property
    def _gives(self) -> bool:
        return self._give is not None and self.draining

    def _give_away(self, connection: C) -> bool:
        """Leave *connection*, which is watched, to who serves after us; tell whether it is."""
        assert self._give is not None
        number = connection.socket.fileno()
        with self._lock:
            # Once it is cut short, whoever finds it among the open ones may shut it down.
            if self._cut or connection not in self._open:
                return False
            self._open.discard(connection)
        # Watched until it is another's: whoever reads it next must be the only one.
        if self._give(connection) and self._room.remove(number, connection):
            return True
        with self._lock:
            self._open.add(connection)
        return False

    def _wait_for_words(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout and min(timeout, LONGEST_WAIT)):
            self._attend(key)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if self._cut:
            return  # who would serve it may have gone
        if isinstance(key.data, Door):
            self._accept(key.data)
        elif key.data is None:
            cast(socket.socket, key.fileobj).recv(4096)
            if self._is_free and self._share is not None:
                self._look_again(self._share)
        elif self._room.is_parting(key.fd):
            if self._room.has_left(key.fd):
                self._close(key.data)
        # What it says is for who serves next; else one that always says more would never be left.
        elif self._gives and self._give_away(key.data):
            return
        # Not if it was closed to make room, or the number is another's, since this was reported.
        elif self._room.remove(key.fd, key.data):
            self._serve(key.data)

    def _close(self, connection: C) -> None:
        self._room.remove(connection.socket.fileno(), connection)
        connection.close()

    def _accept(self, door: Door) -> None:
        if self.draining or self._resume_at is not None:
            return  # closed since this event was reported
        self._is_free = False
        if self._share is None or self._share.is_ours():
            self._let_in(door)
        else:
            self._close_doors(until=time.monotonic() + self._share.wait())

    def _let_in(self, door: Door) -> None:
        if not self._make_room():
            # Told before it is looked at again, so that nobody can leave unnoticed in between.
            self._full = True
            self._close_doors(until=NEVER)
            return
        try:
            accepted, peer = door.socket.accept()
        except BlockingIOError:
            if self._share is not None:
                self._share.lost()
            return  # another process was faster
        except OSError as error:
            self._refused(door, error)
            return
        if self._share is not None:
            self._share.won()
        self._usher(door, accepted, peer)

    def _look_again(self, share: Share) -> None:
        """Let in whom others have left, if they were let go first."""
        if self.draining or self._cut or self._full or self._resume_at is None:
            return
        share.end_wait(is_called=self._is_free)
        self._is_free = False
        self._open_doors()
        for door in self.doors:
            if share.waits:
                self._let_in(door)

    def _make_room(self) -> bool:
        """Close who has been silent longest, if there is no room; tell whether there is some."""
        if not self._most or len(self._open) < self._most:
            return True
        longest = self._room.first_to_go()
        if longest is None or not self._room.remove(longest.socket.fileno(), longest):
            return False
        longest.close()
        return True

    def _has_room(self) -> bool:
        return len(self._open) < self._most or self._room.first_to_go() is not None

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
            now = time.monotonic()
            if now - self._short_at > SHORTAGE:
                where = f"{door.name}:{door.port}"
                self._log(f"cannot accept on {where}: {error.strerror}; pausing", 40)
            self._short_at = now
            self._close_doors(until=now + BREATHER)

    def _usher(self, door: Door, accepted: socket.socket, peer: Any) -> None:
        # With a timeout, a socket waits even where it is told not to.
        spoken = self._has_spoken is None and _has_spoken(accepted)
        accepted.settimeout(self._patience)
        try:
            connection = self._welcome(door, accepted, peer)
        except OSError:
            accepted.close()  # it left before it was welcomed
            return
        with self._lock:
            self._open.add(connection)
        if spoken or (self._has_spoken is not None and self._has_spoken(connection)):
            self._serve(connection)
        else:
            self.park(connection)

    def _open_doors(self) -> None:
        self._resume_at = None
        self._full = False
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
        due = min(due, self._room.next_due())
        oldest = self._room.first_idle()
        if oldest is not None:
            due = min(due, self._due(oldest))
        if len(self._open) > len(self._room):
            # Whoever is watched from now on is due after this, so that nobody needs to wake us.
            return min(due, now + self._horizon)
        return due

    def _do_what_is_due(self, now: float) -> None:
        if self._resume_at is not None and self._resume_at <= now:
            if self._share is not None and self._share.waits:
                self._look_again(self._share)
            else:
                self._open_doors()
        while (oldest := self._room.first_idle()) is not None and self._due(oldest) <= now:
            self._close(oldest)
        for slow in self._room.remove_late(now):
            self._give_up(slow)
        for gone in self._room.late_parting(now):
            self._close(gone)

    def _due(self, connection: C) -> float:
        if self._drained_since is None:
            return connection.last_used + self._timeout
        return max(connection.last_used, self._drained_since) + self._linger

    def _leave(self) -> None:
        # Before those are closed who are here: nobody may come in after.
        watched = self._room.close()
        self.ended.set()
        for connection in watched:
            connection.close()


def most_connections(wanted: int) -> int:
    """Answer how many connections may be open: *wanted*, or what suits the process if it is 0."""
    if wanted:
        return wanted
    files = os.sysconf("SC_OPEN_MAX")
    if files < 0:  # there is no limit
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, int(files * SHARE)))


def _has_spoken(accepted: socket.socket) -> bool:
    """Tell whether the first bytes (or the end) of a just accepted connection are there."""
    try:
        accepted.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # whoever reads will meet the error, and knows what to do
    return True
