"""``sitebus-ctl``: look at a running site, and tell it what to do, over its control socket.

What goes wrong is one sentence on standard error; the exit status tells scripts what kind it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sitebus.cli import streams
from sitebus.cli.console import Console, wants_colour
from sitebus.cli.ctl_arguments import PROGRAM, parse
from sitebus.cli.ctl_commands import Session, run
from sitebus.cli.ctl_progress import Progress
from sitebus.cli.ctl_targets import find
from sitebus.errors import (
    NotAllowed,
    NotRunning,
    RequestRefused,
    SitebusError,
    UnclearSite,
    UsageError,
)

OK, FAILED, USAGE, NOT_RUNNING, DENIED = 0, 1, 2, 3, 4
#: What a shell answers for a command that Ctrl-C ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit status."""
    streams.open_missing()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK  # whoever read our output has seen enough
    except SitebusError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return status_of(error)
    finally:
        streams.settle()


def _run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    if arguments.help:
        print(arguments.help.rstrip("\n"))
        return OK
    console = Console(sys.stdout, wants_colour(sys.stdout, "auto"))
    progress = Progress.on_terminal()
    return run(Session(lambda: find(arguments.target), arguments, console, progress))


def status_of(error: SitebusError) -> int:
    """Answer what the exit status tells of an error; a site.ini with mistakes is wrong usage."""
    if isinstance(error, NotRunning):
        return NOT_RUNNING
    if isinstance(error, NotAllowed):
        return DENIED
    senseless = isinstance(error, RequestRefused) and error.code == 400
    usage = isinstance(error, (UsageError, UnclearSite)) or error.status in (66, 78) or senseless
    return USAGE if usage else FAILED


if __name__ == "__main__":
    sys.exit(main())
