"""flup's servers (CGI, FastCGI, SCGI) as something that a `ServerAdapter` can run.

flup is imported when a server is started: its constructors start threads, which must not be there
when a process is daemonized.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class FlupServer:
    """Make a ``WSGIServer`` of the arguments, and run it.

    Attributes:
        ready: True while it serves.
    """

    library: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs
        self.ready = False
        self._server: Any = None

    def start(self) -> None:
        """Serve until stopped."""
        self._server = import_module(self.library).WSGIServer(*self.args, **self.kwargs)
        # Signals are the bus's, and Python lets only the main thread set them.
        self._server._installSignalHandlers = lambda: None
        self._server._oldSIGs = []
        self.ready = True
        self._server.run()

    def stop(self) -> None:
        """Tell it to end: its loop looks every second."""
        self.ready = False
        if self._server is not None:
            self._server._keepGoing = False
            pool = getattr(self._server, "_threadPool", None)
            if pool is not None:
                pool.maxSpare = 0


class FlupCGIServer(FlupServer):
    """One request of a CGI process."""

    library = "flup.server.cgi"


class FlupFCGIServer(FlupServer):
    """FastCGI."""

    library = "flup.server.fcgi"


class FlupSCGIServer(FlupServer):
    """SCGI."""

    library = "flup.server.scgi"
