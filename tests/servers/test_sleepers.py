"""Thousands of silent sockets cost an event loop one descriptor and one timer."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from sitebus.servers.sleepers import AT_ONCE, Sleepers
from tests.helpers import open_descriptors


class One:
    """A sleeper, and who may wake it."""

    def __init__(self) -> None:
        self.socket, self.client = socket.socketpair()


class Bed:
    """Sleepers on the loop that runs, and what became of them."""

    def __init__(self) -> None:
        self.woken: list[One] = []
        self.overdue: list[One] = []
        self.news = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.sleepers = Sleepers[One](loop, self._to(self.woken), self._to(self.overdue))
        self.stack = ExitStack()

    def _to(self, those: list[One]) -> Callable[[One], None]:
        def put(one: One) -> None:
            those.append(one)
            self.news.set()

        return put

    def lay(self, many: int, seconds: float = 60.0) -> list[One]:
        made = [One() for _ in range(many)]
        for each in made:
            self.stack.enter_context(each.socket)
            self.stack.enter_context(each.client)
            self.sleepers.add(each, seconds)
        return made

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await self.news.wait()
                self.news.clear()


Story = Callable[[Bed], Awaitable[None]]
Tell = Callable[[Story], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return made


@pytest.fixture(params=["epoll", "each"])
def tell(
    request: pytest.FixtureRequest,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> Tell:
    """Run a test on either kind of loop, with what Linux has and without."""
    if request.param == "each":
        monkeypatch.delattr(select, "epoll", raising=False)

    async def told(story: Story) -> None:
        bed = Bed()
        with bed.stack:
            await story(bed)
            bed.sleepers.take_all()

    def run(story: Story) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(told(story))

    return run


def test_who_speaks_is_woken_once_and_watched_no_more(tell: Tell) -> None:
    """Who reads it next must be the only one."""

    async def story(bed: Bed) -> None:
        first, second, third = bed.lay(3)
        second.client.send(b"x")
        await bed.until(lambda: bed.woken == [second])
        second.client.send(b"y")
        third.client.close()  # an end is a word, too
        await bed.until(lambda: len(bed.woken) > 1)
        assert bed.woken == [second, third]
        assert len(bed.sleepers) == 1
        assert bed.sleepers.take_first() is first

    tell(story)


def test_a_crowd_that_speaks_at_once_is_heard(tell: Tell) -> None:
    async def story(bed: Bed) -> None:
        everybody = bed.lay(3 * AT_ONCE)
        for each in everybody:
            each.client.send(b"x")
        await bed.until(lambda: len(bed.woken) == len(everybody))
        assert set(bed.woken) == set(everybody)

    tell(story)


def test_who_is_silent_for_too_long_is_told_of_in_order(tell: Tell) -> None:
    async def story(bed: Bed) -> None:
        soon, later = bed.lay(2, 0.02), bed.lay(2, 0.06)
        await bed.until(lambda: bool(bed.overdue))
        assert bed.overdue[:2] == soon
        await bed.until(lambda: len(bed.overdue) == 4)
        assert bed.overdue == soon + later
        assert not bed.woken

    tell(story)


def test_they_can_be_hurried(tell: Tell) -> None:
    async def story(bed: Bed) -> None:
        everybody = bed.lay(3)
        bed.sleepers.hurry(0.01)
        await bed.until(lambda: bed.overdue == everybody)
        bed.sleepers.hurry(0.01)  # there is nobody

    tell(story)


def test_those_who_were_taken_are_somebody_elses(tell: Tell) -> None:
    async def story(bed: Bed) -> None:
        everybody = bed.lay(3, 0.03)
        assert bed.sleepers.take_all() == everybody
        assert bed.sleepers.take_first() is None
        for each in everybody:
            each.client.send(b"x")
        (another,) = bed.lay(1, 0.05)
        await bed.until(lambda: bool(bed.overdue))
        assert bed.overdue == [another]
        assert not bed.woken
        assert not len(bed.sleepers)

    tell(story)


def test_nothing_is_left_and_others_can_come(tell: Tell) -> None:
    """Not even of one whose connection has another descriptor, which the kernel would report."""

    async def story(bed: Bed) -> None:
        before = len(open_descriptors())
        for _ in range(3):
            (one,) = bed.lay(1)
            with one.socket.dup():
                assert bed.sleepers.take_first() is one
                one.socket.close()
                (other,) = bed.lay(1)
                one.client.send(b"x")
                other.client.send(b"x")
                await bed.until(lambda: bool(bed.woken))
                assert bed.woken == [other]
            bed.woken.clear()
            for each in (one, other):
                each.socket.close()
                each.client.close()
        assert len(open_descriptors()) == before

    tell(story)


def test_they_take_one_descriptor_more(tell: Tell) -> None:
    async def story(bed: Bed) -> None:
        before = len(open_descriptors())
        everybody = bed.lay(100)
        assert len(open_descriptors()) <= before + 2 * len(everybody) + 1

    tell(story)
