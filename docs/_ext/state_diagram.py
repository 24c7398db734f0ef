"""Draw a table of states as SVG: states in columns by distance from the first, rows as arrows."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from sitebus.machine import Cause, Edge, Machine

COLUMN, LINE = 210, 92
WIDTH, HEIGHT = 118, 34
MARGIN = 50

STYLE = """\
rect { fill: #fff; stroke: #345; stroke-width: 1.5; }
.resting { fill: #e4eef7; }
path { fill: none; stroke: #345; stroke-width: 1.2; }
path.failed { stroke: #b33; stroke-dasharray: 5 3; }
text { font: 12px sans-serif; text-anchor: middle; dominant-baseline: middle; fill: #222; }
text.cause { font-size: 10px; fill: #567; paint-order: stroke; stroke: #fff; stroke-width: 4px; }
text.failed { fill: #b33; }
"""


class Point(NamedTuple):
    """A place in the drawing."""

    x: float
    y: float


def columns(machine: Machine) -> list[list[Hashable]]:
    """Answer the states from left to right, failures included.

    Where nothing leads back, every arrow leads to the right; else what counts is how few rows lead
    to a state from the first.
    """
    return _longest(machine) or _shortest(machine)


def _longest(machine: Machine) -> list[list[Hashable]]:
    """Answer the states by the longest way to them; none if some way never ends."""
    depths: dict[Hashable, int] = {machine.initial: 0}
    for _ in machine.states:
        before = dict(depths)
        for source, _, target in machine.edges:
            if source in depths:
                depths[target] = max(depths.get(target, 0), depths[source] + 1)
        if depths == before:
            numbers = range(max(depths.values()) + 1)
            return [[state for state in depths if depths[state] == each] for each in numbers]
    return []


def _shortest(machine: Machine) -> list[list[Hashable]]:
    """Answer the states by how many rows lead to them from the first."""
    found: list[list[Hashable]] = [[machine.initial]]
    seen = {machine.initial}
    while found[-1]:
        reached = [edge.target for edge in machine.edges if edge.source in found[-1]]
        fresh = [state for state in dict.fromkeys(reached) if state not in seen]
        # States of failure below the others.
        fresh.sort(key=machine.error_states.__contains__)
        seen.update(fresh)
        found.append(fresh)
    return found[:-1]


def places(machine: Machine) -> dict[Hashable, Point]:
    """Answer the middle of each state's box; each column is centred."""
    drawn = columns(machine)
    tallest = max(map(len, drawn))
    return {
        state: Point(
            MARGIN + WIDTH / 2 + COLUMN * x,
            MARGIN + HEIGHT / 2 + LINE * (y + (tallest - len(column)) / 2),
        )
        for x, column in enumerate(drawn)
        for y, state in enumerate(column)
    }


def name_of(state: Hashable) -> str:
    """Answer what a state is called, without the name of its enumeration."""
    return str(getattr(state, "name", state))


def bend(source: Point, target: Point, others: Sequence[Point] = ()) -> Point:
    """Answer the point an arrow bends towards: to its left, so that one and its reverse differ.

    It goes around *others*, the middles of boxes that it does not join.
    """
    dx, dy = target.x - source.x, target.y - source.y
    length = math.hypot(dx, dy)
    # Within a column an arrow goes around the boxes between its ends.
    away = 170 if dx == 0 and length > LINE else 34 + length / 9
    while True:
        middle = Point(
            (source.x + target.x) / 2 + away * dy / length,
            (source.y + target.y) / 2 - away * dx / length,
        )
        curve = [_between(source, middle, target, step / 20) for step in range(1, 20)]
        if away > length or not any(_inside(point, each) for each in others for point in curve):
            return middle
        away += 20


def _between(source: Point, middle: Point, target: Point, share: float) -> Point:
    """Answer a point of the curve from *source* to *target* that bends towards *middle*."""
    a, b, c = (1 - share) ** 2, 2 * share * (1 - share), share**2
    return Point(
        a * source.x + b * middle.x + c * target.x, a * source.y + b * middle.y + c * target.y
    )


def _inside(point: Point, centre: Point) -> bool:
    return abs(point.x - centre.x) < WIDTH / 2 and abs(point.y - centre.y) < HEIGHT / 2


def border(centre: Point, towards: Point) -> Point:
    """Answer where a line from a box's middle leaves the box."""
    dx, dy = towards.x - centre.x, towards.y - centre.y
    scale = min(
        (WIDTH / 2 + 4) / abs(dx) if dx else math.inf,
        (HEIGHT / 2 + 4) / abs(dy) if dy else math.inf,
    )
    return Point(centre.x + dx * scale, centre.y + dy * scale)


def arrow(
    rows: Sequence[Edge], at: dict[Hashable, Point], failures: Container[object]
) -> Iterator[str]:
    """Draw the rows that lead from one state to one other, with their causes beside them."""
    source, target = at[rows[0].source], at[rows[0].target]
    middle = bend(source, target, [each for each in at.values() if each not in (source, target)])
    start, end = border(source, middle), border(target, middle)
    kind = "failed" if all(row.cause in failures for row in rows) else "other"
    yield (
        f'<path class="{kind}" marker-end="url(#{kind})" d="M{start.x:.0f},{start.y:.0f}'
        f' Q{middle.x:.0f},{middle.y:.0f} {end.x:.0f},{end.y:.0f}"/>'
    )
    label = Point((start.x + 2 * middle.x + end.x) / 4, (start.y + 2 * middle.y + end.y) / 4)
    causes = " or ".join(row.cause.value for row in rows if row.cause is not Cause.MOVE)
    if causes:
        yield f'<text class="cause {kind}" x="{label.x:.0f}" y="{label.y:.0f}">{causes}</text>'


def box(machine: Machine, state: Hashable, centre: Point) -> Iterator[str]:
    """Draw one state; those in which the bus may stay are shaded."""
    passing = any(edge.source == state and edge.cause is Cause.DONE for edge in machine.edges)
    yield (
        f'<rect class="{"passing" if passing else "resting"}" rx="6" width="{WIDTH}"'
        f' height="{HEIGHT}" x="{centre.x - WIDTH / 2:.0f}" y="{centre.y - HEIGHT / 2:.0f}"/>'
    )
    yield f'<text x="{centre.x:.0f}" y="{centre.y:.0f}">{escape(name_of(state))}</text>'


def marker(kind: str, colour: str) -> str:
    """Define the head of an arrow."""
    return (
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        f' orient="auto"><path style="fill: {colour}; stroke: none" d="M0,0 L8,4 L0,8 z"/></marker>'
    )


def draw(machine: Machine, failures: Container[object] = (Cause.FAILED,)) -> str:
    """Answer the diagram of *machine*, as an SVG element; *failures* are causes drawn as such."""
    at = places(machine)
    width = max(point.x for point in at.values()) + WIDTH / 2 + 2 * MARGIN
    height = max(point.y for point in at.values()) + HEIGHT / 2 + MARGIN
    parts = [
        f'<svg role="img" aria-label="State diagram" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" style="max-width: 100%" xmlns="http://www.w3.org/2000/svg">',
        f"<style>{STYLE}</style>",
        f"<defs>{marker('other', '#345')}{marker('failed', '#b33')}</defs>",
    ]
    for pair in dict.fromkeys((edge.source, edge.target) for edge in machine.edges):
        parts += arrow([edge for edge in machine.edges if edge[::2] == pair], at, failures)
    for state, centre in at.items():
        parts += box(machine, state, centre)
    return "\n".join([*parts, "</svg>"])
