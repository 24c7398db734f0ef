"""WSGI applications under ASGI servers, and the reverse.

Decides how a request crosses between a thread, where WSGI lives, and an event loop, where ASGI
does: what either side sees, who waits for whom, and what becomes of a client that leaves. Which
server has which application, and which loop and threads there are, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sitebus.bridges.threads import Threads

if TYPE_CHECKING:
    import asyncio
    from wsgiref.types import WSGIApplication

    from sitebus.asgi import ASGIApplication
    from sitebus.bridges.asgi_under_wsgi import AsgiUnderWsgi
    from sitebus.bridges.wsgi_under_asgi import WsgiUnderAsgi

__all__ = ["Threads", "to_asgi", "to_wsgi"]


def to_asgi(
    app: WSGIApplication,
    threads: Threads,
    *,
    max_body: int = 0,
    patience: float = 0.0,
    min_rate: float = 0.0,
) -> WsgiUnderAsgi:
    """Answer the WSGI application *app* as one that any ASGI server can serve.

    Args:
        app: It is called in one of *threads*, in a copy of the request's context: it sees the
            context variables of ASGI middleware, and nobody sees those that it sets.
        threads: As many requests as it has threads are answered at a time; others wait.
        max_body: How many bytes of a request's body are taken; 0 for any number.
        patience: How many seconds a thread waits for more of a body; 0 for ever.
        min_rate: In all it waits *patience* and a second more for each so many bytes; 0 for ever.
    """
    from sitebus.bridges.upload import Pace
    from sitebus.bridges.wsgi_under_asgi import WsgiUnderAsgi

    return WsgiUnderAsgi(app, threads, max_body=max_body, pace=Pace(patience, min_rate))


def to_wsgi(app: ASGIApplication, loop: Callable[[], asyncio.AbstractEventLoop]) -> AsgiUnderWsgi:
    """Answer the ASGI application *app* as one that any WSGI server can serve.

    Args:
        app: It is called on the loop, in a context of its own; the server's thread waits for the
            response, and no longer.
        loop: Answers a loop that runs in a thread of its own; asked for each request.
    """
    from sitebus.bridges.asgi_under_wsgi import AsgiUnderWsgi

    return AsgiUnderWsgi(app, loop)
