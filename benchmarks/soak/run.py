"""One soak: its parts, what is measured between them, and the verdict.

The site is asked without events until it is warm, then with all events, then with none until it is
as warm as before, and at last with events that leave the process image alone: that part is long
enough for memory to grow if it does. Between the parts the clients leave, and the site is looked
at in peace.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.soak.clients import MIXED, SECURE, TALKING, Client, Load, Talker, Unhurried
from benchmarks.soak.events import Operator
from benchmarks.soak.site import PREFIXES, THREADS, NotDone, Site, Vitals
from benchmarks.soak.tally import Tally
from benchmarks.soak.wire import Failure
from sitebus.sockets.addresses import Address

#: Of all the time; in seconds at most, for the parts that only warm.
_WARMING, _LONGEST_WARMING = 0.1, 15.0
_ALL_EVENTS = 0.5
#: Seconds between two events.
_PAUSE = (0.2, 2.0)
#: How much the memory of the last image may grow: by this part, and kilobytes on top. A heap that
#: many threads use takes its time to find its level; what an earlier image had is gone with it.
_GROWTH, _SLACK = 0.1, 8192
#: Seconds of more requests at once than the site has threads.
_CROWDED = 1.0
#: How many more threads there may be: some end a moment after what they were for.
_MORE_THREADS = 2
#: So many lines of what the site has printed are shown if something went wrong.
_TAIL = 40
#: So many different errors are shown that it has logged.
_ERRORS = 5
Clients = Mapping[type[Client], int]
_COLUMNS = ("ok", "own", "p99 ms", "max ms", "opened", "reopened")


class Soak:
    """One site under load for *seconds*, with everything that *seed* makes happen to it."""

    def __init__(self, adapter: str, seconds: float, seed: int) -> None:
        self.adapter = adapter
        self.seconds = seconds
        self.random = Random(seed)
        self.tallies: dict[str, Tally] = {}
        self.vitals: dict[str, Vitals] = {}
        self.events: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._progress = Progress(seconds)

    def run(self) -> bool:
        """Have it happen, print what became of it, and answer whether all was well."""
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            site = Site(Path(folder), self.adapter)
            operator = Operator(site, self.random, self.events)
            try:
                with site:
                    self._soak(site, operator)
            except NotDone as error:
                self.complaints.append(str(error))
            self._progress.clear()
            for line, count in site.errors.most_common(_ERRORS):
                self.complaints.append(f"logged {count} times: {line}")
            said = site.said
        for tally in self.tallies.values():
            self.complaints += tally.examples
        self.complaints += [*operator.complaints, *self._unheard()]
        if "end" in self.vitals:
            self.complaints += growth(*(self.vitals[when] for when in ("start", "middle", "end")))
        self._report()
        if self.complaints:
            print("  the site said last:", *said.splitlines()[-_TAIL:], sep="\n    ")
        return not self.complaints

    def _soak(self, site: Site, operator: Operator) -> None:
        warming = min(self.seconds * _WARMING, _LONGEST_WARMING)
        all_events = self.seconds * _ALL_EVENTS
        self._warm(operator, warming)
        self.vitals["start"] = site.vitals()
        self._part(operator, all_events, Operator.ALL)
        self._warm(operator, warming)
        self.vitals["middle"] = site.vitals()
        self._part(operator, self.seconds - all_events - 2 * warming, Operator.HARMLESS)
        self.vitals["end"] = site.vitals()
        if status := site.stop():
            self.complaints.append(f"it ended with status {status}")

    def _warm(self, operator: Operator, seconds: float) -> None:
        # Pools of threads grow with what is asked at once: here more than they may ever have.
        crowd = Load(
            operator.site.addresses,
            {Unhurried: THREADS},
            seed=self.random.getrandbits(32),
            prefixes=PREFIXES[:1],
        )
        self._part(operator, _CROWDED, loads=[crowd])
        self._part(operator, seconds)

    def _part(
        self,
        operator: Operator,
        seconds: float,
        events: Sequence[str] = (),
        loads: Sequence[Load] = (),
    ) -> None:
        end = time.monotonic() + seconds
        coming = operator.rounds(events)
        loads = loads or list(self._everybody(operator.site))
        with ExitStack() as stack:
            for load in loads:
                stack.enter_context(self._counting(load))
                stack.enter_context(load)
            while (left := end - time.monotonic()) > 0:
                self._progress.show(loads, self.events.total())
                time.sleep(min(left, self.random.uniform(*_PAUSE)))
                if events and time.monotonic() < end:
                    operator.do(next(coming))
        self._progress.note(loads)

    def _everybody(self, site: Site) -> Iterator[Load]:
        """Answer who asks at the same time: in the plain, by TLS, and over WebSockets."""

        def load(addresses: Sequence[Address], who: Clients, **more: Any) -> Load:
            return Load(addresses, who, seed=self.random.getrandbits(32), **more)

        yield load(site.addresses, MIXED, prefixes=PREFIXES, errands=site.errands)
        secure = {"tls": site.tls, "manner": "TLS, "}
        yield load([site.secure], SECURE, prefixes=PREFIXES, errands=site.errands, **secure)
        if site.talks:
            yield load([site.tcp], TALKING, prefixes=PREFIXES[1:])

    @contextmanager
    def _counting(self, load: Load) -> Iterator[None]:
        yield
        for tally in load.tallies.values():
            total = self.tallies.setdefault(tally.kind, Tally(tally.kind))
            total += tally

    def _unheard(self) -> Iterator[str]:
        """Answer what WebSockets should have been told, and were not."""
        talks = self.tallies.get(Talker.kind)
        images = self.events["restart"] + self.events["code change"]
        if talks is not None and images and not talks.reopened:
            yield f"no WebSocket was told of {images} restarts"

    def _report(self) -> None:
        print(f"{self.adapter}: {self.seconds:g} s")
        for line in _table(list(self.tallies.values())):
            print(f"  {line}")
        print("  events: " + ", ".join(f"{name} {self.events[name]}" for name in Operator.ALL))
        for when, seen in self.vitals.items():
            print(
                f"  {when:7} {seen.descriptors:5} descriptors {seen.threads:5} threads "
                f"{seen.memory / 1024:8.1f} MB"
            )
        for complaint in self.complaints:
            print(f"  WRONG: {complaint}")
        print("  all is well" if not self.complaints else "  NOT well")


class Progress:
    """A line that is overwritten, for who watches a terminal."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()
        self._ok = self._failed = 0
        self._is_shown = sys.stderr.isatty()

    def show(self, loads: Sequence[Load], events: int) -> None:
        if self._is_shown:
            ok = self._ok + sum(load.ok for load in loads)
            failed = self._failed + sum(load.failed for load in loads)
            text = (
                f"{time.monotonic() - self._began:4.0f} s of {self.seconds:g}: "
                f"{ok} answered, {failed} failed, "
                f"{events} events"
            )
            print(f"\r{text:78}", end="", file=sys.stderr, flush=True)

    def note(self, loads: Sequence[Load]) -> None:
        """Add what a part of the soak has counted."""
        self._ok += sum(load.ok for load in loads)
        self._failed += sum(load.failed for load in loads)

    def clear(self) -> None:
        if self._is_shown:
            print(f"\r{'':78}\r", end="", file=sys.stderr, flush=True)


