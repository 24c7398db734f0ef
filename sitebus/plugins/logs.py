"""From the bus's ``log`` channel to the `logging` module, and from there to a terminal or a file.

Messages of the bus go to the logger ``sitebus``, those of a mount to ``sitebus.mount.NAME``.
`configure` gives these loggers a place to write to; the loggers of applications are left alone.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from sitebus import references, trial
from sitebus.errors import BadLogConfig, ChannelFailures, SitebusError
from sitebus.logfile import LogFile, last_resort
from sitebus.mounts.access import AccessLog
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine

LOGGER = "sitebus"
LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
        "critical": logging.CRITICAL,
    }
)


class LogBridge(Plugin):
    """Hand every message on the ``log`` channel to a logger; reopen log files on ``graceful``.

    A patient bridge keeps what is no warning until the bus has started, so that a start that fails
    says why and nothing else. Nor does it say why where the same is said once more: a refusal goes
    to who asked for the start, who tells it on standard error.

    Attributes:
        is_detail: Tells whether what is no warning is but a detail at the moment, and is logged
            for debugging only; None if it never is.
    """

    def __init__(
        self, bus: Engine, logger: logging.Logger | None = None, *, patient: bool = False
    ) -> None:
        super().__init__(bus)
        self.logger = logger or logging.getLogger(LOGGER)
        self.is_detail: Callable[[], bool] | None = None
        self._kept: list[logging.LogRecord] | None = [] if patient else None

    @property
    def is_for_people(self) -> bool:
        """Whether it is read as it comes, on a terminal, and kept nowhere."""
        return all(
            isinstance(handler, LogStream) and handler.stream.isatty()
            for handler in self.logger.handlers
        )

    @listens("log")
    def log(self, message: str, level: int = logging.INFO) -> None:
        """Log one message of the bus."""
        if level == logging.INFO and self._is_detail:
            level = logging.DEBUG
        if not self.logger.isEnabledFor(level):
            return
        # As an argument: a percent sign in the message is only that.
        record = self.logger.makeRecord(self.logger.name, level, "", 0, "%s", (message,), None)
        if self._kept is not None and (level < logging.WARNING or self._is_told_anyway):
            self._kept.append(record)
        else:
            self.logger.handle(record)

    @property
    def _is_detail(self) -> bool:
        return self.is_detail is not None and self.is_detail()

    @property
    def _is_told_anyway(self) -> bool:
        """Whether a refusal is being handled, and nothing of this goes to a file."""
        error = sys.exc_info()[1]
        errors = error.exceptions if isinstance(error, ChannelFailures) else (error,)
        return all(isinstance(each, SitebusError) for each in errors) and all(
            isinstance(handler, LogStream) for handler in self.logger.handlers
        )

    # First of all: what others say now comes after what was said before.
    @listens("started", priority=0)
    def started(self) -> None:
        """Log what was kept, and keep nothing more."""
        kept, self._kept = self._kept, None
        for record in kept or ():
            if record.levelno >= logging.WARNING or not self._is_detail:
                self.logger.handle(record)

    @listens("graceful")
    def graceful(self) -> None:
        """Write to the files that have the names now: somebody may have moved the old ones."""
        for handler in self.logger.handlers:
            if isinstance(handler, LogFileHandler):
                handler.file.reopen()
                handler.lost = 0


class AccessLogKeeper(Plugin):
    """Keep an access log open from the start to the exit; follow a rotation on ``graceful``."""

    def __init__(self, bus: Engine, log: AccessLog) -> None:
        super().__init__(bus)
        self.access_log = log

    @listens("graceful")
    def graceful(self) -> None:
        """Write to the file that has the name now."""
        self.access_log.reopen()

    @listens("exit")
    def exit(self) -> None:
        """Close the file."""
        self.access_log.close()


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO sitebus: message``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


#: What every record has; anything else was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, site, logger, pid, message, traceback, any ``extra``."""

    def __init__(self, site: str = "") -> None:
        super().__init__()
        self.site = site

    def format(self, record: logging.LogRecord) -> str:
        """Write *record* as one line."""
        import json

        said: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if self.site:
            said["site"] = self.site
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        said.update((key, value) for key, value in vars(record).items() if key not in _USUAL)
        return json.dumps(said, ensure_ascii=False, default=str)


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


