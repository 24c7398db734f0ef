"""Counting in one process: what applications use, and what every site counts of itself."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.control.builtin import Metrics, Requests
from sitebus.control.families import Family, Labels, Value
from sitebus.control.metrics import MOST_SERIES, Registry
from sitebus.errors import BadMetric
from sitebus.mounts import Site
from sitebus.mounts.access import AccessLog
from sitebus.process import Engine
from tests.control.clients import Beat


@pytest.fixture
def registry() -> Registry:
    return Registry()


def told(registry: Registry, name: str) -> dict[Labels, Value]:
    """Answer the series of one family."""
    return next(family.series for family in registry.families() if family.name == name)


def test_counters_gauges_and_histograms_tell_what_they_were_told(registry: Registry) -> None:
    """The least that anybody expects."""
    sold = registry.counter("shop_sold_total", "Things sold.", ["kind"])
    sold.labels("tea").inc()
    sold.labels("tea").inc(2.5)
    sold.labels("cups").inc()
    stock = registry.gauge("shop_stock", "Things left.")
    stock.set(7)
    stock.inc()
    stock.dec(3)
    price = registry.histogram("shop_price", "Prices.", bounds=(1, 10))
    for each in (0.5, 1, 9, 11):
        price.observe(each)

    assert told(registry, "shop_sold_total") == {
        (("kind", "tea"),): 3.5,
        (("kind", "cups"),): 1,
    }
    assert told(registry, "shop_stock") == {(): 5}
    # 1 is not above the bound 1, as Prometheus has it.
    assert told(registry, "shop_price") == {(): [2, 1, 1, 21.5]}


def test_what_is_asked_for_twice_is_one(registry: Registry) -> None:
    """A module that is imported again, or two modules of one application, count together."""
    first = registry.counter("shop_sold_total", "Things sold.")
    first.inc()
    second = registry.counter("shop_sold_total", "Things sold.")
    second.inc()
    assert first is second
    assert told(registry, "shop_sold_total") == {(): 2}


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda r: r.counter("shop_sold", "."), "ends in _total: shop_sold_total"),
        (lambda r: r.counter("1_total", "."), "begins with no digit"),
        (lambda r: r.gauge("shop-stock", "."), "letters, digits and _"),
        (lambda r: r.gauge("a\n", "."), "letters, digits and _"),
        (lambda r: r.gauge("a", ".", ["le"]), "cannot have a label 'le'"),
        (lambda r: r.gauge("a", ".", ["__name__"]), "cannot have a label '__name__'"),
        (lambda r: r.gauge("a", ".", ["b", "b"]), "one label twice"),
        (lambda r: r.gauge("a", ".", fold="mean"), "not 'mean'"),
        (lambda r: r.histogram("a", ".", bounds=(2, 1)), "bounds are to rise"),
        (lambda r: r.histogram("a", ".", bounds=(1, float("inf"))), "to be finite"),
        (lambda r: r.gauge("known_seconds", "."), "a histogram with other settings"),
        (lambda r: r.histogram("known_seconds", ".", ["a"]), "with other settings already"),
        (lambda r: r.gauge("known_seconds_count", "."), "mistaken for those of the histogram"),
        (lambda r: r.gauge("known_things", "."), "mistaken for those of the counter"),
        (lambda r: r.counter("known_things_total", ".").labels("x"), "given 1 values"),
    ],
)
def test_what_cannot_be_told_is_refused_when_it_is_asked_for(
    registry: Registry, ask: Callable[[Any], object], reason: str
) -> None:
    """Whoever writes it finds out, and not whoever looks at the graphs a month later."""
    registry.histogram("known_seconds", "Known.")
    registry.counter("known_things_total", "Known.")
    with pytest.raises(BadMetric, match=reason):
        ask(registry)


@pytest.mark.parametrize("amount", [-1, float("nan")])
def test_a_counter_cannot_go_back(registry: Registry, amount: float) -> None:
    """Prometheus would take it for a restart."""
    with pytest.raises(ValueError, match="only goes up"):
        registry.counter("a_total", ".").inc(amount)


def test_labels_that_a_client_chooses_do_not_fill_the_memory(registry: Registry) -> None:
    """Whoever counts by path must not be brought down by who asks for a million paths."""
    seen = registry.counter("seen_total", ".", ["path"])
    for number in range(MOST_SERIES + 500):
        seen.labels(f"/{number}").inc()
    series = told(registry, "seen_total")
    assert len(series) == MOST_SERIES + 1
    assert series[(("path", "other"),)] == 500


def test_a_source_that_fails_costs_its_own_numbers(registry: Registry) -> None:
    """A collector that cannot reach its database must not end all graphs."""

    def broken() -> Iterator[Family]:
        yield Family("half", "gauge", "", "sum", (), {(): 1})
        raise OSError("away")

    registry.gauge("whole", ".").set(2)
    registry.collect(broken)
    assert [family.name for family in registry.families()] == ["whole"]
    assert registry.failures == 1
    registry.forget(broken)
    registry.families()
    assert registry.failures == 1


def test_a_snapshot_is_json_that_fits_into_a_message(registry: Registry) -> None:
    """A link refuses NaN, and what is longer than its limit."""
    registry.gauge("odd", ".").set(float("nan"))
    registry.gauge("endless", ".").set(float("-inf"))
    for number in range(100):
        registry.counter(f"n{number}_total", "x" * 1000).inc(number)
    whole = registry.snapshot()
    assert whole["left_out"] == 0
    assert len(json.dumps(whole, allow_nan=False)) > 100_000

    cut = registry.snapshot(limit=50_000)

    assert len(json.dumps(cut, allow_nan=False, separators=(",", ":"))) <= 50_100
    assert len(cut["families"]) + cut["left_out"] == 102
    assert [each[0] for each in cut["families"][:2]] == ["odd", "endless"]


@pytest.fixture
def often() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
def test_threads_lose_no_request_between_them() -> None:
    """They count without a lock, and the total is compared with the access log of a proxy."""
    requests, calls = Requests(None), 20_000

    def serve(number: int) -> None:
        for each in range(calls):
            requests.record({}, f"{number}00 ", 5, each % 3 * 0.125, "/")

    threads = [threading.Thread(target=serve, args=(number % 2 + 2,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    totals, times = requests.families()
    labels = (("code", "2xx"), ("mount", "/")), (("code", "3xx"), ("mount", "/"))
    assert totals.series == dict.fromkeys(labels, 3 * calls)
    (value,) = times.series.values()
    assert isinstance(value, list)
    assert sum(value[:-1]) == 6 * calls
    assert value[-1] == 6 * sum(each % 3 * 0.125 for each in range(calls))


# What every site counts.


def answering(status: str) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        if status == "raise":
            raise LookupError("on purpose")
        start_response(status, [])
        return [b"answer"]

    return app


def ask(site: Site, path: str) -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "HTTP_HOST": "a"}
    response = site.wsgi(environ, lambda *_: lambda data: None)
    for _ in response:
        pass
    if hasattr(response, "close"):
        response.close()


@pytest.fixture
def site() -> Site:
    site = Site(on_error=lambda *_: None)
    site.mount(answering("200 OK"), "/good")
    site.mount(answering("302 Found"), "/moved", name="moves")
    site.mount(answering("raise"), "/bad")
    return site


@pytest.fixture
def metrics(engine: Engine, site: Site, registry: Registry) -> Iterator[Metrics]:
    metrics = Metrics(engine, site, registry)
    metrics.subscribe()
    yield metrics
    metrics.unsubscribe()


@pytest.mark.usefixtures("metrics")
def test_requests_are_counted_by_mount_and_class(site: Site, registry: Registry) -> None:
    """By the mount and never by the path, which is the client's to choose."""
    for path in ("/good/1", "/good/2", "/moved", "/bad", "/nowhere/1", "/nowhere/2"):
        ask(site, path)
    assert told(registry, "sitebus_requests_total") == {
        (("code", "2xx"), ("mount", "/good")): 2,
        (("code", "3xx"), ("mount", "moves")): 1,
        (("code", "5xx"), ("mount", "/bad")): 1,
        (("code", "4xx"), ("mount", "-")): 2,
    }
    times = told(registry, "sitebus_request_seconds")
    good = times[(("mount", "/good"),)]
    assert isinstance(good, list)
    assert sum(good[:-1]) == 2
    assert 0 < good[-1] < 1


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.usefixtures("metrics")
def test_requests_by_asgi_are_counted_too(site: Site, registry: Registry) -> None:
    """A site may speak either."""
    site.mount(asgi_app, "/asgi", lifespan="off")
    scope = {"type": "http", "method": "GET", "path": "/asgi/x", "headers": [], "query_string": b""}

    async def unused() -> Any: ...

    async def sent(message: Any) -> None: ...

    async def serve() -> None:
        await site.asgi(scope, unused, sent)

    asyncio.run(serve())
    counts = told(registry, "sitebus_requests_total")
    assert counts == {(("code", "4xx"), ("mount", "/asgi")): 1}


