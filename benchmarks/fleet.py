"""What it costs to ask hosts something, beside what `ssh HOST true` costs.

    python -m benchmarks.fleet [--rounds N] [--hosts N]

An sshd of its own on 127.0.0.1 is every host: what is measured is this machine at both ends, and
sessions have no start files. In each round everybody has a turn: a fresh connection of ``ssh`` that
runs ``true`` (the floor), or a Python that does nothing; a command over a connection that a master
of ``ssh`` keeps; a host of a fleet from nothing to its first answer; calls to it once it is
connected; three hosts asked at once, for the first time and afterwards; many hosts connected side
by side. Figures are medians of the rounds, and ratios the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sitebus import fleet as fleets
from sitebus.fleet import Fleet, agent
from tests.fleet.sshd import Loopback, loopback_sshd

ROUNDS = 7
HOSTS = 30
#: How often a connected host is asked in a round.
CALLS = 200
#: What is aimed at, in milliseconds.
GOALS = {"connect": 600.0, "many": 10_000.0, "gather": 2.0}

Figures = Mapping[str, list[float]]


class Line(NamedTuple):
    """A row of the table: what it says, whose figures, and beside which."""

    text: str
    name: str
    beside: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    wanted = parser.parse_args()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {os.cpu_count()} cores, {wanted.rounds} rounds; milliseconds")
    with loopback_sshd() as sshd:
        show(measured(sshd, wanted.rounds, wanted.hosts), wanted.hosts)


def measured(sshd: Loopback, rounds: int, hosts: int) -> Figures:
    """Give everybody a turn in each round; the first one is for warming up."""
    found: dict[str, list[float]] = defaultdict(list)
    with kept(sshd) as socket:
        for number in range(rounds + 1):
            for name, seconds in turn(sshd, socket, hosts):
                if number:
                    found[name].append(seconds * 1000)
    return found


def turn(sshd: Loopback, socket: Path, hosts: int) -> Iterator[tuple[str, float]]:
    """Answer what each took in one round; in seconds."""
    yield "ssh", timed(lambda: command(sshd, "true"))
    yield "python", timed(lambda: command(sshd, f"{sys.executable} -c pass"))
    yield "kept", timed(lambda: command(sshd, "true", "-S", str(socket)))
    with opened(sshd, 1) as fleet:
        (host,) = fleet.hosts()
        yield "connect", timed(lambda: host.connect())
        yield "first", timed(lambda: host.call(agent.ping))
        yield "call", median_of(CALLS, lambda: host.call(agent.ping))
    with opened(sshd, 3) as fleet:
        connect(fleet)
        yield "gather first", timed(lambda: gather(fleet))
        yield "gather", median_of(CALLS, lambda: gather(fleet))
    with opened(sshd, hosts) as fleet:
        yield "many", timed(lambda: connect(fleet))
        yield "gather many", median_of(10, lambda: gather(fleet))


@contextmanager
def kept(sshd: Loopback) -> Iterator[Path]:
    """Have a master of ``ssh`` that keeps a connection, and answer its socket."""
    socket = sshd.folder / "master"
    subprocess.run(sshd.command("-M", "-S", str(socket), "-N", "-f"), check=True, timeout=30)
    try:
        yield socket
    finally:
        close = sshd.command("-S", str(socket), "-O", "exit")
        subprocess.run(close, check=True, timeout=30, capture_output=True)


@contextmanager
def opened(sshd: Loopback, count: int) -> Iterator[Fleet]:
    """Have a fleet of so many hosts, all of them this one, not yet connected."""
    path = sshd.folder / "fleet.ini"
    rows = {
        "port": sshd.port,
        "identity": sshd.identity,
        "known_hosts": sshd.known_hosts,
        "python": sys.executable,
    }
    lines = ["[fleet]", *(f"{key} = {value}" for key, value in rows.items()), "[hosts]"]
    lines += [f"h{number} = {sshd.address}" for number in range(1, count + 1)]
    path.write_text("\n".join([*lines, ""]))
    with fleets.open(path) as fleet:
        yield fleet


def connect(fleet: Fleet) -> None:
    for host, error in fleet.connect().items():
        if error is not None:
            raise RuntimeError(host) from error


def gather(fleet: Fleet) -> None:
    for host, answer in fleet.call_all(agent.ping).items():
        if answer is not True:
            raise RuntimeError(f"{host}: {answer}")


def command(sshd: Loopback, what: str, *options: str) -> None:
    subprocess.run([*sshd.command(*options), what], check=True, timeout=60)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_of(times: int, work: Callable[[], object]) -> float:
    return statistics.median(timed(work) for _ in range(times))


def show(found: Figures, hosts: int) -> None:
    lines = (
        Line("ssh HOST true", "ssh"),
        Line("ssh HOST python -c pass", "python", "ssh"),
        Line("ssh HOST true, connection kept", "kept", "ssh"),
        Line("connect to a host", "connect", "ssh"),
        Line("its first call", "first", "ssh"),
        Line("a call", "call", "kept"),
        Line("gather over 3, first", "gather first", "kept"),
        Line("gather over 3", "gather", "kept"),
        Line(f"connect to {hosts}, side by side", "many", "ssh"),
        Line(f"gather over {hosts}", "gather many", "kept"),
    )
    print(f"{'':34}{'median':>9}  {'ratio':>7}  {'beside':22}{'goal':>8}")
    texts = {line.name: line.text for line in lines}
    for line in lines:
        print(row(found, line, texts).rstrip())


def row(found: Figures, line: Line, texts: Mapping[str, str]) -> str:
    median = statistics.median(found[line.name])
    told = f"  {line.text:32}{median:9.2f}"
    if not line.beside:
        return told
    both = zip(found[line.name], found[line.beside], strict=True)
    ratio = statistics.median(own / other for own, other in both)
    told += (
        f"  {ratio:6.3f}x  {'connection kept' if line.beside == 'kept' else texts[line.beside]:22}"
    )
    if line.name in GOALS:
        goal = GOALS[line.name]
        told += f"{goal:8.0f}  {'ok' if median < goal else 'MISSED'}"
    return told


if __name__ == "__main__":
    main()
