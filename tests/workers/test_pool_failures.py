"""Told stories about a pool: workers that die, hang or come to a limit, and what is seen of it."""

from __future__ import annotations

import json
import math

import pytest

from sitebus.workers.actions import CRITICAL, ERROR, KILL, TERM
from sitebus.workers.pool import Drain, Dump, Kill, Policy, Pool, Settle, Spawn
from tests.workers.stage import Stage, begun, crash_loop, dumps, signals

# Deaths.


def test_a_worker_that_dies_is_replaced_at_once() -> None:
    stage = Stage(2)
    stage.start()
    assert stage.end(2, -9) == [Spawn(3, 2)]
    assert stage.lines(ERROR) == [
        "worker 2 (pid 1002): killed by SIGKILL; another is started at once"
    ]
    assert stage.pool.snapshot()[1].restarts == 1


@pytest.mark.parametrize("first", ["link", "process"])
def test_the_end_of_a_link_and_of_its_process_are_one_death(first: str) -> None:
    """Whichever is heard of first."""
    stage = Stage(1)
    stage.start()
    done = []
    if first == "link":
        done += stage.hear(stage.pool.link_ended(1, stage.now))
    done += stage.end(1, -9)
    done += stage.hear(stage.pool.link_ended(1, stage.now))
    assert done == [Spawn(2, 1)]
    assert stage.pool.snapshot()[0].restarts == 1


def test_a_worker_without_a_link_is_replaced_and_let_finish() -> None:
    """It sees the end of the link as well, and drains."""
    stage = Stage(1, drain_timeout=30.0)
    stage.start()
    stage.hear(stage.pool.link_ended(1, stage.now))
    assert stage.pass_time(1.0) == [Spawn(2, 1)]
    stage.boot(2)
    assert stage.states == {1: "FAILED", 2: "READY"}
    assert signals(stage.pass_time(31.0, beating=(2,))) == [(1, TERM)]


def test_a_worker_that_does_not_boot_fails_once() -> None:
    """That it is unfit, and that it ends, is the same failure."""
    stage = Stage(2)
    stage.start()
    assert stage.end(1, -9) == [Spawn(3, 1)]
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    assert stage.unfit(3) == []
    assert stage.end(3, 78) == []
    assert stage.pool.snapshot()[0].restarts == 2
    assert len(stage.told("worker.unfit")) == 1


def test_a_failure_elsewhere_is_no_failure_of_a_job() -> None:
    """One worker is replaced; that another does not come back has nothing to do with it."""
    stage = Stage(2)
    stage.start()
    job = stage.pool.drain_worker(2, stage.now)
    begun(stage, job)
    assert stage.end(1, -9) == [Spawn(4, 1)]
    stage.hear(stage.pool.spawned(4, 1004, stage.now))
    assert stage.unfit(4) == []
    assert job.state == "running"


def test_a_slot_recovers_though_nothing_happens() -> None:
    """Somebody who looks must not see the past."""
    stage = Stage(1, fatal_after=1, heartbeat_timeout=0.0)
    stage.start()
    stage.end(1, -9)
    stage.boot(2)
    assert stage.pool.snapshot()[0].fatal
    assert stage.pool.deadline() == stage.now + 10.0
    stage.pass_time(10.0)
    assert not stage.pool.snapshot()[0].fatal
    assert stage.pool.deadline() is None


def test_the_pauses_of_a_crash_loop_grow() -> None:
    """At once, then after a quarter of a second, then twice as long each time."""
    stage = Stage(1, fatal_after=0, backoff_most=3.0)
    stage.start()
    pauses = []
    serial = 1
    for _ in range(7):
        stage.end(serial, 1)
        died = stage.now
        while not stage.spawned():
            due = stage.pool.deadline()
            assert due is not None
            stage.now = due
            stage.tick()
        (serial,) = stage.spawned()
        pauses.append(stage.now - died)
        stage.boot(serial)
    assert pauses == pytest.approx([0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 3.0])


def test_who_served_for_long_is_replaced_at_once_again() -> None:
    stage = Stage(1)
    stage.start()
    for serial in (1, 2, 3):
        assert stage.end(serial, -9) == [Spawn(serial + 1, 1)]
        stage.boot(serial + 1)
        stage.pass_time(11.0, beating=(serial + 1,))
    assert stage.pool.snapshot()[0].restarts == 3


