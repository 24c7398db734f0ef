"""What a pool promises, whatever its workers do: run in a world of chance.

`tests.workers.world` checks after each event that no action is for who is gone, that no more
workers are live than there is room for, that nobody comes back, and that enough serve in a roll.
"""

from __future__ import annotations

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sitebus.workers.pool import Fail, Kill, Policy, Spawn
from tests.workers.world import CALM, Temper, World

SEEDS = st.integers(0, 2**32)

POLICIES = st.builds(
    Policy,
    count=st.integers(1, 5),
    surge=st.integers(1, 3),
    max_unavailable=st.integers(0, 2),
    boot_timeout=st.sampled_from([3.0, 10.0]),
    drain_timeout=st.sampled_from([0.0, 3.0, 6.0]),
    kill_after=st.sampled_from([0.5, 2.0]),
    heartbeat_timeout=st.sampled_from([3.0, 10.0]),
    request_timeout=st.sampled_from([0.0, 5.0]),
    max_requests=st.sampled_from([0, 1000]),
    lifetime=st.sampled_from([0.0, 150.0]),
    backoff_most=st.sampled_from([2.0, 10.0]),
    max_rss=st.just(0),
    jitter=st.sampled_from([0.0, 0.5]),
    backoff_first=st.just(0.25),
    fatal_after=st.sampled_from([0, 2, 5]),
)

TEMPERS = st.builds(Temper, *[st.sampled_from([0.0, 0.0, 0.1, 0.5])] * len(Temper._fields))

#: Less of a seed is nothing simpler.
AS_FOUND = [Phase.explicit, Phase.reuse, Phase.generate]

#: Enough for the longest boot, drain and back-off of `POLICIES`, several times over.
LONG = 400.0


def started(policy: Policy, seed: int) -> World:
    """Answer a world whose workers all serve."""
    world = World(policy, seed)
    world.do(world.pool.start(world.now))
    assert world.run(LONG, lambda: world.at_rest)
    return world


def without_limits(policy: Policy) -> Policy:
    return policy._replace(request_timeout=0.0, max_requests=0, lifetime=0.0)


@given(policy=POLICIES, seed=SEEDS, temper=TEMPERS)
@settings(deadline=None, phases=AS_FOUND, max_examples=50)
def test_whatever_happened_everybody_serves_again(
    policy: Policy, seed: int, temper: Temper
) -> None:
    """Every slot whose worker died comes back, and every job that was begun is settled."""
    world = started(policy, seed)
    world.temper = temper
    wishes = []
    for _ in range(12):
        world.most_late = world.random.choice([0.0, 0.1, 1.0])
        world.run(world.random.random() * 15)
        wishes += [world.wish()]
        if world.random.random() < 0.2:
            world.freeze(world.random.random() * 60)
    world.calm_down()

    assert world.run(LONG, lambda: world.at_rest), world.pool.snapshot()
    assert all(job.state != "running" for job in wishes if job)
    assert not world.open


@given(policy=POLICIES, seed=SEEDS, temper=TEMPERS)
@settings(deadline=None, phases=AS_FOUND, max_examples=26)
def test_a_stop_ends_them_all(policy: Policy, seed: int, temper: Temper) -> None:
    """At any time, and whatever they do: a site that stops must not wait for ever."""
    world = started(policy, seed)
    world.temper = temper._replace(dies=0.1)
    world.run(world.random.random() * 20)
    world.wish()
    world.run(world.random.random() * 3)
    world.do(world.pool.stop(world.now, for_good=True))

    assert world.run(LONG, lambda: world.pool.empty)

    assert not world.processes
    assert world.pool.job is None
    assert world.settled[-1].kind == "stop"
    assert world.settled[-1].state == "done"
    assert not world.open
    assert world.pool.deadline() is None


@given(policy=POLICIES, seed=SEEDS)
@settings(deadline=None, phases=AS_FOUND, max_examples=20)
def test_a_roll_replaces_everybody(policy: Policy, seed: int) -> None:
    """And while nobody dies, enough serve at each moment: the world looks."""
    world = started(without_limits(policy), seed)
    before = set(world.processes)
    job = world.pool.roll("new code", world.now)

    assert world.run(LONG, lambda: job.state == "done")

    assert world.at_rest
    assert not before & set(world.processes)
    assert world.ready == policy.count
    assert world.faults == 0


