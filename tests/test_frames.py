"""Asking where the threads are must not stop them."""

from __future__ import annotations

import gc
import sys
import textwrap
import threading

from sitebus.frames import current_frames
from tests.helpers import Child

#: Threads that leave cycles with thread-locals in them, and one that asks all the time.
STORM = textwrap.dedent(
    """
    import gc, threading, time
    from sitebus.frames import current_frames

    gc.set_threshold(20)
    end = time.monotonic() + 1

    class Local(threading.local):
        pass

    def deep(levels):
        return deep(levels - 1) if levels else time.sleep(0.001)

    def work():
        while time.monotonic() < end:
            cycle = [Local()]
            cycle[0].me = cycle
            deep(3)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        current_frames()
    for thread in threads:
        thread.join()
    print("alive")
    """
)


def test_a_collection_meanwhile_does_no_harm() -> None:
    """Before CPython 3.12 it can wait for a lock that the asking thread holds, for ever."""
    with Child([sys.executable, "-c", STORM]) as child:
        assert child.wait(30) == 0
        assert child.output == "alive\n"


def test_every_thread_is_there_and_collections_go_on() -> None:
    assert threading.get_ident() in current_frames()
    assert gc.isenabled()
    gc.disable()
    try:
        current_frames()
        assert not gc.isenabled()
    finally:
        gc.enable()
