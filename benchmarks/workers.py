"""What worker processes cost and give: throughput, deaths, memory, rest, and many generations.

    python -m benchmarks.workers [PART ...] [--adapter NAME] [--rounds N] [--seconds S]
                                 [--generations N]

Linux only. The parts, all by default, are:

speed
    Requests that compute, with one worker and with two, on all cores, beside the same work in one
    process and in two that serve nobody: more than these the machine does not give. And what a
    small request costs one worker under a supervisor beside one process without, on one core. They
    take turns.
deaths
    SIGKILL to a worker, until another serves in its place; SIGKILL to the supervisor with a request
    of 1.5 s under way, until the last process is gone.
memory
    What four workers of an application that is large in memory use together, its own share of what
    they share included, when each imports it and when it is preloaded; and how long a worker takes
    from its fork to where it serves.
rest
    Voluntary context switches of a supervisor whose four workers have nothing to do.
generations
    Descriptors and memory of a supervisor that has replaced its workers many times.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import hosting, processes
from benchmarks.births import WORK, Birth, Site, site
from benchmarks.load import Load
from benchmarks.processes import Server

WORKERS = 4
ROUNDS = 5
SECONDS = 2.0
#: Worker processes that the last part lives through.
GENERATIONS = 160
#: How long nothing happens in the part ``rest``; seconds.
REST = 20.0
#: How long everything may take that should take a moment; seconds.
PATIENCE = 60.0
#: Requests to a large application before its memory is looked at.
ASKED = 400
#: How often workers are replaced to see how long they take from their fork.
FORK_ROLLS = 3
GOALS = {
    "two": 1.8,
    # Where others use the two cores as well: as much of what they give as 1.8 is of 2.
    "given": 0.9,
    "supervised": 0.98,
    "worker": 150.0,
    "memory": 100.0,
    "ready": 20.0,
    "rest": 1.0,
}

#: How many connections are kept, and how many clients connect for each request.
MANNERS = {"kept": (16, 0), "each": (0, 16)}
#: How workers come into being.
WAYS: dict[str, tuple[str, ...]] = {"exec": (), "preload": ("-o", "workers.preload=yes")}

#: Does what a request to ``/work`` does, from when its input ends, and prints how often a second.
PLAIN = f"""\
import sys
import time

print("ready", flush=True)
sys.stdin.read()
done, began = 0, time.perf_counter()
while (spent := time.perf_counter() - began) < float(sys.argv[1]):
    {WORK}
    done += 1
print(done / spent)
"""

T = TypeVar("T")


def verdict(well: bool) -> str:
    return "ok" if well else "MISSED"


def speed(place: Site, wanted: Wanted) -> None:
    rounds, seconds = wanted.rounds, wanted.seconds
    print(f"requests that compute, {rounds} rounds of {seconds:g} s, {os.cpu_count()} cores")
    print("                  1 worker  2 workers   ratio")
    with ExitStack() as stack:
        both = [stack.enter_context(place.serve_newborn(count)[0]) for count in (1, 2)]
        for manner, (kept, each) in MANNERS.items():
            ask = partial(computed, kept=kept, each=each, seconds=seconds)
            one, two, *plain = taking_turns(
                [
                    *(partial(ask, server) for server in both),
                    *(partial(unserved, count, seconds) for count in (1, 2)),
                ],
                rounds,
            )
            ratio, given = _ratio(two, one), _ratio(plain[1], plain[0])
            print(
                f"{_doubled(manner, one, two)}   goal {GOALS['two']}"
                f"  {verdict(ratio >= GOALS['two'])}\n"
                f"{_doubled('  no server', *plain)}   of this {ratio / given:.2f}"
                f"   goal {GOALS['given']}  {verdict(ratio / given >= GOALS['given'])}",
                flush=True,
            )
    supervision(place, rounds, seconds)


def _doubled(name: str, one: Sequence[float], two: Sequence[float]) -> str:
    return (
        f"  {name:12} {statistics.median(one):9.0f} {statistics.median(two):10.0f}"
        f" {_ratio(two, one):7.2f}"
    )


def taking_turns(measures: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Measure each in every round, and answer what was found of each."""
    found: list[list[T]] = [[] for _ in measures]
    pairs = list(zip(measures, found, strict=True))
    for number in range(rounds + 1):
        for measure, results in pairs if number % 2 else pairs[::-1]:
            result = measure()
            if number:  # the first round is for warming up
                results.append(result)
    return found