def test_a_slot_that_fails_again_and_again_is_fatal_and_goes_on_trying() -> None:
    stage = crash_loop(fatal_after=3)
    picture = stage.pool.snapshot()[0]
    assert picture.fatal
    assert picture.reason == "ended with status 3"
    assert (picture.slot, picture.serial, str(picture.state)) == (1, 0, "GONE")
    assert stage.lines(CRITICAL) == [
        "worker 1 failed 3 times in a row, last because: ended with status 3; "
        "trying again every 30 s"
    ]
    assert stage.pass_time(29.0, beating=(2,)) == []
    (spawn,) = stage.pass_time(1.5, beating=(2,))
    assert isinstance(spawn, Spawn)
    stage.boot(spawn.serial)
    assert stage.pool.snapshot()[0].fatal, "it may fail again"
    stage.pass_time(11.0, beating=(2, spawn.serial))
    assert not stage.pool.snapshot()[0].fatal


def test_who_drains_of_itself_is_replaced_at_once() -> None:
    """Somebody has sent SIGTERM to its process: that is no failure."""
    stage = Stage(1)
    stage.start()
    assert stage.hear(stage.pool.draining(1, stage.now)) == [Spawn(2, 1)]
    stage.boot(2)
    assert stage.end(1) == []
    assert stage.pool.snapshot()[0].restarts == 0


def test_what_is_said_of_who_is_gone_is_not_heard() -> None:
    stage = Stage(1)
    stage.start()
    stage.end(1, -9)
    assert stage.ready(1) == []
    assert stage.beat(1) == []
    assert stage.unfit(1) == []
    assert stage.end(1) == []
    assert stage.hear(stage.pool.spawned(1, 7, stage.now)) == []
    assert 1 not in stage.states


def test_what_was_decided_about_who_is_gone_by_now_is_not_done() -> None:
    """Its number may be another process's by then."""
    stage = Stage(2)
    stage.start()
    stage.pool.scale(1, stage.now)
    assert stage.end(2) == [Settle(stage.all_jobs()[-1])]


def test_a_late_ready_does_not_bring_back_who_drains() -> None:
    stage = Stage(1)
    stage.start()
    stage.hear(stage.pool.stop(stage.now, for_good=False))
    assert stage.ready(1) == []
    assert stage.states == {1: "DRAINING"}


# Workers that hang, and such that come to a limit.


def test_a_worker_that_is_not_heard_of_is_replaced_and_killed() -> None:
    """Its stacks first; its successor need not wait for its end."""
    stage = Stage(2, heartbeat_timeout=10.0, kill_after=5.0)
    stage.start()
    stage.beat(1, next=5.0)
    assert stage.pass_time(15.0, beating=(2,)) == []
    assert stage.pass_time(0.25, beating=(2,)) == [Dump(1), Spawn(3, 1)]
    assert stage.states[1] == "FAILED"
    assert stage.pass_time(5.0, beating=(2,)) == [Kill(1, KILL)]
    assert "its beat is more than 10 s late (heartbeat_timeout)" in stage.lines(ERROR)[0]


def test_a_stuck_worker_is_killed_as_soon_as_its_successor_serves() -> None:
    """But not before there was time to get its stacks."""
    stage = Stage(1, heartbeat_timeout=10.0, kill_after=5.0)
    stage.start()
    assert stage.pass_time(10.25) == [Dump(1), Spawn(2, 1)]
    stage.boot(2)
    assert stage.pass_time(1.0) == [Kill(1, KILL)]


def test_a_beat_at_the_last_moment_saves_a_worker() -> None:
    stage = Stage(1, heartbeat_timeout=10.0)
    stage.start()
    stage.pass_time(10.1)
    stage.beat(1, next=5.0)
    assert stage.pass_time(15.1) == []
    assert dumps(stage.pass_time(0.25)) == [1]


@pytest.mark.parametrize("late", [2.5, 20.0, 3600.0])
def test_a_supervisor_that_was_stopped_blames_nobody(late: float) -> None:
    """The beats wait in the sockets; a fresh time limit is enough to read them."""
    stage = Stage(1, heartbeat_timeout=10.0)
    stage.start()
    stage.now += 10.0 + late
    assert stage.tick() == []
    stage.now += 9.0
    assert stage.tick() == []
    stage.beat(1)
    assert stage.pass_time(14.0) == []


