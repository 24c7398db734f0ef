"""Bound what a shutdown may take, and leave when nothing else helps.

A thread that only waits says what hangs, has every wait cut short, and at last may leave. It makes
nothing wake up while nothing is being shut down.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from sitebus.errors import EX_SOFTWARE
from sitebus.frames import current_frames, stack_of
from sitebus.listeners import ERROR, INFO

#: After the deadline, what is cut short has this long to come back; seconds.
LAST_GRACE = 5.0

#: Threads that are about to end anyway are not worth a log line; seconds.
ABOUT_TO_END = 0.05


class Deadline:
    """One shutdown's time.

    Args:
        seconds: How long it may take.
        hurry: Cuts waits short; called first.
        explain: Says what hangs; may itself hang, so it gets a thread of its own.
        give_up: Called when `LAST_GRACE` has passed as well.
    """

    def __init__(
        self,
        seconds: float,
        *,
        hurry: Callable[[], object],
        explain: Callable[[], object],
        give_up: Callable[[], object],
    ) -> None:
        self._seconds = seconds
        self._hurry = hurry
        self._explain = explain
        self._give_up = give_up
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="sitebus deadline", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError:
            # The interpreter is ending and makes no threads any more: without a bound, then.
            self._done.set()

    @property
    def is_met(self) -> bool:
        """Whether the shutdown is over, in time or not."""
        return self._done.is_set()

    def met(self) -> None:
        """The shutdown is over; wait until nobody watches it any more."""
        self._done.set()
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join()

    def _watch(self) -> None:
        if self._done.wait(self._seconds):
            return
        self._hurry()
        threading.Thread(target=self._explain, name="sitebus delay", daemon=True).start()
        if not self._done.wait(LAST_GRACE):
            self._give_up()


def stacks() -> str:
    """Answer where every thread is."""
    return "\n".join(f"{each.name}:\n{stack(each)}" for each in threading.enumerate())


def stack(thread: threading.Thread) -> str:
    """Answer where *thread* is."""
    import traceback

    frame = current_frames().get(thread.ident or 0)
    if frame is None:
        return "(gone)\n"
    lines = ((each, each.f_lineno) for each in stack_of(frame))
    return "".join(traceback.StackSummary.extract(lines).format())


def join_others(
    log: Callable[[str, int], object], patience: float, is_impatient: Callable[[], bool]
) -> tuple[threading.Thread, ...]:
    """Wait for every non-daemon thread but the main one and ours; answer those left behind.

    Args:
        log: Is told, with a level, whom it waits for, and where a thread is that takes long.
        patience: Seconds after which it takes long.
        is_impatient: Whether to wait no longer.
    """
    began = time.monotonic()
    for thread in _others():
        thread.join(max(0.0, began + ABOUT_TO_END - time.monotonic()))
    for thread in _others():
        log(f"Waiting for thread {thread.name}.", INFO)
        _join(thread, log, began + patience, is_impatient)
    return tuple(_others())


def _join(
    thread: threading.Thread,
    log: Callable[[str, int], object],
    explain_at: float,
    is_impatient: Callable[[], bool],
) -> None:
    # In slices: a second interrupt only sets a flag, which `join` does not see.
    while thread.is_alive() and not is_impatient():
        thread.join(0.1)
        if time.monotonic() > explain_at:
            explain_at = float("inf")
            where = f"Still waiting for thread {thread.name}, which is at\n{stack(thread)}"
            log(where, INFO)
    if thread.is_alive():
        log(f"Leaving thread {thread.name} behind, which is at\n{stack(thread)}", ERROR)


def _others() -> list[threading.Thread]:
    """Non-daemon threads that the process has to wait for.

    Pool threads of `concurrent.futures` are left to the interpreter: they end when it tells them,
    and wait for ever before.
    """
    futures = sys.modules.get("concurrent.futures.thread")
    pooled = getattr(futures, "_threads_queues", {})
    here = (threading.current_thread(), threading.main_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in here and t not in pooled]


def leave_now() -> NoReturn:
    """End the process with status 70: no log, no lock, no buffer, and no pipe that is full."""
    import faulthandler

    try:
        if sys.__stderr__ is not None and _can_be_written(sys.__stderr__.fileno()):
            os.write(sys.__stderr__.fileno(), b"sitebus: leaving at once; the threads are at:\n")
            faulthandler.dump_traceback(sys.__stderr__)
    except (OSError, ValueError):
        pass  # no descriptor to write to; leaving matters more
    finally:
        os._exit(EX_SOFTWARE)


def _can_be_written(fd: int) -> bool:
    """Tell whether writing cannot hang; a pipe is told not to, as nobody shares this one's end."""
    import select
    import stat

    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if not poll.poll(0):
            return False
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.set_blocking(fd, False)
    return True
