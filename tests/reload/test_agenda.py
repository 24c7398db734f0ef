"""When other files are looked for: soon, seldom, and in the end not at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.reload.agenda import LATEST, PATIENCE, SOON, Agenda
from sitebus.reload.named import Named
from sitebus.reload.opened import OPENED


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, agenda: Agenda, most: float = math.inf) -> bool:
        """Wait as long as *agenda* says, at most; answer whether it was time."""
        left = agenda.left()
        self.now += min(most, math.inf if left is None else left)
        return agenda.come()


def test_nothing_is_due_if_nobody_rings() -> None:
    """To look would be to wake up."""
    agenda = Agenda(Clock())
    assert agenda.left() is None
    assert not agenda.come()


def test_a_ring_is_answered_soon_and_for_a_while() -> None:
    """An import that rang may take some time before there is anything to see."""
    clock = Clock()
    agenda = Agenda(clock)
    assert agenda.left() is None
    assert agenda.ring(), "who waits for ever is woken"
    pauses = []
    while (left := agenda.left()) is not None:
        pauses.append(left)
        assert clock.wait(agenda)
    assert pauses == pytest.approx([SOON, PATIENCE, 1, 2, LATEST])


def test_a_late_ring_is_answered_as_soon_as_the_first() -> None:
    """A pause that has become long is cut short."""
    clock = Clock()
    agenda = Agenda(clock)
    agenda.ring()
    for _ in range(4):
        assert clock.wait(agenda)
    assert agenda.left() == LATEST
    assert agenda.ring()
    assert agenda.left() == pytest.approx(PATIENCE)


@given(st.lists(st.floats(0.001, 0.2), min_size=50, max_size=200))
def test_however_often_it_rings_few_are_woken(gaps: list[float]) -> None:
    """A busy site imports and opens things at every request."""
    clock = Clock()
    agenda = Agenda(clock)
    began, woken = clock.now, 0
    for gap in gaps:
        clock.wait(agenda, gap)
        agenda.left()
        woken += agenda.ring()
    assert woken <= 1
    looks = 0
    for gap in gaps:
        looks += clock.wait(agenda, gap)
        agenda.ring()
    assert looks <= (clock.now - began) / PATIENCE + 2


@given(st.lists(st.booleans(), max_size=60))
def test_no_ring_is_forgotten(rings: list[bool]) -> None:
    """After each there is a time to look, whenever it came."""
    clock = Clock()
    agenda = Agenda(clock)
    owed = False
    for ring in rings:
        if ring:
            agenda.ring()
            owed = True
        left = agenda.left()
        assert not owed or (left is not None and left <= PATIENCE)
        if clock.wait(agenda, 0.2):
            owed = False


@pytest.mark.parametrize(
    "change",
    [
        lambda paths: paths.add("b"),
        lambda paths: paths.update(["b"]),
        lambda paths: paths.discard("a"),
        lambda paths: paths.clear(),
        lambda paths: paths.__ior__({"b"}),
        lambda paths: paths.__isub__({"a"}),
        lambda paths: paths.pop(),
    ],
)
def test_naming_a_file_rings(change: object) -> None:
    """So that nobody has to ask the set all the time."""
    rung: list[int] = []
    ring = lambda: rung.append(1)  # noqa: E731 - compared by identity
    paths = Named(["a"])
    OPENED.connect(ring)
    try:
        change(paths)  # type: ignore[operator]
    finally:
        OPENED.disconnect(ring)
    assert rung
    assert paths != {"a"}
    paths.add("c")
    assert len(rung) == 1, "it was disconnected"
