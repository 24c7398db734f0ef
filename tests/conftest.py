"""Fixtures for every test; what they are made of is in `tests.helpers`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pytest_sitebus.fixtures import opening
from sitebus.process import Engine
from tests.helpers import ROOT, SiteProcess, nothing_left

# What the plugin brings where sitebus is installed, and here in any case.
pytest_plugins = ["pytest_sitebus.fixtures"]

# So a shell leaves these two to what runs in its background; sites heed that, and these tests mean
# the others.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


with suppress(ImportError):
    # Its first loop opens a pipe that the process keeps, the lock of what it does about signals:
    # the test that happened to come first would be told that it has left that behind.
    import uvloop

    uvloop.new_event_loop().close()


#: Files that take the longest, half a minute and more. Were one of them begun last, most processes
#: that share the files would wait for it.
LONG = (
    "workers/test_rolling.py",
    "test_coldstart.py",
    "servers/test_uvicorn_hand_over.py",
    "bridges/test_asgi_responses.py",
    "servers/test_hand_over.py",
    "fleet/test_deploy.py",
    "workers/test_reload_supervised.py",
    "fleet/test_interrupted.py",
    "servers/test_conformance_drain.py",
    "hostile/test_corpus.py",
    "fleet/test_fleet_terminal.py",
    "test_docs.py",
    "workers/test_warm.py",
    "workers/test_restart.py",
    "workers/test_chaos.py",
    "compat/test_upstream.py",
    "test_restart.py",
    "servers/test_cheroot_defences.py",
    "test_examples.py",
    "fleet/test_files.py",
)


def pytest_configure(config: pytest.Config) -> None:
    # By pytest-xdist; it would begin with the files that have the most tests.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / "tests" / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A bus of its own for one test, which must end without a thread or descriptor left."""
    with nothing_left():
        engine = Engine()
        try:
            yield engine
        finally:
            engine.exit()


@pytest.fixture
def bus(engine: Engine) -> Engine:
    """The same, for tests that only want a bus."""
    return engine


@pytest.fixture
def site_process() -> Iterator[Callable[..., SiteProcess]]:
    """Start ``sitebus-serve`` with the given arguments; ended with the test, at the latest."""
    yield from opening(SiteProcess)
