"""Appending to a log file: under its name, whole lines, whatever the disk does.

Each write is one system call on a descriptor opened for appending, so that the lines of several
threads and processes do not mix and none waits in a buffer. Before it, one look at the name: if the
file was moved away or removed, the write goes to a new one. Who counts every microsecond writes to
the descriptor and looks now and then. What becomes of a line that cannot be written is the caller's
business.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from contextlib import suppress
from typing import Self

from sitebus.errors import CannotWriteLog


class LogFile:
    """A file to append to, by its name; a byte stream as far as those who write are concerned."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._fd = -1
        self._identity = (0, 0)
        self._torn = False
        self._told = False
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}>"

    def open(self) -> Self:
        """Open the file, making it if need be.

        Raises:
            CannotWriteLog: It cannot be opened.
        """
        with self._lock:
            if self._fd < 0:
                # The working directory may change; what the name meant does not.
                self.path = os.path.abspath(self.path)
                self.reopen()
        return self

    def reopen(self) -> None:
        """Append to the file that has the name now.

        Raises:
            CannotWriteLog: It cannot be opened; the one that was open stays in use.
        """
        with self._lock:
            try:
                fresh = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            except OSError as error:
                raise CannotWriteLog(self.path, error) from error
            found = os.fstat(fresh)
            self._identity = found.st_dev, found.st_ino
            if self._fd < 0:
                self._fd = fresh
            else:
                # In place: a thread about to write to the old number must not meet a closed one,
                # or worse, one that is somebody's socket by now.
                os.dup2(fresh, self._fd, inheritable=False)
                os.close(fresh)
            self._torn = self._told = False

    def write(self, data: bytes) -> int:
        """Append *data*, a line or several.

        Raises:
            OSError: Not all of it could be written.
            CannotWriteLog: The file was not open and cannot be opened.
        """
        with self._lock:
            self.open()
            self.follow()
            if self._torn:
                data = b"\n" + data  # so that this line does not go on where another broke off
            written = os.write(self._fd, data)
            if written < len(data):
                self._torn = data[written - 1 : written] != b"\n"
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            self._torn = False
            return written

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with suppress(OSError):  # the last lines may have met a full disk
                    os.close(fd)

    def __del__(self) -> None:
        self.close()

    def fileno(self) -> int:
        """Answer the descriptor, the same from the opening to the closing; -1 if there is none."""
        return self._fd

    def follow(self) -> None:
        """Open the file anew if another has its name, or none."""
        with self._lock:
            if self._fd < 0 or self._is_there():
                return
            try:
                self.reopen()
            except CannotWriteLog as error:
                if not self._told:
                    self._told = True
                    last_resort(f"sitebus: {error}; going on with the file that was moved away\n")

    def _is_there(self) -> bool:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False  # moved away
        except OSError:
            return True  # since privileges were dropped, it cannot even be looked at
        return (found.st_dev, found.st_ino) == self._identity


def last_resort(text: str) -> None:
    """Write to the process's own standard error, if there is one and it takes anything."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):
            sys.__stderr__.write(text)
            sys.__stderr__.flush()
