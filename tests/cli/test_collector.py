"""A start is not slowed down by looking for garbage where there is none yet."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from sitebus.cli.collector import MANY, at_rest
from sitebus.process import Engine


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield (700, 10, 10)
    gc.set_threshold(*before)
    gc.enable()


def test_it_is_seldom_until_the_site_has_started(
    engine: Engine, usual: tuple[int, int, int]
) -> None:
    """What serves has the collector that Python, or whoever started it, gave it."""
    found: list[int] = []
    engine.subscribe("start", lambda: found.append(gc.get_threshold()[0]))
    with at_rest(engine):
        engine.start()
        assert found == [MANY]
        assert gc.get_threshold() == usual
    listeners = engine.listeners["started"]
    assert not listeners


def test_a_failed_start_leaves_it_as_it_was(engine: Engine, usual: tuple[int, int, int]) -> None:
    engine.subscribe("start", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), at_rest(engine):
        engine.start()
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("wanted", [(0, 10, 10), (20_000, 50, 50), (90_000, 5, 5)])
def test_who_says_otherwise_meanwhile_has_it_so(
    engine: Engine, wanted: tuple[int, int, int]
) -> None:
    """An application that tunes the collector when it is imported."""
    engine.subscribe("start", lambda: gc.set_threshold(*wanted))
    with at_rest(engine):
        engine.start()
    assert gc.get_threshold() == wanted


@pytest.mark.parametrize("wanted", [(0, 10, 10), (90_000, 5, 5)])
def test_who_wants_it_more_seldom_is_left_alone(
    engine: Engine, wanted: tuple[int, int, int]
) -> None:
    gc.set_threshold(*wanted)
    with at_rest(engine):
        assert gc.get_threshold() == wanted
        engine.start()
    assert gc.get_threshold() == wanted


def test_who_turns_it_off_meanwhile_has_it_off(engine: Engine) -> None:
    engine.subscribe("start", gc.disable)
    with at_rest(engine):
        engine.start()
    assert not gc.isenabled()
