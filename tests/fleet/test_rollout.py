"""A roll from the first look to the last word, over hosts that fail as they are told to."""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitebus.errors import (
    AccessDenied,
    CallTimeout,
    CannotJournal,
    ConnectFailed,
    GateClosed,
    HostLost,
    JobFailed,
    RollOver,
    SiteDenied,
)
from sitebus.fleet import journal
from sitebus.fleet.conductor import replay
from sitebus.fleet.health import Standing, pauses, why_not_well
from sitebus.fleet.operations import Kind, Order
from sitebus.fleet.rolling import Roll, State
from tests.fleet.crew import WELL, Crew

THERE = ["stage", "activate r2", "graceful", "probe 2 0"]
BACK = ["activate r1", "graceful", "probe 1 0"]


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    return Crew(tmp_path, "a", "b", "c")


def begin(crew: Crew, **more: Any) -> Any:
    return crew.rollout(**more).begin(crew.folder, {"fleet": "fleet.ini", "by": "me"})


def read(crew: Crew) -> list[dict[str, Any]]:
    return journal.read(crew.folder / "roll-1.jsonl")


def test_a_deploy_is_one_host_after_the_other(crew: Crew) -> None:
    """The release is on all of them before it is in place on one."""
    report = begin(crew)
    assert (report.result, report.why) == ("done", {})
    assert set(report.states.values()) == {State.DONE}
    assert crew.steps("a") == [*THERE, "tidy"]
    order = [(host, what) for host, what in crew.done if what not in ("preflight", "tidy")]
    assert [what for _, what in order[:3]] == ["stage"] * 3
    assert order[3:] == [(host, what) for host in "abc" for what in THERE[1:]]
    assert crew.locks.held == set()
    assert crew.locks.kept.is_set()


def test_everything_is_written_down_and_told_alike(crew: Crew) -> None:
    """Who follows, and who reads later, learn the same."""
    begin(crew)
    written = read(crew)
    assert written == json.loads(json.dumps(crew.told))
    assert {key: written[0][key] for key in ("is", "id", "kind", "release", "by", "hosts")} == {
        "is": "roll",
        "id": "roll-1",
        "kind": "deploy",
        "release": "r2",
        "by": "me",
        "hosts": ["a", "b", "c"],
    }
    assert written[-1]["result"] == "done"
    assert all("at" in record for record in written)


def test_the_first_failure_undoes_what_was_touched(crew: Crew) -> None:
    """In reverse order, and the host that was not touched is left alone."""
    crew["b"].faults["graceful"] = JobFailed("b", "the roll was aborted: no module named 'shop'")
    report = begin(crew)
    assert report.result == "broken"  # graceful fails on the way back as well
    crew.done.clear()

    again = Crew(crew.folder, "a", "b", "c")
    again["b"].faults["probe 2 0"] = GateClosed("b", "/ answers with status 500 (check 1 of 2)")
    report = begin(again, id="roll-2")
    assert report.result == "rolled back"
    assert report.why == {"b": "/ answers with status 500 (check 1 of 2)"}
    assert again.steps("a") == THERE + BACK
    assert again.steps("b") == THERE + BACK
    assert again.steps("c") == ["stage"]
    undone = [host for host, what in again.done if what == "activate r1"]
    assert undone == ["b", "a"]


@pytest.mark.parametrize("error", [HostLost, CallTimeout, ConnectFailed])
def test_a_host_that_is_lost_is_unknown_and_the_others_are_undone(
    crew: Crew, error: type[Exception]
) -> None:
    """Nobody knows what became of it; it is tried once more, and left if that fails."""
    for step in ("graceful", "activate r1"):
        crew["b"].faults[step] = error("b", "the link to it broke")
    report = begin(crew)
    assert report.result == "broken"
    assert report.states == {"a": State.UNDONE, "b": State.UNKNOWN, "c": State.WAITING}
    assert report.why == {"b": "the link to it broke"}
    assert crew.steps("a") == THERE + BACK


def test_who_cannot_go_back_is_told_of_with_what_began_it(crew: Crew) -> None:
    """Which is what has to be mended; the journal tells it alike."""
    crew["a"].faults["graceful"] = JobFailed("a", "no module named 'shop'")
    crew["a"].faults["activate r1"] = GateClosed("a", "there is nothing to go back to")
    report = begin(crew)
    said = "no module named 'shop'; and on the way back: there is nothing to go back to"
    assert report.why == {"a": said}
    assert replay(crew.rollout().roll, read(crew)).why == {"a": said}


