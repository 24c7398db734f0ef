"""Replace all workers of a site under load, again and again, and count what its clients lose.

    python -m benchmarks.rolling [NAME ...] [--rolls N] [--seconds S]

Four workers serve one small application, through sitebus with each adapter that takes a descriptor
and on the servers that people use, each rolled by its own means: SIGHUP. Names are those of the
rows, all by default; a server that is not installed is left out (the extra ``bench`` has them).

Failed are requests that were refused, reset, cut off, late, 5xx or answered wrongly. Kept
connections are used without a look whether they are still open, and nothing is asked twice: whoever
closes one without having said so loses a request. The gap is the longest time in which no client
got an answer, the time of a roll the one until no worker of before is left and a new connection is
answered. Then come requests that take 1.5 s, and an application that takes 2 s to import.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Load, Result
from benchmarks.processes import Server, end_well, sitebus
from benchmarks.startup import free_port

WORKERS = 4
ROLLS = 10
#: Seconds of load between two rolls.
SECONDS = 1.0
#: Clients that keep their connection, that connect for each request, and how long each thinks.
KEPT, EACH, THOUGHT = 48, 16, 0.002
#: Those that ask for what takes 1.5 s, of each kind, and through how many rolls.
SLOW, SLOW_ROLLS = 8, 3
#: How long the application takes to import in the last table, and how often it is rolled there.
IMPORT, IMPORT_ROLLS = 2.0, 2
#: What sitebus is to reach: the longest gap, in milliseconds.
GAP = 200.0

APPLICATION = """\
import asyncio
import time

time.sleep({seconds})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.5)
    body = environ["QUERY_STRING"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    body = scope["query_string"]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""


class Contender(NamedTuple):
    """A server that replaces its workers.

    Attributes:
        name: Its row.
        needs: The library without which there is none.
        command: Answers its command line for a port.
    """

    name: str
    needs: str
    command: Callable[[int], list[str]]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("sitebus")

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.needs) is not None


