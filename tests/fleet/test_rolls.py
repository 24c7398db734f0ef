"""The pure part of a roll: which hosts come next, whatever becomes of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.fleet.rolling import OPEN, Cause, Plan, Result, Roll, Share, State

OUTCOMES = st.sampled_from([Cause.DONE, Cause.DONE, Cause.DONE, Cause.FAILED, Cause.LOST])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    hosts = tuple(f"web{n}" for n in range(draw(st.integers(1, 9))))
    most = draw(st.integers(1, len(hosts)))
    canaries = draw(st.sets(st.sampled_from(hosts), max_size=len(hosts)))
    made = Plan.make(hosts, Share(most), draw(st.integers(1, 9)), canaries)
    down = draw(st.lists(st.sampled_from(hosts), unique=True, max_size=most - 1))
    return made._replace(down=tuple(down))


def walk(roll: Roll, draw: st.DataObject, stop_at: int = -1) -> list[tuple[str, bool]]:
    """Drive a roll to its end by outcomes of any kind; answer whom it began with, where to."""
    begun: list[tuple[str, bool]] = []
    while (wave := roll.wave()) is not None:
        assert wave.hosts
        assert len(wave.hosts) <= roll.plan.batch
        for host in wave.hosts:
            roll.apply(host, Cause.BEGIN)
            begun.append((host, wave.back))
        if not wave.back:
            assert len(roll.unavailable) <= roll.plan.max_unavailable
        if len(begun) >= stop_at >= 0:
            roll.stop()
        for host in draw.draw(st.permutations(wave.hosts)):
            assert roll.wave() is None
            roll.apply(host, draw.draw(OUTCOMES))
            if not wave.back:
                assert len(roll.unavailable) <= roll.plan.max_unavailable
    assert roll.result is not Result.RUNNING
    return begun


@settings(deadline=None)
@given(plans(), st.booleans(), st.data())
def test_no_failure_makes_more_hosts_unavailable_than_allowed(
    plan: Plan, undoes: bool, data: st.DataObject
) -> None:
    """That number is what the operator has promised to those who use the site."""
    walk(Roll(plan, undoes), data)


@settings(deadline=None)
@given(plans(), st.data())
def test_what_was_touched_is_undone_once_in_reverse(plan: Plan, data: st.DataObject) -> None:
    """A fleet half on the one release and half on the other is what nobody has tried."""
    roll = Roll(plan)
    begun = walk(roll, data)
    there = [host for host, back in begun if not back]
    back = [host for host, is_back in begun if is_back]
    assert len(set(there)) == len(there)
    assert back in ([], there[::-1])
    if roll.result is Result.ROLLED_BACK:
        assert {roll.states[host] for host in there} == {State.UNDONE}
    if roll.result is Result.DONE:
        assert set(roll.states.values()) == {State.DONE}


@settings(deadline=None)
@given(plans(), st.data())
def test_back_where_all_answer_no_more_are_unavailable_than_allowed(
    plan: Plan, data: st.DataObject
) -> None:
    """On the way back as well: unless a host cannot be undone, which holds up no other."""
    roll = Roll(plan)
    failed = False
    while (wave := roll.wave()) is not None:
        for host in wave.hosts:
            roll.apply(host, Cause.BEGIN)
        assert len(roll.unavailable) <= plan.max_unavailable
        for host in wave.hosts:
            outcome = Cause.DONE if wave.back else data.draw(OUTCOMES)
            failed |= outcome is not Cause.DONE
            roll.apply(host, outcome)
    assert roll.result is (Result.ROLLED_BACK if failed else Result.DONE)


@settings(deadline=None)
@given(plans(), st.booleans(), st.data())
def test_nothing_is_begun_after_a_failure(plan: Plan, undoes: bool, data: st.DataObject) -> None:
    """The first host that does not take a release saves all others from it."""
    roll = Roll(plan, undoes)
    begun = walk(roll, data)
    if not undoes:
        assert not any(back for _, back in begun)
    for host in set(plan.hosts) - {host for host, _ in begun}:
        assert roll.states[host] is State.WAITING


@settings(deadline=None)
@given(plans(), st.booleans(), st.data())
def test_a_host_that_is_lost_is_never_taken_for_done(
    plan: Plan, undoes: bool, data: st.DataObject
) -> None:
    """Nobody knows what became of it: to assume anything is how a fleet comes apart."""
    roll = Roll(plan, undoes)
    lost: set[str] = set()
    while (wave := roll.wave()) is not None:
        for host in wave.hosts:
            roll.apply(host, Cause.BEGIN)
        for host in wave.hosts:
            outcome = data.draw(OUTCOMES)
            (lost.add if outcome is Cause.LOST else lost.discard)(host)
            roll.apply(host, outcome)
    assert set(roll.of(State.LOST, State.UNKNOWN)) == lost


@settings(deadline=None)
@given(plans(), st.booleans(), st.integers(0, 9), st.data())
def test_a_resumed_roll_does_only_what_is_left(
    plan: Plan, undoes: bool, stop_at: int, data: st.DataObject
) -> None:
    """A host that is done is not worked on again, and one that is undone is not undone again."""
    roll = Roll(plan, undoes)
    walk(roll, data, stop_at)
    if roll.result not in OPEN:
        return
    before = dict(roll.states)
    roll.resume()
    begun = walk(roll, data)
    done = {host for host, state in before.items() if state is State.DONE}
    undone = {host for host, state in before.items() if state is State.UNDONE}
    assert not done & {host for host, back in begun if not back}
    assert not undone & {host for host, _ in begun}


@settings(deadline=None)
@given(plans(), st.booleans(), st.data())
def test_a_roll_that_was_cut_off_anywhere_comes_to_an_end(
    plan: Plan, undoes: bool, data: st.DataObject
) -> None:
    """Whoever led it may be killed at any moment; what was written down is enough to go on."""
    first, events = Roll(plan, undoes), []
    while (wave := first.wave()) is not None:
        for host in wave.hosts:
            first.apply(host, Cause.BEGIN)
            events.append((host, Cause.BEGIN))
        for host in wave.hosts:
            outcome = data.draw(OUTCOMES)
            first.apply(host, outcome)
            events.append((host, outcome))
    again = Roll(plan, undoes)
    for host, cause in events[: data.draw(st.integers(0, len(events)))]:
        again.apply(host, cause)
    again.resume()
    walk(again, data)
    assert not again.of(State.RUNNING, State.UNDOING)


@settings(deadline=None)
@given(plans())
def test_canaries_come_first_and_by_themselves(plan: Plan) -> None:
    """They are to fail before anybody else does."""
    seen: set[str] = set()
    for batch in plan._replace(down=()).batches():
        if not seen >= set(plan.canaries):
            assert set(batch) <= set(plan.canaries)
        seen |= set(batch)
    assert seen == set(plan.hosts)


def test_a_failure_in_the_middle_turns_the_roll() -> None:
    """The story that is told in the journal."""
    roll = Roll(Plan.make(("a", "b", "c"), Share(1)))
    for host, outcome in (("a", Cause.DONE), ("b", Cause.FAILED)):
        assert roll.wave() == ((host,), False)
        roll.apply(host, Cause.BEGIN)
        roll.apply(host, outcome)
    assert roll.wave() == (("b",), True)
    roll.apply("b", Cause.BEGIN)
    roll.apply("b", Cause.LOST)
    assert roll.wave() == (("a",), True)
    roll.apply("a", Cause.BEGIN)
    roll.apply("a", Cause.DONE)
    assert roll.states == {"a": State.UNDONE, "b": State.UNKNOWN, "c": State.WAITING}
    assert roll.result is Result.BROKEN


def test_who_is_out_of_reach_beforehand_is_left_out() -> None:
    """Nothing is known of it: it is neither waited for nor undone."""
    roll = Roll(Plan.make(("a", "b"), Share(2)))
    roll.apply("a", Cause.ABSENT)
    assert roll.wave() == (("b",), False)
    roll.apply("b", Cause.BEGIN)
    roll.apply("b", Cause.DONE)
    assert (roll.result, roll.states["a"]) == (Result.DONE, State.UNKNOWN)


def test_an_impossible_event_is_refused() -> None:
    """A journal that was tampered with must not lead a roll anywhere."""
    roll = Roll(Plan.make(("a",)))
    with pytest.raises(ValueError, match="a is waiting: done cannot happen to it"):
        roll.apply("a", Cause.DONE)


@pytest.mark.parametrize(
    ("text", "count", "found"), [("1", 9, 1), ("25%", 9, 2), ("10%", 3, 1), ("100%", 3, 3)]
)
def test_a_share_of_the_hosts(text: str, count: int, found: int) -> None:
    """Rounded down: less is lost than was allowed, and yet something moves."""
    assert Share.parse(text).of(count) == found


@pytest.mark.parametrize("text", ["0", "0%", "-1", "101%", "many", "", "1.5", "%", "²"])
def test_what_is_no_share(text: str) -> None:
    """A roll with a misread limit takes a site down."""
    with pytest.raises(ValueError, match="neither a number of hosts"):
        Share.parse(text)
