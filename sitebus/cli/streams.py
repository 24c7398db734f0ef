"""The standard streams of a command: there may be none, and they may take nothing more."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_missing() -> None:
    """Put the null device where standard input, output or error is closed.

    Its number would be taken by the next file or socket, and then be written to as if it were the
    terminal.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. Whatever is started from here needs it as well.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = _writer(1)
    if sys.stderr is None:
        sys.stderr = _writer(2)


def _writer(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def settle() -> None:
    """Write out what is left, or drop it: the interpreter would complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