class _Patient(logging.Handler):
    """A handler whose failures are told once: a full disk is no reason for a traceback a line.

    Attributes:
        lost: how many lines could not be written.
    """

    name_of_stream = "standard error"
    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a line that could not be written, and tell of the first."""
        self.lost += 1
        if self.lost == 1:
            error = sys.exc_info()[1]
            last_resort(f"sitebus: cannot write the log {self.name_of_stream}: {error}\n")


class LogStream(_Patient, logging.StreamHandler[TextIO]):
    """A stream that somebody else opened."""

    def close(self) -> None:
        """Close it, whether or not the last lines can still be written."""
        with suppress(OSError, ValueError):
            super().close()


class LogFileHandler(_Patient):
    """A file, wherever its name leads: see `sitebus.logfile`.

    Raises:
        CannotWriteLog: it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        # First: logging knows every handler from here on, and closes it at its own time.
        self.file = LogFile(path).open()
        super().__init__()
        self.name_of_stream = repr(str(path))

    def emit(self, record: logging.LogRecord) -> None:
        """Append one record."""
        try:
            line = f"{self.format(record)}\n"
            self.file.write(line.encode("utf-8", "backslashreplace"))
        # As every handler: a stranger's record may have anything in it.
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def configure(
    level: str = "info",
    format: str = "text",
    destination: str = "-",
    *,
    stream: TextIO | None = None,
    logger: logging.Logger | None = None,
    site: str = "",
) -> logging.Handler:
    """Give the ``sitebus`` loggers one place to write to, instead of the one they had.

    Args:
        level: one of `LEVELS`.
        format: ``text`` or ``json``.
        destination: a file's path, ``-`` for *stream*, or ``off``.
        stream: standard error if left out.
        logger: the logger, if not ``sitebus``.
        site: the site's name, for each line of JSON.

    Raises:
        CannotWriteLog: the file cannot be opened.
    """
    logger = logger or logging.getLogger(LOGGER)
    handler = _handler(destination, stream)
    handler.setFormatter(JsonFormatter(site) if format == "json" else TextFormatter())
    unconfigure(logger)
    logger.addHandler(handler)
    logger.setLevel(LEVELS[level])
    # An application that sets up the root logger would have our lines twice.
    logger.propagate = False
    return handler


def unconfigure(logger: logging.Logger | None = None) -> None:
    """Take away what `configure` gave, and close its file."""
    logger = logger or logging.getLogger(LOGGER)
    for handler in logger.handlers[:]:
        if isinstance(handler.formatter, (JsonFormatter, TextFormatter)):
            logger.removeHandler(handler)
            handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def _handler(destination: str, stream: TextIO | None) -> logging.Handler:
    if destination == "off":
        return logging.NullHandler()
    if destination == "-":
        shown = stream or sys.stderr
        # A program without a console has no standard error.
        return logging.NullHandler() if shown is None else LogStream(shown)
    return LogFileHandler(destination)


def configure_by_file(path: Path, variables: Mapping[str, str] = {}) -> None:
    """Hand a file to the `logging` module: ini for its ``fileConfig``, json for ``dictConfig``.

    Args:
        path: The file.
        variables: Values for the ``%(NAME)s`` of an ini, besides ``here`` and ``__file__``.

    Raises:
        BadLogConfig: it is neither, or says what cannot be done.
    """
    import logging.config

    try:
        if path.suffix == ".json":
            import json

            told = json.loads(path.read_text(encoding="utf-8"))
            logging.config.dictConfig({"disable_existing_loggers": False, **told})
        else:
            file = path.absolute()
            values = {"here": str(file.parent), "__file__": str(file), **variables}
            logging.config.fileConfig(
                path,
                {name: value.replace("%", "%%") for name, value in values.items()},
                disable_existing_loggers=False,
                encoding="utf-8",
            )
    # It imports and calls what the file names, which may raise anything.
    except Exception as error:
        raise BadLogConfig(path, error, _own_traceback(error)) from error


def _own_traceback(error: Exception) -> str:
    """Answer where *error* comes from, unless it is from the logging module itself."""
    text = references.traceback_of(error)
    return text if any(place.is_own for place in trial.places(text)) else ""
