"""Threads are numbered once each, and told when they begin and end, by themselves if possible."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sitebus.plugins.threads import ThreadManager
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.servers.pool import WorkerPool
from tests.helpers import wait_for
from tests.servers.client import Client, hello


class Journal:
    """What was heard on ``start_thread`` and ``stop_thread``: the number, and in which thread."""

    def __init__(self, bus: Any) -> None:
        self.started: list[tuple[int, int]] = []
        self.stopped: list[tuple[int, int]] = []
        bus.subscribe("start_thread", self.start)
        bus.subscribe("stop_thread", self.stop)

    def start(self, number: int) -> None:
        self.started.append((number, threading.get_ident()))

    def stop(self, number: int) -> None:
        self.stopped.append((number, threading.get_ident()))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.started]

    @property
    def stopped_numbers(self) -> list[int]:
        return [number for number, _ in self.stopped]


@pytest.fixture
def manager(bus: Engine) -> ThreadManager:
    manager = ThreadManager(bus)
    manager.subscribe()
    return manager


@pytest.fixture
def journal(bus: Engine) -> Journal:
    return Journal(bus)


def in_a_thread(*calls: Callable[[], object]) -> int:
    """Make *calls* in a new thread, and answer its identifier when it has ended."""

    def call_all() -> None:
        for call in calls:
            call()

    thread = threading.Thread(target=call_all)
    thread.start()
    thread.join()
    assert thread.ident is not None
    return thread.ident


# One thread.


def test_a_thread_is_started_once(bus: Engine, manager: ThreadManager, journal: Journal) -> None:
    """However often it says so: whoever cannot know says it before each request."""
    acquire = [lambda: bus.publish("acquire_thread")] * 3
    seen: list[dict[int, int]] = []
    ident = in_a_thread(*acquire, lambda: seen.append(manager.threads))
    assert journal.started == [(1, ident)]
    assert seen == [{ident: 1}]


def test_a_thread_that_releases_itself_is_stopped_by_itself(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """Only it can close what is bound to it."""
    ident = in_a_thread(
        lambda: bus.publish("acquire_thread"),
        lambda: bus.publish("release_thread"),
        lambda: bus.publish("release_thread"),
    )
    assert journal.stopped == [(1, ident)]
    assert manager.threads == {}


def test_who_never_acquired_is_not_stopped(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """There is nothing to undo."""
    bus.publish("release_thread")
    assert journal.stopped == []


def test_a_released_number_is_not_used_again(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """A listener keeps what belongs to a thread under its number."""
    done, leave = threading.Event(), threading.Event()

    def stay() -> None:
        bus.publish("acquire_thread")
        done.set()
        assert leave.wait(20)

    staying = threading.Thread(target=stay)
    staying.start()
    assert done.wait(20)
    for _ in range(2):
        in_a_thread(lambda: bus.publish("acquire_thread"), lambda: bus.publish("release_thread"))
    assert journal.numbers == [1, 2, 3]
    leave.set()
    staying.join()


# Threads that say nothing at their end.


def test_fifty_short_threads_are_fifty(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """Their identifiers are used again, most often at once."""
    for _ in range(50):
        in_a_thread(lambda: bus.publish("acquire_thread"))
    assert journal.numbers == list(range(1, 51))
    assert journal.stopped_numbers == list(range(1, 50)), "the last has nobody after it"
    bus.publish("stop")
    assert journal.stopped_numbers == list(range(1, 51))


def test_the_end_of_a_foreign_thread_is_noticed(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """Threads of a host such as Apache are unknown to `threading`."""
    for number in range(1, 4):
        ended = _thread.allocate_lock()
        ended.acquire()

        def run(ended: _thread.LockType = ended) -> None:
            bus.publish("acquire_thread")
            ended.release()

        _thread.start_new_thread(run, ())
        with ended:
            pass
        assert journal.numbers[-1] == number

    def all_but_one_stopped() -> bool:
        in_a_thread(lambda: bus.publish("acquire_thread"), lambda: bus.publish("release_thread"))
        return {1, 2, 3} <= set(journal.stopped_numbers)

    wait_for(all_but_one_stopped)


def test_stop_stops_those_that_are_left(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """From outside: a thread that is stuck cannot do it."""
    bus.start()
    bus.publish("acquire_thread")
    bus.stop()
    assert journal.stopped == [(1, threading.get_ident())]
    bus.publish("release_thread")
    assert journal.stopped_numbers == [1]


def test_a_failing_listener_spares_the_other_threads(bus: Engine, manager: ThreadManager) -> None:
    """Each of them has something to close."""
    stopped: list[int] = []

    @bus.subscribe("stop_thread")
    def stop_thread(number: int) -> None:
        stopped.append(number)
        if number == 1:
            raise LookupError("as told")

    in_a_thread(lambda: bus.publish("acquire_thread"))
    numbers: list[int] = []
    bus.subscribe("start_thread", numbers.append)
    failures: list[Exception] = []

    def acquire() -> None:
        try:
            bus.publish("acquire_thread")
        except Exception as error:
            failures.append(error)

    in_a_thread(acquire)
    assert numbers == [2], "a new thread is started whatever becomes of the old"
    assert "as told" in repr(failures)
    manager.stop()
    assert stopped == [1, 2]


def test_an_unsubscribed_manager_is_silent(
    bus: Engine, manager: ThreadManager, journal: Journal
) -> None:
    """And the channels stay for the next."""
    manager.unsubscribe()
    bus.publish("acquire_thread")
    assert journal.started == []


@pytest.mark.parametrize("seed", range(3))
def test_every_start_has_its_stop_under_fire(
    bus: Engine, manager: ThreadManager, journal: Journal, seed: int
) -> None:
    """Threads come, speak, and go while the bus reloads: nothing twice, nothing forgotten."""

    def live() -> None:
        for turn in range(20):
            bus.publish("acquire_thread")
            if (turn + threading.get_ident() // 64 + seed) % 3 == 0:
                bus.publish("release_thread")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(10):
            threads = [threading.Thread(target=live) for _ in range(8)]
            for thread in threads:
                thread.start()
            for _ in range(10):
                manager.graceful()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    manager.stop()
    assert len(set(journal.numbers)) == len(journal.numbers)
    assert sorted(journal.stopped_numbers) == sorted(journal.numbers)
    assert manager.threads == {}


# The threads of a server.


@pytest.fixture
def server(bus: Engine, manager: ThreadManager, journal: Journal) -> CherootServer:
    server = CherootServer(bus, hello, binds=["127.0.0.1:0"], linger=0.05, threads=3)
    server.subscribe()
    return server


def test_worker_threads_say_when_they_begin_and_end(
    bus: Engine, manager: ThreadManager, journal: Journal, server: CherootServer
) -> None:
    """Each in its own thread, also at its end."""
    bus.start()
    wait_for(lambda: len(journal.started) == 3)
    assert sorted(journal.numbers) == [1, 2, 3]
    assert sorted(manager.threads.values()) == [1, 2, 3]
    bus.stop()
    assert sorted(journal.stopped) == sorted(journal.started)
    assert threading.get_ident() not in {ident for _, ident in journal.stopped}


def test_after_a_graceful_they_begin_again(
    bus: Engine, journal: Journal, server: CherootServer
) -> None:
    """In their own threads, before the next request: a listener reads its settings again."""
    bus.start()
    wait_for(lambda: len(journal.started) == 3)
    bus.graceful()
    assert sorted(journal.stopped_numbers) == [1, 2, 3]
    with Client(server.addresses[0]) as client:
        assert client.get().status == 200
        assert client.get().status == 200
    # At the third, which there may be, a thread finds that the client has gone.
    assert 4 <= len(journal.numbers) <= 6
    assert journal.started[3][1] in {ident for _, ident in journal.started[:3]}


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_failing_start_thread_does_not_cost_the_worker(
    bus: Engine, server: CherootServer, error: type[BaseException]
) -> None:
    """It is logged; a site with no threads would be worse."""

    @bus.subscribe("start_thread")
    def fail(number: int) -> None:
        raise error("as told")

    bus.start()
    with Client(server.addresses[0]) as client:
        assert client.get().status == 200


def test_a_pool_without_a_bus_tells_nobody() -> None:
    """Who listens is the caller's choice."""
    done: list[int] = []
    pool = WorkerPool[int](2, done.append, "plain")
    pool.start()
    for number in range(10):
        pool.put(number)
    assert pool.stop(10) == []
    assert sorted(done) == list(range(10))


# Another bus.


def test_it_serves_the_bus_it_was_written_for() -> None:
    """CherryPy's own bus has no more than subscribe, publish and listeners."""
    wspbus = pytest.importorskip("cherrypy.process.wspbus")
    bus = wspbus.Bus()
    manager = ThreadManager(bus)
    manager.subscribe()
    journal = Journal(bus)
    in_a_thread(lambda: bus.publish("acquire_thread"))
    in_a_thread(lambda: bus.publish("acquire_thread"), lambda: bus.publish("release_thread"))
    assert journal.numbers == [1, 2]
    bus.publish("stop")
    assert sorted(journal.stopped_numbers) == [1, 2]
    assert {"acquire_thread", "start_thread", "release_thread", "stop_thread"} <= set(bus.listeners)
