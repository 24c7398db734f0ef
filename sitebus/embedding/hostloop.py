"""The event loop of the host in the place of the engine's own: applications live where they serve.

What an application makes at its startup, a pool of connections for one, is of use only to requests
on the same loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from sitebus.errors import LoopEnded
from sitebus.loop import LoopThread


class HostLoop(LoopThread):
    """A loop that somebody else runs, and ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._hosts = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop.

        Raises:
            LoopEnded: Nobody runs it any more: who waits for it would wait for ever.
        """
        if not self._hosts.is_running():
            raise LoopEnded
        return self._hosts

    @property
    def present(self) -> asyncio.AbstractEventLoop | None:
        """The loop, while it runs."""
        return self._hosts if self._hosts.is_running() else None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this loop's own thread."""
        return asyncio._get_running_loop() is self._hosts

    def stop(self, timeout: float = 5.0, *, for_good: bool = False) -> None:
        """Leave it to the host."""


async def aside(call: Callable[[], object]) -> None:
    """Have *call* wait, for what runs on this loop too, in a thread that ends with it.

    One of the loop's own would stay, and some hosts end without having those end.
    """
    thread = ThreadPoolExecutor(1, "sitebus embedding")
    returned = False
    try:
        await asyncio.get_running_loop().run_in_executor(thread, copy_context().run, call)
        returned = True
    finally:
        # Who is cancelled must not wait here: *call* may wait for this loop.
        thread.shutdown(wait=returned)
