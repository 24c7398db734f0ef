"""The bridges between the two faces of a site, each made when it is first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from wsgiref.types import WSGIApplication

    from sitebus import bridges
    from sitebus.asgi import ASGIApplication
    from sitebus.bridges.asgi_under_wsgi import AsgiUnderWsgi
    from sitebus.loop import LoopThread
    from sitebus.mounts import Site

#: Requests to WSGI applications that an ASGI server's loop has served at once, if nobody says.
THREADS = 10


class Crossing:
    """How requests get from one face of a site to the other.

    Attributes:
        threads: How many requests WSGI applications serve at once when an ASGI server asks.
        loop: Answers the loop that ASGI applications run on when a WSGI server asks; one of its own
            if nobody says.
        patience, min_rate: How long these threads wait for a request's body; see
            `sitebus.bridges.to_asgi`.
        watched: What stands for the site's WSGI face in these threads.
    """

    def __init__(self, site: Site) -> None:
        self.threads = THREADS
        self.patience = self.min_rate = 0.0
        self.loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        self.watched: WSGIApplication | None = None
        self._site = site
        self._making = threading.Lock()
        self._own: LoopThread | None = None
        self._pid = 0
        self._pool: bridges.Threads | None = None
        self._to_asgi: ASGIApplication | None = None
        self._to_wsgi: AsgiUnderWsgi | None = None

    @property
    def to_asgi(self) -> ASGIApplication:
        """The WSGI face, as an ASGI application."""
        made = self._to_asgi
        if made is None or self._pid != os.getpid():
            from sitebus import bridges

            with self._making:
                # A fork copies the pool and not its threads.
                if self._to_asgi is None or self._pid != os.getpid():
                    self._pid = os.getpid()
                    self._pool = bridges.Threads(self.threads, f"{self._site.name} wsgi")
                    app = self.watched or self._site.wsgi
                    self._to_asgi = bridges.to_asgi(
                        app, self._pool, patience=self.patience, min_rate=self.min_rate
                    )
                made = self._to_asgi
        return made

    @property
    def to_wsgi(self) -> WSGIApplication:
        """The ASGI face, as a WSGI application."""
        made = self._to_wsgi
        if made is None:
            from sitebus import bridges

            app = self._site.plain_asgi
            with self._making:
                if self._to_wsgi is None:
                    self._to_wsgi = bridges.to_wsgi(app, self.the_loop)
                made = self._to_wsgi
        return made

    def the_loop(self) -> asyncio.AbstractEventLoop:
        """Answer the loop that ASGI applications run on."""
        if self.loop is not None:
            return self.loop()
        with self._making:
            if self._own is None:
                from sitebus.loop import LoopThread

                self._own = LoopThread()
            return self._own.loop

    def close(self, timeout: float = 5.0) -> None:
        """End the threads and the loop of our own; the next use makes new ones."""
        with self._making:
            pool, self._pool, self._to_asgi = self._pool, None, None
            own, self._own = self._own, None
            talk, self._to_wsgi = self._to_wsgi, None
        # Work after a response has its time; then a loop may end, on which it would hang for good.
        if talk is not None:
            talk.stop(timeout)
        if pool is not None:
            pool.stop(timeout)
        if own is not None:
            own.stop(timeout)
