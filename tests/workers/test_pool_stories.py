"""Told stories about a pool: starts, stops, rolls, and what people ask for."""

from __future__ import annotations

import pytest

from sitebus.errors import BadWorkerCount, RollRunning, UnknownWorker, WorkerUnfit
from sitebus.workers.actions import ERROR, KILL, TERM
from sitebus.workers.pool import Drain, Dump, Fail, Kill, Settle, Spawn
from tests.workers.stage import Stage, begun, crash_loop, signals

# The start and the stop.


def test_a_start_is_done_when_everybody_is_ready() -> None:
    stage = Stage(2)
    assert stage.hear(stage.pool.start(stage.now)) == [Spawn(1, 1), Spawn(2, 2)]
    job = stage.pool.job
    assert job is not None
    assert stage.boot(1) == []
    assert job.state == "running"
    assert stage.boot(2) == [Settle(job)]
    assert (job.state, job.kind) == ("done", "start")
    assert stage.states == {1: "READY", 2: "READY"}


def test_a_start_waits_for_the_successor_of_who_dies_meanwhile() -> None:
    """Whoever is told that the site has started finds all of it."""
    stage = Stage(2)
    stage.hear(stage.pool.start(stage.now))
    job = stage.pool.job
    assert job is not None
    stage.boot(1)
    assert stage.end(1, -9) == [Spawn(3, 1)]
    assert stage.boot(2) == []
    assert stage.boot(3) == [Settle(job)]


def test_a_worker_that_is_unfit_at_the_very_start_fails_it() -> None:
    """Who started the site sees why; nothing is left half started."""
    stage = Stage(3)
    stage.hear(stage.pool.start(stage.now))
    stage.boot(1)
    stage.hear(stage.pool.spawned(2, 1002, stage.now))
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    fail, settle, *rest = stage.unfit(2)

    assert isinstance(fail, Fail)
    assert isinstance(fail.error, WorkerUnfit)
    assert str(fail.error) == "worker 2 did not become ready: No module named 'shop'"
    assert fail.error.status == 78
    assert isinstance(settle, Settle)
    assert settle.job.state == "aborted"
    assert rest == [Drain(1, "the site does not start"), Kill(3, TERM)]


def test_a_process_that_cannot_be_made_fails_the_start() -> None:
    stage = Stage(1)
    stage.hear(stage.pool.start(stage.now))
    done = stage.hear(stage.pool.spawn_failed(1, OSError(12, "no memory"), stage.now))
    assert isinstance(done[0], Fail)
    assert "could not be started ([Errno 12] no memory)" in str(done[0].error)
    assert stage.pool.empty


def test_a_stop_is_done_when_the_last_one_is_gone() -> None:
    stage = Stage(2)
    stage.start()
    reason = "the site stops"
    done = stage.hear(stage.pool.stop(stage.now, for_good=False))
    assert done == [Drain(1, reason), Drain(2, reason)]
    job = stage.pool.job
    assert job is not None
    assert stage.end(1) == []
    assert stage.end(2) == [Settle(job)]
    assert stage.pool.empty
    assert stage.pool.deadline() is None


def test_a_stop_waits_for_no_boot() -> None:
    """A boot that is not spawned yet is ended as soon as it has a process."""
    stage = Stage(2)
    stage.hear(stage.pool.start(stage.now))
    stage.hear(stage.pool.spawned(1, 1001, stage.now))
    start = stage.pool.job
    done = stage.hear(stage.pool.stop(stage.now, for_good=True))
    assert start is not None
    assert done == [Settle(start), Kill(1, TERM)]
    assert stage.hear(stage.pool.spawned(2, 1002, stage.now)) == [Kill(2, TERM)]
    assert stage.ready(2) == []
    assert stage.states[2] == "DRAINING"
    assert signals(stage.pass_time(5.0)) == [(1, KILL), (2, KILL)]


def test_a_stop_of_nobody_is_done_at_once() -> None:
    stage = Stage()
    (settle,) = stage.hear(stage.pool.stop(stage.now, for_good=True))
    assert isinstance(settle, Settle)
    assert settle.job.state == "done"


