"""flup's servers, of which nothing is needed but the name until one is started."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sitebus.compat.cherrypy import servers
from sitebus.process import Engine


class WSGIServer:
    """What of flup's server is used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.made_with = (args, kwargs)
        self._threadPool = SimpleNamespace(maxSpare=5)
        self.stopped = threading.Event()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_keepGoing":
            self.stopped.set()

    def run(self) -> None:
        self._installSignalHandlers()
        self.stopped.wait(20)

    def _installSignalHandlers(self) -> None:  # noqa: N802
        raise AssertionError("signals are not for the thread of a server")


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (servers.FlupCGIServer, "cgi"),
        (servers.FlupFCGIServer, "fcgi"),
        (servers.FlupSCGIServer, "scgi"),
    ],
)
def test_it_runs_with_the_bus(
    bus: Engine, monkeypatch: pytest.MonkeyPatch, kind: Any, module: str
) -> None:
    """From a start to a stop, in a thread that Python lets set no signals."""
    library = SimpleNamespace(WSGIServer=WSGIServer)
    monkeypatch.setitem(sys.modules, "flup", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "flup.server", SimpleNamespace())
    monkeypatch.setitem(sys.modules, f"flup.server.{module}", library)
    server = kind(application="app", bindAddress=None)
    servers.ServerAdapter(bus, server).subscribe()

    bus.start()
    assert server.ready
    assert server._server.made_with == ((), {"application": "app", "bindAddress": None})
    bus.stop()

    assert server._server._threadPool.maxSpare == 0
