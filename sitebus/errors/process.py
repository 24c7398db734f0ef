"""What goes wrong in the life of the process: restarts, signals, users, pid files."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from sitebus.errors.base import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_NOPERM,
    EX_OK,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    SitebusError,
    did_you_mean,
)
from sitebus.errors.sockets import Holder


class CannotRestart(SitebusError):
    """This process cannot start its own command line again; it goes on as it is."""

    def __init__(self, command: Sequence[str], reason: str) -> None:
        super().__init__(reason)
        self.command = tuple(command)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot restart: {self.reason}"


class TrialFailed(SitebusError):
    """The program to restart as failed when it was tried in a child; the old one goes on.

    Attributes:
        reason: The last line of what it said.
        text: What more it said: a traceback, mostly; empty if the reason was all.
        file: Where the mistake is, if what it said tells; empty if not.
        line: The line there.
        files: Every file that it named.
        logged: Whether that text was logged when it was said.
    """

    logged = False

    def __init__(
        self, reason: str, text: str, file: str = "", line: int = 0, files: Iterable[str] = ()
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text
        self.file = file
        self.line = line
        self.files = frozenset(files)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        reason = self.reason.removeprefix(place)
        return f"{place}{reason} (not restarted: the old code goes on serving)"


class StartFailed(SitebusError):
    """A listener that is not ours kept the bus from starting; the bus logged its traceback."""

    def __init__(self, error: Exception, traceback_text: str = "") -> None:
        super().__init__(error)
        self.error = error
        #: The traceback without our frames, where somebody has a use for it.
        self.traceback_text = traceback_text

    @property
    def reason(self) -> str:
        """What the listener raised, and which it is."""
        where = "".join(f" ({note})" for note in getattr(self.error, "__notes__", ())[:1])
        return f"{type(self.error).__name__}: {self.error}{where}"

    def __str__(self) -> str:
        return f"the site could not start: {self.reason}"


def status_of(error: BaseException) -> int:
    """Answer the exit status a process should have that ends because of *error*."""
    if isinstance(error, SystemExit):
        return _status_of_exit(error)
    if isinstance(error, KeyboardInterrupt):
        return EX_OK
    if isinstance(error, BaseExceptionGroup):
        return status_of(error.exceptions[0])
    status = getattr(error, "status", EX_SOFTWARE)
    return status if isinstance(error, SitebusError) and isinstance(status, int) else EX_SOFTWARE


def _status_of_exit(error: SystemExit) -> int:
    """As the interpreter does: None is 0, a number is itself, anything else is 1."""
    if error.code is None:
        return EX_OK
    return error.code & 0xFF if isinstance(error.code, int) else 1


class CannotDaemonize(SitebusError):
    """The process cannot go on as a daemon; it is still the one that was started."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot become a daemon: {self.reason}; {self.remedy}"


class PidFileInUse(SitebusError):
    """The process that a pid file belongs to still runs."""

    status = EX_UNAVAILABLE

    def __init__(self, path: str, holder: Holder, alive: bool = True) -> None:
        super().__init__(path)
        self.path = path
        self.holder = holder
        self.alive = alive

    def __str__(self) -> str:
        if self.alive:
            state = f"already running as {self.holder}; stop it first, or name another pid file"
        else:
            former = self.holder if self.holder.pid else "its former owner"
            state = (
                f"{former} has ended, and what it left running keeps the file locked; "
                "end its children first"
            )
        return f"cannot take the pid file {self.path!r}: {state}"


class CannotWritePidFile(SitebusError):
    """A pid file cannot be made; nothing is left of the attempt."""

    status = EX_CANTCREAT

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot write the pid file {self.path!r}: {self.reason}"


class UnknownAccount(SitebusError):
    """There is no user, or no group, of this name."""

    status = EX_CONFIG

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.kind = kind
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = did_you_mean(self.name, self.known)
        return f"there is no {self.kind} {self.name!r}{hint or '; write a name or a number'}"


class CannotDropPrivileges(SitebusError):
    """A user and a group to run as do not say enough, or cannot run the site."""

    status = EX_CONFIG

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot drop privileges: {self.reason}; {self.remedy}"


class MayNotSwitch(SitebusError):
    """This process may not become another user."""

    status = EX_NOPERM

    def __init__(self, wanted: str, present: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.present = present

    def __str__(self) -> str:
        return (
            f"cannot run as {self.wanted}: this process is {self.present}, which may not become "
            "somebody else; start it as root, or as the user it shall run as"
        )


class PrivilegesKept(SitebusError):
    """Privileges were dropped, and the process could have had them back."""

    def __init__(self, wanted: str, left: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.left = left

    def __str__(self) -> str:
        return (
            f"cannot run safely as {self.wanted}: the process {self.left}; "
            "start it without ambient capabilities and securebits"
        )


class UnknownSignal(SitebusError, ValueError):
    """There is no signal of this name, or number, on this platform."""

    status = EX_CONFIG

    def __init__(self, name: str, known: Iterable[str], *, elsewhere: bool = False) -> None:
        super().__init__(name)
        self.name = name
        self.known = tuple(known)
        self.elsewhere = elsewhere

    def __str__(self) -> str:
        import sys

        if self.elsewhere:
            return f"there is no {self.name} on this platform ({sys.platform}); leave it out"
        return f"there is no signal {self.name}{did_you_mean(self.name, self.known)}"


class CannotCatch(SitebusError, ValueError):
    """A signal exists, and no process can answer it."""

    status = EX_CONFIG

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot answer {self.name}: {self.reason}"


class UnknownAction(SitebusError, ValueError):
    """A signal was to be answered with something that nobody knows how to do."""

    status = EX_CONFIG

    def __init__(self, signal: str, action: str, known: Iterable[str]) -> None:
        super().__init__(action)
        self.signal = signal
        self.action = action
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = did_you_mean(self.action, self.known)
        return (
            f"cannot answer {self.signal} with {self.action!r}{hint or ';'} "
            f"{'(' if hint else 'write '}one of {', '.join(self.known)}{')' if hint else ''}"
        )


class NotOnThisPlatform(SitebusError):
    """Something works only where the operating system has it."""

    status = EX_CONFIG

    def __init__(self, what: str, needs: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.needs = needs
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} works only on {self.needs}; here, {self.instead}"


class CannotWatch(SitebusError):
    """The system has no more watches to give for files that may change."""

    def __init__(self, directories: int, error: Exception) -> None:
        super().__init__(directories)
        self.directories = directories
        self.error = error

    def __str__(self) -> str:
        # The library goes on about every path.
        reason = str(self.error).partition(" about [")[0].rstrip(".")
        many = f"{self.directories} directories" if self.directories else "any directory"
        limit = {
            errno.ENOSPC: "fs.inotify.max_user_watches",
            errno.EMFILE: "fs.inotify.max_user_instances, or the limit of open files",
        }.get(
            getattr(self.error, "errno", None) or 0,
            "fs.inotify.max_user_watches or fs.inotify.max_user_instances",
        )
        return f"the system does not watch {many} for us ({reason}); raise {limit}"


class UnknownRelease(SitebusError):
    """A library that is used from inside is installed in a release that is not known."""

    def __init__(self, library: str, known: str, reason: str) -> None:
        super().__init__(library)
        self.library = library
        self.known = known
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the installed {self.library} is not one that sitebus can use ({self.reason}); "
            f"run: pip install '{self.library}{self.known}'"
        )
