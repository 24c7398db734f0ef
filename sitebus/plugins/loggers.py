"""The bus's messages, straight to a stream or a file, without the `logging` module.

The loggers of magicbus, for programs that put their own plugins together; a site that is configured
has `sitebus.plugins.logs`. A line that cannot be written never troubles the bus: the first is told
on standard error, and the next that can be written says how many there were.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, ClassVar

from sitebus.errors import BadLogFormat, NoLogFile
from sitebus.listeners import INFO, WARNING
from sitebus.logfile import LogFile, last_resort
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine


class StreamLogger(Plugin):
    r"""Write each message of the bus to *stream*, which may take text or bytes.

    Args:
        bus: The bus.
        stream: What to write to; None logs nowhere, as in a program without a console.
        level: Leave out what is below it.
        format: A line, its end included, with ``%(timestamp)s``, ``%(bus)s``, ``%(message)s`` and
            ``%(level)s`` in it; `default_format` if left out.
        encoding: For a stream of bytes; one of text has its own.

    Attributes:
        lost: How many lines in a row could not be written.

    Raises:
        BadLogFormat: *format* asks for something else.
    """

    default_format: ClassVar[str] = "[%(timestamp)s] (Bus %(bus)s) %(message)s\n"

    def __init__(
        self,
        bus: Engine,
        stream: Any,
        level: int | None = None,
        format: str | None = None,
        encoding: str | None = "utf-8",
    ) -> None:
        super().__init__(bus)
        self.stream = stream
        self.level = level
        self.format = format or self.default_format
        self.encoding = encoding
        self.lost = 0
        try:
            self._line("", INFO)
        except (KeyError, TypeError, ValueError) as error:
            raise BadLogFormat(self.format, error) from error

    @listens("log")
    def log(self, msg: str, level: int = INFO) -> None:
        """Write one message."""
        if self.stream is None or (self.level is not None and level < self.level):
            return
        text = self._line(msg, level)
        if self.lost:
            text = self._line(f"{self.lost} lines could not be written here", WARNING) + text
        try:
            _write(self.stream, text, self.encoding or "utf-8")
            self.lost = 0
        # A full disk, a closed pipe; and a stranger's stream may raise anything.
        except Exception as error:  # noqa: BLE001
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        if self.lost == 1:
            last_resort(f"sitebus: cannot write the log to {_shown(self.stream)}: {error}\n")

    def _line(self, message: str, level: int) -> str:
        now = time.time()
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        return self.format % {
            "timestamp": f"{second}.{int(now % 1 * 1e6):06}",
            # A bus of somebody else's may have no name.
            "bus": getattr(self.bus, "id", None) or f"{id(self.bus) & 0xFFFFFFFF:08x}",
            "message": message,
            "level": level,
        }


class StdoutLogger(StreamLogger):
    """Write each message of the bus to standard output."""

    def __init__(
        self,
        bus: Engine,
        level: int | None = None,
        format: str | None = None,
        encoding: str | None = "utf-8",
    ) -> None:
        super().__init__(bus, sys.stdout, level, format, encoding)


class StderrLogger(StreamLogger):
    """Write each message of the bus to standard error."""

    def __init__(
        self,
        bus: Engine,
        level: int | None = None,
        format: str | None = None,
        encoding: str | None = "utf-8",
    ) -> None:
        super().__init__(bus, sys.stderr, level, format, encoding)


class FileLogger(StreamLogger):
    """Append each message of the bus to a file, wherever its name leads.

    A file by name is open from `subscribe` to `unsubscribe`. It may be moved or removed at any
    time: the next line makes a new one, and so does ``graceful``.

    Args:
        bus: The bus.
        filename: The name of the file.
        file: A file that is open already, instead; it is written to and otherwise left alone.
        level: As in `StreamLogger`, and so the following.
        format: See there.
        encoding: See there.

    Raises:
        NoLogFile: Neither of the two was given.
    """

    def __init__(
        self,
        bus: Engine,
        filename: str | os.PathLike[str] | None = None,
        file: Any = None,
        level: int | None = None,
        format: str | None = None,
        encoding: str | None = "utf-8",
    ) -> None:
        self.filename = filename
        if file is None:
            if filename is None:
                raise NoLogFile
            file = LogFile(filename)
        super().__init__(bus, file, level, format, encoding)

    def subscribe(self) -> None:
        """Open the file and listen.

        Raises:
            CannotWriteLog: It cannot be opened.
        """
        if isinstance(self.stream, LogFile):
            self.stream.open()
        super().subscribe()

    def unsubscribe(self) -> None:
        """Stop listening, and close the file."""
        super().unsubscribe()
        if isinstance(self.stream, LogFile):
            self.stream.close()

    @listens("graceful")
    def graceful(self) -> None:
        """Write to the file that has the name now.

        Raises:
            CannotWriteLog: It cannot be opened; the one before stays in use.
        """
        if isinstance(self.stream, LogFile):
            self.stream.reopen()


def _write(stream: Any, text: str, encoding: str) -> None:
    if isinstance(stream, LogFile):
        stream.write(text.encode(encoding, "backslashreplace"))
        return
    try:
        _write_text(stream, text)
    except TypeError:
        stream.write(text.encode(encoding, "backslashreplace"))
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()


def _write_text(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        # A terminal of an older kind: what it cannot show, it spells out.
        known = text.encode(error.encoding, "backslashreplace")
        stream.write(known.decode(error.encoding))


def _shown(stream: Any) -> str:
    name = stream.path if isinstance(stream, LogFile) else getattr(stream, "name", None)
    return repr(name if name is not None else stream)
