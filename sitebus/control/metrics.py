"""What a process counts of itself: counters, gauges and histograms, in memory and nowhere else.

Applications count here too: ``sitebus.control.metrics.counter("shop_sold_total", "Things sold")``.
What is asked for twice is made once, so that a module may be imported again. A value of a label
comes from the code, never from a client: beyond `MOST_SERIES` of them, all others are counted as
one, whose labels say ``other``.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, get_args

from sitebus.control.exposition import claims
from sitebus.control.families import Family, Fold, Kind, Labels, Number, Value, text_from, to_json
from sitebus.errors import BadMetric

#: How many series one metric has at most.
MOST_SERIES = 1000

#: Where the buckets of durations end; seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: What a snapshot takes in JSON, at most; a link carries messages a little longer than this.
SNAPSHOT_LIMIT = 240_000

_OTHER = "other"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
_RESERVED = ("le", "quantile")

Source = Callable[[], Iterable[Family]]


class Count:
    """One series of a counter."""

    __slots__ = ("_lock", "value")

    def __init__(self, metric: Metric[Any]) -> None:
        self._lock = threading.Lock()
        self.value: Number = 0

    def inc(self, amount: Number = 1) -> None:
        """Count *amount* more.

        Raises:
            ValueError: It is less than nothing.
        """
        if not amount >= 0:
            raise ValueError(f"a counter only goes up, not by {amount!r:.40}")
        with self._lock:
            self.value += amount

    def read(self) -> Value:
        return self.value


class Level:
    """One series of a gauge."""

    __slots__ = ("_lock", "value")

    def __init__(self, metric: Metric[Any]) -> None:
        self._lock = threading.Lock()
        self.value: Number = 0

    def set(self, value: Number) -> None:
        self.value = value

    def inc(self, amount: Number = 1) -> None:
        with self._lock:
            self.value += amount

    def dec(self, amount: Number = 1) -> None:
        self.inc(-amount)

    def read(self) -> Value:
        return self.value


class Buckets:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, metric: Metric[Any]) -> None:
        self._bounds = metric.bounds
        self._counts = [0] * (len(metric.bounds) + 1)
        self._sum: Number = 0
        self._lock = threading.Lock()

    def observe(self, value: Number) -> None:
        """Count one occurrence of *value*."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def read(self) -> Value:
        with self._lock:
            return [*self._counts, self._sum]


Cell = TypeVar("Cell", Count, Level, Buckets)


