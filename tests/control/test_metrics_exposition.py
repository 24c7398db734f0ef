"""What Prometheus reads, judged by the parser of its own client library."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_strictly
from prometheus_client.parser import text_string_to_metric_families as read_text

from sitebus.control.exposition import expose, wants_open_metrics
from sitebus.control.families import (
    Family,
    Fold,
    Kind,
    Labels,
    Number,
    Value,
    from_json,
    label_from,
    name_from,
    to_json,
)

#: A sample as a parser sees it: a name, its labels, and what the number is.
Sample = tuple[str, frozenset[tuple[str, str]], str]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True)
LABELS: st.SearchStrategy[Labels] = st.dictionaries(
    st.sampled_from(["a", "b", "code", "worker"]), TEXTS, max_size=3
).map(lambda pairs: tuple(sorted(pairs.items())))
COUNTS = st.integers(0, 1 << 60)
NUMBERS: st.SearchStrategy[Number] = st.one_of(st.floats(), st.integers(-(1 << 60), 1 << 60))
POSITIVE = st.floats(0, 1e300)


def parsed(text: str, *, modern: bool = False) -> list[Metric]:
    """Read *text* as Prometheus would."""
    read: Callable[[str], Iterable[Metric]] = read_strictly if modern else read_text
    return list(read(text))


@st.composite
def families(draw: st.DrawFn) -> Family:
    kind = draw(st.sampled_from(get_args(Kind)))
    name = draw(NAMES)
    bounds: tuple[float, ...] = ()
    values: st.SearchStrategy[Value]
    if kind == "counter":
        name, values = f"{name}_total", st.one_of(COUNTS, POSITIVE)
    elif kind in ("gauge", "untyped"):
        values = NUMBERS
    else:
        if kind == "histogram":
            bounds = tuple(sorted(draw(st.sets(st.floats(-1e9, 1e9), max_size=4))))
        size = len(bounds) + 1
        counts = st.lists(COUNTS, min_size=size, max_size=size)
        values = st.tuples(counts, POSITIVE).map(lambda told: [*told[0], told[1]])
    series = draw(st.dictionaries(LABELS, values, max_size=4))
    return Family(name, kind, draw(TEXTS), draw(st.sampled_from(get_args(Fold))), bounds, series)


def expected(family: Family) -> Iterator[Sample]:
    """Spell it out by hand."""
    for labels, value in family.series.items():
        if not isinstance(value, list):
            yield _sample(family.name, labels, value)
            continue
        counts = [float(sum(value[: at + 1])) for at in range(len(value) - 1)]
        if family.kind == "histogram":
            for bound, count in zip((*family.bounds, math.inf), counts, strict=True):
                shown = "+Inf" if bound == math.inf else repr(bound)
                yield _sample(f"{family.name}_bucket", (*labels, ("le", shown)), count)
        yield _sample(f"{family.name}_count", labels, counts[-1])
        yield _sample(f"{family.name}_sum", labels, value[-1])


def _sample(name: str, labels: Labels, value: Number) -> Sample:
    return name, frozenset(labels), repr(float(value))


@given(families())
def test_everything_is_read_as_it_was_meant(family: Family) -> None:
    """Quotes, backslashes, line ends and infinities have all broken scrapes before."""
    text = expose([family])
    read = [
        _sample(sample.name, tuple(sample.labels.items()), sample.value)
        for found in parsed(text)
        for sample in found.samples
    ]
    assert sorted(read, key=repr) == sorted(expected(family), key=repr)


@given(families())
def test_open_metrics_are_read_as_they_were_meant(family: Family) -> None:
    """Its parser is the strict one: it refuses what its specification does not allow."""
    text = expose([family], open_metrics=True)
    read = {
        _sample(sample.name, tuple(sample.labels.items()), sample.value)
        for found in parsed(text, modern=True)
        for sample in found.samples
    }
    missing = set(expected(family)) - read
    falling = family.bounds and family.bounds[0] < 0
    assert all(falling and name.endswith(("_count", "_sum")) for name, *_ in missing)
    assert read <= set(expected(family))


@given(st.lists(families(), max_size=6))
def test_no_series_is_told_twice(several: list[Family]) -> None:
    """Prometheus drops the whole scrape for one."""
    for modern in (False, True):
        lines = expose(several, open_metrics=modern).split("\n")[:-1]
        series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
        heads = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
        assert len(set(heads)) == len(heads)
        assert len(set(series)) == len(series)


@given(families())
def test_a_family_survives_the_link(family: Family) -> None:
    """Snapshots are JSON on their way."""
    read = from_json(json.loads(json.dumps(to_json(family), allow_nan=False)))
    assert read._replace(series={}) == family._replace(series={})
    assert expose([read]).replace(".0", "") == expose([family]).replace(".0", "")


@pytest.mark.parametrize("family", [
    [], ["a"], ["a", "gauge", "", "mean", [], []], ["a", "odd", "", "sum", [], []],
    ["a", "histogram", "", "sum", [1], [[[], [1, 2]]]], ["a", "gauge", "", "sum", [], [[["b"], 1]]],
    ["a", "gauge", "", "sum", [], [[[], [1]]]], None,
])  # fmt: skip
def test_what_is_no_family_is_refused(family: list[object]) -> None:
    """It may come from a worker of another release."""
    with pytest.raises((TypeError, ValueError)):
        from_json(family)


@given(st.text())
def test_any_text_can_be_made_a_name(text: str) -> None:
    """Of strangers' metrics: their library allows names that ours, and older Prometheus, do not."""
    family = Family(name_from(text), "gauge", "", "sum", (), {((label_from(text), "x"),): 1})
    (found,) = parsed(expose([family]))
    assert found.samples[0].value == 1


@pytest.mark.parametrize(("accept", "wanted"), [
    ("", False),
    ("*/*", False),
    ("text/plain", False),
    ("application/openmetrics-text", True),
    ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4", True),
    ("application/openmetrics-text;q=0.3, text/plain;q=0.5", False),
    ("application/openmetrics-text;q=0", False),
    ("application/openmetrics-text;q=nonsense", False),
])  # fmt: skip
def test_open_metrics_are_for_who_asks_for_them(accept: str, wanted: bool) -> None:
    """Anybody else may not know what to make of them."""
    assert wants_open_metrics(accept) is wanted


def test_the_format_is_the_one_that_the_docs_show() -> None:
    """One whole example, to be read by people."""
    requests = Family(
        "shop_sold_total", "counter", 'Things "sold".\nAll.', "sum", (), {(("kind", 'a"b'),): 3}
    )
    price = Family("shop_price", "histogram", "", "sum", (1.0, 10.0), {(): [2, 1, 0, 4.5]})
    assert expose([requests, price]) == (
        '# HELP shop_sold_total Things "sold".\\nAll.\n'
        "# TYPE shop_sold_total counter\n"
        'shop_sold_total{kind="a\\"b"} 3\n'
        "# TYPE shop_price histogram\n"
        'shop_price_bucket{le="1.0"} 2\n'
        'shop_price_bucket{le="10.0"} 3\n'
        'shop_price_bucket{le="+Inf"} 3\n'
        "shop_price_count 3\n"
        "shop_price_sum 4.5\n"
    )
    assert expose([requests], open_metrics=True) == (
        '# HELP shop_sold Things \\"sold\\".\\nAll.\n'
        "# TYPE shop_sold counter\n"
        'shop_sold_total{kind="a\\"b"} 3\n'
        "# EOF\n"
    )
