"""The file of a unix socket: who may make it, replace it and remove it.

A socket file outlives a process that was killed, and nothing in it says so: only a connection that
is refused tells that nobody listens.
Between that look and the replacement another starter may have come first, and between ``bind`` and
``listen`` a live socket looks dead.
So everything from the look to ``listen`` happens under a lock on the *directory* (``flock``), which
all our processes share and which leaves no lock file behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

#: Who may connect when nobody said otherwise: this user.
PRIVATE = 0o600

LOCK_PATIENCE = 5.0
_LOCK_RETRY = 0.005


class SocketFile(NamedTuple):
    """A socket file and the process that answers for it."""

    path: str
    device: int
    inode: int
    pid: int

    @classmethod
    def found(cls, path: str) -> SocketFile:
        """Take responsibility, in this process, for the socket file that is at *path* now."""
        status = os.lstat(path)
        return cls(path, status.st_dev, status.st_ino, os.getpid())

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to this very file."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def remove(self) -> None:
        """Unlink the file, unless another process made it or somebody has replaced it."""
        if self.pid == os.getpid() and self.is_there:
            # The directory may be out of reach since privileges were dropped: then the file stays,
            # and the next start finds it stale.
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def permit(self, mode: int | None, owner: tuple[int, int] | None) -> None:
        """Give the file these permissions and this (user, group); None leaves them."""
        status = os.lstat(self.path)
        if owner is not None and owner != (status.st_uid, status.st_gid):
            os.chown(self.path, *owner, follow_symlinks=False)
        # Not for its own sake: chmod would follow a link put here by another user meanwhile.
        if mode is not None and mode != stat.S_IMODE(status.st_mode):
            os.chmod(self.path, mode)


def listen(
    sock: socket.socket, path: str, backlog: int, mode: int, owner: tuple[int, int] | None
) -> SocketFile:
    """Bind *sock* to *path* and listen, in place of a stale file if there is one.

    Raises:
        OSError: ``EADDRINUSE`` if somebody listens there, ``EEXIST`` if it is no socket's file,
            ``EWOULDBLOCK`` if another process kept the directory locked.
    """
    with _directory_to_ourselves(os.path.dirname(path) or "."):
        _bind(sock, path, mode)
        file = SocketFile.found(path)
        try:
            # Nobody can connect before listen(), so a mode set here leaves no gap.
            file.permit(mode, owner)
            sock.listen(backlog)
        except BaseException:
            file.remove()
            raise
    return file


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    # Linux makes the file with the mode of the socket (less the umask); elsewhere this is refused.
    with contextlib.suppress(OSError):
        os.fchmod(sock.fileno(), mode)
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _clear(path)
        sock.bind(path)


def _clear(path: str) -> None:
    """Remove the stale socket file at *path*; refuse to touch anything else."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "not the file of a socket", path)
        answer = _knock(path)
        if answer == errno.ECONNREFUSED:
            os.unlink(path)
        elif answer != errno.ENOENT:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _knock(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full backlog says EAGAIN to one that does not block: alive, and no need to wait for it.
        probe.setblocking(False)
        return probe.connect_ex(path)


@contextlib.contextmanager
def _directory_to_ourselves(directory: str) -> Iterator[None]:
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        lock = None  # not there (bind will say so), or writable and not readable
    try:
        if lock is not None:
            _wait_locked(lock, directory)
        yield
    finally:
        if lock is not None:
            _unlock(lock)


def _wait_locked(lock: int, directory: str) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while not _try_lock(lock):
        if time.monotonic() > deadline:
            raise BlockingIOError(errno.EWOULDBLOCK, "the directory stayed locked", directory)
        time.sleep(_LOCK_RETRY)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _unlock(lock: int) -> None:
    # Closing is not enough: a child forked meanwhile has the descriptor, and with it the lock.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