def test_a_site_that_was_stopped_can_be_started_again() -> None:
    """The numbers of its workers are new, those of its slots are not."""
    stage = Stage(1)
    stage.start()
    stage.hear(stage.pool.stop(stage.now, for_good=False))
    stage.end(1)
    assert stage.hear(stage.pool.start(stage.now)) == [Spawn(2, 1)]


def test_a_count_that_was_asked_for_outlives_a_stop() -> None:
    """That it could not be had before the stop does not mean that it cannot be had."""
    stage = Stage(1)
    stage.start()
    stage.pool.scale(3, stage.now)
    stage.hear(stage.pool.stop(stage.now, for_good=False))
    done = stage.hear(stage.pool.start(stage.now))
    assert [each.slot for each in done if isinstance(each, Spawn)] == [1, 2, 3]


def test_a_count_asked_for_while_nobody_serves_is_for_the_next_start() -> None:
    stage = Stage(1)
    job = stage.pool.scale(2, stage.now)
    assert stage.tick() == [Settle(job)]
    assert job.state == "done"
    done = stage.hear(stage.pool.start(stage.now))
    assert [each.slot for each in done if isinstance(each, Spawn)] == [1, 2]


def test_what_waits_for_a_start_that_fails_is_aborted() -> None:
    """There is nobody to replace, and nobody will be started for it."""
    stage = Stage(1)
    stage.hear(stage.pool.start(stage.now))
    job = stage.pool.roll("graceful", stage.now)
    stage.hear(stage.pool.spawned(1, 1001, stage.now))
    assert stage.unfit(1)[-1] == Settle(job)
    assert (job.state, job.reason) == ("aborted", "the site does not start")


def test_who_does_not_drain_in_time_is_ended_then_killed() -> None:
    stage = Stage(1, drain_timeout=30.0, kill_after=5.0)
    stage.start()
    stage.hear(stage.pool.stop(stage.now, for_good=True))
    assert stage.pass_time(29.0) == []
    assert stage.pass_time(1.0) == [Kill(1, TERM)]
    assert stage.pass_time(4.0) == []
    assert stage.pass_time(1.0) == [Kill(1, KILL)]
    assert stage.pool.deadline() is None


def test_whoever_is_impatient_gets_the_next_signal_at_once() -> None:
    stage = Stage(1)
    stage.start()
    assert stage.hear(stage.pool.hurry(stage.now)) == [], "it serves, and nobody told it to end"
    stage.hear(stage.pool.stop(stage.now, for_good=True))
    assert stage.hear(stage.pool.hurry(stage.now)) == [Kill(1, TERM)]
    assert stage.hear(stage.pool.hurry(stage.now)) == [Kill(1, KILL)]
    assert stage.hear(stage.pool.hurry(stage.now)) == []


# Rolls.


