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


#: One thread looks at the frame of another, whose caller ends and is replaced by other calls while
#: what the first thread's look has collected is finalized.
REPLACED = textwrap.dedent(
    """
    import gc, threading, types
    from sitebus.frames import current_frames, stack_of

    class Scene:
        def __init__(self):
            self.inside, self.leave, self.left, self.end = (threading.Event() for _ in range(4))

        def outer(self):
            self.inner()

        def inner(self):
            self.inside.set()
            self.leave.wait()

        def others(self, levels):
            cell = [levels]
            def enclosed():
                return cell
            if levels:
                return self.others(levels - 1)
            self.left.set()
            self.end.wait()
            return enclosed

        def work(self):
            self.outer()
            self.others(6)

    class Held:
        def __init__(self, scene):
            self.scene = scene
            self.cycle = self

        def __del__(self):
            self.scene.leave.set()
            self.scene.left.wait()

    def play(allocations):
        scene = Scene()
        thread = threading.Thread(target=scene.work, daemon=True)
        thread.start()
        scene.inside.wait()
        gc.collect()
        gc.disable()
        Held(scene)
        frame = current_frames()[thread.ident]
        gc.set_threshold(gc.get_count()[0] + allocations)
        gc.enable()
        frames = stack_of(frame)
        gc.set_threshold(0)
        assert all(type(each) is types.FrameType for each in frames), frames
        names = [each.f_code.co_name for each in frames]
        assert names[names.index("work"):][:3] == ["work", "outer", "inner"], names
        scene.end.set()
        scene.leave.set()
        thread.join()

    for allocations in range(10):
        play(allocations)
    print("alive")
    """
)


def test_a_thread_that_goes_on_meanwhile_is_told_as_it_was() -> None:
    """Before CPython 3.12 its stack can be overwritten under the eyes of who looks at it."""
    with Child([sys.executable, "-c", REPLACED]) as child:
        assert child.wait(30) == 0, child.output
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
