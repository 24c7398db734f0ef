"""Go on in the background, while the launching command waits to tell how the start went.

The forks are `sitebus.background`'s; here is when they happen, and what becomes of the standard
streams. Standard error stays where it was until the site serves: errors belong on the terminal.
A restart does not fork again, and the descriptors go with it if the launcher still waits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from sitebus import background
from sitebus.config.kinds import PATH, FilePath
from sitebus.config.options import Option, Row
from sitebus.errors import CannotDaemonize, CannotRead, CannotWriteLog, NotOnThisPlatform
from sitebus.plugins import Plugin, call_off, listens
from sitebus.process import Engine, Priority

NULL = os.devnull

_STREAMS = ("stdin", "stdout", "stderr")


class Daemonizer(Plugin):
    """Have the site go on in the background; the launching command returns when it serves.

    Args:
        bus: The bus.
        stdin: What standard input is to be.
        stdout: The file that standard output is appended to, from when the site serves.
        stderr: The same for standard error.
        working_dir: Where the daemon goes; it stays where it is if left out.
        umask: The mask for the modes of new files; kept if left out.

    Raises:
        CannotDaemonize: The start finds other threads, or cannot fork.
        CannotWriteLog: *stdout* or *stderr* cannot be opened; nothing was forked.
        CannotRead: *stdin* cannot be opened; nothing was forked.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("stdin", PATH, Path(NULL), "What the daemon's standard input is."),
        Option("stdout", PATH, Path(NULL), "The file its standard output is appended to."),
        Option("stderr", PATH, Path(NULL), "The file its standard error is appended to."),
        Option("working_dir", FilePath("directory"), None, "The directory it goes to, if any."),
    )

    def __init__(
        self,
        bus: Engine,
        stdin: str | os.PathLike[str] = NULL,
        stdout: str | os.PathLike[str] = NULL,
        stderr: str | os.PathLike[str] = NULL,
        *,
        working_dir: str | os.PathLike[str] | None = None,
        umask: int | None = None,
    ) -> None:
        super().__init__(bus)
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        # From where the program stands now: at a second start it stands there already.
        self.working_dir: str | os.PathLike[str] | None = (
            os.path.abspath(working_dir) if working_dir is not None else None
        )
        self.umask = umask
        #: Descriptors kept until the site serves: of the pipe for READY, and of the streams.
        self._kept: dict[str, int] = {}

    def subscribe(self) -> None:
        """Listen for the start.

        Raises:
            NotOnThisPlatform: A process cannot go on in the background here.
        """
        _require_fork()
        if getattr(self.bus, "machine", None) is None:
            # It makes no news of having started; the last of the start listeners comes near it.
            self.bus.subscribe("started", self.started)
            self.bus.subscribe("start", self.started, 1000)
        super().subscribe()

    def unsubscribe(self) -> None:
        """Stop listening."""
        super().unsubscribe()
        self.bus.unsubscribe("start", self.started)

    @listens("start", priority=Priority.DAEMONIZE)
    def start(self) -> None:
        """Fork, once in the life of the process; only the daemon comes back."""
        try:
            if background.is_daemon():
                self.bus.log(f"Running as a daemon already, PID {os.getpid()}")
                self._claim()
            else:
                self._go_to_the_background()
            self._settle()
        except Exception:
            call_off(self.bus)
            raise

    # After the banner, which belongs on the terminal.
    @listens("started", priority=Priority.READY + 1)
    def started(self) -> None:
        """Leave the terminal, and let the launching command return."""
        if not self._kept:
            return
        background.flush()
        for name, number in (("stdout", 1), ("stderr", 2)):
            if name in self._kept:
                os.dup2(self._kept[name], number)
        if "ready" in self._kept:
            background.say_ready(self._kept.pop("ready"))
        self._release()

    @listens("exit")
    def exit(self) -> None:
        """Let go of what was kept for a site that never served."""
        if not getattr(self.bus, "execv", False):
            self._release()

    @listens("trial")
    def trial(self) -> None:
        """Refuse a restart that could not go to the working directory again."""
        if self.working_dir is not None and not os.access(self.working_dir, os.X_OK):
            raise _no_directory(self.working_dir, "it cannot be entered")

    @staticmethod
    def daemonize(
        stdin: str = NULL,
        stdout: str = NULL,
        stderr: str = NULL,
        logger: Callable[[str], object] = lambda message: None,
    ) -> None:
        """Make a daemon of this process at once, whatever becomes of it; its parents end with 0.

        Raises:
            CannotDaemonize: There are other threads, or it cannot fork.
            CannotWriteLog, CannotRead: A stream cannot be opened; nothing was forked.
        """
        _require_fork()
        streams = _open_streams(stdin, stdout, stderr)
        ready = background.launch()
        for number, name in enumerate(_STREAMS):
            os.dup2(streams[name], number)
            os.close(streams[name])
        background.say_ready(ready)
        logger(f"Daemonized to PID: {os.getpid()}")

    def _go_to_the_background(self) -> None:
        self._warn()
        sockets = getattr(self.bus, "sockets", None)
        if sockets is not None:
            # systemd passes them to the launcher's pid: looked for later, they would be nobody's.
            _ = sockets.unclaimed
        streams = _open_streams(self.stdin, self.stdout, self.stderr)
        try:
            self._kept = {"ready": background.launch(), **streams}
        except BaseException:
            _close(streams)
            raise
        os.dup2(self._kept["stdin"], 0)
        _close({"stdin": self._kept.pop("stdin")})
        if sockets is not None:
            sockets.take_over_files()
        legacies = getattr(self.bus, "legacies", None)
        if legacies is not None:
            # For a restart that comes before the site serves: the launcher still waits.
            legacies.update((f"daemon.{name}", fd) for name, fd in self._kept.items())
        self.bus.log(f"Daemonized to PID: {os.getpid()}")

    def _claim(self) -> None:
        """Take over what the previous image kept, if it never served."""
        sockets = getattr(self.bus, "sockets", None)
        if sockets is None:
            return
        for name in ("ready", "stdout", "stderr"):
            fd = sockets.claim(f"daemon.{name}")
            if fd is not None:
                self._kept[name] = fd

    def _settle(self) -> None:
        if self.umask is not None:
            os.umask(self.umask)
        if self.working_dir is not None:
            try:
                os.chdir(self.working_dir)
            except OSError as error:
                raise _no_directory(self.working_dir, _reason(error)) from error

    def _warn(self) -> None:
        if under_systemd():
            self.bus.log(
                "systemd wants a service in the foreground, and now has to guess which process it "
                "is; leave the daemon out and use Type=notify, or Type=forking with PIDFile=",
                30,
            )
        if natives := background.native_threads():
            self.bus.log(f"{natives} threads of other libraries will not go on in the daemon", 30)

    def _release(self) -> None:
        legacies = getattr(self.bus, "legacies", {})
        for name in ("ready", "stdout", "stderr"):
            legacies.pop(f"daemon.{name}", None)
        _close(self._kept)
        self._kept = {}


