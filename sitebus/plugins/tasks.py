"""Calling something again and again, in a thread of its own.

Decides when the next call is due: on a beat that the length of the calls does not shift, and ever
later while calls fail. A cancel is felt at once; an idle task wakes only for its beat.
Other plugins build on these, and on nothing else of this room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from sitebus.listeners import ERROR, shown
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine

#: The longest that failures put off the next call, unless its interval is longer; seconds.
LONGEST = 300.0

#: The priority that wspbus' monitors start with, and that plugins of others count on.
START = 70


class Log(Protocol):
    """What a task needs of a bus."""

    def log(self, msg: str, level: int = 20, traceback: Any = False) -> object: ...


class _Repeating:
    """The part of a thread that calls; which thread it is, the classes below say."""

    name: str
    interval: float
    function: Callable[..., object]
    args: Iterable[Any]
    kwargs: Mapping[str, Any]
    bus: Log | None
    finished: threading.Event
    failures: int

    def cancel(self) -> None:
        """Call no more, and end; a call that is under way is not broken off."""
        self.finished.set()

    def run(self) -> None:
        step = self.interval
        due = time.monotonic() + step
        while not self.finished.wait(max(0.0, due - time.monotonic())):
            step = self._call(step)
            due = _next(due, step)

    def _call(self, step: float) -> float:
        """Call once, and answer the time between this call and the next."""
        try:
            self.function(*self.args, **self.kwargs)
        # A stranger's function: the next call may work again.
        except Exception as error:  # noqa: BLE001
            self.failures += 1
            # Without an interval, failures would fill the log as fast as it can be written.
            step = min(2 * max(step, self.interval) or 1.0, max(self.interval, LONGEST))
            self._report(error, step)
            return step
        return self.interval

    def _report(self, error: Exception, step: float) -> None:
        what = f"Error in {shown(self.function)}, called by thread {self.name!r}"
        if self.bus is None:
            _tell_as_any_thread_would(error)
            return
        try:
            self.bus.log(f"{what}; next call in {step:g} s", level=ERROR, traceback=True)
        # On a stranger's bus a log listener that fails makes `log` fail.
        except Exception as failure:  # noqa: BLE001
            _tell_as_any_thread_would(failure)


def _next(due: float, step: float) -> float:
    """Answer when the next call is due: on the beat, leaving out what a long call has missed."""
    if step <= 0:
        return due
    late = max(0.0, time.monotonic() - due)
    return due + step * (1 + late // step)


def _tell_as_any_thread_would(error: Exception) -> None:
    thread = threading.current_thread()
    told = threading.ExceptHookArgs((type(error), error, error.__traceback__, thread))
    threading.excepthook(told)


class PerpetualTimer(_Repeating, threading.Timer):
    """A `threading.Timer` that goes on: calls *function* every *interval* seconds until cancelled.

    Like a timer it keeps the process from ending; `BackgroundTask` does not.

    Attributes:
        failures: How many calls have failed so far.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        bus: Log | None = None,
    ) -> None:
        threading.Timer.__init__(self, interval, function, args, kwargs)
        self.bus = bus
        self.failures = 0


class BackgroundTask(_Repeating, threading.Thread):
    """A daemon thread that calls *function* every *interval* seconds until cancelled.

    Args:
        interval: Seconds from one call to the next; may be changed at any time. A call that takes
            longer makes the next one wait for the next beat, it is not made up for.
        function: What to call. While it fails, the time to the next call doubles, up to `LONGEST`.
        args: Its arguments.
        kwargs: Its keyword arguments.
        bus: Where failures are logged; without one they are reported as any thread's are.

    Attributes:
        failures: How many calls have failed so far.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        bus: Log | None = None,
    ) -> None:
        threading.Thread.__init__(self, daemon=True)
        self.interval = interval
        self.function = function
        self.args = args
        self.kwargs = kwargs or {}
        self.bus = bus
        self.failures = 0
        self.finished = threading.Event()

    @property
    def running(self) -> bool:
        """Whether it goes on calling; setting it to False cancels, as in wspbus."""
        return self.is_alive() and not self.finished.is_set()

    @running.setter
    def running(self, wanted: bool) -> None:
        if not wanted:
            self.cancel()


class Monitor(Plugin):
    """Call *callback* every *frequency* seconds, from the start of the bus to its stop.

    A ``graceful`` takes up a changed `frequency`.

    Args:
        bus: The bus.
        callback: What to call, in a thread of its own; see `BackgroundTask` for how it may fail.
        frequency: Seconds between calls, despite its name; none are made if it is not positive.
        name: The thread's name; that of the class if left out.

    Attributes:
        thread: The thread that calls, while there is one.
        patience: For how many seconds a stop waits for a call that is under way.
    """

    thread: BackgroundTask | None = None
    patience: float = 1.0
    _failed_before: int = 0
    _wanted: bool = False

    def __init__(
        self,
        bus: Engine,
        callback: Callable[[], object],
        frequency: float = 60,
        name: str | None = None,
    ) -> None:
        super().__init__(bus)
        self.callback = callback
        self.frequency = frequency
        self.name = name

    @property
    def failures(self) -> int:
        """How many calls have failed so far, by all its threads."""
        return self._failed_before + (self.thread.failures if self.thread is not None else 0)

    @listens("start", priority=START)
    def start(self) -> None:
        """Begin to call."""
        self._wanted = True
        if self.frequency <= 0:
            return
        if self.thread is not None:
            self.bus.log(f"Monitor thread {self.thread.name!r} already started.")
            return
        self.thread = BackgroundTask(self.frequency, self.callback, bus=self.bus)
        self.thread.name = self._label
        self.thread.start()
        self.bus.log(f"Started monitor thread {self.thread.name!r}.")

    @listens("stop")
    def stop(self) -> None:
        """Call no more."""
        self._wanted = False
        thread, self.thread = self.thread, None
        if thread is None:
            self.bus.log(f"No thread running for {self._label}.")
            return
        thread.cancel()
        if thread is not threading.current_thread():
            thread.join(self.patience)
        self._failed_before += thread.failures
        still = ", which is still busy with a last call" if thread.is_alive() else ""
        self.bus.log(f"Stopped thread {thread.name!r}{still}.")

    @listens("graceful")
    def graceful(self) -> None:
        """Begin anew, at the frequency that is set now, if the bus has started."""
        if self._wanted:
            self.stop()
            self.start()

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__
