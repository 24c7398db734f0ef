"""The metrics of many processes as one: nothing lost, nothing twice, nothing that grows."""

from __future__ import annotations

import gc
import json
import math
import random
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.control.aggregate import Aggregate
from sitebus.control.exposition import expose
from sitebus.control.families import Family, Fold, Labels, Part, Value, folded
from sitebus.control.metrics import Registry


class Worker:
    """What one worker process counts."""

    def __init__(self, slot: int, serial: int, series: int = 1) -> None:
        self.slot = slot
        self.serial = serial
        self.registry = Registry()
        served = self.registry.counter("served_total", "Requests.", ["number"])
        self.served = [served.labels(number) for number in range(series)]
        self.seconds = self.registry.histogram("request_seconds", "Times.", bounds=(0.1, 1))
        self.memory = self.registry.gauge("memory_bytes", "Memory.", fold="each")

    def serve(self, seconds: float) -> None:
        for each in self.served:
            each.inc()
        self.seconds.observe(seconds)
        self.memory.set(1000 + self.serial)

    def told(self) -> Any:
        """Answer what arrives at the other end of a link."""
        return json.loads(json.dumps(self.registry.snapshot(), allow_nan=False))


def series_of(aggregate: Aggregate, name: str) -> dict[Labels, Value]:
    return next(each.series for each in aggregate.families() if each.name == name)


def total(aggregate: Aggregate) -> float:
    """Answer the sum of all that was served."""
    series = series_of(aggregate, "served_total")
    return sum(value for value in series.values() if not isinstance(value, list))


def test_after_160_generations_every_request_is_counted_once() -> None:
    """Where others keep a file for each that ever was, a scrape took 0.7 s by then."""
    chance, aggregate, served = random.Random(6), Aggregate(), 0
    workers = [Worker(slot, slot) for slot in (1, 2, 3, 4)]
    serial, before = 5, 0.0
    for _ in range(160):
        for worker in workers:
            for _ in range(chance.randrange(20)):
                worker.serve(chance.choice([0.0625, 0.5, 2]))
                served += 1
            aggregate.take(worker.slot, worker.serial, worker.told())
        assert total(aggregate) == served >= before
        before = total(aggregate)
        # Two of one slot for a while, as in a roll; and the old one's last words come late.
        old = workers.pop(0)
        workers.append(Worker(old.slot, serial))
        serial += 1
        aggregate.take(workers[-1].slot, workers[-1].serial, workers[-1].told())
        old.serve(0.5)
        served += 1
        aggregate.take(old.slot, old.serial, old.told())
        aggregate.retire(old.serial)
        aggregate.take(old.slot, old.serial, old.told())
        aggregate.retire(old.serial)
        assert total(aggregate) == served

    assert served > 5000
    (counts,) = series_of(aggregate, "request_seconds").values()
    assert isinstance(counts, list)
    assert sum(counts[:-1]) == served
    assert aggregate.workers == tuple(worker.serial for worker in workers)
    assert len(series_of(aggregate, "memory_bytes")) == 4


def test_a_scrape_stays_quick_and_memory_level_through_160_generations() -> None:
    """600 series in each of four workers, as an application of some size has."""
    aggregate, sizes, scrapes = Aggregate(), [], []
    worker = Worker(1, 1, 600)
    worker.serve(0.5)
    told = json.dumps(worker.told())
    tracemalloc.start()
    try:
        for serial in range(1, 161):
            aggregate.take(serial % 4 + 1, serial, json.loads(told))
            if serial > 4:
                aggregate.retire(serial - 4)
            if serial % 20 == 0:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    for _ in range(5):
        began = time.process_time()
        text = expose(aggregate.families())
        scrapes.append(time.process_time() - began)

    assert 'served_total{number="599"} 160\n' in text
    assert max(sizes[2:]) < sizes[1] * 1.05
    assert min(scrapes) < 0.020, scrapes


def test_a_worker_that_never_told_anything_leaves_nothing() -> None:
    """It may have died at once, in a loop, for weeks."""
    aggregate = Aggregate()
    for serial in range(1, 100_001):
        aggregate.retire(serial)
    assert not aggregate._ended
    assert aggregate.families() == []
    aggregate.take(1, 77, Worker(1, 77).told())
    assert aggregate.workers == ()


def through_a_restart(aggregate: Aggregate, own: list[Family] | None = None) -> Aggregate:
    told = json.dumps(aggregate.to_json(own or []), allow_nan=False)
    return Aggregate.from_json(json.loads(told))


def test_a_restart_takes_no_count_of_the_supervisor_back() -> None:
    """What it shares with its workers would fall, and look like a start from zero."""
    aggregate, worker = Aggregate(), Worker(1, 1)
    worker.serve(0.5)
    aggregate.take(1, 1, worker.told())
    counted = Family("served_total", "counter", "", "sum", (), {(("mount", "/"),): 5})
    size = Family("memory_bytes", "gauge", "", "each", (), {(): 7})
    before = [each.series for each in aggregate.families([counted]) if each.kind == "counter"]

    again = through_a_restart(aggregate, [counted, size])
    twice = through_a_restart(again)

    for each in (again, twice):
        assert [found.series for found in each.families() if found.kind == "counter"] == before
        (levels,) = (found for found in each.families() if found.name == "memory_bytes")
        assert levels.series == {(("worker", "1"),): 1001}


