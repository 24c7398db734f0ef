"""Every public name of ``cherrypy.process.servers``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sitebus.compat.adapter import ServerAdapter, Timeouts
from sitebus.compat.flup import FlupCGIServer, FlupFCGIServer, FlupSCGIServer
from sitebus.sockets.addresses import EVERYWHERE

__all__ = ["FlupCGIServer", "FlupFCGIServer", "FlupSCGIServer", "ServerAdapter", "Timeouts"]


@contextmanager
def _safe_wait(host: str, port: int) -> Iterator[None]:
    """Warn instead of failing when nobody can tell whether a port of every interface is bound."""
    try:
        yield
    except OSError:
        if host not in EVERYWHERE:
            raise
        warnings.warn(f"Unable to verify that the server is bound on {port!r}", stacklevel=3)
