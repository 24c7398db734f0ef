"""The lifespans of a site's ASGI applications: each its own, in mount order and back.

Decides when they run and what becomes of one that fails; no framework does it for applications that
are mounted in another. Rules: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from sitebus.errors import (
    BadMessage,
    LeftByException,
    LifespanFailed,
    SitebusError,
    WouldDeadlock,
)
from sitebus.mounts.reply import shown

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Coroutine

    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send
    from sitebus.mounts import Mount, Site

Mode = Literal["auto", "on", "off"]

#: How long an application may take to come up or to end, if its mount does not say; seconds.
TIMEOUT = 30.0

#: How long one that took too long, or has said its last word, may take to clean up; seconds.
GRACE = 1.0

_ENDING = "did not end well"


class Lifespan:
    """One application's lifespan, from its startup to its shutdown.

    Args:
        app: The application, ASGI 3.
        name: What it is called in messages.
        mode: ``on``: it must have one; ``auto``: it may.
        timeout: Seconds for each of startup and shutdown.

    Attributes:
        state: What the application put there at its startup, for its requests.
        deadline: When what it is asked now must be answered; of ``time.monotonic``.
    """

    def __init__(
        self, app: ASGIApplication, name: str, mode: Mode = "auto", timeout: float = TIMEOUT
    ) -> None:
        self.app = app
        self.name = name
        self.mode = mode
        self.timeout = timeout
        self.state: dict[str, Any] = {}
        self.deadline = float("inf")
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] | None = None
        self._told: asyncio.Future[Message] | None = None
        self._asked = False
        #: What it has been asked and has not answered: ``startup``, ``shutdown`` or nothing.
        self._due = ""

    @property
    def running(self) -> bool:
        """Whether it has come up and has not ended."""
        return self._task is not None

    async def startup(self) -> None:
        """Have the application come up; one without a lifespan is left alone.

        Raises:
            LifespanFailed: It failed, or took too long.
        """
        import asyncio

        self._inbox = asyncio.Queue()
        self._asked = False
        self.state.clear()
        self._task = asyncio.create_task(self._run(), name=f"lifespan of {self.name}")
        try:
            message = await self._ask("startup")
        except TimeoutError:
            await self._cancel()
            raise LifespanFailed(self.name, f"it took longer than {self.timeout:g} s") from None
        except BaseException:
            await self._cancel()
            raise
        if message is None:
            await self._without()
        elif message["type"] == "lifespan.startup.failed":
            await self._cancel()
            raise _failed(self.name, message)

    async def shutdown(self) -> None:
        """Have the application end, if it came up.

        Raises:
            LifespanFailed: It failed, or took too long; it has ended all the same.
        """
        task = self._task
        if task is None:
            return
        try:
            message = await self._ask("shutdown")
        except TimeoutError:
            reason = f"its shutdown took longer than {self.timeout:g} s"
            raise LifespanFailed(self.name, reason, _ENDING) from None
        finally:
            await self._cancel()
        if message is not None and message["type"] == "lifespan.shutdown.failed":
            raise _failed(self.name, message, _ENDING)
        if message is None and (error := _error_of(task)) is not None:
            raise LifespanFailed(self.name, _ending(error), _ENDING) from error

    def abandon(self) -> None:
        """Cancel it without waiting for its end; on its loop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _ask(self, what: str) -> Message | None:
        """Send an event, and answer what the application says; None if it ended instead."""
        import asyncio

        assert self._inbox is not None
        assert self._task is not None
        told: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._told, self._due = told, what
        self.deadline = time.monotonic() + self.timeout
        self._inbox.put_nowait({"type": f"lifespan.{what}"})
        waiting: set[asyncio.Future[Any]] = {told, self._task}
        try:
            done, _ = await asyncio.wait(
                waiting, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self.deadline = float("inf")
        if not done:
            raise TimeoutError
        return told.result() if told.done() else None

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._receive, self._send)
        except (SystemExit, KeyboardInterrupt) as leaving:
            # Out of a task of its own, it would end the loop.
            raise LeftByException(leaving) from leaving

    async def _receive(self) -> Message:
        assert self._inbox is not None
        message = await self._inbox.get()
        self._asked = True
        return message

    async def _send(self, message: Message) -> None:
        kind, due = message["type"], self._due
        if not due:
            raise BadMessage(shown(kind), "the lifespan asks for nothing now")
        if kind not in (f"lifespan.{due}.complete", f"lifespan.{due}.failed"):
            raise BadMessage(shown(kind), f"lifespan.{due}.complete or .failed was expected")
        self._due = ""
        if self._told is not None and not self._told.done():
            self._told.set_result(message)

    async def _without(self) -> None:
        """Deal with an application that ended instead of coming up."""
        task, self._task = self._task, None
        assert task is not None
        error = _error_of(task)
        if self.mode == "on":
            without = "it has none" if not self._asked else "it ended without an answer"
            reason = f"its lifespan is on, and {without if error is None else _ending(error)}"
            raise LifespanFailed(self.name, reason) from error
        if error is not None and self._asked:
            # The specification says to go on; but it may not be what its author wants.
            import logging

            logging.getLogger(f"sitebus.mount.{self.name}").warning(
                "%s raised at its startup and is served all the same; "
                "lifespan = on would make that a failure", self.name, exc_info=error
            )  # fmt: skip

    async def _cancel(self) -> None:
        import asyncio

        task, self._task = self._task, None
        if task is None:
            return
        if self._told is None or not self._told.done():
            task.cancel()
        # After its last word it may clean up; and what it raises then is for the log.
        done, _ = await asyncio.wait({task}, timeout=GRACE)
        if not done:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=GRACE)
        for each in done:
            if (error := _error_of(each)) is not None:
                self._log(error)

    def _log(self, error: BaseException) -> None:
        import logging

        logging.getLogger(f"sitebus.mount.{self.name}").debug("lifespan ended", exc_info=error)


