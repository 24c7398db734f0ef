"""Fixtures for granian: one server on a free port. A test module imports them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.granian import GranianServer
from tests.servers.client import hello

Host = Callable[..., GranianServer]


@pytest.fixture(scope="module", autouse=True)
def once() -> None:
    """Let tokio and libuv make what they make once in a process, and never give back."""
    engine = Engine()
    server = GranianServer(engine, hello, binds=["127.0.0.1:0"])
    server.subscribe()
    engine.loop.call_soon_threadsafe(engine.loop.time)
    engine.start()
    engine.exit()


@pytest.fixture
def host(engine: Engine) -> Host:
    """Start granian on a free port."""

    def start(application: Any = hello, **settings: Any) -> GranianServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        server = GranianServer(engine, application, **settings)
        server.subscribe()
        engine.start()
        return server

    return start
