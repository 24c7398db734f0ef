"""The fixtures of pytest: each imports what it needs when a test asks for it.

A ``conftest.py`` may import from here before pytest does, which pytest would warn of, were it not
for this word: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sitebus.process import Engine
    from sitebus.testing.processes import SiteProcess
    from sitebus.testing.served import ServedSite

T = TypeVar("T")


@pytest.fixture
def site_server() -> Iterator[Callable[..., ServedSite]]:
    """Serve what `sitebus.testing.ServedSite` takes, in this process, until the test ends."""
    from sitebus.testing.served import ServedSite

    yield from opening(ServedSite)


@pytest.fixture
def site_process() -> Iterator[Callable[..., SiteProcess]]:
    """Start ``sitebus-serve`` with the given arguments, as a child that ends with the test."""
    from sitebus.testing.processes import SiteProcess

    yield from opening(SiteProcess)


@pytest.fixture
def bus_errors() -> list[str]:
    """What `bus` has logged as errors; a test that expects some empties it."""
    return []


@pytest.fixture
def bus(bus_errors: list[str]) -> Iterator[Engine]:
    """A bus for one test; after it, it must end well, and leave no thread behind."""
    from sitebus.testing.buses import clean_bus

    with clean_bus(bus_errors) as engine:
        yield engine


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Wait for a condition: `sitebus.testing.wait_for`."""
    from sitebus.testing.waiting import wait_for

    return wait_for


def opening(
    kind: Callable[..., AbstractContextManager[T]],
) -> Iterator[Callable[..., T]]:
    """Answer what makes and opens one of *kind*; the last one is closed first."""
    with ExitStack() as opened:

        def make(*arguments: Any, **settings: Any) -> T:
            return opened.enter_context(kind(*arguments, **settings))

        yield make


def _live() -> Any:
    """Answer the room of sites that run; None if nobody has imported it, and opened any."""
    return sys.modules.get("sitebus.testing.live")


def pytest_runtest_setup() -> None:
    """Tell what this test's sites say from what they said before."""
    if (live := _live()) is not None:
        live.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the sites have said that are running."""
    report = yield
    if report.failed and (live := _live()) is not None:
        report.sections.extend(live.sections())
    return report
