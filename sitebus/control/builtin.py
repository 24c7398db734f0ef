"""What every site counts of itself, and how a process comes to tell of all its metrics.

Requests are counted where the access log is written: there, and only there, the status, the time
and the mount of each are known at its end, whichever interface it came by. A site whose metrics are
off is as it was.
"""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from sitebus.control import foreign
from sitebus.control.crew import crew_of, state_name
from sitebus.control.families import Family, Fold, Labels, Number, Value, text_from
from sitebus.control.metrics import MOST_SERIES, REGISTRY, SECONDS, Registry
from sitebus.mounts.access import AccessLog
from sitebus.plugins import Plugin
from sitebus.process import Engine

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from sitebus.mounts import Site

#: The lifecycle channels whose messages are counted; others may carry any number of them.
CHANNELS = ("start", "stop", "graceful", "exit", "restart_refused", "stuck", "unstuck")

#: Why a worker ended, or is about to, by the channel on which its supervisor says so.
ENDS = {"worker.lost": "lost", "worker.unfit": "unfit", "worker.draining": "drained"}

#: What workers can be; a state that nobody is in is told as 0.
STATES = ("booting", "ready", "draining", "failed")

#: What the relay counts.
RELAY_COUNTS = {
    "tx": "Messages sent to other nodes.",
    "rx": "Messages that came from other nodes.",
    "gap": "Messages of other nodes that did not come.",
    "drop": "Messages that a peer was not sent because too many waited.",
    "bad": "What came from other nodes and was no message, or one that they may not send.",
}

_CLASSES = {digit: f"{digit}xx" for digit in "12345"}


class _Mount(dict[str, list[Number]]):
    """The requests of one mount, by the first digit of their status."""

    def __missing__(self, digit: str) -> list[Number]:
        if digit not in _CLASSES:
            return self["5"]  # no status at all: what the client got was a failure
        return self.setdefault(digit, [0] * (len(SECONDS) + 2))


class _Mounts(dict[str, _Mount]):
    def __missing__(self, mount: str) -> _Mount:
        if len(self) >= MOST_SERIES:
            mount = "other"
        return self.setdefault(mount, _Mount())


class Requests(AccessLog):
    """An access log that counts each request, and then has *log* write its line, if there is one.

    Counted without a lock: the interpreter changes threads at calls and jumps, and between the
    reading and the writing of ``+=`` with plain numbers in a list there is neither.
    """

    def __init__(self, log: AccessLog | None) -> None:
        super().__init__(*(("-",) if log is None else (log.target, log.form)))
        self.log = log
        self._mounts = _Mounts()

    def open(self) -> Requests:
        """Open the log that is written, if one is."""
        if self.log is not None:
            self.log.open()
        return self

    def reopen(self) -> None:
        """Follow a rotation."""
        if self.log is not None:
            self.log.reopen()

    def close(self) -> None:
        """Close the log; counting goes on."""
        if self.log is not None:
            self.log.close()

    def record(
        self, environ: WSGIEnvironment, status: str, size: int, seconds: float, mount: str
    ) -> None:
        """Count one request, and write its line."""
        cell = self._mounts[mount][status[:1]]
        at = bisect_left(SECONDS, seconds)
        cell[at] += 1
        cell[-1] += seconds
        if self.log is not None:
            self.log.record(environ, status, size, seconds, mount)

    def families(self) -> Iterator[Family]:
        """Answer what has been counted."""
        totals: dict[Labels, Value] = {}
        times: dict[Labels, Value] = {}
        for mount, classes in self._mounts.copy().items():
            name = text_from(mount)
            cells = {digit: cell.copy() for digit, cell in classes.copy().items()}
            for digit, cell in cells.items():
                totals[("code", _CLASSES[digit]), ("mount", name)] = sum(cell[:-1])
            # A WebSocket lasts as long as somebody stays: that is nobody's response time.
            answered = [cell for digit, cell in cells.items() if digit != "1"]
            if answered:
                times[(("mount", name),)] = list(map(sum, zip(*answered, strict=True)))
        said = "Requests answered, by the class of their status."
        yield Family("sitebus_requests_total", "counter", said, "sum", (), totals)
        said = "How long requests took until their response was closed."
        yield Family("sitebus_request_seconds", "histogram", said, "sum", SECONDS, times)