def test_a_failure_can_be_left_as_it_is(crew: Crew) -> None:
    """For who wants to see what is wrong; the roll can be taken up again."""
    crew["b"].faults["graceful"] = GateClosed("b", "not yet")
    report = begin(crew, undoes=False)
    assert report.result == "failed"
    assert report.states == {"a": State.DONE, "b": State.FAILED, "c": State.WAITING}

    crew.done.clear()
    del crew["b"].faults["graceful"]
    past = journal.find(crew.folder, "roll-1")
    report = crew.rollout(undoes=False).resume(past)
    assert report.result == "done"
    assert crew.steps("a") == ["tidy"]
    assert crew.steps("b") == crew.steps("c") == [*THERE, "tidy"]


def test_a_bug_of_ours_in_a_step_undoes_the_roll_too(crew: Crew) -> None:
    """It may not leave a fleet half way."""
    crew["a"].faults["graceful"] = crew["a"].faults["probe 1 0"] = ZeroDivisionError("oh")
    report = begin(crew)
    assert report.why == {"a": "ZeroDivisionError: oh"}
    assert crew.steps("a") == [*THERE[:3], "activate r1", "graceful"]


def test_a_roll_that_is_stopped_can_be_taken_up_again(crew: Crew) -> None:
    """After the hosts that are worked on have come to an end."""
    rollout = crew.rollout()
    crew["a"].faults["graceful"] = rollout.stop
    report = rollout.begin(crew.folder, {})
    assert report.result == "stopped"
    assert report.states == {"a": State.DONE, "b": State.WAITING, "c": State.WAITING}

    crew["a"].faults.clear()
    crew.done.clear()
    report = crew.rollout().resume(journal.find(crew.folder, "roll-1"))
    assert report.result == "done"
    assert crew.steps("a") == ["tidy"]
    with pytest.raises(RollOver, match=r"roll-1 has ended \(done\)"):
        crew.rollout().resume(journal.find(crew.folder, "roll-1"))


def cut(crew: Crew, count: int) -> None:
    """Leave what was written down when so much had happened."""
    path = crew.folder / "roll-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:count]))


def at(crew: Crew, **wanted: Any) -> int:
    """Answer how many lines there were when this was written."""
    for number, record in enumerate(read(crew), 1):
        if all(record.get(key) == value for key, value in wanted.items()):
            return number
    raise AssertionError(wanted)


def test_a_roll_that_was_cut_off_goes_on_where_it_was(crew: Crew) -> None:
    """The host it was at is done again; it goes back to what was there before all of it."""
    begin(crew)
    cut(crew, at(crew, host="b", step="graceful"))
    crew.done.clear()
    for host in crew.hosts.values():
        host.standing = WELL._replace(release="r2", why_not="its workers are coming")
    crew["c"].standing = WELL
    crew["c"].faults["probe 2 0"] = GateClosed("c", "it coughs")
    report = crew.rollout().resume(journal.find(crew.folder, "roll-1"))
    assert report.result == "rolled back"
    assert crew.steps("b") == THERE + BACK
    assert crew.steps("a") == BACK


def test_a_roll_that_was_cut_off_on_its_way_back_goes_on_back(crew: Crew) -> None:
    """What was undone is not undone again, and nothing goes forward."""
    crew["c"].faults["probe 2 0"] = GateClosed("c", "it coughs")
    begin(crew)
    cut(crew, at(crew, host="b", step="activate", back=True))
    crew.done.clear()
    report = crew.rollout().resume(journal.find(crew.folder, "roll-1"))
    assert report.result == "rolled back"
    assert (crew.steps("c"), crew.steps("b"), crew.steps("a")) == ([], BACK, BACK)


def test_a_roll_whose_resumption_is_refused_can_be_resumed_still(crew: Crew) -> None:
    """Somebody else may be at work just then."""
    rollout = crew.rollout()
    crew["a"].faults["graceful"] = rollout.stop
    rollout.begin(crew.folder, {})
    crew["a"].faults.clear()
    crew.locks.taken = {"a", "b"}
    report = crew.rollout().resume(journal.find(crew.folder, "roll-1"))
    assert report.result == "refused"
    assert journal.find(crew.folder, "roll-1").ended == "stopped"
    crew.locks.taken = set()
    assert crew.rollout().resume(journal.find(crew.folder, "roll-1")).result == "done"


