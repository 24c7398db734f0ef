"""Say in a file which process serves, and keep a second one from doing so.

Who holds the lock (``flock``) on the file that the path leads to is the owner; the text is for
others to read. Three rules make that safe:

* A file gets its path only when it is whole and locked: written under a name of its own, then
  linked or renamed. So a reader finds the old file or the new one, never an empty or a half one.
* The path may be replaced or removed only by who holds the lock of the file that is there *now*;
  having got a lock, one looks whether the path still leads to that file. A path that leads nowhere
  can be had only by ``link``, which fails for all but one.
* The kernel drops the lock with its holder, however that ends. A file without a lock is stale,
  whoever has got its pid since. The lock outlives an exec, with the descriptor.

``flock`` and not ``lockf``: that one is lost when any descriptor of the file is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import ClassVar

from sitebus.config.kinds import PATH
from sitebus.config.options import Option, Row
from sitebus.errors import CannotWritePidFile, Holder, NotOnThisPlatform, PidFileInUse, SitebusError
from sitebus.plugins import Plugin, call_off, listens
from sitebus.process import Engine, Priority

if sys.platform != "win32":
    import fcntl

#: Under this name the lock is handed to the next image of the process.
LEGACY = "pidfile"

#: And so is the path, in the environment.
WHERE = "SITEBUS_PIDFILE"

#: A lock that nobody alive should hold belongs to a starter that is just replacing the file;
#: seconds until that is not believed any more.
PATIENCE = 1.0
_RETRY = 0.005

#: A pid file is never longer; what is, is somebody's document.
_LONGEST = 32

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class PIDFile(Plugin):
    """Say in a file which process serves, and keep a second one from serving.

    A restart keeps the file, and its lock, without a gap. Where the directory may not be written
    to any more when the process exits, because privileges were dropped, the file is left empty.

    Raises:
        PidFileInUse: The start finds that its owner still runs.
        CannotWritePidFile: The start cannot make it; nothing is left, and no other file is harmed.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("path", PATH, None, "Where the file is.", required=True),
    )

    def __init__(self, bus: Engine, pidfile: str | os.PathLike[str]) -> None:
        super().__init__(bus)
        # Of where the program stands now: a daemon may change its directory.
        self.pidfile = os.path.abspath(pidfile)
        self._lock: int | None = None
        self._owner: int | None = None

    @classmethod
    def from_settings(cls, bus: Engine, *, path: Path) -> PIDFile:
        """Make it from the settings of ``[plugin pidfile]``."""
        return cls(bus, path)

    def subscribe(self) -> None:
        """Listen for the start and the exit.

        Raises:
            NotOnThisPlatform: There are no such locks here.
        """
        if sys.platform == "win32":
            raise NotOnThisPlatform("PIDFile", "Unix", "leave it out")
        super().subscribe()

    @listens("start", priority=Priority.PIDFILE)
    def start(self) -> None:
        """Take the file."""
        self._claim()
        if self._is_mine:
            self.bus.log(f"PID {os.getpid()} is in {self.pidfile} already")
            return
        self._forget()
        try:
            self._lock = _take(self.pidfile)
        except SitebusError:
            call_off(self.bus)
            raise
        self._keep()
        self.bus.log(f"PID {self._owner} written to {self.pidfile}")

    # As late as magicbus and wspbus: whoever waits for the file to go finds the site gone, too.
    @listens("exit")
    def exit(self) -> None:
        """Remove the file, unless the process goes on as another image."""
        if not getattr(self.bus, "execv", False):
            self._remove()

    @listens("trial", priority=Priority.PIDFILE)
    def trial(self) -> None:
        """Refuse a restart after which the file could not be had any more."""
        if not self._is_my_parents:
            fd = _take(self.pidfile)
            os.unlink(self.pidfile)
            os.close(fd)

    def wait(self, timeout: float | None = None, poll_interval: float = 0.1) -> int | None:
        """Answer the pid of the process that owns the file, for another process that started it.

        None if there is none within *timeout* seconds. A stale file is not believed.
        """
        found: list[int] = []

        def owned() -> bool:
            pid = _read_pid(self.pidfile)
            if pid is not None and _is_alive(pid):
                found.append(pid)
            return bool(found)

        _poll(owned, timeout, poll_interval)
        return found[0] if found else None

    def join(self, timeout: float | None = None, poll_interval: float = 0.1) -> bool:
        """Return when the file is gone, or its process; False if that takes too long."""

        def gone() -> bool:
            pid = _read_pid(self.pidfile)
            return pid is None or not _is_alive(pid)

        return _poll(gone, timeout, poll_interval)

    @property
    def _is_mine(self) -> bool:
        """Whether this very process, and no copy of it, holds the file that is at the path."""
        return (
            self._lock is not None
            and self._owner == os.getpid()
            and _leads_to(self.pidfile, self._lock)
        )

    @property
    def _is_my_parents(self) -> bool:
        """Whether the process that tries this one holds the file, and will leave it to the next."""
        try:
            with open(self.pidfile, "rb") as file:
                return _pid_in(file.read(_LONGEST)) == os.getppid()
        except PermissionError:
            # Out of sight since privileges were dropped.
            return os.environ.get(WHERE) == self.pidfile
        except OSError:
            return False

    def _claim(self) -> None:
        """Take over what the previous image of this process held."""
        sockets = getattr(self.bus, "sockets", None)
        fd = sockets.claim(LEGACY) if self._lock is None and sockets is not None else None
        if fd is None:
            return
        self._lock = fd
        before = os.environ.get(WHERE, self.pidfile)
        if before == self.pidfile:
            self._keep()
        # Another path in the configuration than before, and nobody else removes the old one.
        elif _leads_to(before, fd):
            with contextlib.suppress(OSError):
                os.unlink(before)

    def _keep(self) -> None:
        self._owner = os.getpid()
        os.environ[WHERE] = self.pidfile
        legacies = getattr(self.bus, "legacies", None)
        if legacies is not None and self._lock is not None:
            legacies[LEGACY] = self._lock
        # For a restart that failed at the very last moment, after `exit` had left the file.
        atexit.register(self._remove)

    def _remove(self) -> None:
        if self._is_mine:
            try:
                os.unlink(self.pidfile)
                self.bus.log(f"PID file removed: {self.pidfile}")
            except OSError as error:
                self._empty(error)
        self._forget()

    def _empty(self, error: OSError) -> None:
        """Leave the file without a pid: the descriptor may write where the user may not."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock or -1, 0)
        where = os.path.dirname(self.pidfile)
        reason = _reason(error)
        self.bus.log(
            f"PID file {self.pidfile} cannot be removed ({reason}) and was emptied; "
            f"put it into a directory that the site's user may write to, not {where}",
            30,
        )

    def _forget(self) -> None:
        atexit.unregister(self._remove)
        os.environ.pop(WHERE, None)
        lock, self._lock = self._lock, None
        legacies = getattr(self.bus, "legacies", {})
        if lock is not None:
            if legacies.get(LEGACY) == lock:
                del legacies[LEGACY]
            with contextlib.suppress(OSError):
                os.close(lock)


def _take(path: str) -> int:
    """Make the pid file, or take over a stale one; answer the descriptor that holds the lock."""
    try:
        draft, fd = _draft(path)
    except OSError as error:
        folder, reason = os.path.dirname(path), _reason(error)
        if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
            reason = f"there is no directory {folder}"
        raise CannotWritePidFile(path, reason) from error
    try:
        _place(draft, path)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise CannotWritePidFile(path, _reason(error)) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return fd


def _draft(path: str) -> tuple[str, int]:
    """Write the whole file, locked, under a name that nobody else has."""
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        text = b"%d\n" % os.getpid()
        if os.write(fd, text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        os.unlink(draft)
        raise
    return draft, fd


def _place(draft: str, path: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _linked(draft, path):
        with contextlib.suppress(FileNotFoundError):  # removed since: link again
            if _replaced(draft, path, deadline):
                return


def _linked(draft: str, path: str) -> bool:
    """Give the draft the path if nothing is there; tell whether that was so."""
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links: an empty file stands in, and is replaced like a stale one.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        return False
    return True


def _replaced(draft: str, path: str, deadline: float) -> bool:
    """Put the draft in place of a stale file; False if the path leads elsewhere by now."""
    fd = _open_stale(path)
    try:
        text = os.read(fd, _LONGEST)
        if not _lock_now(fd):
            _refuse_or_wait(path, text, deadline)
            return False
        if not _leads_to(path, fd):
            return False
        _require_pid(path, text)
        os.rename(draft, path)
    finally:
        os.close(fd)
    return True


def _open_stale(path: str) -> int:
    try:
        # Not to wait for the writer of a pipe that somebody put there.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            reason = "it is a symbolic link, which is not followed; name the file itself"
            raise CannotWritePidFile(path, reason) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CannotWritePidFile(path, "it is there already and no regular file")
    return fd


def _lock_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_or_wait(path: str, text: bytes, deadline: float) -> None:
    pid = _pid_in(text)
    if pid is not None and _is_alive(pid):
        raise PidFileInUse(path, Holder(pid, _command(pid)))
    if time.monotonic() > deadline:
        raise PidFileInUse(path, Holder(pid or 0, ""), alive=False)
    # Another starter is about to replace the stale file: soon it has its own pid there.
    Event().wait(_RETRY)


def _require_pid(path: str, text: bytes) -> None:
    """Refuse to replace what never was a pid file."""
    if text.strip() and _pid_in(text) is None:
        shown = text.decode(errors="replace")[:20]
        raise CannotWritePidFile(path, f"it is no pid file, and begins with {shown!r}")


def _leads_to(path: str, fd: int) -> bool:
    """Tell whether *path* leads to the very file that *fd* has open, as far as can be seen."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except PermissionError:
        # Out of sight since privileges were dropped; and while it is locked nobody replaces it.
        return True
    except OSError:
        return False


def _read_pid(path: str) -> int | None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return _pid_in(file.read(_LONGEST))
    return None


def _pid_in(text: bytes) -> int | None:
    word = text.strip()
    return int(word) if word.isdigit() and 0 < int(word) < 1 << 31 else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, and alive
    return True


def _command(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        text = file.read(200).rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text)
    return ""


def _poll(condition: Callable[[], bool], timeout: float | None, interval: float) -> bool:
    """Look again and again: another process's file tells nobody that it changes."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = Event()
    while not condition():
        if deadline is not None and time.monotonic() >= deadline:
            return False
        pause.wait(interval)
    return True


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