def unserved(count: int, seconds: float) -> float:
    """Answer how often in a second that many processes do the work of a request."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PLAIN, str(seconds)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(count)
        ]
        for child in children:
            assert child.stdout
            child.stdout.readline()
        for child in children:
            assert child.stdin
            child.stdin.close()
        return sum(float(child.stdout.readline()) for child in children if child.stdout)


def computed(server: Server, *, kept: int, each: int, seconds: float) -> float:
    """Answer how many requests that compute are answered in a second."""
    with Load(server.address[1], kept, each, path="/work") as load:
        time.sleep(seconds)
        found = load.finish()
    if found.failed:
        print(f"  failed: {found.kinds}")
    return found.answered / found.seconds


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def supervision(place: Site, rounds: int, seconds: float) -> None:
    """Compare one worker under a supervisor and one process without, each on the same core."""
    print(f"small requests over kept connections, {rounds} rounds of {seconds:g} s, on one core")
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {cores[0]})
        both = [
            stack.enter_context(place.serve_newborn(count, target="siteapp:hello")[0])
            for count in (0, 1)
        ]
        os.sched_setaffinity(0, {cores[-1]})
        alone, under = taking_turns([partial(small, each, seconds) for each in both], rounds)
    ratio = _ratio([each.cost for each in alone], [each.cost for each in under])
    goal = f"   ratio {ratio:.3f}   goal {GOALS['supervised']}"
    for name, found in (("no supervisor", alone), ("1 worker", under)):
        rate = statistics.median(each.rate for each in found)
        cost = statistics.median(each.cost for each in found)
        told = f"{goal}  {verdict(ratio >= GOALS['supervised'])}" if found is under else ""
        print(f"  {name:14} {rate:8.0f}/s {cost:7.1f} us{told}")


class Small(NamedTuple):
    """Requests a second, and microseconds of processor time for each."""

    rate: float
    cost: float


def small(server: Server, seconds: float) -> Small:
    """Ask a server and all its processes for small answers."""
    pids = [server.pid, *processes.descendants(server.pid)]
    before = processes.processor_time(pids)
    rate = hosting.rate(server.address, hosting.KEEP, seconds)
    used = processes.processor_time(pids) - before
    return Small(rate, used / (rate * seconds) * 1e6)


def deaths(place: Site, wanted: Wanted) -> None:
    print(f"SIGKILL, {WORKERS} workers (ms)            median     most")
    for way, options in WAYS.items():
        times = _worker_deaths(place, options)
        well = max(times) <= GOALS["worker"]
        print(
            f"  a worker, {way:8} to the next that serves {statistics.median(times):7.0f}"
            f" {max(times):8.0f}   goal {GOALS['worker']:g}  {verdict(well)}"
        )
    for way, options in WAYS.items():
        for busy in (False, True):
            print(_supervisor_death(place, way, options, busy=busy))


def _worker_deaths(place: Site, options: Sequence[str]) -> list[float]:
    """Kill each worker once; who fails more than once has to wait."""
    server, newborn = place.serve_newborn(WORKERS, *options)
    times = []
    with server:
        for birth in newborn:
            time.sleep(1.0)
            began = time.monotonic()
            os.kill(birth.pid, signal.SIGKILL)
            times.append((place.register.next(1)[0].ready - began) * 1e3)
    return times


def _supervisor_death(place: Site, way: str, options: Sequence[str], *, busy: bool) -> str:
    """Kill a supervisor, some of whose workers are *busy* or not, and tell what became of them."""
    server, _ = place.serve_newborn(WORKERS, *options)
    asking = WORKERS if busy else 0
    with server, Load(server.address[1], 0, asking, path="/slow") as load:
        everybody = processes.descendants(server.pid)
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        gone = processes.wait_gone(everybody, PATIENCE)
        took = (time.monotonic() - began) * 1e3
        free = _is_free(server.address)
        answered = load.finish().answered
    told = f"   {answered} of {asking} under way answered" if busy else ""
    return (
        f"  the supervisor, {way:8}{'busy' if busy else 'idle'}, to nobody left {took:10.0f}"
        f"{told}   port {'free' if free else 'taken'}"
        f"  {verdict(gone and free and answered >= asking)}"
    )


def _is_free(address: tuple[str, int]) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError:
            return False
    return True


def memory(place: Site, wanted: Wanted) -> None:
    _compile(place.folder)
    print(f"a large application, {WORKERS} workers, after {ASKED} requests (MB)")
    print("              together  private to each  supervisor  zygote")
    for way, options in WAYS.items():
        server, newborn = place.serve_newborn(WORKERS, *options, target="large:application")
        with server:
            _ask(server)
            print(_memory_row(way, server, [birth.pid for birth in newborn]), flush=True)
            if way == "preload":
                _print_forks(place, server, newborn)


def _compile(folder: Path) -> None:
    """Have the bytecode written: compiling leaves holes in the memory of who does it."""
    command = [sys.executable, "-m", "compileall", "-q", str(folder)]
    subprocess.run(command, check=True)


def _ask(server: Server) -> None:
    """Ask until every worker has served, so that what a request touches has been touched."""
    with Load(server.address[1], 0, 16, thought=0.01) as load:
        time.sleep(ASKED / 16 * 0.02)
        load.finish()


def _memory_row(way: str, server: Server, pids: Sequence[int]) -> str:
    together = processes.pss(pids)
    others = set(processes.descendants(server.pid)) - set(pids)
    told = (
        f"  {way:10} {together:10.0f} {processes.private(pids) / WORKERS:16.1f}"
        f" {processes.pss([server.pid]):11.1f} {processes.pss(others):7.1f}"
    )
    if way == "exec":
        return told
    return f"{told}   goal {GOALS['memory']:g} together  {verdict(together <= GOALS['memory'])}"


def _print_forks(place: Site, server: Server, newborn: Sequence[Birth]) -> None:
    """Print how long those took that came all at once, and those that came in a roll."""
    rolled: list[Birth] = []
    for _ in range(FORK_ROLLS):
        time.sleep(0.5)
        _roll(place, server, rolled)
    for told, births in (("together", newborn), ("in a roll", rolled)):
        times = [(each.ready - each.forked) * 1e3 for each in births if each.forked]
        median = statistics.median(times)
        goal = f"   goal {GOALS['ready']:g}  {verdict(median <= GOALS['ready'])}"
        print(
            f"  ms from fork to ready, {told:10} median {median:6.1f}, most {max(times):6.1f}"
            f"{goal if births is rolled else ''}"
        )
    print(f"  imported after the fork: {_late(newborn)}")


def _late(newborn: Sequence[Birth]) -> str:
    """Name the modules that were imported after the fork; those of others by their packages."""
    modules = sorted({name for birth in newborn for name in birth.late})
    ours = [name for name in modules if name.startswith("sitebus.")]
    others = Counter(name.partition(".")[0] for name in modules if name not in ours)
    told = [*ours, *(f"{name} ({number})" for name, number in others.items())]
    return ", ".join(told) or "nothing"


def rest(place: Site, wanted: Wanted) -> None:
    print(f"wake-ups a second while nothing happens, {WORKERS} workers, {REST:g} s")
    for way, options in WAYS.items():
        server, newborn = place.serve_newborn(WORKERS, *options)
        with server:
            time.sleep(2.0)  # what was begun is done
            pids = {"supervisor": [server.pid], "each worker": [birth.pid for birth in newborn]}
            before = {name: _switches(found) for name, found in pids.items()}
            time.sleep(REST)
            rates = {
                name: (_switches(found) - before[name]) / REST / len(found)
                for name, found in pids.items()
            }
        goal = f"   goal {GOALS['rest']:g}  {verdict(rates['supervisor'] < GOALS['rest'])}"
        for name, rate in rates.items():
            told = goal if name == "supervisor" else ""
            print(f"  {way:8} {name:12} {rate:6.2f}{told}", flush=True)


def _switches(pids: Sequence[int]) -> int:
    return sum(processes.switches(pid) for pid in pids)


def generations(place: Site, wanted: Wanted) -> None:
    for way, options in WAYS.items():
        server, _ = place.serve_newborn(WORKERS, *options)
        with server:
            # What is made once has been made.
            for _ in range(2):
                _roll(place, server)
            before = _held(server.pid)
            began = time.monotonic()
            for _ in range(-(-wanted.generations // WORKERS)):
                _roll(place, server)
            took = time.monotonic() - began
            after = _held(server.pid)
        print(f"{wanted.generations} worker processes, {way}: {took:.0f} s      before    after")
        print(f"  descriptors of the supervisor {before[0]:12} {after[0]:8}", end="")
        print(f"   goal level  {verdict(after[0] <= before[0])}")
        print(f"  memory of the supervisor, MB {before[1]:13.1f} {after[1]:8.1f}", end="")
        print(f"   goal level  {verdict(after[1] <= before[1] * 1.05)}", flush=True)


def _roll(place: Site, server: Server, births: list[Birth] | None = None) -> None:
    """Replace all workers; *births* gets their successors."""
    if server.roll() is None:
        raise RuntimeError("a roll did not end")
    found = place.register.next(WORKERS)
    if births is not None:
        births += found


def _held(pid: int) -> tuple[int, float]:
    return processes.descriptors(pid), processes.resident(pid)


class Wanted(NamedTuple):
    """What the command line says."""

    parts: Sequence[str]
    adapter: str
    rounds: int
    seconds: float
    generations: int


PARTS: dict[str, Callable[[Site, Wanted], None]] = {
    "speed": speed,
    "deaths": deaths,
    "memory": memory,
    "rest": rest,
    "generations": generations,
}


def main(wanted: Wanted) -> None:
    for part in wanted.parts or PARTS:
        with site(wanted.adapter) as place:
            PARTS[part](place, wanted)
        print(flush=True)


def _arguments() -> Wanted:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.workers", description="What worker processes cost and give."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--adapter", default="cheroot", help="what serves (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of speed (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="a round (%(default)s)")
    parser.add_argument(
        "--generations", type=int, default=GENERATIONS, help="worker processes (%(default)s)"
    )
    wanted = Wanted(**vars(parser.parse_args()))
    unknown = sorted(set(wanted.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part is named {unknown[0]}")
    return wanted


if __name__ == "__main__":
    if not os.path.exists("/proc/self/smaps_rollup"):
        sys.exit("memory and wake-ups of a process are read from Linux's /proc")
    processes.end_well()
    main(_arguments())
