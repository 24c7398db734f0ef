"""While `Engine.block` waits, signal handlers that are none of ours run as soon as any."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from sitebus.mailbox import receive
from sitebus.process import Engine
from tests.helpers import environment, nothing_left, wait_for

#: Handlers as people write them, which say at once that they ran.
PROGRAM = """\
import os
import signal
import threading

from sitebus import Engine

engine = Engine()
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.write(1, bytes([number])))
signal.signal(signal.SIGTERM, lambda number, frame: engine.interrupt())
for _ in range(10):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
engine.subscribe("started", lambda: os.write(1, b"+"), priority=100)
engine.start()
raise SystemExit(engine.block())
"""
#: Far less than anything that would wake the main thread by and by; seconds.
SOON = 5.0
TIMES = 1500


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def read(stream: IO[bytes] | None, count: int, timeout: float) -> bytes:
    """Read *count* bytes, or what there is of them in time."""
    assert stream is not None
    end, found = time.monotonic() + timeout, b""
    while len(found) < count:
        if not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        data = os.read(stream.fileno(), count - len(found))
        if not data:
            break
        found += data
    return found


@pytest.mark.slow
def test_a_raw_handler_runs_soon_whenever_the_signal_comes(
    child: subprocess.Popen[bytes],
) -> None:
    """Two in a row: the system gives the second to any thread, and the main one sleeps on.

    Without anything against that, a few in a thousand pairs are not heard of.
    """
    choose = random.Random(1)
    both = {signal.SIGUSR1, signal.SIGUSR2}
    assert read(child.stdout, 1, 20) == b"+"
    for count in range(TIMES):
        for number in both:
            os.kill(child.pid, number)
        assert set(read(child.stdout, 2, SOON)) == both, f"pair {count} was not heard of"
        # At any moment of its way back to where it waits.
        end = time.perf_counter() + choose.uniform(0, 0.0005)
        while time.perf_counter() < end:
            pass
    child.terminate()
    assert child.wait(20) == 0


def blocking(engine: Engine, look: Callable[[], object]) -> None:
    """Call *look* while the engine blocks, and end it."""
    engine.start()

    def act() -> None:
        look()
        engine.exit()

    engine.call_in_main(act)
    assert engine.block() == 0


def noted() -> int:
    """Answer where signals are noted."""
    where = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(where)
    return where


def test_signals_are_noted_while_it_blocks_and_not_afterwards() -> None:
    """A program that goes on has the descriptors and the threads of before."""
    found: list[int] = []
    with nothing_left():
        blocking(Engine(), lambda: found.append(noted()))
    assert found[0] != -1
    assert noted() == -1


def test_who_has_signals_noted_already_is_left_alone() -> None:
    """An event loop in the main thread, for one; it is what wakes up then."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    found: list[int] = []
    try:
        blocking(Engine(), lambda: found.append(noted()))
        assert found == [writing]
        assert noted() == writing
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reading)
        os.close(writing)


def waits() -> bool:
    """Tell whether the main thread has been where it waits for a while."""
    main = threading.main_thread().ident
    threading.Event().wait(0.05)
    assert main is not None
    return sys._current_frames()[main].f_code is receive.__code__


def test_a_signal_that_another_thread_got_wakes_the_main_one(engine: Engine) -> None:
    """For certain, not by chance: it is sent to a thread that runs no handlers."""
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.set())
    found: list[bool] = []

    def hit() -> None:
        wait_for(waits)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        found.append(heard.wait(SOON))
        engine.interrupt()

    other = threading.Thread(target=hit)
    engine.start()
    engine.call_in_main(other.start)
    try:
        engine.block()
    finally:
        signal.signal(signal.SIGUSR1, before)
        other.join()
    assert found == [True]