def _failed(name: str, message: Message, did: str = "did not start") -> LifespanFailed:
    """Answer the failure that an application tells of, some of them by a whole traceback."""
    said = str(message.get("message", "")).strip()
    last = said.splitlines()[-1].strip() if said else "it does not say why"
    failure = LifespanFailed(name, last, did)
    failure.traceback_text = said if last != said else ""
    return failure


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


def _ending(error: BaseException) -> str:
    if isinstance(error, BadMessage):
        return str(error)
    if isinstance(error, LeftByException):
        error = error.error
    return f"it raised {type(error).__name__}: {error}"


class Lifespans:
    """All lifespans of a site, on one event loop.

    They run between ``start`` and ``stop``, and what is mounted meanwhile comes up first.

    Attributes:
        epoch: Another number after each start and stop.
    """

    def __init__(self, site: Site) -> None:
        self.epoch = 0
        self._site = site
        self._up: list[tuple[Mount, Lifespan]] = []
        self._loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        #: Who serves: a fork copies all of this, but not the loop's thread.
        self._pid = 0
        #: What comes and goes because of a mount or unmount, while the site serves.
        self._coming: set[asyncio.Task[Any]] = set()
        self._going: set[asyncio.Task[Any]] = set()

    @property
    def live(self) -> bool:
        """Whether the site's applications are up, or would be if there were any."""
        return self._loop is not None and self._pid == os.getpid()

    def wanted(self) -> bool:
        """Whether any application could have one."""
        return any(mount._lifespan is not None for mount in self._site.mounts)

    def blocking(self) -> Lifespan | None:
        """Answer the one that keeps the loop itself from going on, so that no timeout helps."""
        limit = time.monotonic() - GRACE
        lifespans = (mount._lifespan for mount in self._site.mounts)
        return next((each for each in lifespans if each and each.deadline < limit), None)

    def open(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """Have what is mounted from now on come up first, on the loop that *loop* answers."""
        self._loop, self._pid = loop, os.getpid()
        self.epoch += 1

    def close(self) -> None:
        """Have what is mounted from now on wait for the next start."""
        self._loop = None
        self.epoch += 1

    async def start(self) -> None:
        """Have every application come up, in mount order; those that did end if one fails.

        Raises:
            LifespanFailed: An application failed.
        """
        import asyncio

        here = asyncio.get_running_loop()
        # Before the look at the mounts: who mounts from now on knows of it.
        self.open(lambda: here)
        try:
            for mount in self._site.mounts:
                await self._start(mount)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> list[LifespanFailed]:
        """Have every application end, the last one first; answer what failed, after all have."""
        self.close()
        failures = []
        try:
            await self._settle()
            while self._up:
                _, lifespan = self._up.pop()
                try:
                    await lifespan.shutdown()
                except LifespanFailed as failure:
                    failures.append(failure)
        finally:
            while self._up:  # somebody has lost patience
                self._up.pop()[1].abandon()
        return failures

    async def _settle(self) -> None:
        """Have what comes turn back, and wait for what goes."""
        import asyncio

        for task in self._coming:
            task.cancel()
        if moving := self._coming | self._going:
            await asyncio.wait(moving)

    def join(self, mount: Mount) -> int:
        """Have *mount* come up, if the site is; from any thread but the loop's own.

        Returns:
            The epoch in which that is so.
        """
        while True:
            epoch, loop = self.epoch, self._loop
            if loop is None or mount._lifespan is None or not self.live:
                return epoch
            there = loop()
            if _is_current(there):
                raise WouldDeadlock(f"mount of {mount.name}", "await asyncio.to_thread(site.mount)")
            if self._from_outside(self._moved(self._start, mount, self._coming, epoch), there):
                return epoch
            # The site has stopped meanwhile: it comes up with the next start.

    def leave(self, mount: Mount) -> None:
        """Have *mount* end once no request is inside, in the background."""
        if self.live and mount._lifespan is not None and mount._lifespan.running:
            threading.Thread(
                target=self._leave, args=(mount,), name=f"sitebus unmount {mount.name}", daemon=True
            ).start()

    def _leave(self, mount: Mount) -> None:
        mount.drain()
        epoch, loop = self.epoch, self._loop
        if loop is None:
            return  # it has ended with the rest
        try:
            self._from_outside(self._moved(self._stop, mount, self._going, epoch), loop())
        except SitebusError as failure:
            _log_failure(mount, failure)

    async def _start(self, mount: Mount) -> None:
        lifespan = mount._lifespan
        if lifespan is None or lifespan.running or not mount.enabled or mount.retired:
            return
        await lifespan.startup()
        if lifespan.running:
            self._up.append((mount, lifespan))
        if mount.retired:
            # It was unmounted meanwhile, which found nothing that it could end.
            try:
                await self._stop(mount)
            except LifespanFailed as failure:
                _log_failure(mount, failure)

    async def _stop(self, mount: Mount) -> None:
        for each in self._up:
            if each[0] is mount:
                self._up.remove(each)
                await each[1].shutdown()
                return

    async def _moved(
        self,
        move: Callable[[Mount], Awaitable[None]],
        mount: Mount,
        moving: set[asyncio.Task[Any]],
        epoch: int,
    ) -> bool:
        """Let *mount* come or go, if that is still of use when its turn comes."""
        import asyncio

        if epoch != self.epoch:
            return False
        task = asyncio.current_task()
        assert task is not None
        moving.add(task)
        try:
            await move(mount)
        finally:
            moving.discard(task)
        return True

    def _from_outside(
        self, moved: Coroutine[Any, Any, bool], loop: asyncio.AbstractEventLoop
    ) -> bool:
        """Wait for *moved* to be done on *loop*; False: the site stopped before."""
        import asyncio
        import concurrent.futures

        try:
            future = asyncio.run_coroutine_threadsafe(moved, loop)
        except RuntimeError:  # the loop is closed, and nobody has said so
            moved.close()
            self.close()
            return False
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            return False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the site's own lifespan, for a server of somebody else's."""
        await receive()
        ours = not self.live
        try:
            if ours:
                await self.start()
        except LifespanFailed as failure:
            await send({"type": "lifespan.startup.failed", "message": str(failure)})
            return
        failures: list[LifespanFailed] = []
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:  # some servers cancel it instead of saying that they end
            if ours:
                failures = await self.stop()
        if failures:
            text = "; ".join(map(str, failures))
            await send({"type": "lifespan.shutdown.failed", "message": text})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _log_failure(mount: Mount, failure: SitebusError) -> None:
    import logging

    logging.getLogger(f"sitebus.mount.{mount.name}").error("%s", failure)


def _is_current(loop: asyncio.AbstractEventLoop) -> bool:
    import asyncio

    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
