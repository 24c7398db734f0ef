"""How much publishing and waiting cost, beside a plain loop and beside wspbus, in one run.

    python -m benchmarks.bus

Prints a table of medians: each contender takes its turn in every round, so that a machine that
slows down slows all of them.
"""

from __future__ import annotations

import functools
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Callable

from sitebus import Bus, Engine

ROUNDS = 15


def loop(count: int) -> Callable[[], object]:
    """The floor: call the same listeners and collect what they return."""
    listeners = [_copy() for _ in range(count)]

    def call() -> list[object]:
        results: list[object] = []
        for each in listeners:
            results.append(each())  # noqa: PERF401 - the plain loop is what is measured
        return results

    return call


def ours(count: int) -> Callable[[], object]:
    bus = Bus({"A": "B"}, initial_state="A", extra_channels=("log", "news"))
    bus.listeners["news"] = [_copy() for _ in range(count)]
    return functools.partial(bus.publish, "news")


def wspbus(count: int) -> Callable[[], object] | None:
    try:
        from cherrypy.process import wspbus as theirs
    except ImportError:
        return None
    bus = theirs.Bus()
    for _ in range(count):
        bus.subscribe("news", _copy())
    return functools.partial(bus.publish, "news")


def _copy() -> Callable[[], None]:
    """A listener that does nothing, so that only the publishing counts."""

    def each() -> None:
        pass

    return each


def nanoseconds(contenders: dict[str, Callable[[], object]], number: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            taken[name].append(timeit.timeit(call, number=number) / number * 1e9)
    return {name: statistics.median(times) for name, times in taken.items()}


def publishing() -> None:
    print("publish (ns, median)          loop   sitebus    wspbus   / loop   wspbus /")
    for count in (1, 10, 100):
        contenders = {"loop": loop(count), "ours": ours(count), "theirs": wspbus(count)}
        known = {name: call for name, call in contenders.items() if call is not None}
        took = nanoseconds(known, 20_000 // count)
        theirs = took.get("theirs", float("nan"))
        print(
            f"  {count:3} listeners            {took['loop']:7.0f} {took['ours']:9.0f}"
            f" {theirs:9.0f} {took['ours'] / took['loop']:8.2f} {theirs / took['ours']:9.2f}"
        )


def waiting() -> None:
    """From the transition, in one thread, to the return of wait(), in another."""
    delays = sorted(_delay() for _ in range(200))
    half, most = delays[len(delays) // 2] * 1e6, delays[int(len(delays) * 0.99)] * 1e6
    print(f"wait() returns after          median {half:.0f} us, 99 % within {most:.0f} us")


def _delay() -> float:
    engine = Engine()
    times: list[float] = []

    def wait() -> None:
        engine.wait(engine.states.STARTED)
        times.append(time.perf_counter())

    thread = threading.Thread(target=wait)
    thread.start()
    while not engine._mail._boxes:
        time.sleep(0)
    engine.subscribe("start", lambda: times.append(time.perf_counter()), 100)
    engine.start()
    thread.join()
    engine.exit()
    return times[1] - times[0]


def idling(seconds: float = 3.0) -> None:
    """Voluntary context switches of a process whose main thread only blocks."""
    program = "import sitebus; sitebus.engine.start(); print(flush=True); sitebus.engine.block()"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.2)
    before = _switches(child.pid)
    time.sleep(seconds)
    woken = _switches(child.pid) - before
    child.send_signal(2)
    child.wait()
    child.stdout.close()
    print(f"blocked and idle              {woken / seconds:.1f} wake-ups a second")


def _switches(pid: int) -> int:
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            found = [line for line in status if line.startswith("voluntary")]
        total += int(found[0].split()[1])
    return total


def importing() -> None:
    """What `import sitebus` adds to a bare interpreter, start to end."""
    bare: list[float] = []
    ours_: list[float] = []
    # An installed package has its bytecode; so shall this one have.
    environ = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import sitebus"], check=True, env=environ)
    for _ in range(21):
        for taken, program in ((bare, "pass"), (ours_, "import sitebus")):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, env=environ)
            taken.append(time.perf_counter() - began)
    cost = (statistics.median(ours_) - statistics.median(bare)) * 1e3
    print(f"import sitebus                {cost:.1f} ms over a bare interpreter")


if __name__ == "__main__":
    logging.disable()
    publishing()
    waiting()
    idling()
    importing()
