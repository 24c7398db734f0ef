"""Number the threads that serve, and tell the bus when each begins and ends.

A thread says ``acquire_thread`` and ``release_thread``; what is to be done in each thread, opening
and closing its connection to a database for instance, listens on ``start_thread`` and
``stop_thread``, which carry the thread's number.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from sitebus.plugins import Plugin, listens
from sitebus.process import Priority

_CHANNELS = ("acquire_thread", "start_thread", "release_thread", "stop_thread")


class _Life:
    """Kept by one thread alone: it is gone as soon as the thread is, whoever made that thread."""

    __slots__ = ("__weakref__",)


class _Entry(NamedTuple):
    number: int
    life: weakref.ref[_Life]


class ThreadManager(Plugin):
    """Publish ``start_thread`` and ``stop_thread``, once for each thread and with its own number.

    The threads of sitebus's own server say by themselves when they begin and end. Code that does
    not make its threads says ``acquire_thread`` before each request, and nothing at the end: a
    thread that is gone is noticed when the next one comes, or when the bus stops.

    ``start_thread`` runs in the thread that it is about, and so does ``stop_thread`` if the thread
    releases itself. On ``stop`` and ``graceful`` the others are stopped from outside; a thread that
    serves on after that is started again, with a new number.
    """

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self._entries: dict[int, _Entry] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._local = threading.local()

    @property
    def threads(self) -> dict[int, int]:
        """The number of each thread, by the thread's identifier."""
        return {ident: entry.number for ident, entry in self._entries.copy().items()}

    def subscribe(self) -> None:
        """Declare the channels of threads, and listen on those that threads speak on."""
        for channel in _CHANNELS:
            self.bus.listeners.setdefault(channel, set())
        super().subscribe()

    @listens("acquire_thread")
    def acquire_thread(self) -> None:
        """Number the calling thread and publish ``start_thread``, unless it has a number."""
        ident = threading.get_ident()
        life = getattr(self._local, "life", None)
        entry = self._entries.get(ident)
        if life is not None and entry is not None and entry.life() is life:
            return
        if life is None:
            life = self._local.life = _Life()
        # With them goes the one that had this thread's identifier before, if there was one.
        gone = self._take(lambda _, entry: entry.life() is None)
        number = next(self._numbers)
        self._entries[ident] = _Entry(number, weakref.ref(life))
        try:
            self._publish_stops(gone)
        finally:
            self.bus.publish("start_thread", number)

    @listens("release_thread")
    def release_thread(self) -> None:
        """Take the calling thread's number away and publish ``stop_thread``, if it has one."""
        me = threading.get_ident()
        self._publish_stops(self._take(lambda ident, _: ident == me))

    @listens("stop")
    def stop(self) -> None:
        """Publish ``stop_thread`` for every thread that has a number, and forget them all."""
        self._publish_stops(self._take(lambda ident, entry: True))

    # Before servers have their threads acquire a number again.
    @listens("graceful", priority=Priority.DEFAULT - 1)
    def graceful(self) -> None:
        """Do as `stop`; threads that go on are started again."""
        self.stop()

    def _take(self, wanted: Callable[[int, _Entry], bool]) -> list[int]:
        """Take the wanted entries out; whoever takes one publishes for it, and nobody else."""
        with self._lock:
            found = [each for each in self._entries.copy().items() if wanted(*each)]
            return [self._entries.pop(ident).number for ident, _ in found]

    def _publish_stops(self, numbers: list[int]) -> None:
        """Publish ``stop_thread`` for all of *numbers*, whatever fails; then raise what failed."""
        failures = []
        for number in numbers:
            try:
                self.bus.publish("stop_thread", number)
            except Exception as error:  # noqa: BLE001 - listeners': the other threads count too
                failures.append(error)
        if failures:
            raise failures[0]