def growth(start: Vitals, middle: Vitals, end: Vitals) -> Iterator[str]:
    """Answer what there is more of than there may be; *middle* and *end* are of one image."""
    if end.descriptors > start.descriptors:
        yield f"descriptors grew from {start.descriptors} to {end.descriptors}"
    if end.threads > max(start.threads, middle.threads) + _MORE_THREADS:
        yield f"threads grew from {start.threads} to {end.threads}"
    if end.memory > middle.memory * (1 + _GROWTH) + _SLACK:
        yield f"memory grew from {middle.memory} KB to {end.memory} KB without a restart"


def _table(tallies: Sequence[Tally]) -> Iterator[str]:
    """Answer the lines of a table: a kind of clients each, times in milliseconds."""
    yield _line("clients", [*_COLUMNS, *Failure])
    total = Tally("all")
    for tally in tallies:
        yield _row(tally)
        total += tally
    yield _row(total)


def _row(tally: Tally) -> str:
    times = (f"{each * 1000:.0f}" for each in (tally.quantile(0.99), tally.longest))
    counts = (tally.ok, tally.own, *times, tally.opened, tally.reopened)
    return _line(tally.kind, [*counts, *(tally.failures[kind] for kind in Failure)])


def _line(kind: str, cells: Sequence[object]) -> str:
    widths = (max(len(name), 6) + 2 for name in (*_COLUMNS, *Failure))
    return f"{kind:23}" + "".join(
        f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )
