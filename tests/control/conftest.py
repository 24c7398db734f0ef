"""An engine with a control socket, and without or with workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sitebus.control.socketplugin import ControlSocket
from sitebus.process import Engine
from tests.control.clients import FakeCrew

Make = Callable[..., Path]


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Iterator[Make]:
    """Start the engine with a control socket; answer where that is."""
    with ExitStack() as undo:

        def make(**settings: Any) -> Path:
            path = tmp_path / "control.sock"
            plugin = ControlSocket(engine, settings.pop("path", path), **settings)
            undo.callback(plugin.unsubscribe)
            plugin.subscribe()
            engine.start()
            return path

        yield make
        engine.exit()


@pytest.fixture
def control(make: Make) -> Path:
    """Answer the control socket of a site of one process."""
    return make(name="shop", publish=("shop.price",))


@pytest.fixture
def crew(engine: Engine) -> Iterator[FakeCrew]:
    """Give the engine workers that are not there."""
    fake = FakeCrew()
    engine.workers = fake
    yield fake
    if fake.running is not None:
        fake.running.end()
    engine.workers = None
