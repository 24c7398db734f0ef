"""An ASGI application as a WSGI application.

The application runs on a loop; the server's thread waits for what it says, and reads the request's
body when the application asks for it. For most requests that is one hop there and one back.

The server's thread is free with the last of the response; what the application does afterwards goes
on without it. The status and headers wait for the first byte of the body, or the end: a failure
before that is raised in the server's thread, one after it breaks the response off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from sitebus.bridges.talk import Talk

if TYPE_CHECKING:
    import asyncio
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sitebus.asgi import ASGIApplication


class AsgiUnderWsgi:
    """A WSGI application made of an ASGI application; see `sitebus.bridges.to_wsgi`."""

    __sitebus_interface__: Literal["wsgi"] = "wsgi"

    def __init__(self, app: ASGIApplication, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.app = app
        self._loop = loop
        self._talks: set[Talk] = set()
        self._idle = threading.Condition()
        #: How many threads wait for the last to end.
        self._awaited = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        talk = Talk(self.app, environ, self._loop(), self._forget)
        self._talks.add(talk)
        return talk.answer(start_response)

    @property
    def running(self) -> int:
        """How many requests the application is busy with, answered or not."""
        return len(self._talks)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until the application is done with every request; answer whether it was in time."""
        with self._idle:
            self._awaited += 1
            try:
                return self._idle.wait_for(lambda: not self._talks, timeout)
            finally:
                self._awaited -= 1

    def stop(self, timeout: float | None = None) -> bool:
        """As `wait_idle`; what has not ended by then is cancelled, and its threads are let go."""
        if self.wait_idle(timeout):
            return True
        for talk in list(self._talks):
            talk.cancel()
        return False

    def _forget(self, talk: Talk) -> None:
        self._talks.discard(talk)
        if self._awaited:
            with self._idle:
                self._idle.notify_all()
