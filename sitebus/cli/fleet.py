"""``sitebus-fleet``: look at the sites of many hosts, and tell them what to do, over ssh.

What goes wrong is one sentence for each host on standard error; the exit status tells scripts what
kind it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sitebus.cli import streams
from sitebus.cli.console import Console, wants_colour
from sitebus.cli.fleet_arguments import PROGRAM, parse
from sitebus.errors import EX_CONFIG, EX_NOINPUT, EX_NOPERM, EX_USAGE, AppImportError, SitebusError

OK, FAILED, USAGE, DENIED = 0, 1, 2, 4
#: What a shell answers for a command that Ctrl-C ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit status."""
    streams.open_missing()
    words = sys.argv[1:] if argv is None else argv
    try:
        return _run(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK  # whoever read our output has seen enough
    except SitebusError as error:
        if "--debug" in words:
            raise
        if isinstance(error, AppImportError):
            # The operator's own code, whose author wants to see where.
            print(error.traceback_text.rstrip("\n"), file=sys.stderr)
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return status_of(error)
    finally:
        streams.settle()


def _run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    if arguments.help:
        print(arguments.help.rstrip("\n"))
        return OK
    # What else there is to import would hold up a help.
    from sitebus.cli.fleet_commands import run
    from sitebus.cli.fleet_session import Session

    out, err = (Console(each, wants_colour(each, "auto")) for each in (sys.stdout, sys.stderr))
    session = Session(arguments, out, err)
    try:
        return run(session)
    finally:
        session.fleet.close()


def status_of(error: SitebusError) -> int:
    """Answer what the exit status tells of an error; a fleet.ini with mistakes is wrong usage."""
    if error.status == EX_NOPERM:
        return DENIED
    return USAGE if error.status in (EX_USAGE, EX_NOINPUT, EX_CONFIG) else FAILED


if __name__ == "__main__":
    sys.exit(main())