class Metrics(Plugin):
    """Count what every site counts, and have all of it told by *registry*.

    Args:
        bus: The engine.
        site: Whose requests are counted; None where no requests come, as in a supervisor.
        registry: What tells it all; the process's own if left out.
    """

    def __init__(
        self, bus: Engine, site: Site | None = None, registry: Registry = REGISTRY
    ) -> None:
        super().__init__(bus)
        self.site = site
        self.registry = registry
        self._requests: Requests | None = None
        self._published = dict.fromkeys(CHANNELS, 0)
        self._ends = dict.fromkeys(ENDS.values(), 0)
        machine = bus.machine
        self._counting = [
            *((machine.channel(each), _counting(self._published, each)) for each in CHANNELS),
            *((channel, _counting(self._ends, reason)) for channel, reason in ENDS.items()),
        ]
        self._before: AccessLog | None = None

    def subscribe(self) -> None:
        """Begin to count, and to tell."""
        super().subscribe()
        for channel, count in self._counting:
            self.bus.subscribe(channel, count, 0)
        if self.site is not None and self._requests is None:
            self._before = self.site.access_log
            self._requests = Requests(self._before)
            self.site.configure(access_log=self._requests)
        for source in (self.families, foreign.families):
            self.registry.collect(source)

    def unsubscribe(self) -> None:
        """Count no more, and tell no more."""
        super().unsubscribe()
        for channel, count in self._counting:
            self.bus.unsubscribe(channel, count)
        if self.site is not None and self.site.access_log is self._requests:
            self.site.configure(access_log=self._before or False)
        self._requests = None
        for source in (self.families, foreign.families):
            self.registry.forget(source)

    def families(self) -> Iterator[Family]:
        """Answer what the site is now."""
        if self._requests is not None:
            yield from self._requests.families()
        if self.site is not None:
            yield from self._present(self.site)
        yield _levels("sitebus_rss_bytes", "Memory of the process.", "each", rss())
        said = "When the process began, in seconds since 1970."
        yield _levels("sitebus_process_start_time_seconds", said, "each", began())
        said = "Messages on the channels of the site's life."
        yield _by_label("sitebus_bus_publish_total", said, "channel", self._published)
        yield from self._workers()
        yield from self._relay()

    def _relay(self) -> Iterator[Family]:
        relay = self.bus.relay
        if relay is None:
            return
        picture = relay.picture()
        for name, count in picture.counts.items():
            said = RELAY_COUNTS[name]
            yield Family(f"sitebus_relay_{name}_total", "counter", said, "sum", (), {(): count})
        up = sum(peer.state == "up" for peer in picture.peers)
        yield _levels("sitebus_relay_peers_up", "Other nodes that are there.", "sum", up)

    def _present(self, site: Site) -> Iterator[Family]:
        inside = sum(mount.in_flight for mount in site.mounts)
        yield _levels("sitebus_in_flight", "Requests inside applications.", "sum", inside)
        now = time.monotonic()
        yield _oldest(now - request.since for _, request in self.bus.serving.in_flight())

    def _workers(self) -> Iterator[Family]:
        crew = crew_of(self.bus)
        if crew is None:
            return
        workers = tuple(crew.pictures())
        ages = [worker.beat.oldest for worker in workers if worker.beat is not None]
        yield _oldest(ages)
        states = Tally(state_name(worker.state).lower() for worker in workers)
        series: dict[Labels, Value] = {
            (("state", state),): states[state] for state in {*STATES, *states}
        }
        said = "Worker processes."
        yield Family("sitebus_workers", "gauge", said, "sum", (), dict(sorted(series.items())))
        said = "Workers that ended, or were told to."
        yield _by_label("sitebus_worker_restarts_total", said, "reason", self._ends)


def _counting(counts: dict[str, int], key: str) -> Callable[..., None]:
    """Answer a listener that counts its messages."""

    def count(*args: object, **kwargs: object) -> None:
        counts[key] += 1

    return count


def _levels(name: str, said: str, fold: Fold, value: Number) -> Family:
    return Family(name, "gauge", said, fold, (), {(): value})


def _oldest(ages: Iterable[Number]) -> Family:
    said = "For how long the oldest request has been served."
    return _levels("sitebus_oldest_request_seconds", said, "max", max(ages, default=0.0))


def _by_label(name: str, said: str, label: str, counts: dict[str, int]) -> Family:
    series: dict[Labels, Value] = {
        ((label, text_from(key)),): count for key, count in counts.copy().items()
    }
    return Family(name, "counter", said, "sum", (), series)


def rss() -> int:
    """Answer how many bytes of memory this process has; the most it ever had, on some systems."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    with suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return 0


def began() -> float:
    """Answer when this process began, in seconds since 1970; a restart of it changes nothing."""
    # Asked for each time: a daemon, and a worker that was forked, has imported this before.
    with suppress(OSError, ValueError, IndexError), open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
        since_boot = ticks / os.sysconf("SC_CLK_TCK")
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return round(booted + since_boot, 1)
    return _IMPORTED


_IMPORTED = time.time()
