"""When a site's ASGI applications come up and end: before servers serve, and after they drained."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sitebus.errors import Interrupted, LifespanFailed
from sitebus.listeners import ERROR
from sitebus.mounts import Site
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

T = TypeVar("T")

#: How often a wait looks whether the bus has become impatient.
GLANCE = 0.05
#: How long the threads of bridges may take to end, once there should be nothing left to do.
GRACE = 0.5


class LifespanKeeper(Plugin):
    """Run the lifespans of *site* on the engine's loop, and end what only its requests need.

    A site without ASGI applications costs no loop.
    """

    def __init__(
        self,
        bus: Engine,
        site: Site,
        refuse: Callable[[Exception], object],
        accept: Callable[[], object],
    ) -> None:
        super().__init__(bus)
        self.site = site
        self.refuse = refuse
        self.accept = accept
        self._refused = False

    @listens("start", priority=(Priority.IMPORT + Priority.SERVE) / 2)
    def start(self) -> None:
        """Have the applications come up, in mount order; the start is off if one does not."""
        lifespans = self.site.lifespans
        if not lifespans.wanted():
            # What is mounted later comes up when it is mounted, which takes the loop.
            lifespans.open(lambda: self.bus.loop)
            return
        error, before = self._start_all(), self._refused
        self._refused = error is not None
        if error is not None:
            self.refuse(error)
        elif before:
            self.accept()

    def _start_all(self) -> Exception | None:
        try:
            self._wait(self.site.lifespans.start(), "the applications to come up", "did not start")
        except Exception as error:  # noqa: BLE001 - a stranger's code, or too slow
            return error
        return None

    @listens("stop", priority=Priority.SERVER_STOP + 1)
    def stop(self) -> None:
        """Have them end, the last one first; every server has drained."""
        try:
            # Without a loop nobody has come up, and none shall be made for the stop.
            if self.site.lifespans.live and self.bus.present_loop is not None:
                ending = self.site.lifespans.stop()
                failures = self._wait(ending, "the applications to end", "did not end well")
                for failure in failures:
                    self.bus.log(f"{failure}\n{failure.traceback_text}".rstrip(), ERROR)
        finally:
            self.site.lifespans.close()
            # Who is still busy had the servers' time, and was named by them.
            self.site.crossing.close(GRACE)

    def _wait(self, coroutine: Coroutine[Any, Any, T], what: str, did: str) -> T:
        import asyncio

        future = asyncio.run_coroutine_threadsafe(coroutine, self.bus.loop)
        while True:
            try:
                return future.result(GLANCE)
            except TimeoutError:
                if future.done():
                    raise
                if self.bus.impatient:
                    future.cancel()
                    raise Interrupted(what) from None
                if (stuck := self.site.lifespans.blocking()) is not None:
                    future.cancel()
                    reason = f"it has held the event loop up for more than {stuck.timeout:g} s"
                    raise LifespanFailed(stuck.name, reason, did) from None