def test_a_roll_that_was_refused_is_not_resumed(crew: Crew) -> None:
    """Nothing was begun: whoever wants it begins anew."""
    crew.locks.taken = {"b"}
    begin(crew)
    with pytest.raises(RollOver, match="refused"):
        crew.rollout().resume(journal.find(crew.folder, "roll-1"))


def test_a_roll_that_was_cut_off_as_it_turned_goes_back(crew: Crew) -> None:
    """Also if that is cut off twice."""
    crew["a"].faults["probe 2 0"] = GateClosed("a", "it coughs")
    begin(crew)
    cut(crew, at(crew, host="a", cause="failed"))
    for step in ("activate r1", "graceful"):
        crew.done.clear()
        assert crew.rollout().resume(journal.find(crew.folder, "roll-1")).result == "rolled back"
        assert crew.steps("a") == BACK
        cut(crew, at(crew, host="a", step=step.split()[0], back=True))


def test_a_roll_that_is_stopped_while_hosts_are_looked_at_brings_nothing(crew: Crew) -> None:
    """Whoever presses Ctrl-C has seen something wrong."""
    rollout = crew.rollout()
    crew["b"].faults["preflight"] = rollout.stop
    report = rollout.begin(crew.folder, {})
    assert (report.result, set(report.states.values())) == ("stopped", {State.WAITING})
    assert not any(crew.steps(name) for name in "abc")


def test_a_rollback_that_was_cut_off_does_not_go_back_twice(crew: Crew) -> None:
    """What is before the release in place is another one by then."""
    crew.order = Order(Kind.ROLLBACK, soak=0.0, checks=2)
    for host in crew.hosts.values():
        host.standing = Standing("STARTED", "", "r9", "r8")
    begin(crew)
    cut(crew, at(crew, host="a", step="graceful"))
    crew.done.clear()
    crew["a"].standing = Standing("STARTED", "", "r8", "r7")
    assert crew.rollout().resume(journal.find(crew.folder, "roll-1")).result == "done"
    assert crew.steps("a")[:2] == ["activate r8", "graceful"]


def test_nothing_is_changed_where_hosts_are_not_well(crew: Crew) -> None:
    """One more that is unavailable, and more would be than may."""
    crew["c"].standing = Standing("STARTED", "no worker is ready", "r1", "r2")
    report = begin(crew)
    assert (report.result, report.why) == ("refused", {"c": "no worker is ready"})
    assert "1 of 3 hosts is not healthy, and --max-unavailable is 1" in report.note
    assert not any(crew.steps(name) for name in "abc")
    assert crew.locks.held == set()


def test_a_host_that_is_not_well_counts_as_unavailable(crew: Crew) -> None:
    """So that with it, no more are than may; it is done like the others."""
    crew["c"].standing = Standing("STARTED", "no worker is ready", "r1", "r2")
    most = 0
    rollout = crew.rollout(2)

    def look() -> None:
        nonlocal most
        most = max(most, len(rollout.roll.unavailable))

    for host in crew.hosts.values():
        host.faults["graceful"] = look
    assert rollout.begin(crew.folder, {}).result == "done"
    assert most == 2


def test_who_insists_rolls_over_hosts_that_are_not_well(crew: Crew) -> None:
    """The release that heals them has to get there somehow."""
    for host in crew.hosts.values():
        host.standing = Standing(None, "no site answers", "r1", "r2")
    assert begin(crew, force=True).result == "done"


def test_who_insists_rolls_on_although_hosts_are_out_of_reach(crew: Crew) -> None:
    """They are left out, and nothing waits for them: also if none more may be unavailable."""
    crew["a"].faults["preflight"] = ConnectFailed("a", "nothing answers at 10.0.0.1")
    assert begin(crew).result == "refused"
    report = begin(crew, id="roll-2", force=True)
    assert report.result == "done"
    assert report.states == {"a": State.UNKNOWN, "b": State.DONE, "c": State.DONE}
    assert crew.steps("a") == []


def test_a_first_release_needs_no_insisting(crew: Crew) -> None:
    """Where there is none, nothing can be lost."""
    for host in crew.hosts.values():
        host.standing = Standing(None, "no site answers", None, "r2", is_new=True)
    assert begin(crew).result == "done"


def test_a_host_out_of_reach_is_left_out_if_that_may_be(crew: Crew) -> None:
    """It is reported as unknown: whoever rolls has to see to it."""
    crew["b"].faults["preflight"] = ConnectFailed("b", "nothing answers at 10.0.0.2")
    report = begin(crew, most=2)
    assert (report.result, report.states["b"]) == ("done", State.UNKNOWN)
    assert report.why == {"b": "nothing answers at 10.0.0.2"}
    assert crew.steps("b") == []


