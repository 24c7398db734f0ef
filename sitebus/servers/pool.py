"""A fixed number of threads that take things from one queue.

They are daemons: one stuck in an application cannot hold the process, and `WorkerPool.stop` leaves
it behind after a while instead of waiting for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class WorkerPool(Generic[T]):
    """Threads that call *work* with whatever is put, one thing at a time each.

    Args:
        size: How many threads.
        work: Is called with each thing; must not raise.
        name: The threads are called this and a number.
        roll: Holds the identifiers of the threads while they run.
        tell: Is called in each thread, with ``"acquire_thread"`` before it does anything and
            ``"release_thread"`` at its end; what it raises is its own business.
    """

    def __init__(
        self,
        size: int,
        work: Callable[[T], None],
        name: str,
        roll: set[int] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.size = size
        self._roll = set() if roll is None else roll
        self._tell = tell
        self._announcements = 1
        self._work = work
        self._name = name
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy: dict[threading.Thread, T] = {}

    @property
    def busy(self) -> Mapping[threading.Thread, T]:
        """Who is at work on what, this moment."""
        return self._busy.copy()

    @property
    def qsize(self) -> int:
        """How many things wait for a thread."""
        return self._queue.qsize()

    def put(self, thing: T) -> None:
        self._queue.put(thing)

    def start(self) -> None:
        for number in range(1, self.size + 1):
            thread = threading.Thread(
                target=self._run, name=f"{self._name} worker {number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def announce_again(self) -> None:
        """Have each thread tell ``"acquire_thread"`` once more, before it does anything else."""
        self._announcements += 1

    def stop(self, timeout: float) -> list[threading.Thread]:
        """End the threads when all that was put is done, and answer those still at it then."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread for thread in threads if thread.is_alive()]

    def _run(self) -> None:
        self._roll.add(threading.get_ident())
        try:
            self._work_on()
        finally:
            self._say("release_thread")
            self._roll.discard(threading.get_ident())

    def _say(self, channel: str) -> None:
        if self._tell is not None:
            # Strangers' listeners, whose failures are logged: the thread serves all the same.
            with suppress(BaseException):
                self._tell(channel)

    def _work_on(self) -> None:
        me = threading.current_thread()
        announced = self._announcements
        self._say("acquire_thread")
        while (thing := self._queue.get()) is not None:
            self._busy[me] = thing
            if announced != self._announcements:
                announced = self._announcements
                self._say("acquire_thread")
            try:
                self._work(thing)
            finally:
                del self._busy[me]
            # An idle thread would keep the last thing it did alive.
            del thing