def test_a_roll_goes_one_by_one_and_waits_for_no_drain() -> None:
    """The old one drains only once the new one is READY, and the next begins at once."""
    stage = Stage(2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    assert begun(stage, job) == [Spawn(3, 1)]
    assert stage.boot(3) == [Drain(1, "graceful"), Spawn(4, 2)]
    assert stage.boot(4) == [Drain(2, "graceful")]
    assert job.state == "running"
    assert stage.end(1) == []
    assert stage.end(2) == [Settle(job)]
    assert job.state == "done"
    steps = [(each["done"], each["total"]) for each in stage.told("rolling.step")]
    assert steps[-4:] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert stage.told("worker.lost") == []
    assert stage.lines(ERROR) == []


def test_a_larger_surge_brings_more_at_a_time() -> None:
    stage = Stage(4, surge=2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    assert begun(stage, job) == [Spawn(5, 1), Spawn(6, 2)]


def test_room_is_made_only_once_a_new_worker_has_proved_itself() -> None:
    """With max_unavailable a release that does not boot costs nothing, either."""
    stage = Stage(4, max_unavailable=2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    assert begun(stage, job) == [Spawn(5, 1)]
    done = stage.boot(5)
    assert done == [
        *(Drain(1, "graceful"), Spawn(6, 2)),
        *(Drain(3, "graceful"), Spawn(7, 3)),
        *(Drain(4, "graceful"), Spawn(8, 4)),
    ]


def test_a_replacement_that_is_unfit_aborts_the_roll() -> None:
    """Who is READY goes on serving; the reason is there for whoever asked."""
    stage = Stage(2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    begun(stage, job)
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    assert stage.unfit(3) == [Settle(job)]
    assert job.state == "aborted"
    assert job.reason == "worker 1 (pid 1003): No module named 'shop'"
    assert job.cause == "graceful"
    assert stage.states == {1: "READY", 2: "READY", 3: "FAILED"}
    assert stage.told("rolling.abort") == [
        {"id": job.id, "kind": "roll", "state": "aborted", "reason": job.reason}
    ]
    assert signals(stage.pass_time(10.0)) == [(3, TERM), (3, KILL)]
    assert stage.end(3, -9) == []
    assert all(picture.restarts == 0 for picture in stage.pool.snapshot())


def test_a_replacement_that_takes_too_long_aborts_the_roll() -> None:
    """Its stacks tell where it hangs; it is ended after there was time to get them."""
    stage = Stage(1, boot_timeout=20.0)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    begun(stage, job)
    stage.hear(stage.pool.spawned(2, 1002, stage.now))
    done = stage.pass_time(20.0, beating=(1,))
    assert done == [Dump(2), Settle(job)]
    assert "not ready within 20 s (boot_timeout)" in job.reason
    assert stage.pass_time(1.0, beating=(1,)) == [Kill(2, TERM)]
    assert stage.ready(2) == [], "too late"
    assert stage.states == {1: "READY", 2: "FAILED"}


def test_an_aborted_roll_ends_what_else_it_had_begun() -> None:
    stage = Stage(2, surge=2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    begun(stage, job)
    stage.hear(stage.pool.spawned(4, 1004, stage.now))
    assert stage.unfit(3) == [Settle(job), Kill(4, TERM)]


def test_a_new_worker_may_die_once_but_not_again() -> None:
    """One that is killed is started again; a release that boots and then crashes is refused."""
    stage = Stage(2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    begun(stage, job)
    stage.boot(3)
    stage.end(1)
    assert stage.end(3, -9) == [Spawn(5, 1)]
    stage.boot(5)
    assert Settle(job) in stage.end(5, -11)
    assert job.state == "aborted"
    assert job.reason == "worker 1 (pid 1005): killed by SIGSEGV"
    assert stage.states[2] == "READY"


def test_nobody_drains_while_too_few_serve() -> None:
    """A worker that dies during a roll is replaced first."""
    stage = Stage(3)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    begun(stage, job)
    assert stage.end(3, -9) == [Spawn(5, 3)]
    assert stage.boot(4) == [], "two serve besides it; three must"
    assert stage.boot(5) == [Drain(1, "graceful"), Spawn(6, 2)]


def test_a_roll_heals_a_slot_that_had_to_wait() -> None:
    """The new release may be what was missing."""
    stage = crash_loop(fatal_after=3)
    job = stage.pool.roll("the fix", stage.now)
    assert [each.slot for each in begun(stage, job) if isinstance(each, Spawn)] == [1, 2]


def test_a_wish_during_a_roll_follows_it_once() -> None:
    """What was saved after the first began may not be in its workers."""
    stage = Stage(1)
    stage.start()
    first = stage.pool.roll("first", stage.now)
    second = stage.pool.roll("second", stage.now)
    third = stage.pool.roll("third", stage.now)
    assert second is third is stage.pool.queued
    assert second.queued
    assert not first.queued
    assert begun(stage, first) == [Spawn(2, 1)]
    stage.boot(2)
    assert stage.end(1) == [Settle(first), Spawn(3, 1)]
    assert stage.pool.job is second
    assert not second.queued


def test_another_wish_during_a_roll_is_refused() -> None:
    stage = Stage(2)
    stage.start()
    job = stage.pool.roll("graceful", stage.now)
    with pytest.raises(RollRunning) as refusal:
        stage.pool.scale(3, stage.now)
    assert refusal.value.job is job
    assert str(refusal.value) == (
        f"cannot scale: {job.id} is running (graceful); try again when it is done"
    )


def test_a_stop_aborts_what_is_running_and_what_is_queued() -> None:
    stage = Stage(1)
    stage.start()
    jobs = [stage.pool.roll("graceful", stage.now) for _ in range(2)]
    done = stage.hear(stage.pool.stop(stage.now, for_good=True))
    assert [action.job for action in done if isinstance(action, Settle)] == jobs
    assert {job.reason for job in jobs} == {"the site exits"}


# More, fewer, another.


def test_a_scale_is_done_when_the_new_ones_serve() -> None:
    stage = Stage(2)
    stage.start()
    job = stage.pool.scale(3, stage.now)
    assert begun(stage, job) == [Spawn(3, 3)]
    assert stage.boot(3) == [Settle(job)]
    assert stage.pool.policy.count == 3


def test_fewer_are_the_ones_with_the_highest_numbers() -> None:
    stage = Stage(3)
    stage.start()
    job = stage.pool.scale(1, stage.now)
    reason = "scale to 1"
    assert begun(stage, job) == [Drain(2, reason), Drain(3, reason)]
    stage.end(2)
    assert stage.end(3) == [Settle(job)]
    assert [picture.slot for picture in stage.pool.snapshot()] == [1]


def test_more_that_do_not_boot_are_not_there_afterwards() -> None:
    stage = Stage(1)
    stage.start()
    job = stage.pool.scale(2, stage.now)
    begun(stage, job)
    stage.hear(stage.pool.spawned(2, 1002, stage.now))
    assert stage.unfit(2) == [Settle(job)]
    assert stage.pool.policy.count == 1
    assert signals(stage.pass_time(60.0, beating=(1,)))[0] == (2, TERM)


def test_counts_asked_for_one_after_the_other_add_up() -> None:
    """Whoever presses the key three times wants three more."""
    stage = Stage(1)
    stage.start()
    for _ in range(3):
        stage.pool.scale(stage.pool.wanted + 1, stage.now)
    assert stage.hear(stage.pool.tick(stage.now)) == [Spawn(2, 2)]
    assert stage.boot(2)[1:] == [Spawn(3, 3), Spawn(4, 4)]
    assert stage.pool.policy.count == 4


def test_who_was_too_many_is_not_taken_for_who_is_wanted_next() -> None:
    """The workers of a scale that was aborted drain, though another scale follows at once."""
    stage = Stage(1)
    stage.start()
    first = stage.pool.scale(3, stage.now)
    second = stage.pool.scale(2, stage.now)
    begun(stage, first)
    stage.boot(2)
    stage.hear(stage.pool.spawned(3, 1003, stage.now))
    done = stage.unfit(3)
    assert done == [Settle(first), Drain(2, "fewer workers are wanted"), Spawn(4, 2)]
    assert stage.boot(4) == []
    assert stage.end(3, 78) == [Settle(second)]
    assert second.reason == "scale to 2"


def test_no_workers_are_not_a_count() -> None:
    with pytest.raises(BadWorkerCount, match="cannot have 0 workers; 1 is the least"):
        Stage(1).pool.scale(0, 0.0)


def test_one_worker_can_be_replaced() -> None:
    stage = Stage(3)
    stage.start()
    job = stage.pool.drain_worker(2, stage.now)
    assert begun(stage, job) == [Spawn(4, 2)]
    assert stage.boot(4) == [Drain(2, "worker 2 is replaced")]
    assert stage.end(2) == [Settle(job)]
    with pytest.raises(UnknownWorker, match="no worker 4; they are numbered 1 to 3"):
        stage.pool.drain_worker(4, stage.now)


def test_one_worker_can_be_replaced_while_another_slot_fails_again_and_again() -> None:
    """There are as many afterwards as before; to wait could be for ever."""
    stage = crash_loop(fatal_after=3)
    job = stage.pool.drain_worker(2, stage.now)
    (spawn,) = begun(stage, job)
    assert isinstance(spawn, Spawn)
    assert stage.boot(spawn.serial) == [Drain(2, "worker 2 is replaced")]
