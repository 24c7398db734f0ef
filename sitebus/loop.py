"""One event loop in a thread of its own, made when it is first needed.

Whoever publishes waits for asynchronous listeners that run here; servers, lifespans and bridges
share it. It decides nothing about what runs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import LoopEnded

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures


#: How long a loop that was told to stop may take to; seconds.
GRACE = 0.5


def on_a_loop() -> bool:
    """Tell whether an event loop, anybody's, runs in this thread, and so must not be held up."""
    asyncio = sys.modules.get("asyncio")  # without which there is none
    return asyncio is not None and asyncio._get_running_loop() is not None


class LoopThread:
    """An event loop (uvloop's where it is installed) that runs in a daemon thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; asking for it starts it.

        Raises:
            LoopEnded: It was stopped for good.
        """
        with self._lock:
            if self._closed:
                raise LoopEnded
            if self._pid != os.getpid():
                # A fork copies the loop and not its thread.
                self._loop, self._pid = None, os.getpid()
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="sitebus loop", daemon=True
                )
                self._thread.start()
            return self._loop

    @property
    def present(self) -> asyncio.AbstractEventLoop | None:
        """The running loop, if there is one."""
        with self._lock:
            return self._loop if self._pid == os.getpid() else None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this loop's own thread."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Outcome]:
        """Run *coroutine* on the loop; safe from every thread.

        Raises:
            LoopEnded: The loop was stopped for good; the coroutine is closed.
        """
        import asyncio

        try:
            loop = self.loop
        except LoopEnded:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(_kept(coroutine), loop)

    def stop(self, timeout: float = 5.0, *, for_good: bool = False) -> None:
        """Cancel what still runs, then end loop and thread; the next use makes new ones.

        After a stop *for_good* every use is refused.

        From the loop's own thread it only asks, since a thread cannot wait for itself.
        """
        with self._lock:
            self._closed = self._closed or for_good
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._pid != os.getpid():
            return  # there is none, or it is that of the process that forked
        if thread.ident == threading.get_ident():
            loop.call_soon(loop.stop)
            return
        self._cancel_all(loop, timeout)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(GRACE)

    def _cancel_all(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        import asyncio

        asked = asyncio.run_coroutine_threadsafe(_wind_down(), loop)
        try:
            asked.result(timeout)
        except TimeoutError:
            print(f"sitebus: tasks did not end within {timeout:g} s", file=sys.__stderr__)


class Outcome(NamedTuple):
    """What a coroutine answered, or the interpreter's end that it asked for."""

    result: Any
    leaving: BaseException | None = None

    def get(self) -> Any:
        """Answer the result, or raise what would have ended the loop's thread."""
        if self.leaving is not None:
            raise self.leaving
        return self.result


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run *loop* until it is stopped: a task that leaves the interpreter ends only itself."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as leaving:
            told = {"message": f"a task raised {leaving!r}; the loop goes on", "exception": leaving}
            loop.call_exception_handler(told)
        else:
            break
    try:
        loop.run_until_complete(_see_off())
    finally:
        loop.close()


async def _kept(coroutine: Coroutine[Any, Any, Any]) -> Outcome:
    """Keep what asyncio would let end the loop, for the thread that waits."""
    try:
        return Outcome(await coroutine)
    except (SystemExit, KeyboardInterrupt) as leaving:
        return Outcome(None, leaving)


async def _wind_down() -> None:
    """Cancel every other task, let each clean up, and close asynchronous generators."""
    import asyncio

    await asyncio.gather(*await _cancel_others(), return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _cancel_others() -> set[asyncio.Task[Any]]:
    import asyncio

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.sleep(0)  # one that is cancelled before it begins can tell nobody of its end
    for task in tasks:
        task.cancel()
    return tasks


async def _see_off() -> None:
    """Cancel what began while the others ended: a thread may wait for it."""
    import asyncio

    tasks = await _cancel_others()
    if tasks:
        ended, _ = await asyncio.wait(tasks, timeout=GRACE / 2)
        await asyncio.gather(*ended, return_exceptions=True)  # or asyncio tells of each failure


def preload() -> None:
    """Import what a loop needs, and make none."""
    import asyncio  # noqa: F401

    with suppress(ImportError):
        import uvloop  # noqa: F401


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop()
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made
