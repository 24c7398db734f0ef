"""What a server imports with its first request, for who forks before that.

By name: what of it is needed depends on who speaks what, and on what a library was told.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sitebus import loop
from sitebus.servers.hosted import Faces

if TYPE_CHECKING:
    from sitebus.servers.hosting import SiteServer

#: For whoever has ASGI applications, or serves by way of ASGI.
_ASGI = ("sitebus.mounts.asgi", "sitebus.mounts.faults", "sitebus.mounts.telling")
_BRIDGE = ("sitebus.bridges.environs", "sitebus.bridges.headers", "sitebus.bridges.threads")
_WSGI_UNDER_ASGI = (
    *_BRIDGE,
    "sitebus.bridges.outbox",
    "sitebus.bridges.upload",
    "sitebus.bridges.wsgi_under_asgi",
)
_ASGI_UNDER_WSGI = (
    *_BRIDGE,
    "sitebus.bridges.asgi_under_wsgi",
    "sitebus.bridges.incoming",
    "sitebus.bridges.talk",
)


def load(*names: str) -> None:
    for name in names:
        import_module(name)


def load_speech(server: SiteServer) -> None:
    """Import what is between *server* and its applications, which are mounted already."""
    app = server.application
    if server.speech == "asgi":
        # One of several applications may speak the other.
        load(*_ASGI, *_WSGI_UNDER_ASGI)
    elif isinstance(app, Faces) and app.speech() == "asgi":
        loop.preload()
        load(*_ASGI, *_ASGI_UNDER_WSGI)
