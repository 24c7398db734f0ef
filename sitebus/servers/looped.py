"""A server that runs on the engine's event loop, beside the lifespans and bridges.

`LoopServer` is the thread's and the clock's half of it: start, readiness, the end. What is awaited
is the library's, in the adapter's file.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sitebus.servers.hosting import Leave


class LoopServer:
    """Runs `serve` on *loop* for as long as `start` does; see `sitebus.servers.hosting.Hosted`.

    Args:
        loop: The running loop, in a thread of its own.
        sockets: Listening sockets, copies that are closed at the end if they still are open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sockets: Sequence[socket.socket]) -> None:
        self.loop = loop
        self.sockets = list(sockets)
        self.serving = threading.Event()
        self.drained = threading.Event()
        self.shut = threading.Event()
        self.draining = False
        self.for_good = False
        #: Is given idle connections in a drain, by those who hand over.
        self.hand_on: Leave | None = None
        self._up = False
        self._task: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until drained; call `announce` once it does."""
        raise NotImplementedError

    async def leave(self, linger: float) -> None:
        """Accept nothing more, answer the rest and let go; on the loop, once."""
        raise NotImplementedError

    def busy(self) -> list[tuple[str, str]]:
        """Answer who still serves what; on the loop."""
        return []

    @property
    def ready(self) -> bool:
        return self._up

    def announce(self) -> None:
        """Say that it serves."""
        self._up = True
        self.serving.set()

    def start(self) -> None:
        """Serve until drained or finished."""
        try:
            asyncio.run_coroutine_threadsafe(self._kept(self._served()), self.loop).result()()
        finally:
            self._up = False
            self.draining = self.draining or self.drained.is_set()
            # Whoever waits for any of these must learn that it will not come.
            for event in (self.serving, self.drained, self.shut):
                event.set()
            for each in self.sockets:
                each.close()

    def stop(self) -> None:
        """Drain for a moment, then end."""
        self.drain(0.0)
        self.finish(1.0)

    def drain(self, linger: float, *, for_good: bool = False, leave: Leave | None = None) -> None:
        """Accept nothing more and answer the rest; ``drained`` is set when all have left."""
        if not self.draining:
            self.for_good = for_good
            self.hand_on = leave
            self.draining = True
            self._call(lambda: self.leave(linger))

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once; answer who is left behind."""
        busy: list[tuple[str, str]] = []

        async def end() -> None:
            busy.extend(self.busy())
            if self._task is not None:
                self._task.cancel()

        if self.drained.is_set():
            return busy
        self.draining = True
        self._call(end)
        self.drained.wait(grace)
        return busy

    def _call(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop and let it be; if the loop has ended, so has the server."""
        task = make()
        coroutine = self._guarded(task)
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            task.close()
            self.drained.set()

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """A drain that fails must not be waited for until its time is over."""
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - the library's, or ours: the end comes now
            told = {"message": "the drain of a server failed; it ends at once", "exception": error}
            self.loop.call_exception_handler(told)
            if self._task is not None:
                self._task.cancel()

    async def _served(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self.serve()
        except asyncio.CancelledError:
            if not self.draining:
                raise

    async def _kept(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Answer what raises what ended it: SystemExit and the like would end the loop's thread."""
        try:
            await coroutine
        except (SystemExit, KeyboardInterrupt) as leaving:
            return _raising(leaving)
        return _nothing


def _raising(error: BaseException) -> Callable[[], None]:
    def again() -> None:
        raise error

    return again


def _nothing() -> None:
    pass