def test_a_boot_has_its_time_though_the_supervisor_was_stopped() -> None:
    """It may have been READY for long; the message waits in the socket."""
    stage = Stage(1, boot_timeout=20.0)
    stage.hear(stage.pool.start(stage.now))
    stage.hear(stage.pool.spawned(1, 1001, stage.now))
    stage.now += 3600.0
    assert stage.tick() == []
    (settle,) = stage.ready(1)
    assert settle == Settle(stage.all_jobs()[0])


def test_a_worker_that_hangs_is_replaced_before_one_that_has_served_enough() -> None:
    stage = Stage(3, max_requests=100, request_timeout=20.0)
    stage.start()
    for serial in (1, 2):
        stage.beat(serial, requests=100)
    stage.beat(3, oldest=21.0)
    stage.boot(4)
    assert stage.end(1)[1:] == [Spawn(5, 3)]


def test_a_request_that_takes_too_long_costs_its_worker_its_place() -> None:
    """Not the other requests in it: it drains, and is ended only in the end."""
    stage = Stage(1, request_timeout=20.0, drain_timeout=30.0, kill_after=5.0)
    stage.start()
    assert stage.beat(1, oldest=19.0) == []
    assert stage.beat(1, oldest=21.0) == [Dump(1), Spawn(2, 1)]
    assert dumps(stage.beat(1, oldest=22.0)) == []
    job = stage.pool.job
    assert job is not None
    assert job.kind == "recycle"
    reason = "worker 1 (pid 1001): a request has taken 21.0 s (request_timeout)"
    assert stage.boot(2) == [Drain(1, reason)]
    assert signals(stage.pass_time(35.0, beating=(2,))) == [(1, TERM), (1, KILL)]
    assert stage.end(1, -9) == [Settle(job)]


def test_who_has_taken_enough_requests_is_replaced_one_at_a_time() -> None:
    stage = Stage(2, max_requests=100)
    stage.start()
    assert stage.beat(1, requests=99) == []
    assert stage.beat(1, requests=100) == [Spawn(3, 1)]
    assert stage.beat(2, requests=100) == [], "one token for all"
    stage.boot(3)
    job = stage.pool.job
    assert job is not None
    assert stage.end(1) == [Settle(job), Spawn(4, 2)]


def test_who_has_come_to_a_limit_and_is_not_wanted_any_more_is_not_replaced() -> None:
    stage = Stage(1, max_requests=100)
    stage.start()
    job = stage.pool.scale(2, stage.now)
    begun(stage, job)
    stage.boot(2)
    stage.beat(1, requests=100)
    stage.beat(2, requests=100)
    stage.boot(3)
    fewer = stage.pool.scale(1, stage.now)
    assert stage.end(1)[1:] == [Drain(2, "scale to 1")]
    assert stage.end(2) == [Settle(fewer)]
    assert stage.states == {3: "READY"}


def test_limits_are_drawn_for_each_worker() -> None:
    """Those that started together do not come to their ends together."""
    numbers = iter([0.0, 1.0, 0.0])
    pool = Pool(Policy(2, max_requests=100, jitter=0.5), lambda: next(numbers))
    stage = Stage(2)
    stage.pool = pool
    stage.start()
    assert stage.beat(2, requests=149) == []
    assert stage.beat(2, requests=150) == [Spawn(3, 2)]


def test_who_is_too_large_is_replaced_but_not_again_and_again() -> None:
    """A limit below what the application needs must not make a loop of boots."""
    stage = Stage(1, max_rss=1000)
    stage.start()
    assert stage.beat(1, rss=1001) == []
    stage.now += 10.0
    assert stage.beat(1, rss=1001) == [Spawn(2, 1)]


def test_who_is_old_enough_is_replaced() -> None:
    stage = Stage(1, lifetime=100.0, heartbeat_timeout=0.0)
    stage.start()
    assert stage.pool.deadline() == stage.now + 100.0
    assert stage.pass_time(100.0) == [Spawn(2, 1)]


