"""Where every thread is, asked without harm to any of them.

Up to CPython 3.11 a collection may begin whenever a frame is looked at, and what it finalizes lets
other threads run. Then `sys._current_frames` waits for a lock that is its own (CPython issue
106883), and ``frame.f_back`` answers what has taken the place of a frame that has ended meanwhile,
which is no frame, or the end of the process. So nothing is collected while frames are looked at.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_looking = threading.RLock()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    if sys.version_info >= (3, 12):
        yield
        return
    import gc

    with _looking:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def current_frames() -> dict[int, FrameType]:
    """Answer the frame of each thread by its identifier, as ``sys._current_frames`` does."""
    with _nothing_collected():
        return sys._current_frames()


def stack_of(frame: FrameType | None) -> list[FrameType]:
    """Answer *frame* and its callers, the innermost last; its thread may go on meanwhile."""
    frames = []
    with _nothing_collected():
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
    frames.reverse()
    return frames
