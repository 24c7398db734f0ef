"""A poller for one test, which ends with nothing left behind and nothing unreported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sitebus.relay import Poller
from tests.helpers import nothing_left


@pytest.fixture
def errors() -> list[BaseException]:
    """What callbacks raised; a test that expects some empties it."""
    return []


@pytest.fixture
def poller(errors: list[BaseException]) -> Iterator[Poller]:
    """A thread that waits; all that a test opens is closed when it has ended."""
    with nothing_left():
        poller = Poller("test poller", errors.append)
        try:
            yield poller
        finally:
            poller.stop()
    assert errors == []