@given(policy=POLICIES, seed=SEEDS, broken=st.sampled_from(["unfit", "boot_dies", "boot_hangs"]))
@settings(deadline=None, phases=AS_FOUND, max_examples=20)
def test_a_release_that_does_not_boot_replaces_nobody(
    policy: Policy, seed: int, broken: str
) -> None:
    """The old workers are the ones that serve afterwards."""
    world = started(without_limits(policy), seed)
    before = set(world.processes)
    world.temper = CALM._replace(**{broken: 1.0})
    job = world.pool.roll("broken code", world.now)

    assert world.run(LONG, lambda: job.state == "aborted")
    world.run(30.0)

    assert set(world.processes) == before
    assert world.at_rest
    assert all(each.fatal is False and each.restarts == 0 for each in world.pool.snapshot())


@given(policy=POLICIES, seed=SEEDS, temper=TEMPERS)
@settings(deadline=None, phases=AS_FOUND, max_examples=26)
def test_the_very_start_fails_whole_or_succeeds(policy: Policy, seed: int, temper: Temper) -> None:
    """There is never half a start, and never a start that goes on for ever."""
    world = World(policy, seed, temper._replace(spawn_fails=temper.unfit))
    world.do(world.pool.start(world.now))
    job = world.pool.job
    assert job is not None

    assert world.run(LONG, lambda: job.state != "running")

    failed = any(isinstance(action, Fail) for action in world.said)
    assert failed == (job.state == "aborted")
    if failed:
        world.temper = CALM
        assert world.run(LONG, lambda: world.pool.empty)
        assert not any(isinstance(action, Spawn) for action in after_failure(world))


def after_failure(world: World) -> list[object]:
    failure = next(n for n, action in enumerate(world.said) if isinstance(action, Fail))
    return list(world.said[failure:])


@given(policy=POLICIES, seed=SEEDS, pauses=st.lists(st.floats(0, 300), max_size=5))
@settings(deadline=None, phases=AS_FOUND, max_examples=20)
def test_a_supervisor_that_was_stopped_kills_nobody(
    policy: Policy, seed: int, pauses: list[float]
) -> None:
    """SIGSTOP, or a machine out of breath: the beats are there, they only have not been read."""
    world = started(without_limits(policy), seed)
    before = set(world.processes)
    for pause in pauses:
        world.run(world.random.random() * 10)
        world.freeze(pause)
        if world.random.random() < 0.5:
            world.tick()
    world.run(60.0)
    assert set(world.processes) == before
    assert not any(isinstance(action, Kill) for action in world.said)


@given(policy=POLICIES, seed=SEEDS, temper=TEMPERS)
@settings(deadline=None, phases=AS_FOUND, max_examples=20)
def test_a_supervisor_that_is_run_again_goes_on_with_its_workers(
    policy: Policy, seed: int, temper: Temper
) -> None:
    """Whatever state each of them is in, except that a job is not carried over."""
    world = started(without_limits(policy), seed)
    world.temper = temper
    for _ in range(5):
        world.run(world.random.random() * 15)
        world.wish()
        world.run(world.random.random() * 3)
        world.replace_supervisor()
        world.tick()
    world.calm_down()
    assert world.run(LONG, lambda: world.at_rest), world.pool.snapshot()


@given(policy=POLICIES, seed=SEEDS)
@settings(deadline=None, phases=AS_FOUND, max_examples=13)
def test_workers_that_come_to_a_limit_are_replaced_one_by_one(policy: Policy, seed: int) -> None:
    """And there is no moment in which fewer serve than should."""
    limited = without_limits(policy)._replace(max_requests=100, lifetime=40.0, max_unavailable=0)
    world = started(limited, seed)
    most = 0

    def replaced() -> bool:
        nonlocal most
        assert world.ready >= policy.count
        states = list(world.states.values())
        most = max(most, sum(state in ("BOOTING", "READY") for state in states))
        return len([job for job in world.settled if job.kind == "recycle"]) >= 10

    assert world.run(LONG * 5, replaced)
    assert most == policy.count + 1
    assert {job.state for job in world.settled} == {"done"}
