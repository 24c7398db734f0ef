"""Slow requests are told with their stacks, stuck threads once, and idleness costs nothing."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sitebus.plugins import Plugin, listens
from sitebus.plugins.stuck import ThreadMonitor
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.serving import Registry, ThreadPicture
from tests.helpers import wait_for
from tests.servers.client import Client, hello

SAID = re.compile(r"^GET (\S+) for 127\.0\.0\.1 has taken (\S+) s so far in '(.+)'")


class Gate:
    """An application that keeps requests for ``/gate`` until it is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self.opened = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/gate"):
            self.inside += 1
            self.wait_at_the_gate()
        if environ["PATH_INFO"] == "/stream":
            return self.stream(start_response)
        return hello(environ, start_response)

    def stream(self, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hel"
        assert self.opened.wait(20)
        yield b"lo"

    def wait_at_the_gate(self) -> None:
        assert self.opened.wait(20)


class Site:
    """A real server with watched threads, and what was logged and published."""

    def __init__(self, bus: Engine, threads: int, **settings: Any) -> None:
        self.bus = bus
        self.gate = Gate()
        self.logged: list[tuple[int, str]] = []
        self.news: list[Any] = []
        self.clients: list[Client] = []
        bus.subscribe("log", lambda message, level: self.logged.append((level, message)))
        self.monitor = ThreadMonitor(bus, **settings)
        self.monitor.subscribe()
        bus.subscribe("stuck", self.news.append)
        bus.subscribe("unstuck", lambda: self.news.append("unstuck"))
        self.server = CherootServer(
            bus,
            bus.serving.watch(self.gate),
            binds=["127.0.0.1:0"],
            linger=0.05,
            drain_timeout=0.1,
            threads=threads,
        )
        self.server.subscribe()

    def ask(self, path: str) -> Client:
        client = Client(self.server.addresses[0])
        self.clients.append(client)
        client.ask(path)
        return client

    def fill(self, count: int, path: str = "/gate") -> None:
        before = self.gate.inside
        for _ in range(count):
            self.ask(path)
        wait_for(lambda: self.gate.inside == before + count)

    def has_news(self, count: int) -> bool:
        return len(self.news) == count

    def lines(self, text: str) -> list[str]:
        return [message for _, message in self.logged if text in message]

    def wait_for_lines(self, text: str, count: int = 1) -> list[str]:
        wait_for(lambda: len(self.lines(text)) >= count, what=f"{count} lines with {text!r}")
        return self.lines(text)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(bus: Engine) -> Iterator[MakeSite]:
    sites: list[Site] = []

    def make(threads: int = 2, **settings: Any) -> Site:
        sites.append(Site(bus, threads, **settings))
        bus.start()
        return sites[-1]

    yield make
    for site in sites:
        site.gate.opened.set()
        # Only then: what is written to a client that has gone is told by Python 3.13.
        bus.exit()
        for client in site.clients:
            client.close()


# Slow requests.


def test_a_slow_request_is_told_with_its_stack(make_site: MakeSite) -> None:
    """The operator wants to know where it hangs, while it hangs."""
    site = make_site(slow_request=0.05, stuck_after=0)
    client = site.ask("/gate?token=secret")
    line, *_ = site.wait_for_lines("so far")
    path, age, thread = SAID.match(line).groups()  # type: ignore[union-attr]
    assert path == "/gate"
    assert 0.05 <= float(age) < 0.5
    assert thread.startswith("cheroot main worker ")
    assert "in Gate.wait_at_the_gate\n    assert self.opened.wait(20)\n" in line
    assert not line.endswith("\n")
    assert "watched" not in line, "how it came there is the same for all"
    assert "secret" not in line

    site.gate.opened.set()
    assert client.answer().status == 200
    (finished,) = site.wait_for_lines("finished after")
    assert re.fullmatch(r"GET /gate for 127\.0\.0\.1 finished after \d+\.\d s", finished)


def test_it_is_told_again_whenever_its_age_has_doubled(make_site: MakeSite) -> None:
    """Seldom enough for a request of hours, and shortly if nothing has changed."""
    site = make_site(slow_request=0.1, stuck_after=0)
    site.fill(1)
    told = site.wait_for_lines("so far", 4)
    ages = [float(SAID.match(line)[2]) for line in told]  # type: ignore[index]
    for number, age in enumerate(ages[:4]):
        assert age >= 0.1 * 2**number
    assert ages[3] < 5
    assert "which is at\n" in told[0]
    for line in told[1:]:
        assert "\n" not in line
        assert re.search(r"the same place still: threading\.Condition\.wait \(.*:\d+\)", line)


def test_a_slow_stream_is_slow(make_site: MakeSite) -> None:
    """Its thread is not free before the response is sent."""
    site = make_site(slow_request=0.05, stuck_after=0)
    client = site.ask("/stream")
    (line, *_) = site.wait_for_lines("so far")
    assert "in Gate.stream\n    assert self.opened.wait(20)\n" in line
    site.gate.opened.set()
    assert client.answer().body == b"hello"
    site.wait_for_lines("finished after")


def test_a_quick_request_is_not_told(make_site: MakeSite) -> None:
    """Nor is one that others are slow beside."""
    site = make_site(slow_request=0.05, stuck_after=0)
    site.fill(1)
    site.wait_for_lines("so far", 2)
    assert all(site.ask("/quick").answer().status == 200 for _ in range(5))
    site.gate.opened.set()
    site.wait_for_lines("finished")
    assert site.lines("/quick") == []


def test_zero_turns_it_off(make_site: MakeSite) -> None:
    """With both off, there is not even a thread."""
    site = make_site(slow_request=0, stuck_after=0)
    assert not [each for each in threading.enumerate() if "monitor" in each.name]
    site.bus.stop()


def test_a_drain_is_watched_as_well(bus: Engine, make_site: MakeSite) -> None:
    """What keeps a site from stopping is what its operator asks then."""
    site = make_site(slow_request=0.05, stuck_after=0)
    site.server.drain_timeout = 20.0
    site.fill(1)
    stopping = threading.Thread(target=bus.stop)
    stopping.start()
    site.wait_for_lines("so far", 3)
    site.gate.opened.set()
    stopping.join()
    assert site.lines("finished after")


# Stuck threads.


def test_all_threads_busy_is_one_episode(bus: Engine, make_site: MakeSite) -> None:
    """Once when it begins, with pictures; once when it ends."""
    site = make_site(threads=3, slow_request=0.1, stuck_after=0.1)
    site.fill(2)
    site.wait_for_lines("so far", 4)
    assert site.news == [], "one thread is free"
    assert not bus.serving.stuck

    site.fill(1, "/gate/3")
    wait_for(lambda: site.news)
    assert bus.serving.stuck
    (pictures,) = site.news
    assert sorted(each.request.path for each in pictures) == ["/gate", "/gate", "/gate/3"]
    assert all(isinstance(each, ThreadPicture) and each.age >= 0.1 for each in pictures)

    before = len(site.lines("so far"))
    site.wait_for_lines("so far", before + 3)
    assert len(site.news) == 1, "it was said"
    site.gate.opened.set()
    wait_for(lambda: len(site.news) == 2)
    assert site.news[1] == "unstuck"
    assert not bus.serving.stuck
    ((level, line),) = [each for each in site.logged if "are stuck" in each[1]]
    assert level == 40
    assert line.startswith("All 3 worker threads are stuck")
    assert f"3 threads in {__name__}.Gate.wait_at_the_gate:\n" in line
    assert line.count("GET /gate") == 3


def test_the_next_episode_is_told_again(make_site: MakeSite) -> None:
    """Each may have another reason."""
    site = make_site(threads=1, slow_request=0, stuck_after=0.05)
    for _ in range(2):
        said = len(site.news)
        site.gate.opened.clear()
        site.fill(1)
        wait_for(partial(site.has_news, said + 1))
        site.gate.opened.set()
        wait_for(partial(site.has_news, said + 2))
    assert site.news[1::2] == ["unstuck", "unstuck"]


def test_a_busy_site_is_not_stuck(make_site: MakeSite) -> None:
    """Every thread busy all the time, but never for long with the same request."""
    site = make_site(threads=2, slow_request=0.05, stuck_after=0.5)
    site.fill(1)
    for _ in range(200):
        assert site.ask("/quick").answer().status == 200
        site.clients.pop().close()
    site.wait_for_lines("so far", 5)
    assert site.news == []


def test_groups_are_told_by_their_places(make_site: MakeSite) -> None:
    """What most of them wait for comes first."""
    site = make_site(threads=3, slow_request=0, stuck_after=0.1)
    site.fill(2)
    site.ask("/stream")
    (line,) = site.wait_for_lines("are stuck")
    places = re.findall(r"^(\d) threads? in (\S+):$", line, re.MULTILINE)
    assert places == [
        ("2", f"{__name__}.Gate.wait_at_the_gate"),
        ("1", f"{__name__}.Gate.stream"),
    ]


def test_a_stop_ends_the_episode(bus: Engine, make_site: MakeSite) -> None:
    """Threads that it leaves behind are not those of the next start."""
    site = make_site(threads=1, slow_request=0, stuck_after=0.05)
    site.fill(1)
    wait_for(lambda: site.news)
    bus.stop()
    assert site.news[1:] == ["unstuck"]
    assert not bus.serving.stuck
    assert bus.serving.workers == 0

    bus.start()
    assert bus.serving.workers == 1
    for _ in range(10):
        assert site.ask("/quick").answer().status == 200
    assert len(site.news) == 2
    wait_for(lambda: site.monitor._open_requests() == [])
    site.gate.opened.set()


@pytest.mark.parametrize("command", ["stop", "exit"])
def test_a_listener_may_end_the_site(bus: Engine, make_site: MakeSite, command: str) -> None:
    """Its stop waits for the monitor, which must not wait for it."""
    bus.subscribe("stuck", lambda pictures: getattr(bus, command)())
    site = make_site(threads=1, slow_request=0, stuck_after=0.05)
    site.fill(1)
    wait_for(lambda: bus.state in (bus.machine.resting, bus.machine.ended))
    assert len(site.news) == 2
    site.gate.opened.set()


def test_a_failing_listener_does_not_end_the_watch(bus: Engine, make_site: MakeSite) -> None:
    """It is logged, and the rest goes on."""

    @bus.subscribe("stuck")
    def fail(pictures: object) -> None:
        raise LookupError("as told")

    site = make_site(threads=1, slow_request=0.1, stuck_after=0.05)
    site.fill(1)
    site.wait_for_lines("as told")
    site.wait_for_lines("so far", 2)
    site.gate.opened.set()
    wait_for(lambda: "unstuck" in site.news)


def test_a_plugin_may_listen_for_either(bus: Engine) -> None:
    """One channel's name is no misspelling of the other's."""

    class Pager(Plugin):
        @listens("unstuck")
        def unstuck(self) -> None: ...

    ThreadMonitor(bus).subscribe()
    Pager(bus).subscribe()


# The cost, and other hosts.


def switches(thread: threading.Thread) -> int:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counted by Linux")
def test_an_idle_site_has_no_wake_ups(bus: Engine, make_site: MakeSite) -> None:
    """Also after it has served, and with connections kept alive."""
    site = make_site()
    (thread,) = (each for each in threading.enumerate() if "monitor" in each.name)
    client = site.ask("/quick")
    assert client.answer().status == 200
    wait_for(lambda: bus.serving.sleeper is not None)
    assert client.get("/quick").status == 200
    assert bus.serving.sleeper is None, "a request wakes it"
    wait_for(lambda: bus.serving.sleeper is not None)
    threading.Event().wait(0.1)
    before = switches(thread)
    threading.Event().wait(0.8)
    assert switches(thread) == before


def test_a_burst_wakes_it_once(make_site: MakeSite) -> None:
    """It looks a few times a second, however many requests there are."""
    site = make_site()
    (thread,) = (each for each in threading.enumerate() if "monitor" in each.name)
    before = switches(thread)
    client = site.ask("/quick")
    client.answer()
    for _ in range(200):
        assert client.get("/quick").status == 200
    assert switches(thread) - before < 20


def test_a_held_interpreter_is_told(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no thread of ours is to blame for being slow."""
    if sys.platform == "win32":
        pytest.skip("needs usleep")
    monkeypatch.setattr(ThreadMonitor, "stalled_after", 0.1)
    site = make_site(slow_request=0.05)
    site.fill(1)
    site.wait_for_lines("so far", 2)
    # Called like the interpreter's own functions: it keeps the lock.
    ctypes.PyDLL(None).usleep(700_000)
    (line, *_) = site.wait_for_lines("stalled")
    assert re.search(r"stalled for \d+\.[1-9] s", line)


def test_another_bus_and_another_server(bus: Engine) -> None:
    """Inside a host, nobody says how many threads there are but its operator."""
    wspbus = pytest.importorskip("cherrypy.process.wspbus")
    foreign = wspbus.Bus()
    monitor = ThreadMonitor(foreign, 0.0, 0.05, pool_size=1)
    assert isinstance(monitor.registry, Registry)
    monitor.subscribe()
    heard: list[Any] = []
    foreign.subscribe("stuck", heard.append)
    leave = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert leave.wait(20)
        return []

    watched: Any = monitor.registry.watch(app)
    thread = threading.Thread(target=watched, args=({"PATH_INFO": "/"}, None))
    foreign.publish("start")
    thread.start()
    try:
        wait_for(lambda: heard)
    finally:
        leave.set()
        thread.join()
        foreign.publish("stop")
    monitor.unsubscribe()
    ((picture,),) = heard
    assert picture.request.path == "/"
