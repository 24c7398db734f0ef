"""One thread that waits for descriptors and for moments, and calls back.

What it calls must not block, for everybody else waits meanwhile; what raises is reported, and hurts
nobody else. While nothing comes and nothing is due, the thread sleeps.

The lock is reentrant: a signal handler, or whatever is finalized just then, may find its own thread
inside `Poller.call_soon`. It is never held while anything is called.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

#: Seconds; ``epoll`` counts milliseconds, in 32 bits.
_LONGEST = 86400.0
#: Not before the heap has so many timers it is looked through for cancelled ones.
_MANY = 64

_Work = Callable[[], object]
_Callback = Callable[[int], object]


class _Timer:
    """What is due at a moment, unless it is cancelled."""

    __slots__ = ("work",)

    def __init__(self, work: _Work) -> None:
        self.work: _Work | None = work

    def cancel(self) -> None:
        self.work = None

    def fire(self) -> None:
        work, self.work = self.work, None
        if work is not None:
            work()


class Poller:
    """A daemon thread that waits for many, started when it is first needed.

    Args:
        name: The thread's name.
        on_error: Is given, in the thread, what a callback raised; it is printed otherwise.
    """

    def __init__(
        self,
        name: str = "sitebus poller",
        on_error: Callable[[BaseException], object] | None = None,
    ) -> None:
        self.name = name
        self._on_error = on_error or _print
        self._lock = threading.RLock()
        self._soon: deque[_Work] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._crowd = _MANY
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._stopped = False
        self._bell: tuple[int, ...] = ()
        self._rung = False

    @property
    def is_current(self) -> bool:
        """Whether this is asked in its thread."""
        return threading.get_ident() == self._ident

    def start(self) -> None:
        """Have the thread run, also after a `stop`.

        Raises:
            OSError: There were no descriptors to be had.
        """
        with self._lock:
            self._stopped = False
            if self._thread is None:
                self._begin()

    def stop(self) -> None:
        """End the thread once it has done what it was given so far, and forget who is watched.

        In another thread this waits for the end; in its own it ends after this turn. Nothing but
        `start` will bring it back.
        """
        with self._lock:
            self._stopped = True
            thread = self._thread
            self._ring()
        if thread is not None and not self.is_current:
            thread.join()

    def watch(self, fd: int, events: int, callback: _Callback) -> None:
        """Call *callback* with those of *events* that are so, `READ` or `WRITE`, while they are.

        Replaces whatever was to be called for *fd*. Whoever closes it must `unwatch` it before.
        """
        if self.is_current:
            self._register(fd, events, callback)
        else:
            self.call_soon(lambda: self._register(fd, events, callback))

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; when this returns it may be closed, and nothing is called for it any more.

        In another thread this waits for the end of the present turn.
        """
        if self.is_current:
            self._unregister(fd)
            return
        done = threading.Event()

        def work() -> None:
            self._unregister(fd)
            done.set()

        if self.call_soon(work):
            done.wait()

    def call_soon(self, work: _Work) -> bool:
        """Have *work* done in the thread after all that was asked for before.

        Any thread may call this, in the middle of anything.

        Returns:
            Whether it will be done; not by a poller that has been stopped.
        """
        with self._lock:
            if self._stopped and (self._thread is None or self.is_current):
                return False
            if self._thread is None:
                self._begin()
            self._soon.append(work)
            self._ring()
        return True

    def call_at(self, moment: float, work: _Work) -> Callable[[], None]:
        """Have *work* done when ``time.monotonic()`` is *moment*, or soon if that is past.

        Returns:
            What cancels it.
        """
        timer = _Timer(work)
        if self.is_current:
            self._add(moment, timer)
        else:
            self.call_soon(lambda: self._add(moment, timer))
        return timer.cancel

    def guarded(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call *work*, and report what it raises."""
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - one callback must not end what all share
            with contextlib.suppress(BaseException):
                self._on_error(error)

    # Below the lock is held.

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        if self._thread is not None:
            # A signal handler has asked for work meanwhile.
            return
        # From here on one adds its work, and rings no bell before there is one.
        self._thread, self._rung = thread, True
        try:
            self._bell = os.pipe()
            for fd in self._bell:
                os.set_blocking(fd, False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._bell[0], READ, self._hear)
            self._rung = False
            thread.start()
        except BaseException:
            self._end()
            raise

    def _ring(self) -> None:
        if self._rung or self._thread is None or self.is_current:
            return
        self._rung = True
        # Full, it wakes all the same.
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell[1], b"\0")

    def _end(self) -> None:
        with contextlib.suppress(AttributeError):
            self._selector.close()
        for fd in self._bell:
            os.close(fd)
        self._bell = ()
        self._timers.clear()
        self._thread = self._ident = None

    # Below this is its own thread.

    def _run(self) -> None:
        self._ident = threading.get_ident()
        while self._goes_on():
            self._turn()

    def _goes_on(self) -> bool:
        while self._stopped:
            with self._lock:
                if self._is_over():
                    self._end()
                    return False
            self._work_off()
        return True

    def _is_over(self) -> bool:
        # Another thread may just have given work, or started it again.
        return self._stopped and not self._soon

    def _turn(self) -> None:
        for key, events in self._selector.select(self._patience()):
            # An earlier one may have had this one forgotten, and its number watched anew.
            if self._selector.get_map().get(key.fd) is key:
                self.guarded(key.data, events)
        self._fire()
        self._work_off()

    def _patience(self) -> float | None:
        if self._soon or self._stopped:
            return 0
        while self._timers and self._timers[0][2].work is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST)

    def _fire(self) -> None:
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            self.guarded(timer.fire)

    def _work_off(self) -> None:
        for _ in range(len(self._soon)):
            self.guarded(self._soon.popleft())

    def _hear(self, events: int) -> None:
        os.read(self._bell[0], 512)
        # Before the work is looked at: whoever adds to it from here on rings again.
        self._rung = False

    def _add(self, moment: float, timer: _Timer) -> None:
        heapq.heappush(self._timers, (moment, next(self._numbers), timer))
        if len(self._timers) > self._crowd:
            self._timers = [each for each in self._timers if each[2].work is not None]
            heapq.heapify(self._timers)
            self._crowd = max(_MANY, 2 * len(self._timers))

    def _register(self, fd: int, events: int, callback: _Callback) -> None:
        self._unregister(fd)
        self._selector.register(fd, events, callback)

    def _unregister(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)


def _print(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)