def _module(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


CONTENDERS = (
    Contender("sitebus-cheroot", "cheroot", lambda port: sitebus("siteapp:wsgi", port, WORKERS)),
    Contender(
        "sitebus-uvicorn",
        "uvicorn",
        lambda port: sitebus("siteapp:asgi", port, WORKERS, adapter="uvicorn"),
    ),
    Contender(
        "sitebus-granian",
        "granian",
        lambda port: sitebus("siteapp:wsgi", port, WORKERS, adapter="granian"),
    ),
    Contender(
        "sitebus-preload",
        "cheroot",
        lambda port: sitebus("siteapp:wsgi", port, WORKERS, "-o", "workers.preload=yes"),
    ),
    Contender(
        "gunicorn",
        "gunicorn",
        lambda port: _module(
            *("gunicorn", "siteapp:wsgi", "-b", f"127.0.0.1:{port}", "-w", str(WORKERS)),
            *("-k", "gthread", "--threads", "10", "--log-level", "error"),
        ),
    ),
    Contender(
        "uvicorn",
        "uvicorn",
        lambda port: _module(
            *("uvicorn", "siteapp:asgi", "--port", str(port), "--workers", str(WORKERS)),
            *("--no-access-log", "--log-level", "error"),
        ),
    ),
    Contender(
        "granian",
        "granian",
        lambda port: _module(
            *("granian", "siteapp:wsgi", "--port", str(port), "--workers", str(WORKERS)),
            *("--interface", "wsgi", "--blocking-threads", "10", "--no-access-log"),
            *("--log-level", "error"),
        ),
    ),
)


class Trial(NamedTuple):
    """What clients saw of a server, and how long each roll took; None if it did not end."""

    seen: Result
    rolls: Sequence[float | None]


def trial(server: Server, load: Load, rolls: int, seconds: float) -> Trial:
    """Roll *server* under *load*."""
    taken: list[float | None] = []
    with load:
        time.sleep(seconds)
        for _ in range(rolls):
            taken.append(server.roll() if server.is_alive else None)
            time.sleep(seconds)
        return Trial(load.finish(), taken)


def quick(port: int) -> Load:
    return Load(port, KEPT, EACH, thought=THOUGHT)


def slow(port: int) -> Load:
    return Load(port, SLOW, SLOW, path="/slow")


def measure(
    contender: Contender, folder: Path, load: Callable[[int], Load], rolls: int, seconds: float
) -> Trial:
    """Run one server and roll it under load."""
    port = free_port()
    with Server(contender.command(port), folder, port) as server:
        server.wait_serving(WORKERS)
        return trial(server, load(port), rolls, seconds)


def row(contender: Contender, found: Trial, *, gap: bool) -> str:
    """Answer a line of a table; *gap* says whether one is aimed at."""
    seen = found.seen
    ended = [each for each in found.rolls if each is not None]
    took = f"{statistics.median(ended):7.2f}" if ended else "      -"
    if len(ended) < len(found.rolls):
        took += f"  {len(found.rolls) - len(ended)} did not end"
    verdict = ""
    if contender.is_ours:
        well = not seen.failed and len(ended) == len(found.rolls)
        well = well and (not gap or seen.gap * 1e3 <= GAP)
        verdict = "  ok" if well else "  MISSED"
    return (
        f"{contender.name:16} {seen.answered:9} {seen.failed:7} {seen.gap * 1e3:8.1f}"
        f" {seen.p99 * 1e3:8.1f} {seen.longest * 1e3:8.0f} {took}{verdict}   {seen.kinds}"
    )


HEAD = f"{'':16} {'answered':>9} {'failed':>7} {'gap':>8} {'p99':>8} {'longest':>8} {'a roll':>7}"


def table(
    chosen: Iterable[Contender],
    seconds_to_import: float,
    load: Callable[[int], Load],
    rolls: int,
    seconds: float,
) -> None:
    """Measure and print *chosen*, one after the other, with one application."""
    print(f"{HEAD}   (ms, roll in s)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "siteapp.py").write_text(APPLICATION.format(seconds=seconds_to_import))
        for contender in chosen:
            try:
                found = measure(contender, folder, load, rolls, seconds)
            except RuntimeError as error:
                print(f"{contender.name:16} {error}", flush=True)
            else:
                print(row(contender, found, gap=load is quick), flush=True)


def main(chosen: Sequence[Contender], rolls: int, seconds: float) -> None:
    print(
        f"{WORKERS} workers, {rolls} rolls, {KEPT} kept connections and {EACH} clients that connect"
        f" for each request; goal: 0 failed, no gap above {GAP:g} ms"
    )
    table(chosen, 0, quick, rolls, seconds)
    print()
    fewer = min(rolls, SLOW_ROLLS)
    print(f"requests of 1.5 s, {fewer} rolls, {SLOW} clients of each kind; goal: all answered")
    table(chosen, 0, slow, fewer, seconds)
    print()
    fewer = min(rolls, IMPORT_ROLLS)
    print(f"imports for {IMPORT:g} s, {fewer} rolls, the clients of the first table")
    table(chosen, IMPORT, quick, fewer, seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.rolling", description="What clients lose while workers are replaced."
    )
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--rolls", type=int, default=ROLLS, help="of each server (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of load between two rolls (%(default)s)"
    )
    wanted = parser.parse_args()
    unknown = sorted(set(wanted.names) - set(names))
    if unknown:
        parser.error(f"no row is named {unknown[0]}")
    return wanted


if __name__ == "__main__":
    wanted = _arguments()
    end_well()
    rows = [each for each in CONTENDERS if each.name in (wanted.names or [each.name])]
    for missing in (each for each in rows if not each.is_installed):
        print(f"{missing.name:16} not installed")
    main([each for each in rows if each.is_installed], wanted.rolls, wanted.seconds)
