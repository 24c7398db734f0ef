"""Fixtures for the bridges' tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from sitebus.bridges import Threads
from tests.bridges.hosts import ASGI_HOSTS


@pytest.fixture(params=ASGI_HOSTS)
def kind(request: pytest.FixtureRequest) -> str:
    """An ASGI server."""
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(2)
    yield made
    assert made.stop(10)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers report at length what these tests do to them."""
    for name in ("uvicorn.error", "waitress", "waitress.queue"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
