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
- It waits ten seconds for a TLS handshake; and for ever, to find out whether its client speaks
  HTTP/2. So connections on which nobody says anything and nobody is served are looked for.
- It cannot change its certificate. So new workers are made, and the old ones retired.
- It ends the whole process, by ``abort()``, at a certificate it cannot use. So that is tried in
  another process.

One thing cannot be cured: when somebody else in the process breaks a listening socket
(``shutdown``), granian's thread tries to accept for ever. That is noticed here, and ends the bus.

This is the one module that knows granian from inside. What it relies on, documented or not:

- ``granian._granian``: ``ASGIWorker``, which takes everything by name;
  ``serve_mtr(scheduler, loop, signal)`` and ``serve_mtr_uds`` return once threads serve, and the
  descriptor of the `SocketHolder` is theirs from then on.
- ``WorkerSignal``: ``set()``, once and no more, closes idle connections, lets others finish with
  ``Connection: close``, and accepts no more; ``add_cb(call)`` is called in one of its threads when
  the last is closed, and what the worker had is gone before that thread gives the interpreter up.
- ``CallbackScheduler(loop, call, None, None, None)``: its ``_schedule_fn`` is called with a watcher
  for each request, in threads of granian's.
- ``granian.http``: `HTTP1Settings` and `HTTP2Settings`.

What it relies on of the protocols and watchers is said in `sitebus.servers._granian_wsgi` and
`sitebus.servers._granian_asgi`. ``tests/servers/test_granian_contract.py`` fails when any of this
changes.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any, Protocol

from sitebus.errors import ServerEnded, UnknownRelease
from sitebus.servers._granian_sockets import (
    Place,
    connections,
    dead_listener,
    is_owed,
    peer_of,
    silence,
)
from sitebus.servers._granian_tls import Certificate, as_options
from sitebus.servers.connections import LONGEST_WAIT, Door
from sitebus.servers.hosting import Speech

#: What granian says of the types in it is out of date.
rust: Any = import_module("granian._granian")

#: How often a drain looks whether clients have left: nobody tells.
GLANCE = 0.05
#: How long those whom the kernel has let in may keep a door open that is closed for good; seconds.
LAST_ROUND = 0.4
#: How often silent connections over TLS are looked for, in the time that they may be silent.
LOOKS = 4


class Caller(Protocol):
    """What stands between a worker and the application: one for each crew."""

    speech: Speech
    #: Answers say that the connection closes.
    draining: bool

    def scheduler(self, door: Door) -> Any:
        """Answer what a worker calls for each request through *door*."""

    @property
    def answering(self) -> bool:
        """Whether responses are under way that did not say that the connection closes."""

    def leave(self) -> None:
        """Be told, from any thread, that clients have to leave."""

    def wait_idle(self) -> None:
        """Return when the application has ended what it does for any request."""

    def cut(self) -> list[str]:
        """End what can be ended, and answer which requests that was for."""

    def busy(self) -> list[str]:
        """Answer which requests are still served by what cannot be ended."""

    def served(self) -> set[tuple[str, int]] | None:
        """Answer which clients are served now; None if that cannot be told now."""


class Loop:
    """Where granian would have an event loop: it calls at once, in the thread it is in."""

    def call_soon(self, call: Callable[..., object], *args: Any, **_: Any) -> None:
        call(*args)

    call_soon_threadsafe = call_soon


def scheduler(loop: Any, schedule: Callable[[Any], object]) -> Any:
    """Answer what makes a worker call *schedule* for each request, in a thread of granian's."""
    made = rust.CallbackScheduler(loop, schedule, None, None, None)
    made._schedule_fn = schedule
    return made