def test_another_roll_is_not_crossed(crew: Crew) -> None:
    """Not even by who insists."""
    crew.locks.taken = {"b"}
    report = begin(crew, force=True, most=3)
    assert report.result == "refused"
    assert "another roll is running since 2026-01-02 03:04:05 by ann@desk" in report.why["b"]
    assert not any(crew.steps(name) for name in "abc")


def test_a_release_that_does_not_fit_on_one_host_is_put_in_place_on_none(crew: Crew) -> None:
    """Each that fails says why."""
    crew["b"].faults["stage"] = GateClosed("b", "no space left on device")
    report = begin(crew)
    assert (report.result, report.why) == ("refused", {"b": "no space left on device"})
    assert report.note == "nothing was changed: 1 host did not get the release"
    assert "activate r2" not in crew.steps("a")


@pytest.mark.parametrize("error", [AccessDenied, SiteDenied])
def test_who_may_do_nothing_is_told_so(crew: Crew, error: type[Exception]) -> None:
    """That is another matter than hosts that are down."""
    for name, host in crew.hosts.items():
        host.faults["preflight"] = error(name, "permission denied")
    assert begin(crew).denied


def test_there_must_be_a_release_to_go_back_to(crew: Crew) -> None:
    """On each host, before any is changed."""
    crew.order = Order(Kind.ROLLBACK)
    crew["c"].standing = Standing("STARTED", "", "r1", None)
    report = begin(crew)
    assert (report.result, list(report.why)) == ("refused", ["c"])
    assert "no release before" in report.why["c"]


def test_draining_is_undone_on_both_ways(crew: Crew) -> None:
    """A host that nobody is sent to is as good as down."""
    crew.order = crew.order._replace(drain=0.5)
    crew["b"].faults["activate r2"] = GateClosed("b", "read-only file system")
    report = begin(crew)
    assert report.result == "rolled back"
    assert crew.steps("a") == [
        *("stage", "drain", "activate r2", "graceful", "probe 2 0", "undrain"),
        *(*BACK, "undrain"),
    ]


def test_what_changes_no_release_is_not_undone(crew: Crew) -> None:
    """There is nothing to go back to."""
    crew.order = Order(Kind.GRACEFUL, soak=0.0, checks=2)
    crew["b"].faults["graceful"] = GateClosed("b", "it does not boot")
    report = begin(crew)
    assert report.result == "failed"
    assert crew.steps("a") == ["graceful", "probe 2 0"]


def test_a_roll_that_cannot_be_written_down_is_not_begun(crew: Crew) -> None:
    """Nobody could take it up again."""
    (crew.folder / "file").touch()
    with pytest.raises(CannotJournal):
        crew.rollout().begin(crew.folder / "file", {})
    assert crew.done == []


