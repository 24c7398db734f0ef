"""What a worker's requests come to: how many there were, and since when the oldest one waits.

On the way of every request, so it does as little as can be. Requests of WSGI applications are known
to the registry of the engine, which knows their threads; those of ASGI applications wait here until
their response begins: a stream of events that goes on for hours is no request that hangs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from sitebus.servers import Faces

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sitebus.asgi import Message, Receive, Scope, Send
    from sitebus.process import Engine


class Tally:
    """Counts the requests that come through the faces that `around` answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        #: When each request came that waits for its response to begin.
        self._waiting: dict[object, float] = {}

    def around(self, faces: Faces) -> Faces:
        """Answer the same faces, counted."""
        count = self._numbers.__next__
        wsgi = faces.wsgi

        def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            count()
            environ["wsgi.multiprocess"] = True  # PEP 3333; here, to save a call
            result: Iterable[bytes] = wsgi(environ, start_response)
            return result

        return Faces(counted, lambda: self._asgi(faces.asgi()), faces.speech)

    def _asgi(self, app: Callable[..., Any]) -> Callable[..., Any]:
        count, waiting, clock = self._numbers.__next__, self._waiting, time.monotonic

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            count()
            mark = object()
            waiting[mark] = clock()

            def sending(message: Message) -> Any:
                waiting.pop(mark, None)
                return send(message)

            try:
                await app(scope, receive, sending)
            finally:
                waiting.pop(mark, None)

        return asgi

    @property
    def requests(self) -> int:
        """How many requests there have been."""
        # "count(7)": to look does not count.
        return int(repr(self._numbers)[len("count(") : -1])

    def oldest(self, now: float) -> float:
        """Answer for how many seconds the oldest request has been waited for; 0 without any."""
        if is_being_debugged():
            return 0.0
        under_way = [request.since for _, request in self._engine.serving.in_flight()]
        return now - min((*under_way, *self._waiting.copy().values()), default=now)


def is_being_debugged() -> bool:
    """Tell whether somebody looks at a thread with Python's debugger: nobody is in a hurry then."""
    if "bdb" not in sys.modules:
        return False
    return any(map(_is_in_debugger, sys._current_frames().values()))


def _is_in_debugger(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") in ("bdb", "pdb"):
            return True
        frame = frame.f_back
    return False