class Metric(Generic[Cell]):
    """A name that is counted under; its series are told apart by the values of its labels."""

    kind: ClassVar[Kind]
    cell: type[Cell]

    def __init__(
        self,
        name: str,
        help: str,
        labels: tuple[str, ...],
        fold: Fold = "sum",
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.name = name
        self.help = text_from(help)
        self.label_names = labels
        self.fold = fold
        self.bounds = bounds
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._lock = threading.Lock()
        #: Its only series, where there are no labels.
        self._alone: Cell | None = None
        if not labels:
            self._alone = self._cells[()] = self.cell(self)

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be the same where it is asked for again."""
        return self.kind, self.label_names, self.fold, self.bounds

    def labels(self, *values: object) -> Cell:
        """Answer the series with these values of the labels, in the order of their names.

        Raises:
            BadMetric: These are more or fewer than it has labels.
        """
        key = tuple(map(str, values))
        found = self._cells.get(key)
        return found if found is not None else self._made(key)

    def _made(self, key: tuple[str, ...]) -> Cell:
        if len(key) != len(self.label_names):
            wanted = f"it has the labels {', '.join(self.label_names) or 'of none'}"
            raise BadMetric(self.name, f"{wanted}, and was given {len(key)} values")
        key = tuple(map(text_from, key))
        with self._lock:
            if key not in self._cells and len(self._cells) >= MOST_SERIES:
                key = (_OTHER,) * len(key)
            return self._cells.setdefault(key, self.cell(self))

    def family(self) -> Family:
        """Answer what it is now."""
        series = {self._pairs(key): cell.read() for key, cell in self._cells.copy().items()}
        return Family(self.name, self.kind, self.help, self.fold, self.bounds, series)

    def _pairs(self, key: tuple[str, ...]) -> Labels:
        return tuple(sorted(zip(self.label_names, key, strict=True)))


class Counter(Metric[Count]):
    """What only grows; its name ends in ``_total``."""

    kind = "counter"
    cell = Count

    def inc(self, amount: Number = 1) -> None:
        """Count *amount* more, where there are no labels."""
        (self._alone or self.labels()).inc(amount)


class Gauge(Metric[Level]):
    """What rises and falls."""

    kind = "gauge"
    cell = Level

    def set(self, value: Number) -> None:
        (self._alone or self.labels()).set(value)

    def inc(self, amount: Number = 1) -> None:
        (self._alone or self.labels()).inc(amount)

    def dec(self, amount: Number = 1) -> None:
        (self._alone or self.labels()).dec(amount)


class Histogram(Metric[Buckets]):
    """How often something was how large."""

    kind = "histogram"
    cell = Buckets

    def observe(self, value: Number) -> None:
        """Count one occurrence of *value*, where there are no labels."""
        (self._alone or self.labels()).observe(value)


Found = TypeVar("Found", bound=Metric[Any])


class Registry:
    """The metrics of a process, and where else it has numbers from.

    Attributes:
        failures: how often a source has failed.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._lock = threading.Lock()
        self._metrics: dict[str, Metric[Any]] = {}
        self._sources: tuple[Source, ...] = ()

    def counter(self, name: str, help: str, labels: Iterable[str] = ()) -> Counter:
        """Answer the counter of that name.

        Raises:
            BadMetric: It cannot have that name or these labels, or is something else already.
        """
        if not name.endswith("_total"):
            raise BadMetric(name, f"a counter's name ends in _total: {name}_total")
        return self._have(Counter(name, help, tuple(labels)))

    def gauge(
        self, name: str, help: str, labels: Iterable[str] = (), *, fold: Fold = "sum"
    ) -> Gauge:
        """Answer the gauge of that name.

        *fold* says what the gauges of several workers become: their ``sum``, ``max`` or ``min``,
        the one set ``last``, or a series for ``each`` of them.

        Raises:
            BadMetric: It cannot have that name or these labels, or is something else already.
        """
        if fold not in get_args(Fold):
            raise BadMetric(name, f"fold is one of {', '.join(get_args(Fold))}, not {fold!r:.40}")
        return self._have(Gauge(name, help, tuple(labels), fold))

    def histogram(
        self,
        name: str,
        help: str,
        labels: Iterable[str] = (),
        *,
        bounds: Iterable[float] = SECONDS,
    ) -> Histogram:
        """Answer the histogram of that name.

        Its buckets end at *bounds*, which rise; one without end is always there.

        Raises:
            BadMetric: It cannot have that name, bounds or labels, or is something else already.
        """
        ends = tuple(map(float, bounds))
        if list(ends) != sorted(set(ends)) or ends[-1:] == (float("inf"),):
            raise BadMetric(name, "its bounds are to rise, and to be finite")
        return self._have(Histogram(name, help, tuple(labels), bounds=ends))

    def collect(self, source: Source) -> None:
        """Ask *source* too at every snapshot; one that fails is left out of it."""
        with self._lock:
            self._sources = (*self._without(source), source)

    def forget(self, source: Source) -> None:
        """Ask *source* no more."""
        with self._lock:
            self._sources = tuple(self._without(source))

    def _without(self, source: Source) -> Iterator[Source]:
        return (each for each in self._sources if each != source)

    def families(self) -> list[Family]:
        """Answer what everything is now; of two of one name the first."""
        found: dict[str, Family] = {}
        for source in (self._own, *self._sources):
            for family in self._asked(source):
                found.setdefault(family.name, family)
        return list(found.values())

    def snapshot(self, limit: int = SNAPSHOT_LIMIT) -> dict[str, Any]:
        """Answer the same for a link, in JSON of *limit* bytes at most.

        What does not fit is left out, strangers' metrics first; ``left_out`` says how many.
        """
        kept: list[Any] = []
        size = left_out = 0
        for family in self.families():
            told = to_json(family)
            size += (cost := _cost(told))
            if size > limit:
                size -= cost
                left_out += 1
            else:
                kept.append(told)
        return {"families": kept, "left_out": left_out}

    def _own(self) -> list[Family]:
        with self._lock:
            metrics = tuple(self._metrics.values())
        return [metric.family() for metric in metrics]

    def _asked(self, source: Source) -> list[Family]:
        try:
            return list(source())
        # A stranger's: everything else is to be told all the same.
        except Exception:  # noqa: BLE001
            self.failures += 1
            return []

    def _have(self, metric: Found) -> Found:
        _check_names(metric)
        with self._lock:
            known = self._metrics.get(metric.name)
            if known is None:
                self._check_free(metric)
                self._metrics[metric.name] = metric
                return metric
        if type(known) is not type(metric) or known.shape != metric.shape:
            raise BadMetric(metric.name, f"it is a {known.kind} with other settings already")
        return known

    def _check_free(self, metric: Metric[Any]) -> None:
        wanted = claims(metric.name, metric.kind)
        for other in self._metrics.values():
            if not wanted.isdisjoint(claims(other.name, other.kind)):
                reason = f"its series would be mistaken for those of the {other.kind} {other.name}"
                raise BadMetric(metric.name, reason)


def _check_names(metric: Metric[Any]) -> None:
    if not _NAME.match(metric.name):
        raise BadMetric(metric.name, "a name has letters, digits and _, and begins with no digit")
    for label in metric.label_names:
        if not _LABEL.match(label) or label in _RESERVED:
            raise BadMetric(metric.name, f"it cannot have a label {label!r:.40}")
    if len(set(metric.label_names)) < len(metric.label_names):
        raise BadMetric(metric.name, "it has one label twice")


def _cost(told: object) -> int:
    import json

    return len(json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()) + 1


#: The one of this process.
REGISTRY = Registry()
counter = REGISTRY.counter
gauge = REGISTRY.gauge
histogram = REGISTRY.histogram