def test_a_roll_whose_journal_takes_no_more_stops_there(crew: Crew) -> None:
    """The host at work is done with; nobody begins with another that is not written down."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        size = (crew.folder / "roll-1.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    crew["b"].faults["activate r2"] = fill
    try:
        report = begin(crew)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert report.result == "stopped"
    assert report.states == {"a": State.DONE, "b": State.DONE, "c": State.WAITING}
    assert "file too large" in report.note


def test_a_host_that_cannot_be_written_down_is_not_begun_with(crew: Crew) -> None:
    """Else whoever resumes takes what the roll has brought for what there was before it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rollout = crew.rollout()
    told = crew.told.append

    def fill(record: dict[str, Any]) -> None:
        told(record)
        if record["is"] == "host" and record.get("state") is State.DONE:
            size = (crew.folder / "roll-1.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))

    rollout._tell_all = fill
    try:
        report = rollout.begin(crew.folder, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert report.result == "stopped"
    assert report.states == {"a": State.DONE, "b": State.WAITING, "c": State.WAITING}
    assert crew.steps("b") == ["stage"]
    assert crew.rollout().resume(journal.find(crew.folder, "roll-1")).result == "done"


def test_old_releases_are_removed_before_others_may_roll(crew: Crew) -> None:
    """The next roll may be for just the one that goes."""
    held: list[bool] = []
    crew["b"].faults["tidy"] = lambda: held.append("b" in crew.locks.held)
    begin(crew)
    assert held == [True]


@pytest.mark.parametrize("kind", [Kind.GRACEFUL, Kind.RESTART])
def test_a_host_that_fails_is_not_kept_from_its_clients(crew: Crew, kind: Kind) -> None:
    """Its old workers serve: without requests they are of no use."""
    crew.order = Order(kind, drain=0.5, soak=0.0, checks=2)
    crew["b"].faults["graceful"] = JobFailed("b", "the roll was aborted")
    crew["b"].faults["admit"] = HostLost("b", "it is gone")
    report = begin(crew)
    assert (report.result, report.why) == ("failed", {"b": "the roll was aborted"})
    assert crew.steps("b") == ["drain", "graceful", "admit"]


def test_a_roll_that_fails_for_lost_hosts_alone_is_told_from_others(crew: Crew) -> None:
    """Who scripts it looks at the network rather than at the release."""
    for step in ("graceful", "activate r1"):
        crew["b"].faults[step] = HostLost("b", "the link to it broke")
    assert begin(crew).is_unreachable
    crew["a"].faults["probe 1 0"] = GateClosed("a", "/ answers with status 500")
    assert not begin(crew, id="roll-2").is_unreachable


STEPS = ("activate r2", "graceful", "probe 2 0", "activate r1", "probe 1 0", "stage", "preflight")
FAULTS = st.sampled_from([GateClosed, HostLost, CallTimeout, ConnectFailed])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), most=st.integers(1, 4), batch=st.integers(1, 4), undoes=st.booleans())
def test_what_was_written_down_is_what_has_happened(
    tmp_path: Path, data: st.DataObject, most: int, batch: int, undoes: bool
) -> None:
    """Whatever fails, and where; no more hosts are ever worked on at once than may be."""
    crew = Crew(Path(tempfile.mkdtemp(dir=tmp_path)), "a", "b", "c", "d")
    rollout = crew.rollout(most, batch=batch, undoes=undoes)
    for name, host in crew.hosts.items():
        for step in data.draw(st.sets(st.sampled_from(STEPS), max_size=2)):
            if data.draw(st.booleans()):
                host.faults[step] = data.draw(FAULTS)(name, "it coughs")
    at_work: list[int] = []
    crew.watch = lambda: at_work.append(len(rollout.roll.of(State.RUNNING, State.UNDOING)))
    report = rollout.begin(crew.folder, {})
    assert max(at_work) <= min(most, batch)

    again = Roll(rollout.roll.plan, undoes)
    traces = replay(again, read(crew))
    assert again.states == report.states
    assert {name: why for name, why in traces.why.items() if name in again.touched} == {
        name: why for name, why in report.why.items() if name in again.touched
    }
    if report.result == "refused":
        assert not any(what.startswith("activate") for _, what in crew.done)
    if undoes and report.result != "refused":
        changed = [host for host, what in crew.done if what == "activate r2"]
        back = [host for host, what in crew.done if what == "activate r1"]
        assert len(back) == len(set(back))
        assert set(back) == (set(changed) if report.result in ("rolled back", "broken") else set())


def test_an_order_is_read_again_as_it_was_written() -> None:
    """A roll is resumed as it was begun, whatever is usual by then."""
    order = Order(Kind.DEPLOY, "r2", "/src", 1.5, True, 3.0, 4, 5.0)
    told = {**order._asdict(), "v": 1, "hosts": ["a"]}
    assert Order.of(told) == order
    assert Order.of({"kind": "graceful"}) == Order(Kind.GRACEFUL)


def test_checks_are_spread_over_the_soak() -> None:
    """The first at once, the last at its end."""
    assert list(pauses(1, 6.0)) == [6.0]
    assert list(pauses(4, 6.0)) == [0.0, 2.0, 2.0, 2.0]


WORKERS = {"alive": 2, "ready": 2, "fatal": 0}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"ready": True}, ""),
        ({"why_not_ready": "no worker is ready"}, "no worker is ready"),
        ({"ready_wanted": False, "workers": WORKERS}, ""),
        ({"ready_wanted": False, "workers": None}, ""),
        ({"ready_wanted": False, "workers": {**WORKERS, "ready": 0}}, "no worker is ready"),
        ({"ready_wanted": False, "state": "STOPPED"}, "the site is STOPPED"),
    ],
)
def test_what_a_site_tells_of_itself(told: dict[str, Any], why: str) -> None:
    """One that was drained is not ready, and may be well all the same."""
    usual = {"ready": False, "ready_wanted": True, "why_not_ready": "", "workers": None}
    assert why_not_well({**usual, "state": "STARTED", **told}) == why