def under_systemd() -> bool:
    """Whether systemd started this process itself, as a service."""
    if "NOTIFY_SOCKET" in os.environ:
        return True
    # A shell of a desktop session has the first variable, too.
    me = str(os.getpid())
    return "INVOCATION_ID" in os.environ and os.environ.get("SYSTEMD_EXEC_PID", me) == me


def _require_fork() -> None:
    if not hasattr(os, "fork"):
        raise NotOnThisPlatform("Daemonizer", "Unix", "run the site as a service")


def _open_streams(stdin: Any, stdout: Any, stderr: Any) -> dict[str, int]:
    """Open all three files, or none."""
    streams: dict[str, int] = {}
    try:
        for name, path in zip(_STREAMS, (stdin, stdout, stderr), strict=True):
            streams[name] = _open_input(path) if name == "stdin" else _open_log(path)
    except BaseException:
        _close(streams)
        raise
    return streams


def _open_input(path: str | os.PathLike[str]) -> int:
    try:
        return _above_the_streams(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise CannotRead(path, _reason(error)) from error


def _open_log(path: str | os.PathLike[str]) -> int:
    try:
        return _above_the_streams(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
    except OSError as error:
        raise CannotWriteLog(os.fspath(path), error) from error


def _above_the_streams(fd: int) -> int:
    """Where a standard stream was closed, its number is given to the next file."""
    if fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _close(descriptors: dict[str, int]) -> None:
    for fd in descriptors.values():
        with contextlib.suppress(OSError):
            os.close(fd)


def _no_directory(path: str | os.PathLike[str], reason: str) -> CannotDaemonize:
    return CannotDaemonize(
        f"the working directory {os.fspath(path)!r} is of no use ({reason})", "name another one"
    )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
