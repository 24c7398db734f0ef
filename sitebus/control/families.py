"""Metrics as values: what a process tells of itself, and how several processes' make one.

A family is a name with all its series. Here it is written as JSON and read again, and folded:
counters and histograms add up, gauges as their rule says. How a family is spelt for Prometheus is
``exposition``'s business, where its numbers come from ``metrics``'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

Kind = Literal["counter", "gauge", "histogram", "summary", "untyped"]

#: How gauges of several processes become one; ``each`` stays apart, with the label ``worker``.
Fold = Literal["sum", "max", "min", "last", "each"]

#: Pairs of a name and a value, sorted by name.
Labels = tuple[tuple[str, str], ...]
Number = int | float
#: A number; of a histogram the count of each bucket, not added up, and then the sum of all; of a
#: summary the count and the sum.
Value = Number | list[Number]

#: The label that tells processes apart where they must be.
WORKER: Final = "worker"

_SUMMED = ("counter", "histogram", "summary")
_BAD_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")
_BAD_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
#: Up to here a float holds every whole number.
_EXACT = float(1 << 53)


class Family(NamedTuple):
    """A metric's name, and its series.

    Attributes:
        fold: what a gauge of several processes becomes.
        bounds: where a histogram's buckets end, upwards, without the infinite one.
    """

    name: str
    kind: Kind
    help: str
    fold: Fold
    bounds: tuple[float, ...]
    series: dict[Labels, Value]


class Part(NamedTuple):
    """What one process told of a family.

    Attributes:
        who: its name in the label ``worker``; empty for those that have ended.
        order: where it stands among those of the same name: the highest is the newest.
    """

    who: str
    order: int
    family: Family


def name_from(text: str) -> str:
    """Answer *text* as it can name a metric everywhere."""
    clean = _BAD_IN_NAMES.sub("_", text)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def label_from(text: str) -> str:
    """Answer *text* as it can name a label everywhere."""
    clean = _BAD_IN_LABELS.sub("_", text)
    if clean.startswith("__"):
        clean = clean.lstrip("_")  # that is how Prometheus' own begin
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def text_from(text: object) -> str:
    """Answer *text* as it can be sent: lone surrogates cannot."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


# To JSON and back.


def to_json(family: Family) -> list[Any]:
    """Answer *family* in the few words that a link carries; infinities are text, as JSON has none.

    Series are a flat list of names and values, and the number.
    """
    series = [
        [[text for pair in labels for text in pair], _packed(value)]
        for labels, value in family.series.items()
    ]
    bounds = [_packed_number(each) for each in family.bounds]
    return [family.name, family.kind, family.help, family.fold, bounds, series]


def from_json(data: Sequence[Any]) -> Family:
    """Answer the family that `to_json` made *data* of.

    Raises:
        ValueError, TypeError: It is no such thing.
    """
    name, kind, said, fold, bounds, series = data
    if kind not in get_args(Kind) or fold not in get_args(Fold):
        raise ValueError(f"there is no kind {kind!r:.40} with fold {fold!r:.40}")
    ends = tuple(map(float, bounds))
    size = len(ends) + 2 if kind in ("histogram", "summary") else 0
    read = {_labels(texts): _unpacked(value, size) for texts, value in series}
    return Family(str(name), kind, str(said), fold, ends, read)


def _packed(value: Value) -> Any:
    if isinstance(value, list):
        return [_packed_number(each) for each in value]
    return _packed_number(value)


def _packed_number(number: Number) -> int | float | str:
    if isinstance(number, float):
        if number.is_integer() and abs(number) < _EXACT:
            return int(number)
        return number if math.isfinite(number) else repr(number)
    return number


def _labels(texts: Sequence[str]) -> Labels:
    return tuple(zip(map(str, texts[::2]), map(str, texts[1::2]), strict=True))


def _unpacked(value: Any, size: int) -> Value:
    if size:
        numbers = [_unpacked_number(each) for each in value]
        if len(numbers) != size:
            raise ValueError(f"{len(numbers)} numbers where {size} belong")
        return numbers
    return _unpacked_number(value)


def _unpacked_number(value: Any) -> Number:
    return value if type(value) is int else float(value)


# Folding.


def folded(parts: Iterable[Part]) -> list[Family]:
    """Make one family of all the parts of each name.

    The newest decides what a family is: a part of another kind is left out.

    Args:
        parts: The one that was told last comes last.
    """
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        by_name.setdefault(part.family.name, []).append(part)
    return [_fold_one(found) for found in by_name.values()]


def _fold_one(parts: list[Part]) -> Family:
    newest = max(parts, key=lambda part: part.order).family
    like = [part for part in parts if part.family.kind == newest.kind]
    if newest.kind in _SUMMED:
        bounds = _common(part.family.bounds for part in like)
        return newest._replace(bounds=bounds, series=_added(like, bounds))
    if newest.kind == "untyped" or newest.fold == "each":
        return newest._replace(series=_apart(like))
    return newest._replace(series=_ruled(like, _RULES[newest.fold]))


def _common(all_bounds: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """Answer the bounds that all have: there the counts of all can be added up exactly."""
    first, *others = all_bounds
    kept = set(first).intersection(*others)
    return tuple(each for each in first if each in kept)


def _added(parts: Iterable[Part], bounds: tuple[float, ...]) -> dict[Labels, Value]:
    series: dict[Labels, Value] = {}
    for part in parts:
        own = part.family.bounds
        for labels, value in part.family.series.items():
            if isinstance(value, list):
                value = _coarser(value, own, bounds)
            known = series.get(labels)
            if isinstance(known, list) and isinstance(value, list):
                series[labels] = list(map(_sum, known, value))
            elif known is None:
                series[labels] = value
            elif not (isinstance(known, list) or isinstance(value, list)):
                series[labels] = known + value
    return series


def _coarser(
    counts: list[Number], bounds: tuple[float, ...], wanted: tuple[float, ...]
) -> list[Number]:
    """Answer a histogram's counts by fewer bounds."""
    if bounds == wanted:
        return counts
    kept: list[Number] = []
    count: Number = 0
    for bound, each in zip((*bounds, math.inf), counts, strict=False):
        count += each
        if bound in wanted or bound == math.inf:
            kept.append(count)
            count = 0
    return [*kept, counts[-1]]


def _apart(parts: Iterable[Part]) -> dict[Labels, Value]:
    series: dict[Labels, Value] = {}
    # A worker and its successor have one name: of the two, the successor counts.
    for part in sorted(parts, key=lambda part: part.order):
        for labels, value in part.family.series.items():
            series[_with_worker(labels, part.who)] = value
    return series


def _with_worker(labels: Labels, who: str) -> Labels:
    if not who:
        return labels
    # As Prometheus does where a target's own label is in the way of one of its own.
    own = ((f"exported_{name}" if name == WORKER else name, text) for name, text in labels)
    return tuple(sorted((*own, (WORKER, who))))


def _ruled(parts: Iterable[Part], rule: Callable[[Any, Any], Any]) -> dict[Labels, Value]:
    series: dict[Labels, Value] = {}
    for part in parts:
        for labels, value in part.family.series.items():
            known = series.get(labels)
            series[labels] = value if known is None else rule(known, value)
    return series


def _sum(one: Number, other: Number) -> Number:
    return one + other


def _last(one: Number, other: Number) -> Number:
    return other


_RULES: Mapping[str, Callable[[Any, Any], Any]] = {
    "sum": _sum, "max": max, "min": min, "last": _last,
}  # fmt: skip