def test_a_replacement_that_fails_is_tried_again_later_and_later() -> None:
    """The old worker is too old, but serves."""
    stage = Stage(1, lifetime=100.0, heartbeat_timeout=0.0)
    stage.start()
    stage.pass_time(100.0)
    pauses = []
    for serial in range(2, 6):
        failed = stage.now
        stage.hear(stage.pool.spawn_failed(serial, OSError(11, "try again"), stage.now))
        while not stage.spawned():
            due = stage.pool.deadline()
            assert due is not None
            stage.now = due
            stage.tick()
        pauses.append(stage.now - failed)
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0])
    assert stage.states[1] == "READY"

    stage.boot(6)
    stage.end(1)
    stage.pass_time(100.0)
    stage.hear(stage.pool.spawn_failed(7, OSError(11, "try again"), stage.now))
    assert stage.pool.deadline() == stage.now + 0.25, "all is forgiven"


def test_a_roll_that_is_wished_for_during_a_replacement_follows_it() -> None:
    """Nobody asked for that one: it is no reason to refuse."""
    stage = Stage(1, max_requests=100)
    stage.start()
    stage.beat(1, requests=100)
    job = stage.pool.roll("graceful", stage.now)
    assert job.queued
    stage.boot(2)
    assert stage.end(1)[1:] == [Spawn(3, 1)]


# What is seen, and what is carried over.


def test_a_site_at_rest_need_not_be_looked_at_before_a_beat_is_due() -> None:
    stage = Stage(2, heartbeat_timeout=10.0)
    stage.start()
    for serial in (1, 2):
        stage.beat(serial, next=30.0)
    assert stage.pool.deadline() == stage.now + 40.0


def test_a_site_without_heartbeats_need_never_be_looked_at() -> None:
    stage = Stage(2, heartbeat_timeout=0.0)
    stage.start()
    assert stage.pool.deadline() is None


def test_whoever_goes_on_in_its_place_has_the_same_workers() -> None:
    """The clock of another process may have begun anywhere: ages are carried, not times."""
    stage = Stage(2, heartbeat_timeout=10.0, lifetime=100.0)
    stage.start()
    stage.now += 3.0
    stage.beat(1, requests=7, next=5.0)
    stage.hear(stage.pool.draining(2, stage.now))
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    data = json.loads(json.dumps(stage.pool.to_json(stage.now)))
    before = stage.pool.snapshot()

    shift = 5000.0
    pool = Pool.from_json(data, stage.now + shift, random=lambda: 0.0)

    for old, new in zip(before, pool.snapshot(), strict=True):
        assert new._replace(since=0.0, ready_at=None) == old._replace(since=0.0, ready_at=None)
        assert new.since - old.since == pytest.approx(shift)
    assert pool.tick(stage.now + shift) == []
    job = pool.roll("after a restart", stage.now + shift)
    assert job.id not in {"start-1", "start-2"}
    assert pool.tick(stage.now + shift)[-1] == Spawn(4, 1)


def test_a_start_of_whoever_goes_on_waits_for_who_is_booting() -> None:
    """And if that fails, those that serve already go on."""
    stage = Stage(2)
    stage.start()
    stage.end(2, -9)
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    for outcome in ("done", "aborted"):
        stage.pool = Pool.from_json(stage.pool.to_json(stage.now), stage.now, random=lambda: 0.0)
        stage.hear(stage.pool.start(stage.now))
        job = stage.pool.job
        assert job is not None
        if outcome == "done":
            assert stage.ready(3) == [Settle(job)]
            stage.end(3, -9)
            stage.hear(stage.pool.spawned(4, 1004, stage.now))
        else:
            assert stage.unfit(4) == [Settle(job)]
            assert stage.states[1] == "READY"
        assert job.state == outcome


def test_whoever_goes_on_with_another_policy_follows_that() -> None:
    stage = Stage(1)
    stage.start()
    pool = Pool.from_json(stage.pool.to_json(), stage.now, Policy(3))
    spawns = [action for action in pool.tick(stage.now) if isinstance(action, Spawn)]
    assert spawns == [Spawn(2, 2), Spawn(3, 3)]


def test_a_picture_tells_what_is_known() -> None:
    stage = Stage(1)
    stage.start()
    stage.beat(1, requests=5)
    (picture,) = stage.pool.snapshot()
    assert picture.slot == picture.serial == 1
    assert picture.pid == 1001
    assert picture.ready_at == 100.0
    assert picture.beat is not None
    assert picture.beat.requests == 5
    assert not math.isinf(picture.since)
