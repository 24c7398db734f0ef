"""Told stories about a pool whose workers' code changes: the last change is what counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from sitebus.errors import RollRunning
from sitebus.workers.actions import ERROR, KILL, TERM, WARNING
from sitebus.workers.plan import RELOAD_DRAIN
from sitebus.workers.pool import Drain, Kill, Policy, Settle, Spawn
from tests.workers.stage import Stage, begun, signals
from tests.workers.test_pool import LONG, POLICIES, SEEDS, started, without_limits


def test_a_reload_is_done_when_the_new_worker_serves() -> None:
    """Whoever saved the file sees the new code then, however long an old request goes on."""
    stage = Stage(1)
    stage.start()
    job = stage.pool.reload("app.py changed", stage.now)
    assert begun(stage, job) == [Spawn(2, 1)]
    assert stage.boot(2) == [Drain(1, "app.py changed", RELOAD_DRAIN), Settle(job)]
    assert (job.state, job.kind) == ("done", "reload")


def test_the_old_worker_gets_a_few_seconds() -> None:
    """Whoever works on a site does not want to have its past around."""
    stage = Stage(1, drain_timeout=60.0)
    stage.start()
    begun(stage, stage.pool.reload("app.py changed", stage.now))
    stage.boot(2)
    assert signals(stage.pass_time(RELOAD_DRAIN - 0.1, beating=(2,))) == []
    assert signals(stage.pass_time(0.2, beating=(2,))) == [(1, TERM)]
    assert signals(stage.pass_time(5.0, beating=(2,))) == [(1, KILL)]


def test_a_shorter_drain_timeout_is_kept() -> None:
    stage = Stage(1, drain_timeout=1.0)
    stage.start()
    begun(stage, stage.pool.reload("app.py changed", stage.now))
    assert Drain(1, "app.py changed", 1.0) in stage.boot(2)


def test_a_change_while_the_candidate_boots_replaces_the_candidate() -> None:
    """It may have imported half of what was there before."""
    stage = Stage(1)
    stage.start()
    first = stage.pool.reload("app.py changed", stage.now)
    begun(stage, first)
    stage.hear(stage.pool.spawned(2, 1002, stage.now))
    second = stage.pool.reload("shop.py changed", stage.now)
    assert stage.tick() == [Settle(first), Kill(2, TERM), Spawn(3, 1)]
    assert (first.state, first.reason) == ("aborted", "shop.py changed")
    assert stage.ready(2) == [], "too late"
    assert stage.boot(3) == [Drain(1, "shop.py changed", RELOAD_DRAIN), Settle(second)]
    assert not stage.lines(ERROR) + stage.lines(WARNING), "nothing has gone wrong"


def test_a_candidate_without_a_process_is_ended_when_it_has_one() -> None:
    stage = Stage(1)
    stage.start()
    begun(stage, stage.pool.reload("app.py changed", stage.now))
    stage.pool.reload("app.py changed", stage.now)
    assert stage.tick()[1:] == [Spawn(3, 1)]
    assert stage.hear(stage.pool.spawned(2, 1002, stage.now)) == [Kill(2, TERM)]


def test_who_drains_holds_up_no_reload() -> None:
    """An event stream stays open as long as it may."""
    stage = Stage(1)
    stage.start()
    for serial in range(2, 6):
        job = stage.pool.reload("app.py changed", stage.now)
        assert begun(stage, job) == [Spawn(serial, 1)]
        stage.boot(serial)
        assert job.state == "done"
    assert list(stage.states.values()).count("DRAINING") == 4


def test_a_candidate_that_is_unfit_replaces_nobody() -> None:
    stage = Stage(2)
    stage.start()
    job = stage.pool.reload("app.py changed", stage.now)
    begun(stage, job)
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    assert stage.unfit(3) == [Settle(job)]
    assert job.state == "aborted"
    assert stage.states == {1: "READY", 2: "READY", 3: "FAILED"}


def test_two_workers_are_replaced_one_after_the_other() -> None:
    stage = Stage(2)
    stage.start()
    job = stage.pool.reload("app.py changed", stage.now)
    assert begun(stage, job) == [Spawn(3, 1)]
    assert stage.boot(3) == [Drain(1, "app.py changed", RELOAD_DRAIN), Spawn(4, 2)]
    assert stage.boot(4) == [Drain(2, "app.py changed", RELOAD_DRAIN), Settle(job)]


def test_who_came_for_the_change_before_is_replaced_as_well() -> None:
    stage = Stage(2)
    stage.start()
    begun(stage, stage.pool.reload("app.py changed", stage.now))
    stage.boot(3)
    stage.hear(stage.pool.spawned(4, 1004, stage.now))
    job = stage.pool.reload("shop.py changed", stage.now)
    assert stage.tick()[1:] == [Kill(4, TERM), Spawn(5, 1)]
    assert stage.boot(5) == [Drain(3, "shop.py changed", RELOAD_DRAIN), Spawn(6, 2)]
    assert stage.boot(6)[-1] == Settle(job)


@pytest.mark.parametrize("wish", ["roll", "drain", "scale"])
def test_a_reload_takes_the_place_of_what_was_asked_for(wish: str) -> None:
    """All of it may bring up code that is old already; the count of a scale is had even so."""
    stage = Stage(1)
    stage.start()
    asked = {
        "roll": lambda: stage.pool.roll("graceful", stage.now),
        "drain": lambda: stage.pool.drain_worker(1, stage.now),
        "scale": lambda: stage.pool.scale(2, stage.now),
    }[wish]()
    begun(stage, asked)
    job = stage.pool.reload("app.py changed", stage.now)
    stage.tick()
    assert asked.state == "aborted"
    assert len(stage.lines(WARNING)) == 1, "whoever asked wants to know"
    while job.state == "running":
        for serial in stage.spawned():
            stage.boot(serial)
    ready = [serial for serial, state in stage.states.items() if state == "READY"]
    assert len(ready) == (2 if wish == "scale" else 1)
    assert 1 not in ready


def test_a_reload_is_no_failure_of_a_worker_that_is_recycled() -> None:
    stage = Stage(1, max_requests=10, jitter=0.0)
    stage.start()
    assert stage.beat(1, requests=10) == [Spawn(2, 1)]
    job = stage.pool.reload("app.py changed", stage.now)
    stage.tick()
    stage.boot(3)
    assert job.state == "done"
    assert stage.beat(3, requests=10) == [Spawn(4, 1)], "at once"


def test_a_roll_that_waits_is_done_by_the_reload_and_a_scale_is_not() -> None:
    stage = Stage(1)
    stage.start()
    begun(stage, stage.pool.reload("app.py changed", stage.now))
    roll = stage.pool.roll("graceful", stage.now)
    assert stage.pool.queued is roll
    stage.pool.reload("app.py changed", stage.now)
    assert roll.state == "aborted"
    scale = stage.pool.scale(2, stage.now)
    stage.pool.reload("app.py changed", stage.now)
    stage.tick()
    assert stage.pool.queued is scale
    stage.boot(4)
    assert stage.pool.job is scale


def test_a_reload_waits_for_a_start_with_nobody_ready() -> None:
    """Who starts the site waits for that very job."""
    stage = Stage(1)
    stage.hear(stage.pool.start(stage.now))
    job = stage.pool.reload("app.py changed", stage.now)
    assert job is stage.pool.queued
    assert stage.pool.reload("shop.py changed", stage.now) is job, "once is enough"
    stage.boot(1)
    assert stage.pool.job is job


def test_a_reload_does_not_wait_for_the_rest_of_a_start() -> None:
    stage = Stage(2)
    stage.hear(stage.pool.start(stage.now))
    stage.boot(1)
    job = stage.pool.reload("app.py changed", stage.now)
    stage.tick()
    assert stage.pool.job is job


def test_a_site_that_stops_is_not_reloaded() -> None:
    stage = Stage(1)
    stage.start()
    stage.hear(stage.pool.stop(stage.now, for_good=True))
    with pytest.raises(RollRunning):
        stage.pool.reload("app.py changed", stage.now)


@given(policy=POLICIES, seed=SEEDS)
@settings(deadline=None, max_examples=20)
def test_reloads_in_a_hurry_end_with_the_last(policy: Policy, seed: int) -> None:
    """However many there are, whenever they come: everybody is of the last, and enough serve."""
    world = started(without_limits(policy), seed)
    for _ in range(6):
        job = world.pool.reload("app.py changed", world.now)
        before = set(world.processes)
        world.run(world.random.random() * 3, lambda: world.ready < policy.least)
        assert world.ready >= policy.least
    assert world.run(LONG, lambda: world.at_rest)
    assert job.state == "done"
    assert not before & set(world.processes)
