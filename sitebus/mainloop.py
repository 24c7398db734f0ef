"""The main thread's loop, as `Engine.block` runs it until the engine has exited.

It does what others queued for the main thread, walks commands that were posted there, publishes
``main`` while somebody listens, and turns an interrupt into an exit in order. It never polls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sitebus.errors import ChannelFailures
from sitebus.listeners import ERROR
from sitebus.mailbox import receive

if TYPE_CHECKING:
    from sitebus.bus import Bus
    from sitebus.process import Engine

#: A failing ``main`` listener is tried again ever more slowly, up to this many intervals.
SLOWEST = 64


class MainLoop:
    """One stay in the loop.

    Args:
        engine: Whose loop it is.
        interval: Seconds between two messages on ``main``.
    """

    def __init__(self, engine: Engine, interval: float) -> None:
        self.engine = engine
        self._ticks = _Ticks(engine, interval)

    def run(self) -> SystemExit | None:
        """Return when the engine has exited, with the SystemExit that was raised, if one was."""
        engine = self.engine
        leaving: SystemExit | None = None
        while True:
            try:
                self._take_turns()
                return leaving
            except KeyboardInterrupt:
                # Said in the next turn: another one may come while it is being said.
                self._say_next("Keyboard Interrupt: shutting down bus")
                engine.interrupt()
            except SystemExit as error:
                leaving = leaving or error
                self._say_next("SystemExit raised: shutting down bus")
                engine._troubled(error)
                engine._post(engine._exit_command())

    def _say_next(self, message: str) -> None:
        self.engine._main_work.append(lambda: self.engine.log(message))

    def _take_turns(self) -> None:
        engine = self.engine
        # What is told between two boxes is not lost: each turn first looks for itself.
        with engine._mail.open() as box:
            while not engine.ended:
                self._work()
                if engine._is_preempted():
                    self._work()  # the signal that asked for it may have listeners
                    engine._bound()  # another thread walks, and may be stuck
                engine._serve()
                if engine._main_work or engine.ended:
                    continue
                if receive(box, self._ticks.due()) is None:
                    self._ticks.tick()
            self._work()

    def _work(self) -> None:
        """Do one round of it: work that makes more work must not keep a command waiting."""
        work = self.engine._main_work
        for _ in range(len(work)):
            self._call_here(work.popleft())

    def _call_here(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a stranger's work must not end the loop
            message = f"Error in {work!r}, called in the main thread"
            self.engine.log(message, ERROR, traceback=error)


class _Ticks:
    """When ``main`` is due: not at all if nobody listens, ever later while listeners fail."""

    def __init__(self, bus: Bus, interval: float) -> None:
        self._bus = bus
        self._interval = interval
        self._slowness = 1
        self._due: float | None = None

    def due(self) -> float | None:
        self._due = self._bus._next_tick(self._due, self._interval * self._slowness, "main")
        return self._due

    def tick(self) -> None:
        self._due = None
        try:
            self._bus.publish("main")
            self._slowness = 1
        except ChannelFailures:  # logged already; the site goes on
            self._slowness = min(self._slowness * 2, SLOWEST)