def test_a_restart_by_an_older_release_is_understood() -> None:
    """An upgrade is a restart like any other; what the workers tell is still to come then."""
    aggregate, worker = Aggregate(), Worker(1, 1)
    worker.serve(0.5)
    aggregate.take(1, 1, worker.told())
    aggregate.retire(1)
    left = aggregate.to_json()
    del left["told"]
    assert total(Aggregate.from_json(left)) == 1


def test_a_restart_of_the_supervisor_forgets_nothing() -> None:
    """Its workers live on, and so do their counts: what the dead have counted must as well."""
    aggregate, one, other = Aggregate(), Worker(1, 1), Worker(2, 2)
    for worker in (one, other):
        worker.serve(0.5)
        aggregate.take(worker.slot, worker.serial, worker.told())
    aggregate.retire(1)
    aggregate.retire(5)

    again = through_a_restart(aggregate)

    assert total(again) == 2
    again.take(2, 2, other.told())
    for late in (one, Worker(1, 5)):
        again.take(1, late.serial, late.told())
    assert total(again) == 2
    assert again.workers == (2,)
    assert expose(again.families()) == expose(aggregate.families())


@pytest.mark.parametrize("snapshot", [
    {}, {"families": None}, {"families": 3}, {"families": [None, 3, [], ["a", "b"]]},
    {"families": [["a", "gauge", "", "sum", [], [[["b"], 1]]]]},
])  # fmt: skip
def test_what_is_not_to_be_understood_is_left_out(snapshot: dict[str, Any]) -> None:
    """It must not cost the numbers of the others."""
    aggregate, good = Aggregate(), Worker(1, 1)
    good.serve(1)
    aggregate.take(1, 1, good.told())
    aggregate.take(2, 2, snapshot)
    assert total(aggregate) == 1
    aggregate.retire(2)
    aggregate.retire(1)
    assert total(aggregate) == 1


def gauge(value: float, fold: Fold, **labels: str) -> Family:
    return Family("level", "gauge", "", fold, (), {tuple(sorted(labels.items())): value})


@pytest.mark.parametrize(
    ("fold", "wanted"),
    [
        ("sum", {(): 9.0}),
        ("max", {(): 5.0}),
        ("min", {(): 1.0}),
        ("last", {(): 1.0}),
        ("each", {(("worker", "1"),): 3.0, (("worker", "2"),): 1.0}),
    ],
)
def test_gauges_become_one_as_their_rule_says(fold: Fold, wanted: dict[Labels, Value]) -> None:
    """What is right for memory is wrong for a queue's length, which all of them see."""
    parts = [
        Part("1", 1, gauge(5, fold)), Part("1", 3, gauge(3, fold)), Part("2", 2, gauge(1, fold)),
    ]  # fmt: skip
    (found,) = folded(parts)
    assert found.series == wanted


def test_a_gauge_of_its_own_label_worker_keeps_it() -> None:
    """One label twice would be the end of the whole scrape."""
    (found,) = folded([Part("1", 1, gauge(5, "each", worker="bee"))])
    assert found.series == {(("exported_worker", "bee"), ("worker", "1")): 5}


def test_a_gauge_of_who_has_ended_is_forgotten() -> None:
    """The memory of the dead is nobody's."""
    aggregate, worker = Aggregate(), Worker(1, 1)
    worker.serve(1)
    aggregate.take(1, 1, worker.told())
    aggregate.retire(1)
    assert {each.name for each in aggregate.families()} == {"served_total", "request_seconds"}


def test_the_supervisors_own_numbers_are_told_apart() -> None:
    """Its memory as well as theirs."""
    aggregate, worker = Aggregate(), Worker(2, 7)
    worker.serve(1)
    aggregate.take(2, 7, worker.told())
    own = Family("memory_bytes", "gauge", "", "each", (), {(): 5})
    found = {each.name: each.series for each in aggregate.families([own])}
    assert found["memory_bytes"] == {
        (("worker", "supervisor"),): 5,
        (("worker", "2"),): 1007,
    }


BOUNDS = st.sets(st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0]), max_size=5).map(
    lambda found: tuple(sorted(found))
)


@given(st.lists(st.tuples(BOUNDS, st.lists(st.integers(0, 10), max_size=20)), min_size=1))
def test_histograms_of_different_buckets_add_up_exactly(
    told: list[tuple[tuple[float, ...], list[int]]],
) -> None:
    """A release may have other buckets than the one before; what both know is still true."""
    parts = []
    for order, (bounds, values) in enumerate(told):
        registry = Registry()
        seen = registry.histogram("seen", "", bounds=bounds)
        for value in values:
            seen.observe(value)
        parts += [Part(str(order), order, family) for family in registry.families()]

    (found,) = folded(parts)

    everything = [value for _, values in told for value in values]
    assert set(found.bounds) == set.intersection(*(set(bounds) for bounds, _ in told))
    (counts,) = found.series.values()
    assert isinstance(counts, list)
    for at, bound in enumerate((*found.bounds, math.inf)):
        assert sum(counts[: at + 1]) == sum(value <= bound for value in everything)
    assert counts[-1] == sum(everything)


def test_a_name_that_means_something_else_now_is_the_newer_ones() -> None:
    """A release turned a gauge into a counter: the old numbers are no part of the new."""
    counter = Family("level", "counter", "", "sum", (), {(): 4})
    (found,) = folded([Part("1", 2, counter), Part("2", 1, gauge(5, "sum"))])
    assert (found.kind, found.series) == ("counter", {(): 4})
