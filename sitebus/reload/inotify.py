"""Hear of changes from the Linux kernel itself, which needs no library but the C one.

Of a directory the kernel is asked for what changes it and what is in it, and for nothing else: a
file that is opened, read or closed unwritten wakes nobody. Writing is asked for as well as closing
after it, since a program may write and keep the file open. What is written and not yet closed is
waited for, as long as a burst may take.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from sitebus.errors import CannotWatch
from sitebus.reload.notices import LONGEST
from sitebus.reload.places import Places

# From <sys/inotify.h>; these are the same on every processor.
MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
OVERFLOW, IGNORED = 0x4000, 0x8000
ONLYDIR, EXCL_UNLINK, ISDIR = 0x1000000, 0x4000000, 0x40000000

#: Of a file's attributes nothing is said in its content; a directory's may hide what is in it.
MASK = (
    (MODIFY | ATTRIB | CLOSE_WRITE)
    | (MOVED_FROM | MOVED_TO | CREATE | DELETE)
    | (DELETE_SELF | MOVE_SELF)
    | (ONLYDIR | EXCL_UNLINK)
)

_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_HEAD = struct.Struct("iIII")
_READ = 1 << 16

#: So many times in so many seconds may other files wake us before we rest: a save is some of them,
#: if it is that of a draft which is given another name then.
_OFTEN, _WHILE = 10, 2.0

#: There is a limit, and it is reached.
_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM}

#: What an event says: nothing, that a burst goes on, that something may have changed.
_NOTHING, _STIRS, _MATTERS = range(3)


class Event(NamedTuple):
    """What happened to an entry of a directory; to the directory itself, if there is no name."""

    watch: int
    mask: int
    name: str


class Queue:
    """The kernel's list of what happened in the directories that it was told.

    Raises:
        OSError: There is none to be had.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = _checked(self._libc.inotify_init1(_FLAGS))

    def add(self, folder: str) -> int | None:
        """Answer the number of a watch, the same as before if it is the same directory.

        None if it is not ours to read, or not there any more.

        Raises:
            OSError: There are no more.
        """
        mask = ctypes.c_uint32(MASK)
        try:
            return _checked(self._libc.inotify_add_watch(self.fd, os.fsencode(folder), mask))
        except OSError as error:
            if error.errno in _LIMITS:
                raise
            return None

    def remove(self, watch: int) -> None:
        """End a watch; the kernel may have done so itself."""
        self._libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> Iterator[Event]:
        """Answer what has happened since the last time, or the first part of it."""
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            yield Event(watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0")))
            at += length

    def close(self) -> None:
        """Give it back, with all watches."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):  # somebody has closed it behind our back
                os.close(fd)


class Bell:
    """Wakes who waits for its descriptor.

    It is closed when the last who might ring it has let go of it, and so needs no lock: it is rung
    in the middle of anything, and a number that is given back may be somebody else's file at once.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def hush(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass  # nobody has rung

    def __del__(self) -> None:
        # Without a number if there was none to be had.
        if hasattr(self, "fd"):
            with suppress(OSError):
                os.close(self.fd)


class Watch(NamedTuple):
    """A directory that is watched: which one it was by its name, and the watch's number."""

    identity: tuple[int, int]
    number: int


class Inotify:
    """Have the kernel tell, of the directories that matter only.

    Args:
        debounce: How long nothing may come before a burst is over, in seconds.

    Raises:
        OSError: This kernel tells nobody.
        CannotWatch: It tells as many as it may.
    """

    eager = False

    def __init__(self, debounce: float) -> None:
        self._debounce = debounce
        try:
            self._queue = Queue()
            self._bell: Bell | None = Bell()
        except OSError as error:
            if error.errno in _LIMITS:
                raise CannotWatch(0, error) from error
            raise
        self._news, self._calls = select.poll(), select.poll()
        self._news.register(self._queue.fd, select.POLLIN)
        self._calls.register(self._bell.fd, select.POLLIN)
        self._either = select.poll()
        for fd in (self._queue.fd, self._bell.fd):
            self._either.register(fd, select.POLLIN)
        self._names: frozenset[str] = frozenset()
        self._matters: Mapping[str, Callable[[str], bool]] = {}
        self._watches: dict[str, Watch] = {}
        self._folders: dict[int, str] = {}
        self._doubtful = False
        #: When other files have woken us of late.
        self._stirred: deque[float] = deque(maxlen=_OFTEN)
        #: What was written to and not closed, in this burst.
        self._writing: set[tuple[int, str]] = set()

    def cover(self, places: Places, matters: Mapping[str, Callable[[str], bool]]) -> None:
        """Watch what is not watched, first, and then no more what is not to be watched."""
        self._names = places.names
        self._matters = {os.path.realpath(folder): each for folder, each in matters.items()}
        watches: dict[str, Watch] = {}
        for folder, identity in places.folders.items():
            known = self._watches.get(folder)
            if known is None or known.identity != identity or self._doubtful:
                known = self._watch(folder, identity, len(places.folders))
            if known is not None:
                watches[folder] = known
        folders = {watch.number: folder for folder, watch in watches.items()}
        for number in self._folders.keys() - folders.keys():
            self._queue.remove(number)
        self._watches, self._folders, self._doubtful = watches, folders, False

    def wait(self, timeout: float | None) -> bool:
        """Return when a burst is over in which something that matters was touched.

        Whoever is eager hears of it at once, but not of a file that is being written.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        if not self._hears(end):
            return False
        self._let_it_end()
        return True

    def wake(self) -> None:
        """End a wait; not the end of a burst, which comes soon."""
        bell = self._bell
        if bell is not None:
            bell.ring()

    def close(self) -> None:
        """Watch nothing any more."""
        self._queue.close()
        self._bell = None
        self._watches.clear()
        self._folders.clear()

    def _watch(self, folder: str, identity: tuple[int, int], wanted: int) -> Watch | None:
        try:
            number = self._queue.add(folder)
        except OSError as error:
            raise CannotWatch(wanted, error) from error
        return None if number is None else Watch(identity, number)

    def _hears(self, end: float) -> bool:
        """Wait for something that matters, until *end* or a call."""
        bell = self._bell
        assert bell is not None
        while ready := _ready(self._either, end):
            if bell.fd in ready:
                break
            if self._read() == _MATTERS:
                return True
            # Who writes to other files all the time shall not wake us as often.
            if self._is_busy() and _ready(self._calls, min(end, time.monotonic() + self._debounce)):
                break
        bell.hush()
        return False

    def _is_busy(self) -> bool:
        """Note that other files have woken us, and tell whether they do so all the time."""
        stirred, now = self._stirred, time.monotonic()
        busy = len(stirred) == _OFTEN and now - stirred[0] < _WHILE
        stirred.append(now)
        return busy

    def _let_it_end(self) -> None:
        now = time.monotonic()
        debounce = 0.0 if self.eager else self._debounce
        last, end = now + LONGEST, now + debounce
        while _ready(self._news, last if self._writing else min(end, last)):
            if self._read() != _NOTHING:
                end = time.monotonic() + debounce
        self._writing.clear()

    def _read(self) -> int:
        return max(map(self._weigh, self._queue.read()), default=_NOTHING)

    def _weigh(self, event: Event) -> int:
        if event.mask & OVERFLOW:
            # A directory may have gone, and another come that looks the same.
            self._doubtful = True
            return _MATTERS
        folder = self._folders.get(event.watch)
        if folder is None:
            return _NOTHING  # said before its watch was ended
        if not event.name:
            # This one may be gone, too.
            self._doubtful |= bool(event.mask & IGNORED)
            return _MATTERS
        if event.mask & ATTRIB and not event.mask & ISDIR:
            return _NOTHING
        if self._heeds(folder, event.name):
            self._note_writing(event)
            return _MATTERS
        return _NOTHING if event.mask & MODIFY else _STIRS

    def _heeds(self, folder: str, name: str) -> bool:
        if name in self._names:
            return True
        matters = self._matters.get(folder)
        return matters is not None and matters(name)

    def _note_writing(self, event: Event) -> None:
        file = event.watch, event.name
        if event.mask & MODIFY:
            self._writing.add(file)
        else:
            self._writing.discard(file)


def _ready(poll: select.poll, end: float) -> set[int]:
    """Wait for one of the descriptors of *poll*; none is ready if it is *end* by then."""
    if end == math.inf:
        return {fd for fd, _ in poll.poll()}
    left = end - time.monotonic()
    return {fd for fd, _ in poll.poll(left * 1000)} if left > 0 else set()


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
