"""What it costs to know who serves what: for each request, and for whoever looks.

    python -m benchmarks.threads

Each row is measured against the bare application in the same rounds, taking turns; both get a fresh
environ each time, as from a server. Times of requests are CPU time, the least of all rounds; the
monitor's thread runs beside the second half of the rows. Looking is timed as it is waited for.
It ends with status 1 if a request costs more than its target.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.dispatch import CALLS, ROUNDS, environ_for
from sitebus.plugins.stuck import ThreadMonitor
from sitebus.process import Engine
from sitebus.serving import Registry

LIMIT = 2_000

_CODE = """
def listed(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]

def generated(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    yield b"hello"

def start_response(status, headers, exc_info=None):
    return None

def loop(call, environ, calls):
    fresh, turns = environ.copy, range(calls)
    begun = clock()
    for _ in turns:
        response = call(fresh(), start_response)
        for chunk in response:
            pass
        if hasattr(response, "close"):
            response.close()
    return (clock() - begun) / calls
"""


class Row:
    """One application, bare and watched."""

    def __init__(self, title: str, name: str, registry: Registry) -> None:
        self.title = title
        self.environ = environ_for("/some/page")
        bare, watched = self._fresh(), self._fresh()
        self.sides = (
            (bare["loop"], bare[name]),
            (watched["loop"], registry.watch(watched[name])),
        )
        self.best = [float("inf"), float("inf")]

    def _fresh(self) -> dict[str, Any]:
        # Code objects of its own: the interpreter adapts them to what they are called with.
        names: dict[str, Any] = {"clock": time.thread_time_ns}
        exec(_CODE, names)
        return names

    def turn(self) -> None:
        for side, (loop, call) in enumerate(self.sides):
            self.best[side] = min(self.best[side], loop(call, self.environ, CALLS))

    @property
    def added(self) -> float:
        return self.best[1] - self.best[0]

    def __str__(self) -> str:
        verdict = "" if self.added <= LIMIT else "  MISSED"
        bare, watched = self.best
        return f"{self.title:44} {bare:7.0f} {watched:8.0f} {self.added:8.0f} {LIMIT:8}{verdict}"


@contextmanager
def serving(count: int) -> Iterator[Registry]:
    """Have *count* threads inside an application, 40 calls deep."""
    registry, leave = Registry(), threading.Event()
    entered = threading.Barrier(count + 1)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return descend(40)

    def descend(depth: int) -> list[bytes]:
        if depth:
            return descend(depth - 1)
        entered.wait()
        leave.wait()
        return []

    watched: Any = registry.watch(app)
    threads = [
        threading.Thread(target=watched, args=(environ_for("/"), None)) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    entered.wait()
    try:
        yield registry
    finally:
        leave.set()
        for thread in threads:
            thread.join()


def best_of(call: Callable[[], object], times: int = 15) -> float:
    """Answer the microseconds of the fastest call."""
    took = []
    for _ in range(times):
        begun = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - begun)
    return min(took) / 1000


def look() -> None:
    """Print what looking costs, by the number of threads that serve."""
    print(f"\n{'us to look':24} {'in_flight':>10} {'serving':>10} {'picture':>10} {'threads':>10}")
    for count in (10, 100, 1000):
        with serving(count) as registry:
            slot, request = registry.in_flight()[0]
            calls: tuple[Callable[[], object], ...] = (
                registry.in_flight,
                registry.serving,
                partial(registry.picture, slot, request),
                registry.threads,
            )
            figures = " ".join(f"{best_of(call):10.0f}" for call in calls)
            print(f"{count:4} threads, 40 deep    {figures}")


def main() -> int:
    """Measure, print the tables, and answer 1 if the target is missed."""
    engine = Engine()
    alone = [Row("a list", "listed", Registry()), Row("a generator", "generated", Registry())]
    monitored = [
        Row("a list, the monitor running", "listed", engine.serving),
        Row("a generator, the monitor running", "generated", engine.serving),
    ]
    for _ in range(ROUNDS):
        for row in alone:
            row.turn()
    monitor = ThreadMonitor(engine)
    monitor.start()
    for _ in range(ROUNDS):
        for row in monitored:
            row.turn()
    monitor.stop()
    print(f"Python {sys.version.split()[0]}, ns of CPU time for one request")
    print(f"{'':44} {'bare':>7} {'watched':>8} {'added':>8} {'at most':>8}")
    for row in (*alone, *monitored):
        print(row)
    look()
    return int(any(row.added > LIMIT for row in (*alone, *monitored)))


if __name__ == "__main__":
    raise SystemExit(main())
