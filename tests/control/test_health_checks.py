"""Checks: whatever they do, who asks gets one line for each, in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from sitebus.control.answers import Answers, Question
from sitebus.control.health import Health, Report
from sitebus.process import Engine
from tests.helpers import nothing_left, wait_for


@pytest.fixture
def health(engine: Engine) -> Iterator[Health]:
    health = Health(engine, check_timeout=5)
    health.subscribe()
    yield health
    health.unsubscribe()


def verbose(health: Health) -> list[str]:
    answer = Answers(health).answer(Question("GET", "/readyz", "verbose"))
    return answer.body.decode().splitlines()


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (None, "check: ok"),
        (True, "check: ok"),
        (False, "check: FAILED"),
        (("own", 1), "own: ok"),
        (("own", False, 3), "own: FAILED (3)"),
        ("fine", "check: FAILED (it answered 'fine', and not (name, ok, detail))"),
        ((1, 2), "check: FAILED (it answered (1, 2), and not (name, ok, detail))"),
        (("own", True, "a\r\nb: ok\n" + "x" * 400), f"own: ok (a b: ok {'x' * 292})"),
        (LookupError("no\nsuch table"), "check: FAILED (LookupError: no such table)"),
        (SystemExit(0), "check: FAILED (SystemExit: 0)"),
    ],
)
def test_whatever_a_check_answers_is_one_line(
    engine: Engine, health: Health, answer: object, line: str
) -> None:
    """What it says may come from a stranger's server."""

    def check() -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    check.__name__ = check.__qualname__ = "check"
    engine.subscribe("health", check)
    assert verbose(health)[2] == line


class Hanging:
    """A check that answers when it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.let_go = threading.Event()

    def check(self) -> tuple[str, bool, str]:
        self.calls += 1
        assert self.let_go.wait(30)
        return "slow", True, ""


@pytest.fixture
def hanging(engine: Engine) -> Iterator[Hanging]:
    hanging = Hanging()
    engine.subscribe("health", hanging.check)
    yield hanging
    hanging.let_go.set()


def test_a_check_that_hangs_has_failed_and_is_not_asked_again(
    engine: Engine, health: Health, hanging: Hanging
) -> None:
    """It is asked every second for days: each time one more thread would be the end of it."""
    engine.subscribe("health", lambda: ("quick", True))
    health.check_timeout = 0.2
    began, threads = time.monotonic(), threading.active_count()

    assert "Hanging.check: FAILED (no answer in 0.2 s)" in verbose(health)
    for _ in range(20):
        assert "quick: ok" in verbose(health)

    assert hanging.calls == 1
    assert threading.active_count() <= threads + 1
    # It had its time once, and not each time.
    assert time.monotonic() - began < 3
    wait_for(lambda: "no answer in 0.2 s" not in "".join(verbose(health)))
    assert "FAILED (no answer in" in "".join(verbose(health))

    hanging.let_go.set()
    # First with the late answer, then with one that it was asked for anew.
    wait_for(lambda: "slow: ok" in verbose(health) and hanging.calls >= 2)
    assert "slow: ok" in verbose(health)


def test_checks_that_hang_do_so_side_by_side(engine: Engine, health: Health) -> None:
    """A probe gives up after a second, however many checks there are."""
    several = [Hanging() for _ in range(10)]
    for each in several:
        engine.subscribe("health", each.check)
    health.check_timeout = 0.2
    began = time.monotonic()
    report = health.ready()
    assert time.monotonic() - began < 1.6
    assert sum(check.detail == "no answer in 0.2 s" for check in report.checks) == 10
    for each in several:
        each.let_go.set()
    # Nobody waits for them, and the fixture counts them.
    wait_for(lambda: not [t for t in threading.enumerate() if "health check" in t.name])


def test_two_who_ask_at_once_share_one_answer(
    engine: Engine, health: Health, hanging: Hanging
) -> None:
    """Several load balancers must not ask the database several times."""
    reports: list[Report] = []
    patient = threading.Thread(target=lambda: reports.append(health.ready()))
    patient.start()
    wait_for(lambda: hanging.calls)
    health.check_timeout = 0.05
    assert not health.ready(exclude=["bus"]).ok
    assert hanging.calls == 1
    hanging.let_go.set()
    patient.join()
    assert [check.name for check in reports[0].checks if check.ok] == ["wanted", "slow"]


def test_a_check_may_have_a_patience_of_its_own(
    engine: Engine, health: Health, hanging: Hanging
) -> None:
    """Some are slow and right."""

    def impatient() -> None:
        hanging.let_go.wait(30)

    impatient.timeout = 0.05  # type: ignore[attr-defined]
    engine.unsubscribe("health", hanging.check)
    engine.subscribe("health", impatient)
    began = time.monotonic()
    assert "no answer in 0.05 s" in verbose(health)[2]
    assert time.monotonic() - began < 2


def test_an_async_check_runs_on_the_engines_loop(engine: Engine, health: Health) -> None:
    """Its connections live there."""
    places = []

    async def check() -> tuple[str, bool, str]:
        places.append(threading.current_thread())
        return "async", True, "there"

    engine.subscribe("health", check)
    engine.start()
    assert "async: ok (there)" in verbose(health)
    assert places[0] is not threading.current_thread()
    assert "health check" not in places[0].name


def test_checks_of_an_engine_that_has_exited_fail(engine: Engine, health: Health) -> None:
    """Without a loop, too, there is an answer."""

    async def check() -> None: ...

    engine.subscribe("health", check)
    engine.start()
    engine.exit()
    with nothing_left():
        assert "check: FAILED (LoopEnded" in "".join(verbose(health))
