"""The loop in a thread of its own: how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from sitebus.loop import LoopThread
from tests.helpers import nothing_left, wait_for


async def answer() -> int:
    return 42


def test_a_loop_that_is_held_up_delays_a_stop_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Not for its tasks, and then for its thread as long again."""
    held, go = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        go.wait(20)

    with nothing_left():
        loop = LoopThread()
        made = loop.loop
        loop.submit(hold())
        assert held.wait(10)
        begun = time.monotonic()
        loop.stop(2.0)
        took = time.monotonic() - begun
        go.set()
        wait_for(made.is_closed)
    assert 2.0 <= took < 3.5
    assert capfd.readouterr().err == "sitebus: tasks did not end within 2 s\n"


def test_a_task_that_will_not_end_delays_a_stop_once(capfd: pytest.CaptureFixture[str]) -> None:
    """The loop goes on meanwhile, and ends at once."""
    held = threading.Event()

    async def stay() -> None:
        held.set()
        for _ in range(20):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                pass

    loop = LoopThread()
    staying = loop.submit(stay())
    assert held.wait(10)
    begun = time.monotonic()
    loop.stop(0.5)
    assert time.monotonic() - begun < 1.0
    assert not staying.done()
    assert capfd.readouterr().err == "sitebus: tasks did not end within 0.5 s\n"


def test_a_forked_process_leaves_its_parents_loop_alone() -> None:
    """It shares its descriptors, and has not its thread: to stop it would wait in vain."""
    loop = LoopThread()
    assert loop.submit(answer()).result(10).get() == 42
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            begun = time.monotonic()
            loop.stop()
            status = 2 if time.monotonic() - begun > 1 else 3
            loop.stop()
            status = 0 if loop.submit(answer()).result(10).get() == 42 else 4
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.submit(answer()).result(10).get() == 42
    loop.stop()


def test_a_loop_that_ends_itself_is_closed() -> None:
    """A thread cannot wait for itself, but it can clean up."""
    with nothing_left():
        loop = LoopThread()
        made = loop.loop

        async def end() -> None:
            loop.stop()

        loop.submit(end())
        wait_for(made.is_closed)
