"""granian's workers, on sitebus's own listening sockets, and how they are brought to an end.

A worker of granian accepts, parses and writes in threads of Rust, and calls Python for each
request; that is kept as it is. What is done around it, because granian has no word for it:

- It cannot stop accepting without closing its connections. So the descriptor it accepts on is made
  to mean another socket (``dup2``) on which nobody ever connects: its threads, which look at a
  socket only when something has happened there, find nobody.
- It does not tell how many connections are open, nor can it close them. So they are found among
  the process's descriptors, by the address that they were accepted on; only while a drain waits.
- It closes a kept connection in the middle of a request's head. So it is told to close them only
  once none has said anything that was not answered; not where HTTP/2 is, of which nobody can tell.
- It waits for ever for a client that takes nothing of its answer. So the kernel is told, with the
  listening socket, to give those up that it accepts there.
- Out of descriptors it asks for the next connection again and again, and says nothing. So it is
  kept from asking, and that is said (`sitebus.servers._granian_shortage`).
- It waits ten seconds for a TLS handshake; and for ever, to find out whether its client speaks
  HTTP/2. So connections on which nobody says anything and nobody is served are looked for.
- It cannot change its certificate. So new workers are made, and the old ones retired.
- It ends the whole process, by ``abort()``, at a certificate it cannot use. So that is tried in
  another process.

One thing cannot be cured: when somebody else in the process breaks a listening socket
(``shutdown``), granian's thread tries to accept for ever. That is noticed here, and ends the bus.

What it is told of granian, and relies on, is in `sitebus.servers._granian_crew`.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from sitebus.errors import ServerEnded
from sitebus.servers import _granian_ear
from sitebus.servers._granian_crew import GLANCE, Caller, Crew, Loop, Worker
from sitebus.servers._granian_shortage import Shortage
from sitebus.servers._granian_sockets import (
    Place,
    connections,
    give_up_after,
    is_owed,
    shut,
    silences,
    waiting_at,
)
from sitebus.servers._granian_tls import Certificate, as_options
from sitebus.servers.connections import LONGEST_WAIT, Door

#: How long those whom the kernel has let in may keep a door open that is closed for good; seconds.
LAST_ROUND = 0.4
#: How long somebody waits at a door until somebody else is made to leave for it, and how often.
CROWDED, TURNOUT = 0.1, 0.5
#: How often silent connections over TLS are looked for, in the time that they may be silent.
LOOKS = 4


class Crowd:
    """Whether somebody waits at a door, again and again: then nobody more is let in."""

    def __init__(self) -> None:
        self._since = self._last = self._next = 0.0

    def is_stuck(self) -> bool:
        """Be told that somebody waits; tell whether there is something to be done."""
        now = time.monotonic()
        if now - self._last > CROWDED:
            self._since = now
        self._last = now
        if now - self._since < CROWDED or now < self._next:
            return False
        self._next = now + TURNOUT
        return True


class HTTPServer:
    """granian behind listening sockets of somebody else; see `sitebus.servers.hosting.Hosted`.

    Args:
        doors: Where to accept, closed here at the end.
        caller: Makes what stands between the workers of one crew and the application.
        loop: The loop on which the application runs, if it is an ASGI one.
        options: What granian's worker takes, by its names, but for the certificate.
        certificate: For HTTPS.
        backlog: How many connections the kernel keeps until they are accepted.
        patience: Seconds after which a silent client is given up.
        silence: Seconds after which one is given up that speaks TLS, if it is not served.
        name: What it is called in messages.
        log: Is told, as ``log(message, level)``, why nobody is accepted.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        caller: Callable[[], Caller],
        *,
        loop: Any = None,
        options: Mapping[str, Any],
        certificate: Certificate | None,
        backlog: int,
        patience: float,
        silence: float,
        name: str,
        log: Callable[[str, int], object],
    ) -> None:
        self.doors = tuple(doors)
        self.certificate = certificate
        self.serving = threading.Event()
        self.drained = threading.Event()
        self.shut = threading.Event()
        self.draining = False
        self._make_caller = caller
        self._loop = loop or Loop()
        self._options = options
        self._backlog = backlog
        self._patience = patience
        self._silence = silence
        self._name = name
        self._linger = 0.0
        self._for_good = False
        self._up = False
        self._lock = threading.Lock()
        self._crews: list[Crew] = []
        self._retiring: list[threading.Timer] = []
        self._cut = threading.Event()
        self._places = [Place.of(door.socket) for door in doors]
        for door in doors:
            give_up_after(door.socket, patience)
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(True)
        self._bell.setblocking(False)
        self._shortage = Shortage(doors, log, self._ring)

    @property
    def ready(self) -> bool:
        return self._up

    def start(self) -> None:
        """Serve until drained or finished."""
        try:
            with self._lock:
                hears = _granian_ear.prepare(self._worker)
                self._crews.append(self._crew(self.certificate))
            if hears and self._crews[0].can_rest:
                self._shortage.listen()
            self._up = True
            self.serving.set()
            self._watch()
            if self.draining:
                self._depart()
        finally:
            self._leave()

    def stop(self) -> None:
        """Drain for a moment, then end."""
        self.drain(0.0)
        self.finish(1.0)

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more and answer the rest; ``drained`` is set when all have left."""
        with self._lock:
            if self.draining:
                return
            self._linger = linger
            self._for_good = for_good
            self.draining = True
            for crew in self._crews:
                crew.caller.draining = True
                if not for_good:
                    crew.close_doors()
        if not for_good:
            self.shut.set()
        self._ring()

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once; answer what is left behind."""
        if self.drained.is_set():
            return []
        self.draining = True
        self._end_crews()
        for each in connections(self._places):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        busy = [what for crew in self._crews for what in crew.caller.cut()]
        until = time.monotonic() + grace
        for crew in self._crews:
            crew.wait_ended(until - time.monotonic())
        busy += [what for crew in self._crews for what in crew.caller.busy()]
        self._cut.set()
        self._ring()
        return [(self._name, what) for what in busy]

    def renew(self, certificate: Certificate) -> None:
        """Use *certificate* for connections from now on; those that are open go on."""
        with self._lock:
            if self.draining:
                return
            old = self._crews[-1]
            self._crews = [each for each in self._crews if not each.wait_ended(0.0)]
            self._retiring = [each for each in self._retiring if each.is_alive()]
            self._crews.append(self._crew(certificate))
            self.certificate = certificate
            old.caller.draining = True
            old.close_doors()
            # By then granian has given up every connection that was silent meanwhile.
            timer = threading.Timer(min(self._patience, LONGEST_WAIT), old.end)
            timer.daemon = True
            self._retiring.append(timer)
        timer.start()

    def _crew(self, certificate: Certificate | None) -> Crew:
        with ExitStack() as files:
            options = {**self._options, **as_options(certificate, files)}
            dead, caller = self._shortage.dead, self._make_caller()
            return Crew(self.doors, dead, caller, self._loop, options, self._backlog)

    def _worker(self, door: Door, dead: socket.socket, schedule: Callable[[Door], Any]) -> Worker:
        """Make a worker that serves one door, unencrypted, and not with the application."""
        options = {**self._options, **as_options(None, ExitStack())}
        return Worker(door, dead, schedule, self._loop, options, self._backlog)

    def _watch(self) -> None:
        """Return when there is something else to do than to serve."""
        watched = select.poll()
        watched.register(self._alarm, select.POLLIN)
        # Of those who speak HTTP/1.1, granian itself knows how long they may be silent.
        is_plain = self.certificate is None and self._options["http_mode"] == "1"
        pause = LONGEST_WAIT if is_plain else min(self._silence / LOOKS, LONGEST_WAIT)
        silent_at = time.monotonic() + pause
        looks, crowd = True, Crowd()
        while not self.draining:
            for door in self.doors:
                watched.register(door.socket, select.POLLIN if looks else 0)
            left = max(0.0, silent_at - time.monotonic())
            was_away = not looks or self._shortage.is_near
            wait = min(left, self._shortage.pause) if was_away else left
            ready = dict(watched.poll(wait * 1000))
            looks = not any(event == select.POLLIN for event in self._heard(ready))
            # Afterwards as well: the last who came may have had the last descriptor.
            is_short = (was_away or not looks or self._shortage.is_near) and self._shortage.look(
                tuple(self._crews), waits=not looks
            )
            if not looks and not is_short and crowd.is_stuck():
                self._make_room()
            if time.monotonic() >= silent_at:
                silent_at = time.monotonic() + pause
                if not is_plain:
                    self._close_silent()

    def _heard(self, ready: dict[int, int]) -> list[int]:
        """Answer what has happened at the doors.

        Raises:
            ServerEnded: They can be used no more.
        """
        if ready.pop(self._alarm.fileno(), 0):
            self._alarm.recv(4096)
        for event in ready.values():
            # Of who connects, there is nothing to be done.
            if event & ~select.POLLIN:
                raise ServerEnded(f"socket of {self._name}", "though nobody closed it")
        return list(ready.values())

    def _close_silent(self) -> None:
        """Close connections on which nothing is said, but for those who wait for an answer."""
        # Looked at first: who is not served yet has said something since.
        here = silences(self._places)
        silent = {peer for peer, seconds in here.items() if seconds > self._silence}
        if silent and (served := self._served()) is not None:
            shut(self._places, silent - served)

    def _make_room(self) -> None:
        """Where there are as many as may be, and more wait, have others leave for them."""
        served = self._served()
        if served is None:
            return
        for door, place in zip(self.doors, self._places, strict=True):
            here = silences([place])
            if len(here) >= self._options["backpressure"]:
                idle = sorted(here.keys() - served, key=here.__getitem__, reverse=True)
                shut([place], set(idle[: waiting_at(door.socket)]))

    def _served(self) -> set[tuple[str, int]] | None:
        found = [crew.caller.served() for crew in self._crews]
        if None in found:
            return None
        return set().union(*filter(None, found))

    def _depart(self) -> None:
        self._shortage.leave_some()  # to find connections takes one
        if self._for_good:
            for crew in self._crews:
                crew.go_on()
            self._let_in_who_waits()
        for crew in self._crews:
            crew.close_doors()
        self._close_doors()
        self.shut.set()
        for crew in self._crews:
            crew.caller.leave()
        self._wait_linger()
        if self._options["http_mode"] == "1":
            self._wait_answered()
        self._end_crews()
        for crew in self._crews:
            while not self._cut.is_set() and not crew.wait_ended(GLANCE):
                pass
            if not self._cut.is_set():
                crew.caller.wait_idle()

    def _let_in_who_waits(self) -> None:
        """Return when the kernel has nobody more for us, or under load soon."""
        until = time.monotonic() + LAST_ROUND
        waiting = select.poll()
        for door in self.doors:
            waiting.register(door.socket, select.POLLIN)
        while waiting.poll(0) and time.monotonic() < until and not self._cut.wait(0.001):
            pass

    def _wait_linger(self) -> None:
        """Return when silent clients have had the time that they are given, or have left."""
        quiet_since = time.monotonic()
        while not self._cut.wait(min(GLANCE, self._linger)):
            now = time.monotonic()
            if any(crew.caller.answering for crew in self._crews):
                quiet_since = now
            if now - quiet_since >= self._linger or not any(connections(self._places)):
                return

    def _wait_answered(self) -> None:
        """Return when no kept connection is in the middle of a request."""
        while any(map(is_owed, connections(self._places))) and not self._cut.wait(GLANCE):
            pass

    def _end_crews(self) -> None:
        with self._lock:
            for timer in self._retiring:
                timer.cancel()
            for crew in self._crews:
                crew.end()

    def _close_doors(self) -> None:
        if self._for_good:
            for door in self.doors:
                door.socket.close()

    def _leave(self) -> None:
        self._up = False
        self._end_crews()
        # Whoever waits for any of these must learn that it will not come.
        for event in (self.serving, self.drained, self.shut):
            event.set()
        with self._lock:
            for each in (*(door.socket for door in self.doors), self._alarm, self._bell):
                each.close()
            self._shortage.close()

    def _ring(self) -> None:
        # Full: it rings already. Closed: nobody sleeps any more.
        with suppress(OSError):
            self._bell.send(b"!")
