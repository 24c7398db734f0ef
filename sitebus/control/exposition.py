"""Metrics as Prometheus reads them: its text format 0.0.4, and OpenMetrics 1.0.

Names are taken to be good ones, as ``families`` makes them. No series is told twice: a family that
would say what an earlier one says is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from sitebus.control.families import Family, Labels, Number, Value

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_OPEN_METRICS_TYPE = "application/openmetrics-text"
_SUFFIXES = {
    "counter": ("", "_created"),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
}
_NEWLINES = {ord("\\"): r"\\", ord("\n"): r"\n"}
_QUOTED = {**_NEWLINES, ord('"'): r"\""}


def wants_open_metrics(accept: str) -> bool:
    """Tell whether who sent that ``Accept`` header likes OpenMetrics best of the two."""
    best = {_OPEN_METRICS_TYPE: 0.0, "text/plain": 0.0}
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        if kind in best:
            best[kind] = max(best[kind], _quality(parameters))
    wanted = best[_OPEN_METRICS_TYPE]
    return wanted > 0 and wanted >= best["text/plain"]


def _quality(parameters: Iterable[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def expose(families: Iterable[Family], *, open_metrics: bool = False) -> str:
    """Write *families* in the text format, or in OpenMetrics."""
    claimed: set[str] = set()
    lines: list[str] = []
    for family in families:
        names = claims(family.name, family.kind)
        if names.isdisjoint(claimed):
            claimed |= names
            lines += _written(family, open_metrics)
    if open_metrics:
        lines.append("# EOF")
    return "\n".join([*lines, ""])


def claims(name: str, kind: str) -> set[str]:
    """Answer the names that nothing else may have beside a metric of that name."""
    # OpenMetrics takes the end off a counter's name, and then it is a family's name.
    stem = name.removesuffix("_total")
    return {name, stem, *(stem + suffix for suffix in _SUFFIXES.get(kind, ("",)))}


def _written(family: Family, open_metrics: bool) -> Iterator[str]:
    name, kind, shown = family.name, str(family.kind), family.name
    if open_metrics and kind == "counter" and name.endswith("_total") and name != "_total":
        shown = name.removesuffix("_total")
    elif open_metrics and kind in ("counter", "untyped"):
        kind = "unknown"
    escapes = _QUOTED if open_metrics else _NEWLINES
    if family.help:
        yield f"# HELP {shown} {family.help.translate(escapes)}"
    yield f"# TYPE {shown} {kind}"
    for labels, value in family.series.items():
        yield from _series(name, family, labels, value, open_metrics)


def _series(
    name: str, family: Family, labels: Labels, value: Value, open_metrics: bool
) -> Iterator[str]:
    pairs = _pairs(labels)
    if not isinstance(value, list):
        yield f"{name}{_braced(pairs)} {_number(value)}"
        return
    count: Number = 0
    for bound, each in zip((*family.bounds, math.inf), value, strict=False):
        count += each
        if family.kind == "histogram":
            yield f"{name}_bucket{_braced([*pairs, _pair('le', _bound(bound))])} {_number(count)}"
    # OpenMetrics has no sums that may fall, and no counts without sums.
    if not open_metrics or not family.bounds or family.bounds[0] >= 0:
        yield f"{name}_count{_braced(pairs)} {_number(count)}"
        yield f"{name}_sum{_braced(pairs)} {_number(value[-1])}"


def _pairs(labels: Labels) -> list[str]:
    return [_pair(name, text) for name, text in labels]


def _pair(name: str, text: str) -> str:
    return f'{name}="{text.translate(_QUOTED)}"'


def _braced(pairs: list[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _bound(bound: float) -> str:
    return _number(float(bound))


def _number(number: Number) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    return repr(number)
