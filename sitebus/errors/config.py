"""What is wrong with a file, an option or a command line."""

from __future__ import annotations

from collections.abc import Iterable

from sitebus.errors.base import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_NOINPUT,
    EX_NOPERM,
    EX_USAGE,
    SitebusError,
)


class CannotRead(SitebusError):
    """A file that was named is not there, or is no file that can be read."""

    status = EX_NOINPUT

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}"


class NoDirectory(SitebusError):
    """The directory that this process is in was removed, or the one that it has to go to."""

    status = EX_NOINPUT

    def __init__(self, directory: str = "") -> None:
        super().__init__(directory)
        self.directory = directory

    def __str__(self) -> str:
        if self.directory:
            gone = f"{self.directory}, where the site was started, is not there any more"
            return f"the directory {gone}; make it anew, or start the site in another one"
        return "the current directory is not there any more; go to another one, or use --chdir"


class MayNotRead(CannotRead):
    """A file that was named is not for this user to read."""

    status = EX_NOPERM


class ForeignFile(SitebusError):
    """A file that a configuration includes is written for another program."""

    status = EX_CONFIG

    def __init__(self, path: object, line: int, heading: str) -> None:
        super().__init__(path)
        self.path = path
        self.line = line
        self.heading = heading

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: [{self.heading}] makes this a PasteDeploy file, which "
            f"cannot be included; mount its application, as app = paste:{self.path}#main"
        )


class AmbiguousFile(ForeignFile):
    """A configuration file could be a site.ini as well as PasteDeploy's."""

    def __init__(self, path: object, line: int, heading: str, other: int, rival: str) -> None:
        super().__init__(path, line, heading)
        self.other = other
        self.rival = rival

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: [{self.heading}] makes this a PasteDeploy file, and "
            f"[{self.rival}] in line {self.other} a site.ini; put one of them into a file of its "
            "own, and mount what PasteDeploy loads as app = paste:FILE.ini#NAME"
        )


class BadPasteFile(ForeignFile):
    """PasteDeploy makes no sense of a file, or cannot find what it names."""

    def __init__(self, path: object, error: BaseException) -> None:
        super().__init__(path, 0, "")
        self.error = error

    def __str__(self) -> str:
        reason = " ".join(str(self.error).split()) or "it does not say why"
        kind = type(self.error).__name__
        if kind == "PackageNotFoundError":
            name = getattr(self.error, "name", None) or reason
            reason = f"{name} is not installed, and the file has egg:{name}"
            return f"cannot load {self.path}: {reason}; install it, as with pip install -e ."
        if kind == "InterpolationMissingOptionError":
            name = getattr(self.error, "reference", "NAME")
            reason = f"nothing says what %({name})s is; give it with the file, as {name}=VALUE"
            return f"cannot load {self.path}: {reason}"
        return f"cannot load {self.path}: {reason} ({kind})"


class BadLogConfig(SitebusError):
    """The logging module cannot use a file that was meant for it."""

    status = EX_CONFIG

    def __init__(self, path: object, error: Exception, traceback_text: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.error = error
        #: Where it failed, if that is in code which the file names.
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        # The logging module says which part could not be made, and only its cause says why.
        told: list[str] = []
        each: BaseException | None = self.error
        while each is not None:
            told.append(" ".join(f"{type(each).__name__}: {each}".split()))
            each = each.__cause__
        return f"cannot set logging up from {self.path}: {'; '.join(dict.fromkeys(told))}"


class ConfigErrors(SitebusError):
    """Everything that is wrong with a configuration, each with the place where it was said."""

    status = EX_CONFIG
    #: More are not told: the file is of another kind.
    most = 100

    def __init__(self, problems: Iterable[object]) -> None:
        self.problems = tuple(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        told = [str(problem) for problem in self.problems[: self.most]]
        rest = len(self.problems) - len(told)
        return "\n".join([*told, f"... and {rest} more problems"] if rest else told)


class UsageError(SitebusError):
    """The command line asks for something that it cannot have."""

    status = EX_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class CannotWriteLog(SitebusError):
    """A log file cannot be opened for appending."""

    status = EX_CANTCREAT

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(path)
        self.path = path
        self.error = error

    def __str__(self) -> str:
        reason = (self.error.strerror or str(self.error)).lower()
        return f"cannot write the log {self.path!r}: {reason}"


class CannotPrint(SitebusError):
    """What a command was to print could not be written to standard output."""

    status = EX_CANTCREAT

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        reason = (self.error.strerror or str(self.error)).lower()
        return f"cannot write to standard output: {reason}"


class BadLogFormat(SitebusError):
    """The format of a log line asks for what a message does not have."""

    status = EX_CONFIG

    def __init__(self, format: str, error: Exception) -> None:
        super().__init__(format)
        self.format = format
        self.error = error

    def __str__(self) -> str:
        return (
            f"cannot use the log format {self.format!r} ({type(self.error).__name__}: "
            f"{self.error}); it may have timestamp, bus, message and level, as %(message)s"
        )


class NoLogFile(SitebusError, ValueError):
    """A logger for a file has none."""

    status = EX_USAGE

    def __str__(self) -> str:
        return "FileLogger was given no file; it needs a filename or an open file"


class MissingExtra(SitebusError):
    """A library that one of sitebus's extras brings is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(library)
        self.library = library
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.library} is not installed; run: pip install 'sitebus[{self.extra}]'"
