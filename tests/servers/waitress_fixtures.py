"""What the tests of the waitress adapter share: a server on a free port."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.waitress import WaitressServer
from tests.servers.client import Client, hello

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]
Serve = Callable[..., WaitressServer]


@pytest.fixture
def serve(engine: Engine) -> Serve:
    """Subscribe a waitress server on a free port and start the engine."""

    def start(application: Any = hello, **settings: Any) -> WaitressServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        settings.setdefault("linger", 0.05)
        server = WaitressServer(engine, application, **settings)
        server.subscribe()
        engine.start()
        return server

    return start


def stop_begins(engine: Engine, server: WaitressServer, meanwhile: Meanwhile) -> Future[Any]:
    """Stop *engine* in another thread, and return once *server* accepts nothing more."""
    stop = meanwhile(engine.stop)
    assert server.httpserver.shut.wait(5)
    return stop
