"""Applications that count with prometheus_client, in processes of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from sitebus.control.aggregate import Aggregate
from sitebus.control.exposition import expose
from tests.helpers import Child

PROGRAM = """
import json, sys
from sitebus.control import foreign, metrics

metrics.REGISTRY.collect(foreign.families)
if "without" not in sys.argv:
    import shop
    assert "prometheus_client" in sys.modules
metrics.counter("ours_total", "Ours.").inc()
print(json.dumps(metrics.REGISTRY.snapshot(), allow_nan=False))
assert "prometheus_client" in sys.modules or "without" in sys.argv
assert metrics.REGISTRY.failures == 0
"""

SHOP = """
import prometheus_client as prometheus
from prometheus_client import core

sold = prometheus.Counter("sold", "Things sold.", ["kind"])
sold.labels('t"ea').inc(3)
price = prometheus.Histogram("price", "Prices.", ["kind"], buckets=[1, 10])
for each in (0.5, 5, 50):
    price.labels("tea").observe(each)
prometheus.Summary("weight", "Weights.").observe(2)
prometheus.Gauge("stock", "Stock.", multiprocess_mode="max").set(7)
prometheus.Gauge("plain", "Of each.").set(float("inf"))
prometheus.Info("build", "Build.").info({"version": "1"})
prometheus.Enum("mood", "Mood.", states=["good", "bad"]).state("bad")


class Odd:
    def collect(self):
        family = core.GaugeMetricFamily("odd.name", "Odd.", labels=["a-b"])
        family.add_metric(["x"], 1)
        yield family
        yield core.GaugeHistogramMetricFamily(
            "held", "Held.", buckets=[("1.0", 1), ("+Inf", 3)], gsum_value=5
        )
        yield core.HistogramMetricFamily(
            "ours", "In our way.", buckets=[("1.0", 1), ("+Inf", 3)], sum_value=5
        )


prometheus.REGISTRY.register(Odd())
"""


def snapshot(folder: Path, *arguments: str) -> Any:
    (folder / "shop.py").write_text(SHOP)
    (folder / "program.py").write_text(PROGRAM)
    with Child([sys.executable, folder / "program.py", *arguments], folder) as child:
        assert child.wait() == 0, child
        return json.loads(child.output)


def values(aggregate: Aggregate) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(expose(aggregate.families()))
        for sample in family.samples
    }


def test_what_an_application_counts_is_told_for_all_workers(tmp_path: Path) -> None:
    """It need not know that it is several; nothing is written to a disk for it."""
    aggregate, one = Aggregate(), snapshot(tmp_path)
    for serial in (1, 2, 3):
        aggregate.take(serial, serial, one)
    aggregate.retire(1)

    found = values(aggregate)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("sold_total", kind='t"ea') == 9
    assert value("ours_total") == 3
    assert value("price_bucket", kind="tea", le="10.0") == 6
    assert value("price_count", kind="tea") == 9
    assert value("price_sum", kind="tea") == 166.5
    assert (value("weight_count"), value("weight_sum")) == (3, 6)
    assert value("stock") == 7
    assert value("plain", worker="2") == value("plain", worker="3") == float("inf")
    assert value("build_info", version="1", worker="2") == 1
    assert value("mood", mood="bad", worker="3") == 1
    assert value("odd_name", a_b="x", worker="2") == 1
    assert value("held_gsum", worker="2") == 5
    # Of the collectors that the library brings.
    assert value("process_cpu_seconds_total") > 0
    assert value("process_resident_memory_bytes", worker="2") > 1 << 20
    # When it was made is nobody's business, and what would be mistaken for ours is left out.
    assert not [name for name, _ in found if name.endswith("_created") or name == "ours_count"]
    assert not list(tmp_path.rglob("*.db"))


def test_an_application_without_it_does_not_get_it(tmp_path: Path) -> None:
    """It is installed here; importing it is the application's decision."""
    told = snapshot(tmp_path, "without")
    assert [family[0] for family in told["families"]] == ["ours_total"]