class Worker:
    """One worker of granian on one door; serves from the moment it is made.

    Args:
        options: What granian's worker takes, by its names.
    """

    def __init__(
        self, door: Door, caller: Caller, loop: Any, options: Mapping[str, Any], backlog: int
    ) -> None:
        self._family = door.socket.family
        is_unix = self._family == socket.AF_UNIX
        sock = door.socket.dup()
        self._fd = sock.fileno()
        try:
            holder = rust.SocketHolder(self._fd, is_unix, backlog)
            worker = rust.ASGIWorker(worker_id=1, sock=(None, holder), ipc=None, **options)
            serve = worker.serve_mtr_uds if is_unix else worker.serve_mtr
            self._signal = rust.WorkerSignal()
            # Not one line of Python: so granian's thread keeps the interpreter until it has taken
            # down what it has, and who waits for the lock finds nothing left.
            self._running = threading.Lock()
            self._running.acquire()
            self._signal.add_cb(self._running.release)
            scheduler = caller.scheduler(door)
        except BaseException as error:
            sock.close()
            if isinstance(error, TypeError | AttributeError):
                raise UnknownRelease("granian", ">=2.8.7,<2.9", str(error)) from error
            raise
        serve(scheduler, loop, self._signal)
        sock.detach()
        self._told = False

    def close_door(self) -> None:
        """Accept nothing more."""
        if self._told:
            return  # and the descriptor may be somebody else's by now
        # Of the same sort: the worker may not have looked at the descriptor yet.
        with dead_listener(self._family) as dead:
            os.dup2(dead.fileno(), self._fd, inheritable=False)

    def end(self) -> None:
        """Close who is idle, let the others finish, and end."""
        if not self._told:
            self._told = True
            self._signal.set()  # a second one would wait for ever

    def wait_ended(self, timeout: float) -> bool:
        """Wait until the last connection is closed; tell whether it is."""
        if not self._running.acquire(timeout=max(0.0, timeout)):
            return False
        self._running.release()
        return True


class Crew:
    """The workers of all doors, with one certificate, and what they call."""

    def __init__(
        self,
        doors: Sequence[Door],
        caller: Caller,
        loop: Any,
        options: Mapping[str, Any],
        backlog: int,
    ) -> None:
        self.caller = caller
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        try:
            for door in doors:
                self._workers.append(Worker(door, caller, loop, options, backlog))
        except BaseException:
            self.end()
            raise

    def close_doors(self) -> None:
        """Accept nothing more."""
        with self._lock:
            for worker in self._workers:
                worker.close_door()

    def end(self) -> None:
        """Accept nothing more, close who is idle, and end when the others have finished."""
        self.close_doors()
        with self._lock:
            for worker in self._workers:
                worker.end()

    def wait_ended(self, timeout: float) -> bool:
        """Wait until every connection is closed; tell whether all are."""
        until = time.monotonic() + timeout
        return all(worker.wait_ended(until - time.monotonic()) for worker in self._workers)


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
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(True)
        self._bell.setblocking(False)

    @property
    def ready(self) -> bool:
        return self._up

    def start(self) -> None:
        """Serve until drained or finished."""
        try:
            with self._lock:
                self._crews.append(self._crew(self.certificate))
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
            return Crew(self.doors, self._make_caller(), self._loop, options, self._backlog)

    def _watch(self) -> None:
        """Return when there is something else to do than to serve."""
        watched = select.poll()
        watched.register(self._alarm, select.POLLIN)
        for door in self.doors:
            # Of nothing but its end: who connects is granian's business.
            watched.register(door.socket, 0)
        # Of those who speak HTTP/1.1, granian itself knows how long they may be silent.
        is_plain = self.certificate is None and self._options["http_mode"] == "1"
        pause = None if is_plain else self._silence / LOOKS
        while not self.draining:
            ready = watched.poll(pause and min(pause, LONGEST_WAIT) * 1000)
            if not ready:
                self._close_silent()
            for fd, _ in ready:
                if fd != self._alarm.fileno():
                    raise ServerEnded(f"socket of {self._name}", "though nobody closed it")
                self._alarm.recv(4096)

    def _close_silent(self) -> None:
        """Close connections on which nothing is said, but for those who wait for an answer."""
        # Looked at first: who is not served yet has said something since.
        silent = [each.dup() for each in connections(self._places) if silence(each) > self._silence]
        if silent:
            served = self._served()
            for each in silent:
                with each, suppress(OSError):
                    if served is not None and peer_of(each) not in served:
                        each.shutdown(socket.SHUT_RDWR)

    def _served(self) -> set[tuple[str, int]] | None:
        found = [crew.caller.served() for crew in self._crews]
        if None in found:
            return None
        return set().union(*filter(None, found))

    def _depart(self) -> None:
        if self._for_good:
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

    def _ring(self) -> None:
        # Full: it rings already. Closed: nobody sleeps any more.
        with suppress(OSError):
            self._bell.send(b"!")
