"""What an application counts with ``prometheus_client``, if it does; never imported by us.

Its default registry is asked. A gauge's ``multiprocess_mode`` says how the gauges of several
workers become one; a gauge that says nothing stays one for each. Creation times and exemplars are
left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sitebus.control.families import (
    Family,
    Fold,
    Kind,
    Labels,
    Number,
    Value,
    label_from,
    name_from,
    text_from,
)

_FOLDS: Mapping[str, Fold] = {
    "sum": "sum", "livesum": "sum", "max": "max", "livemax": "max", "min": "min", "livemin": "min",
    "mostrecent": "last", "livemostrecent": "last",
}  # fmt: skip

#: What its kinds are to us; of another kind, each name is untyped.
_PLAIN: Mapping[str, Kind] = {
    "counter": "counter", "gauge": "gauge", "info": "gauge", "stateset": "gauge",
}  # fmt: skip
_INFINITE = float("inf")


def families() -> Iterator[Family]:
    """Answer what the application has counted; nothing if it does not count that way."""
    library = sys.modules.get("prometheus_client")
    registry = getattr(library, "REGISTRY", None)
    if registry is None:
        return
    collectors = getattr(registry, "_names_to_collectors", {})
    for metric in registry.collect():
        mode = getattr(collectors.get(metric.name), "_multiprocess_mode", "")
        yield from _read(metric, _FOLDS.get(mode, "each"))


def _read(metric: Any, fold: Fold) -> Iterator[Family]:
    if metric.type == "histogram":
        yield from _histogram(metric)
    elif metric.type == "summary":
        series = _totals(metric)
        yield Family(*_named(metric.name, "summary", metric), "sum", (), series)
    else:
        kind = _PLAIN.get(metric.type, "untyped")
        by_name: dict[str, dict[Labels, Value]] = {}
        for sample in metric.samples:
            if not (kind == "counter" and sample.name.endswith("_created")):
                by_name.setdefault(sample.name, {})[_labels(sample.labels)] = sample.value
        for name, series in by_name.items():
            yield Family(*_named(name, kind, metric), fold, (), series)


def _named(name: str, kind: Kind, metric: Any) -> tuple[str, Kind, str]:
    return name_from(name), kind, text_from(metric.documentation)


def _labels(labels: Mapping[str, str], without: str = "") -> Labels:
    clean = {
        label_from(name): text_from(value) for name, value in labels.items() if name != without
    }
    return tuple(sorted(clean.items()))


def _totals(metric: Any) -> dict[Labels, Value]:
    """Answer a summary's counts and sums; its quantiles cannot be added up."""
    series: dict[Labels, list[Number]] = {}
    for sample in metric.samples:
        if sample.name == f"{metric.name}_count":
            series.setdefault(_labels(sample.labels), [0, 0])[0] = sample.value
        elif sample.name == f"{metric.name}_sum":
            series.setdefault(_labels(sample.labels), [0, 0])[1] = sample.value
    return dict(series)


def _histogram(metric: Any) -> Iterator[Family]:
    """Answer a family for each set of bounds: a collector may have made several."""
    buckets: dict[Labels, dict[float, Number]] = {}
    sums: dict[Labels, Number] = {}
    for sample in metric.samples:
        if sample.name == f"{metric.name}_bucket":
            labels = _labels(sample.labels, without="le")
            buckets.setdefault(labels, {})[float(sample.labels["le"])] = sample.value
        elif sample.name == f"{metric.name}_sum":
            sums[_labels(sample.labels)] = sample.value
    bounds = _common(buckets.values())
    series: dict[Labels, Value] = {
        labels: [*_apart([counts[each] for each in (*bounds, _INFINITE)]), sums.get(labels, 0)]
        for labels, counts in buckets.items()
        if _INFINITE in counts
    }
    if series:
        yield Family(*_named(metric.name, "histogram", metric), "sum", bounds, series)


def _common(all_counts: Iterable[dict[float, Number]]) -> tuple[float, ...]:
    """Answer the bounds that every series has, without the infinite one."""
    first, *others = (set(counts) for counts in all_counts) if all_counts else (set[float](),)
    return tuple(sorted(first.intersection(*others) - {_INFINITE}))


def _apart(added: list[Number]) -> Iterator[Number]:
    """Answer what each bucket has for itself."""
    before: Number = 0
    for each in added:
        yield each - before
        before = each
