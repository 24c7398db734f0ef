"""What the host calls: the lodger as a WSGI and as an ASGI application."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sitebus.errors import EmbedsItself, SpeaksWSGI

if TYPE_CHECKING:
    import asyncio
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Receive, Scope, Send
    from sitebus.embedding.lodger import Lodger


#: What hosts were given.
_given: weakref.WeakSet[Any] = weakref.WeakSet()


def refuse(app: object, name: str) -> None:
    """Let nothing be embedded that goes to the lodger itself.

    Raises:
        EmbedsItself: *app* does.
    """
    if any(app is each for each in _given):
        raise EmbedsItself(name)


class Embedded:
    """The site of this process, as a WSGI application."""

    __slots__ = ("__weakref__", "_lodger")

    def __init__(self, lodger: Lodger) -> None:
        self._lodger = lodger
        _given.add(self)

    def __call__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse | None = None,
        *others: object,
    ) -> Iterable[bytes]:
        if start_response is None or others:
            raise SpeaksWSGI
        lodger = self._lodger
        if lodger.pid != os.getpid():
            lodger.begin()
        return lodger.answer(environ, start_response)

    def start(self) -> None:
        """Start the bus now, if this process serves and has not: a hook of the host may call it."""
        self._lodger.begin()


def asgi(lodger: Lodger) -> ASGIApplication:
    """Answer the site of this process, as an ASGI application."""
    beginning: dict[object, asyncio.Task[None]] = {}

    async def begun() -> None:
        """Wait with all others for one start: it may need the threads that each would hold."""
        import asyncio

        loop = asyncio.get_running_loop()
        if loop not in beginning:
            beginning[loop] = loop.create_task(_begin(lodger))
            beginning[loop].add_done_callback(lambda _: beginning.pop(loop))
        # A visitor who leaves does not call it off.
        await asyncio.shield(beginning[loop])

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(lodger, receive, send)
            return
        if lodger.pid != os.getpid():
            await begun()
        page, plan = lodger.page, lodger.plan
        if page is None and plan is not None:
            await plan.site.plain_asgi(scope, receive, send)
        elif page is not None:
            from sitebus.mounts.telling import described, send_answer

            await send_answer(page(described(scope)), scope, send)

    _given.add(application)
    return application


async def _begin(lodger: Lodger, again: bool = False) -> None:
    """Start in another thread: what starts waits for what runs on this loop."""
    import asyncio

    from sitebus.embedding.hostloop import HostLoop, aside

    lodger.loop = HostLoop(asyncio.get_running_loop())
    await aside(lambda: lodger.begin(again))


async def _live(lodger: Lodger, receive: Receive, send: Send) -> None:
    """Be the site's lifespan: the bus starts with it, and ends with it."""
    from sitebus.embedding.hostloop import aside

    await receive()
    await _begin(lodger, again=True)
    if lodger.failure is not None:
        await send({"type": "lifespan.startup.failed", "message": str(lodger.failure)})
        return
    try:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    finally:  # some hosts cancel it instead of saying that they end
        await aside(lodger.end)
    await send({"type": "lifespan.shutdown.complete"})
