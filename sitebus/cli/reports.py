"""What a command says of an error before it ends: one sentence, and a status of ``sysexits.h``.

Apart from `sitebus.cli.serve`, because ``quickstart`` reports errors too, and reads no arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from sitebus.cli.console import Console
from sitebus.config import Problem, masked
from sitebus.errors import (
    AppImportError,
    ChannelFailures,
    ConfigErrors,
    SitebusError,
    UsageError,
    status_of,
)

#: The command, in messages.
PROGRAM = "sitebus-serve"
#: The function, where a setting comes from.
QUICKSTART = "quickstart"


def report(error: SitebusError | ChannelFailures, hush: Callable[[str], str] = masked) -> int:
    """Say on standard error what went wrong, and answer the exit status.

    Args:
        error: What went wrong.
        hush: Takes the secrets out of a sentence.
    """
    if isinstance(error, ConfigErrors) and all(map(_is_of_the_caller, error.problems)):
        # A flag or an argument with a wrong value, not a wrong file.
        error = UsageError(str(error).replace("command line ", "").replace("\n", "; "))
    if isinstance(error, ChannelFailures):
        return max((_report_one(each, hush) for each in error.exceptions), default=error.status)
    return _report_one(error, hush)


def _is_of_the_caller(problem: object) -> bool:
    if not isinstance(problem, Problem):
        return False
    source = problem.origin.source
    return source == "command line" or source.startswith(f"{QUICKSTART}(")


def _report_one(error: Exception, hush: Callable[[str], str]) -> int:
    if not _was_told(error):
        console = Console(sys.stderr)
        if isinstance(error, AppImportError):
            console.write(error.traceback_text.rstrip("\n"))
        if isinstance(error, ConfigErrors):
            # Each begins with the place, for editors that jump there.
            console.write(hush(str(error)))
        else:
            console.write(f"{PROGRAM}: {hush(' '.join(str(error).split()))}")
    return status_of(error)


def _was_told(error: Exception) -> bool:
    """Tell whether an application's import ended by ``quickstart``, which said why."""
    left = error.error if isinstance(error, AppImportError) else None
    return isinstance(left, SystemExit) and isinstance(
        left.__cause__, (SitebusError, ChannelFailures)
    )
