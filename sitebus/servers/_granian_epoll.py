"""A descriptor that somebody else has the kernel watch: not to be woken for it, and to be again.

Linux tells which descriptors an epoll watches, and what it hands to its owner when something
happens there (``/proc/self/fdinfo``). Whoever has a copy of the epoll may change what is watched,
and put it back as it was. What happened meanwhile is told then: the kernel looks anew.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import threading
import time
from contextlib import suppress
from typing import NamedTuple

_MODIFY = 3
#: ``struct epoll_event``: without a gap only there.
_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "@IQ")
_WATCHED = re.compile(
    r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)\s+pos:\S+\s+ino:([0-9a-f]+)"
)


class Watch(NamedTuple):
    """That an epoll watches a descriptor; to be closed."""

    #: A copy: whoever has the original may close it.
    epoll: int
    fd: int
    events: int
    data: int

    def mute(self) -> None:
        """Wake nobody for it any more.

        Raises:
            OSError: It is watched no more, or means something else now.
        """
        self._modify(0)

    def unmute(self) -> None:
        """Wake its owner for it again, at once if something has happened.

        Raises:
            OSError: It is watched no more, or means something else now.
        """
        self._modify(self.events)

    def close(self) -> None:
        os.close(self.epoll)

    def _modify(self, events: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        event = ctypes.create_string_buffer(_EVENT.pack(events, self.data), _EVENT.size)
        if libc.epoll_ctl(self.epoll, _MODIFY, self.fd, event) < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))


def wait_found(fd: int, timeout: float) -> Watch | None:
    """Answer who watches *fd*, when somebody does; None if that cannot be known."""
    until = time.monotonic() + timeout
    pause = threading.Event()
    while (found := _find(fd)) is None and _epolls() and time.monotonic() < until:
        pause.wait(0.001)
    return found


def _find(fd: int) -> Watch | None:
    inode = os.fstat(fd).st_ino
    for epoll in _epolls():
        for number, events, data, of in _watched(epoll):
            # A number may be left over from a socket that had it before.
            if (int(number), int(of, 16)) == (fd, inode):
                with suppress(OSError):
                    return Watch(os.dup(epoll), fd, int(events, 16), int(data, 16))
    return None


def _watched(epoll: int) -> list[tuple[str, str, str, str]]:
    with suppress(OSError), open(f"/proc/self/fdinfo/{epoll}", encoding="ascii") as told:
        return _WATCHED.findall(told.read())
    return []


def _epolls() -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir("/proc/self/fd") if _is_epoll(name)]
    return []


def _is_epoll(name: str) -> bool:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]"
    return False