def test_lines_of_the_access_log_are_written_as_before(
    engine: Engine, site: Site, registry: Registry, tmp_path: Path
) -> None:
    """Whoever wants graphs wants logs as well; and afterwards everything is as it was."""
    with AccessLog(tmp_path / "access.log") as log:
        site.configure(access_log=log)
        metrics = Metrics(engine, site, registry)
        metrics.subscribe()
        ask(site, "/good/1")
        metrics.unsubscribe()
        ask(site, "/good/2")
        assert site.access_log is log
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert len(lines) == 2
    assert '"/good"' in lines[0]


def test_a_site_without_metrics_has_nothing_in_the_way(
    engine: Engine, site: Site, registry: Registry
) -> None:
    """Off is off: what serves a request is what served it before metrics were thought of."""
    before = site._route
    metrics = Metrics(engine, site, registry)
    metrics.subscribe()
    metrics.unsubscribe()
    assert site.access_log is None
    assert [type(each) for each in site._route] == [type(each) for each in before]
    assert all(mount._serve.__name__ == "serve" for mount in site.mounts)
    assert registry.families() == []


@pytest.mark.usefixtures("metrics")
def test_the_site_tells_of_itself(engine: Engine, site: Site, registry: Registry) -> None:
    """What graphs of any site begin with."""
    entered, leave = threading.Event(), threading.Event()

    def slow(environ: Any, start_response: Any) -> list[bytes]:
        entered.set()
        leave.wait(10)
        start_response("200 OK", [])
        return [b""]

    site.mount(slow, "/slow")
    watched = engine.serving.watch(site.wsgi)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/slow", "SCRIPT_NAME": ""}
    call = threading.Thread(target=lambda: list(watched(environ, lambda *_: print)))
    call.start()
    entered.wait(10)
    engine.start()

    try:
        assert told(registry, "sitebus_in_flight") == {(): 1}
        oldest = told(registry, "sitebus_oldest_request_seconds")[()]
        assert isinstance(oldest, float)
        assert 0 < oldest < 20
    finally:
        leave.set()
        call.join()
    assert told(registry, "sitebus_in_flight") == {(): 0}
    published = told(registry, "sitebus_bus_publish_total")
    assert published[(("channel", "start"),)] == 1
    assert published[(("channel", "stop"),)] == 0
    memory = told(registry, "sitebus_rss_bytes")[()]
    assert isinstance(memory, int)
    assert 1 << 20 < memory < 1 << 34


