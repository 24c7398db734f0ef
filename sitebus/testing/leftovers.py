"""What a block of code has left behind: threads, and descriptors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sitebus.errors import LeftBehind, NotInTime, NotOnThisPlatform
from sitebus.testing.waiting import wait_for


def open_descriptors() -> frozenset[int]:
    """Answer the descriptors that this process has open.

    Raises:
        NotOnThisPlatform: The system does not tell.
    """
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            # Listing opens the folder itself, which is closed again by now.
            return frozenset(filter(_is_open, map(int, os.listdir(folder))))
    what, instead = "counting open descriptors", "look for threads alone, with descriptors=False"
    raise NotOnThisPlatform(what, "systems with /proc or /dev/fd", instead)


def _is_open(fd: int) -> bool:
    with suppress(OSError):
        os.fstat(fd)
        return True
    return False


@contextmanager
def nothing_left(timeout: float = 5.0, *, descriptors: bool = True) -> Iterator[None]:
    """Fail when the block leaves a thread or a descriptor behind.

    Args:
        timeout: Seconds that its threads may take to end.
        descriptors: Whether to look for these as well: of files, sockets, pipes.

    Raises:
        LeftBehind: It has; an AssertionError.
    """
    threads = set(threading.enumerate())
    opened = open_descriptors() if descriptors else frozenset()
    yield
    # A thread that is done is seen a moment longer.
    try:
        wait_for(lambda: not set(threading.enumerate()) - threads, timeout)
    except NotInTime:
        left = [thread.name for thread in set(threading.enumerate()) - threads]
        raise LeftBehind("threads", left) from None
    if descriptors and (found := open_descriptors() - opened):
        raise LeftBehind("descriptors", [_name_of(fd) for fd in sorted(found)])


def _name_of(fd: int) -> str:
    with suppress(OSError):
        return f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})"
    return str(fd)
