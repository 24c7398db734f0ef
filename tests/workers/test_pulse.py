"""A worker's beats: when it speaks, and what it leaves asleep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.workers import pulse as module
from sitebus.workers.pulse import Pulse
from tests.helpers import wait_for

Work = Callable[[], object]


class Clock:
    """Has what a poller has of it: work to be done, when somebody turns it."""

    def __init__(self) -> None:
        self.work: Work | None = None

    def call_soon(self, work: Work) -> bool:
        self.work = work
        return True

    def call_at(self, moment: float, work: Work) -> Work:
        self.work = work
        return lambda: setattr(self, "work", None)

    def turn(self) -> None:
        work, self.work = self.work, None
        assert work is not None
        work()


class Counted:
    """A tally that is told how many there were."""

    requests = 0

    def oldest(self, now: float) -> float:
        return 0.0


class World:
    """A pulse, and what it is about."""

    def __init__(self, engine: Engine, idle: float) -> None:
        self.engine, self.clock, self.tally = engine, Clock(), Counted()
        self.inside = 0
        self.beats: list[dict[str, Any]] = []
        self.pulse = Pulse(
            engine,
            self.tally,  # type: ignore[arg-type]
            lambda: self.inside,
            self.clock,  # type: ignore[arg-type]
            self.beats.append,
        )
        self.pulse.start(idle)

    def turns(self, number: int) -> int:
        """Let seconds go by, and answer how many beats they brought."""
        before = len(self.beats)
        for _ in range(number):
            self.clock.turn()
        return len(self.beats) - before


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    engine.exit()


def test_it_speaks_at_once_then_when_something_happens_and_now_and_then(engine: Engine) -> None:
    """So that silence means something, and costs little."""
    world = World(engine, idle=5.0)
    assert world.turns(1) == 1
    assert world.turns(4) == 0
    assert world.turns(1) == 1
    world.tally.requests += 1
    assert world.turns(1) == 1
    world.inside = 1
    assert world.turns(3) == 3
    assert world.beats[-1]["in_flight"] == 1
    assert world.beats[-1]["next"] == 6.0
    world.pulse.stop()
    assert world.clock.work is None


def test_the_loop_is_left_asleep_while_nothing_happens(engine: Engine) -> None:
    """A worker at rest should let its processor rest."""
    woken: list[object] = []

    class Watched:
        def call_soon_threadsafe(self, callback: Work) -> None:
            woken.append(callback)
            callback()

    world = World(engine, idle=5.0)
    world.turns(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "present_loop", Watched())
        assert world.turns(4) == 0
        assert not woken
        assert world.turns(1) == 1
        assert len(woken) == 1
        world.tally.requests += 1
        world.turns(1)
        assert len(woken) == 2


def test_a_loop_that_stands_still_is_told_of_though_no_request_comes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beat that asked it may have been the last one for long."""
    goes_on, stands = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        assert goes_on.wait(10)

    world = World(engine, idle=1000.0)
    world.turns(1)
    engine.loop.call_soon_threadsafe(stand)
    assert stands.wait(5)
    world.tally.requests += 1
    assert world.turns(1) == 1
    assert world.beats[-1]["lag"] == 0
    assert world.beats[-1]["rss"] > 1 << 20
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert world.turns(1) == 1, "it is late by now"
    assert world.beats[-1]["lag"] > 0
    goes_on.set()
    wait_for(lambda: world.pulse._asked is None)