class Worker:
    def __init__(self, state: object, beat: Beat | None = None) -> None:
        self.state = state
        self.beat = beat


class Workers:
    """As much of a crew as is counted."""

    def pictures(self) -> list[Worker]:
        return [Worker("READY", Beat(oldest=2.5)), Worker("READY", Beat()), Worker("BOOTING")]


def test_a_supervisor_counts_its_workers(engine: Engine, registry: Registry) -> None:
    """Alarms are about these; a state that nobody is in is 0, not missing."""
    engine.workers = Workers()
    metrics = Metrics(engine, registry=registry)
    metrics.subscribe()
    facts = {"slot": 1, "serial": 7, "pid": 4711, "reason": "signal 9"}
    for channel in ("worker.lost", "worker.lost", "worker.draining", "worker.ready"):
        engine.publish(channel, facts)
    assert told(registry, "sitebus_workers") == {
        (("state", "ready"),): 2,
        (("state", "booting"),): 1,
        (("state", "draining"),): 0,
        (("state", "failed"),): 0,
    }
    # By what their beats say, which know of ASGI as well.
    assert told(registry, "sitebus_oldest_request_seconds") == {(): 2.5}
    assert told(registry, "sitebus_worker_restarts_total") == {
        (("reason", "lost"),): 2,
        (("reason", "drained"),): 1,
        (("reason", "unfit"),): 0,
    }
    assert "sitebus_requests_total" not in {family.name for family in registry.families()}
    metrics.unsubscribe()
