"""The main thread hears of signals that reached another thread."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from sitebus.wakeup import Wakeup
from tests.helpers import nothing_left, wait_for


@pytest.fixture(autouse=True)
def harmless() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    with nothing_left():
        yield
    signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_it_wakes_for_what_another_thread_got() -> None:
    """Also for what came between the opening and the watch."""
    woken = threading.Semaphore(0)
    wakeup = Wakeup(woken.release)
    wakeup.open()
    wakeup.open()
    signal.raise_signal(signal.SIGUSR1)
    assert not woken.acquire(blocking=False)
    wakeup.watch()
    wakeup.watch()
    assert woken.acquire(timeout=5)

    def hit() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    thread = threading.Thread(target=hit)
    thread.start()
    thread.join()
    assert woken.acquire(timeout=5)
    wakeup.close()
    wakeup.close()


def test_it_sleeps_while_no_signal_comes() -> None:
    """An idle site wakes up for nothing."""
    woken: list[int] = []
    wakeup = Wakeup(lambda: woken.append(1))
    wakeup.open()
    wakeup.watch()
    assert not threading.Event().wait(0.2)
    wakeup.close()
    assert not woken


def test_who_watches_already_goes_on() -> None:
    """An event loop in the main thread wakes it by itself."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    wakeup = Wakeup(lambda: None)
    wakeup.open()
    wakeup.watch()
    signal.raise_signal(signal.SIGUSR1)
    assert os.read(reading, 9) == bytes([signal.SIGUSR1])
    wakeup.close()
    assert signal.set_wakeup_fd(-1) == writing
    os.close(reading)
    os.close(writing)


def test_who_came_later_is_left_alone() -> None:
    wakeup = Wakeup(lambda: None)
    wakeup.open()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    wakeup.close()
    assert signal.set_wakeup_fd(-1) == writing
    os.close(reading)
    os.close(writing)


def test_a_copy_of_the_process_does_not_keep_it_from_ending() -> None:
    """A forked worker holds the writing end for as long as it lives."""
    wakeup = Wakeup(lambda: None)
    wakeup.open()
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        wakeup.watch()
        wakeup.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: os.waitpid(pid, 0))
