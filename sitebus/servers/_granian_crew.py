"""granian's workers: made, made to rest, and ended; and who calls the application for them.

This is the one module that knows granian from inside. What it relies on, documented or not:

- ``granian._granian``: ``ASGIWorker``, which takes everything by name;
  ``serve_mtr(scheduler, loop, signal)`` and ``serve_mtr_uds`` return once threads serve, and the
  descriptor of the `SocketHolder` is theirs from then on.
- ``WorkerSignal``: ``set()``, once and no more, closes idle connections, lets others finish with
  ``Connection: close``, and accepts no more; ``add_cb(call)`` is called in one of its threads when
  the last is closed, and what the worker had is gone before that thread gives the interpreter up.
- ``CallbackScheduler(loop, call, None, None, None)``: its ``_schedule_fn`` is called with a watcher
  for each request, in threads of granian's.
- That thread waits for the descriptor by an epoll of this process, on Linux; is woken when that is
  told to look anew; and asks for the next connection until it is told that there is none
  (``EAGAIN``), through any other error.
- What it is refused with, it tells the logger ``_granian.workers``, in that thread (``DEBUG``);
  that logger it looks for once (`sitebus.servers._granian_ear`; ``test_granian_shortage.py``).
- ``granian.http``: `HTTP1Settings` and `HTTP2Settings`.

What it relies on of the protocols and watchers is said in `sitebus.servers._granian_wsgi` and
`sitebus.servers._granian_asgi`. ``tests/servers/test_granian_contract.py`` fails when any of this
changes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from importlib import import_module
from typing import Any, Protocol

from sitebus.errors import UnknownRelease
from sitebus.servers import _granian_epoll
from sitebus.servers.connections import Door
from sitebus.servers.hosting import Speech

#: What granian says of the types in it is out of date.
rust: Any = import_module("granian._granian")

#: How often a drain looks whether clients have left: nobody tells.
GLANCE = 0.05
#: How long granian's thread may take until it watches a door; usually it is a fraction of that.
UNTIL_WATCHED = 1.0


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


class _Accepts(Enum):
    """Whether a worker accepts: no more, or not now."""

    YES = auto()
    LATER = auto()
    NO = auto()


class Worker:
    """One worker of granian on one door; serves from the moment it is made.

    Args:
        dead: A listening socket of the same sort, to which nobody connects.
        schedule: Answers what is called for each request through *door*; see `scheduler`.
        options: What granian's worker takes, by its names.
    """

    def __init__(
        self,
        door: Door,
        dead: socket.socket,
        schedule: Callable[[Door], Any],
        loop: Any,
        options: Mapping[str, Any],
        backlog: int,
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
            scheduler = schedule(door)
        except BaseException as error:
            sock.close()
            if isinstance(error, TypeError | AttributeError):
                raise UnknownRelease("granian", ">=2.8.7,<2.9", str(error)) from error
            raise
        serve(scheduler, loop, self._signal)
        sock.detach()
        self._door = door
        self._dead = dead
        # Now: when there is need of it, there is no descriptor to find it with.
        self._watch = _granian_epoll.wait_found(self._fd, UNTIL_WATCHED)
        self._accepts = _Accepts.YES
        self._told = False

    @property
    def can_rest(self) -> bool:
        return self._watch is not None

    def rest(self) -> None:
        """Accept nobody until `go_on`, if that can be."""
        if self._accepts is _Accepts.YES and self._watch is not None:
            # First of all: as soon as the descriptor means something else it is not found.
            with suppress(OSError):
                self._watch.mute()
                self._accepts = _Accepts.LATER
                self.show(self._dead)

    def go_on(self) -> None:
        """Accept again, first of all who has come meanwhile."""
        if self._accepts is _Accepts.LATER and self._watch is not None:
            with suppress(OSError):
                self.show(self._door.socket)
                self._watch.unmute()
                self._accepts = _Accepts.YES

    def close_door(self) -> None:
        """Accept nothing more."""
        # Once it is told to end, the descriptor may be somebody else's.
        if not self._told:
            self._accepts = _Accepts.NO
            # Of the same sort: the worker may not have looked at the descriptor yet.
            self.show(self._dead)

    def end(self) -> None:
        """Close who is idle, let the others finish, and end."""
        if not self._told:
            self._told = True
            self._signal.set()  # a second one would wait for ever
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def show(self, listening: socket.socket) -> None:
        """Have its descriptor mean another socket."""
        os.dup2(listening.fileno(), self._fd, inheritable=False)

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
        dead: Sequence[socket.socket],
        caller: Caller,
        loop: Any,
        options: Mapping[str, Any],
        backlog: int,
    ) -> None:
        self.caller = caller
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        try:
            for door, each in zip(doors, dead, strict=True):
                self._workers.append(Worker(door, each, caller.scheduler, loop, options, backlog))
        except BaseException:
            self.end()
            raise

    @property
    def can_rest(self) -> bool:
        return all(worker.can_rest for worker in self._workers)

    def rest(self) -> None:
        """Accept nobody until `go_on`, where that can be."""
        with self._lock:
            for worker in self._workers:
                worker.rest()

    def go_on(self) -> None:
        """Accept again, first of all who has come meanwhile."""
        with self._lock:
            for worker in self._workers:
                worker.go_on()

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
