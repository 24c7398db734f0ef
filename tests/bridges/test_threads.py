"""The pool: bounded, on demand, and nothing lost."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter

import pytest

from sitebus.bridges import Threads
from tests.helpers import nothing_left, wait_for


def test_threads_are_made_when_they_are_needed() -> None:
    """Most sites need few of those they may have."""
    with nothing_left():
        threads = Threads(5, "some")
        assert threads.alive == 0
        for number in range(20):
            done = threading.Event()
            threads.submit(done.set)
            assert done.wait(10)
            wait_for(lambda: threads.busy == 0)
            assert threads.alive == 1, number
        assert threads.stop(10)
        assert threads.alive == 0


def test_there_are_never_more_than_there_may_be() -> None:
    """Each takes memory, and a connection of the database."""
    go = threading.Event()
    running: list[str] = []
    threads = Threads(3, "some")
    with nothing_left():

        def job() -> None:
            running.append(threading.current_thread().name)
            go.wait(10)

        for _ in range(10):
            threads.submit(job)
        wait_for(lambda: len(running) == 3)
        assert (threads.alive, threads.busy, threads.waiting) == (3, 3, 7)
        assert sorted(running) == ["some 1", "some 2", "some 3"]
        threads.most = 4
        threads.submit(lambda: None)
        wait_for(lambda: len(running) == 4)
        go.set()
        assert threads.stop(10)
    assert len(running) == 10


def test_jobs_begin_in_order() -> None:
    """Nobody waits longer than who came later."""
    order: list[int] = []
    threads = Threads(1)
    for number in range(100):
        threads.submit(order.append, number)
    assert threads.stop(10)
    assert order == list(range(100))


def test_a_job_that_waits_for_the_next_gets_it() -> None:
    """A thread is woken for each that could run, even if they come at once."""
    threads = Threads(8)
    for _ in range(50):
        barrier = threading.Barrier(8)
        done = [threading.Event() for _ in range(8)]
        for each in done:
            threads.submit(lambda barrier=barrier, each=each: (barrier.wait(10), each.set()))
        assert all(each.wait(10) for each in done)
    assert threads.alive == 8
    assert threads.stop(10)


def test_a_failing_job_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Even one that wants to end the interpreter."""

    def leave() -> None:
        raise SystemExit(3)

    threads = Threads(1)
    done = threading.Event()
    threads.submit(leave)
    threads.submit(done.set)
    assert done.wait(10)
    assert threads.stop(10)
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def test_a_stop_waits_for_what_was_submitted() -> None:
    """And can be asked again, and from a job."""
    go = threading.Event()
    answers: list[bool] = []
    threads = Threads(2)
    threads.submit(go.wait, 10)
    threads.submit(lambda: answers.append(threads.stop(0.01)))
    wait_for(lambda: answers == [False])
    assert not threads.stop(0.01)
    go.set()
    assert threads.stop(10)
    done = threading.Event()
    threads.submit(done.set)
    assert done.wait(10), "it can be used again"
    assert threads.stop()


@pytest.mark.parametrize("seed", range(5))
def test_no_job_is_lost_whatever_happens(seed: int) -> None:
    """Many submit at a time, while others stop it."""
    chance = random.Random(seed)
    threads = Threads(chance.randint(1, 6))
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def job(number: int, pause: float) -> None:
        if pause:
            threading.Event().wait(pause)
        with lock:
            done[number] += 1

    def submit(first: int) -> None:
        for number in range(first, first + 300):
            threads.submit(job, number, chance.choice([0, 0, 0, 0.0001]))

    submitters = [threading.Thread(target=submit, args=(n * 300,)) for n in range(4)]
    for each in submitters:
        each.start()
    while any(each.is_alive() for each in submitters):
        threads.stop(10)
    for each in submitters:
        each.join()
    assert threads.stop(10)
    assert done == Counter(range(1200))
    assert threads.alive == threads.waiting == 0


def test_a_thread_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request can still be refused; waiting for a thread would be for ever."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(2)
    done = threading.Event()
    with monkeypatch.context() as limits:
        limits.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(done.set)
        assert (threads.alive, threads.waiting) == (0, 0)
    go = threading.Event()
    threads.submit(go.wait, 10)
    wait_for(lambda: threads.waiting == 0)
    with monkeypatch.context() as limits:
        limits.setattr(threading.Thread, "start", refuse)
        threads.submit(done.set)
    go.set()
    assert done.wait(10), "the one that there is does it"
    assert threads.stop(10)
