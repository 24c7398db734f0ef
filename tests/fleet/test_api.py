"""What is asked of many hosts at once, and how the answers come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sitebus import fleet
from sitebus.errors import CallTimeout, ConnectFailed, HostLost, NotForwarded, RemoteError
from sitebus.fleet import Fleet
from tests.fleet import inis
from tests.helpers import PATIENCE

GONE = "[host gone]\npython = /no/such/python3\n"


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with inis.module(tmp_path_factory.mktemp("ops"), "many_ops") as module:
        yield module


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, ops: ModuleType) -> Iterator[Fleet]:
    path = inis.write(tmp_path_factory.mktemp("fleet") / "fleet.ini", hosts=("a", "b", "c"))
    with fleet.open(path, allow=(ops.__name__,)) as one:
        yield one


@pytest.fixture(scope="module")
def holey(tmp_path_factory: pytest.TempPathFactory, ops: ModuleType) -> Iterator[Fleet]:
    path = tmp_path_factory.mktemp("fleet") / "fleet.ini"
    inis.write(path, GONE, hosts=("a", "gone", "b"))
    with pytest.MonkeyPatch.context() as patch:
        # Where no other test's site is.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        with fleet.open(path, allow=(ops.__name__,)) as one:
            yield one


def test_all_are_called_at_once(three: Fleet, ops: ModuleType) -> None:
    three.call_all(ops.add, 0)
    began = time.monotonic()
    assert three.call_all(ops.nap, 0.5) == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert time.monotonic() - began < 1.4
    assert three.call_all(ops.add, 1, b=1, names=["c", "a"]) == {"a": 2, "c": 2}


def test_who_cannot_be_reached_does_not_hold_up_the_others(holey: Fleet, ops: ModuleType) -> None:
    answers = holey.call_all(ops.add, 1)
    assert list(answers) == ["a", "gone", "b"]
    assert answers["a"] == answers["b"] == 1
    assert isinstance(answers["gone"], ConnectFailed)
    assert str(answers["gone"]).startswith("gone: there is no /no/such/python3 on it")


def test_connecting_tells_what_stands_in_the_way(holey: Fleet) -> None:
    told = holey.connect()
    assert told["a"] is None
    assert isinstance(told["gone"], ConnectFailed)
    assert holey["a"].is_connected
    assert not holey["gone"].is_connected


def test_each_is_done_here_for_every_host(holey: Fleet) -> None:
    told = holey.each(lambda host: host.facts()["pid"])
    assert isinstance(told["a"], int)
    assert isinstance(told["gone"], ConnectFailed)
    with pytest.raises(ZeroDivisionError):
        holey.each(lambda host: 1 // 0, "a")


def test_check_tells_of_every_host(holey: Fleet) -> None:
    reports = [host.check() for host in holey]
    assert [report.ok for report in reports] == [False, False, False]
    assert reports[0].facts["cpus"] >= 1
    assert "neither unit nor start" in reports[0].problems[0]
    assert reports[1].facts == {}


def test_results_are_gathered_in_their_order(three: Fleet, ops: ModuleType) -> None:
    a, b = three["a"], three["b"]
    calls = [a.call_async(ops.nap, 0.2), b.call_async(ops.boom, "x"), a.call_async(ops.add, 7)]
    first, second, third = three.gather(calls)
    assert (first, third) == (0.2, 7)
    assert isinstance(second, RemoteError)
    assert three.gather([]) == []


def test_what_has_not_come_in_time_is_given_up(three: Fleet, ops: ModuleType) -> None:
    calls = [three["a"].call_async(ops.nap, 1000), three["b"].call_async(ops.add, 1)]
    late, there = three.gather(calls, timeout=0.5)
    assert isinstance(late, CallTimeout)
    assert there == 1
    assert three["a"].call(ops.add, 2, timeout=PATIENCE) == 2


def test_each_call_has_its_own_time(three: Fleet, ops: ModuleType) -> None:
    answers = three.call_all(ops.nap, 1000, timeout=0.3)
    assert all(isinstance(each, CallTimeout) for each in answers.values())


def test_answers_come_as_they_do(three: Fleet, ops: ModuleType) -> None:
    three.call_all(ops.add, 0)  # which takes a process on each, if there is none
    slow = three["a"].call_async(ops.nap, 0.5)
    quick = three["b"].call_async(ops.add, 1)
    wrong = three["c"].call_async(ops.boom, "x")
    got = list(three.select([slow, quick, wrong]))
    assert {name for name, _ in got[:2]} == {"b", "c"}
    assert got[2] == ("a", 0.5)
    assert isinstance(dict(got)["c"], RemoteError)


def test_who_cannot_be_reached_is_an_answer_too(holey: Fleet, ops: ModuleType) -> None:
    got = dict(holey.select(host.call_async(ops.add, 1) for host in holey))
    assert isinstance(got["gone"], ConnectFailed)
    assert got["a"] == got["b"] == 1


def test_selects_hold_selects(three: Fleet, ops: ModuleType) -> None:
    inner = three.select([three["a"].call_async(ops.nap, 0.3), three["b"].call_async(ops.add, 2)])
    outer = three.select([inner, three["c"].call_async(ops.add, 3)])
    assert dict(outer) == {"a": 0.3, "b": 2, "c": 3}
    assert not inner
    assert not outer


def test_a_select_in_itself_is_refused(three: Fleet, ops: ModuleType) -> None:
    inner, outer = three.select(), three.select()
    outer.add(inner)
    with pytest.raises(ValueError, match="cycle"):
        inner.add(outer)
    call = three["a"].call_async(ops.add, 1)
    inner.add(call)
    with pytest.raises(ValueError, match="already owned"):
        three.select([call])
    assert outer.get(PATIENCE) == ("a", 1)


def test_calls_are_added_and_removed(three: Fleet, ops: ModuleType) -> None:
    with three.select() as select:
        assert not select
        with pytest.raises(LookupError, match="nothing to wait for"):
            select.get()
        slow, quick = three["a"].call_async(ops.nap, 1000), three["b"].call_async(ops.add, 1)
        select.add(slow)
        with pytest.raises(TimeoutError):
            select.get(0.05)
        select.add(quick)
        assert select.get(PATIENCE) == ("b", 1)
        select.remove(slow)
        assert not select
        slow.cancel()


def test_a_select_that_waits_too_long_says_so(three: Fleet, ops: ModuleType) -> None:
    call = three["a"].call_async(ops.nap, 0.5)
    select = three.select([call], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(iter(select))
    assert select.get(PATIENCE) == ("a", 0.5)


def test_coroutines_wait_without_holding_up_the_loop(three: Fleet, ops: ModuleType) -> None:
    async def main() -> tuple[list[float], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(*(host.acall(ops.nap, 0.4) for host in three))
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(main())
    assert found == [0.4, 0.4, 0.4]
    assert ticks > 5


def test_a_coroutine_that_is_cancelled_gives_the_call_up(three: Fleet, ops: ModuleType) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.5):
            await three["a"].acall(ops.nap, 1000)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert three["a"].call(ops.add, 5, timeout=PATIENCE) == 5


def test_errors_reach_coroutines(three: Fleet, ops: ModuleType) -> None:
    async def boom() -> None:
        await three["a"].acall(ops.boom, "x")

    async def late() -> None:
        await three["a"].acall(ops.nap, 1000, timeout=0.2)

    async def lost() -> None:
        await three["a"].acall(ops.vanish)

    for coroutine, error in ((boom, RemoteError), (late, CallTimeout), (lost, HostLost)):
        with pytest.raises(error):
            asyncio.run(coroutine())


def test_thirty_hosts_at_once(tmp_path: Path, ops: ModuleType) -> None:
    """Sixteen connect at the same time, and all answer."""
    names = tuple(f"h{number}" for number in range(30))
    # They share what processors there are, perhaps with other tests.
    path = inis.write(tmp_path / "fleet.ini", "connect_timeout = 60s\n", hosts=names)
    with fleet.open(path) as one:
        assert one.connect() == dict.fromkeys(names)
        pids = one.each(lambda host: host.facts()["pid"])
        assert len({*pids.values()}) == 30


# What may be sent.


def test_a_module_that_was_not_allowed_is_refused_here(tmp_path: Path, ops: ModuleType) -> None:
    with fleet.open(inis.write(tmp_path / "fleet.ini")) as one:
        with pytest.raises(NotForwarded) as caught:
            one["web1"].call(ops.add, 1)
        assert str(caught.value) == (
            "cannot run many_ops.add on a host: module many_ops is not one that hosts may be "
            "given; open the fleet with allow=('many_ops',)"
        )
        assert not one["web1"].is_connected


def test_what_an_allowed_module_imports_must_be_there_or_allowed(
    three: Fleet, ops: ModuleType
) -> None:
    with pytest.raises(RemoteError, match="nowhere_to_be_found"):
        three["a"].call(ops.import_it, "nowhere_to_be_found")
    assert three["a"].call(ops.import_it, "json") == "json"
