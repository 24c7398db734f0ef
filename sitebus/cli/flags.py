"""The flags of ``sitebus-serve``; help, completion scripts and docs are made from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from functools import partial
from typing import NoReturn

from sitebus.cli.arguments import USUAL
from sitebus.cli.reports import PROGRAM
from sitebus.config import TABLE
from sitebus.errors import UsageError, nearest

DESCRIPTION = """\
Serve Python web applications as one site.

  sitebus-serve site.ini                     what the file says
  sitebus-serve module:app                   one application, at /
  sitebus-serve app.py                       the application in a file
  sitebus-serve development.ini port=8080    what PasteDeploy loads, with %(port)s
  sitebus-serve /=shop:app /wiki=wiki:app    several, each at its path
"""
EPILOG = """\
Exit status: 0 asked to stop; 64 wrong usage; 66 a file is missing; 69 an address is in use; 70 an
application failed; 73 cannot write a file; 77 not permitted; 78 wrong configuration.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are errors like all others: one sentence, one status."""

    def error(self, message: str) -> NoReturn:
        """Raise what the caller is to print.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}{self._meant(message)}; see {self.prog} --help")

    def format_help(self) -> str:
        """Answer the help, which shows how an optional value is given: argparse has no such way."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help().replace("--check [import]", "--check[=import]")

    def _meant(self, message: str) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        near = nearest(wrong[1][:40], flags) if wrong else None
        return f" - did you mean {near}?" if near else ""


def build_parser() -> Parser:
    """Make the parser."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [OPTIONS] [TARGET ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        # Each argument makes one, which would ask for the terminal's width, by a large import.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"FILE.ini [NAME=VALUE ...], MODULE:NAME, FILE.py[:NAME] or PATH=APPLICATION; "
        f"{USUAL} if left out",
    )
    for add in (_add_site, _add_server, _add_process, _add_logging, _add_other):
        add(parser)
    return parser


def _row(section: str, name: str) -> str:
    """Answer the help of an option of the table, as that of a flag that sets it."""
    found = TABLE.find(section)
    row = found.row(name) if found else None
    assert row is not None, (section, name)
    return (row.help[0].lower() + row.help[1:]).rstrip(".")


def _add_site(parser: Parser) -> None:
    group = parser.add_argument_group("the site")
    group.add_argument("-c", "--config", metavar="FILE", help="the site.ini to read")
    group.add_argument(
        "-o",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="set anything that a site.ini can say, as -o server.timeout=5s",
    )
    group.add_argument(
        "--mount",
        metavar="PATH=APPLICATION",
        action="append",
        default=[],
        help="mount one more application, as --mount /wiki=wiki:app",
    )
    group.add_argument(
        "--interface", choices=_words("mount", "interface"), help=_row("mount", "interface")
    )
    group.add_argument("--factory", action="store_true", help=_row("mount", "factory"))
    group.add_argument(
        "-e",
        "--environment",
        choices=_words("site", "environment"),
        help="what the site runs for; it sets the defaults of other options",
    )
    group.add_argument("--app-dir", metavar="DIR", help="the directory to import from")
    group.add_argument("--chdir", metavar="DIR", help="change to this directory before all else")
    group.add_argument(
        "--env-file", metavar="FILE", help="NAME=value lines for the environment, where not set yet"
    )


def _words(section: str, name: str) -> tuple[str, ...]:
    found = TABLE.find(section)
    row = found.row(name) if found else None
    return tuple(getattr(row.kind, "words", ())) if row else ()


def _add_server(parser: Parser) -> None:
    group = parser.add_argument_group("the server")
    group.add_argument(
        "-b",
        "--bind",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where to listen: HOST:PORT, [IPv6]:PORT, unix:PATH, fd:N; may be repeated",
    )
    group.add_argument("-t", "--threads", metavar="N", help=_row("server", "threads"))


def _add_process(parser: Parser) -> None:
    group = parser.add_argument_group("the process")
    group.add_argument("-w", "--workers", metavar="N|auto", help=_row("workers", "count"))
    group.add_argument(
        "--reload",
        action="store_true",
        help="restart when code changes; -e development, unless said otherwise",
    )
    group.add_argument(
        "-D", "--daemon", action="store_true", help="go on in the background once the site serves"
    )
    group.add_argument("-p", "--pid", metavar="FILE", help="write the process id to this file")
    group.add_argument(
        "-u", "--user", metavar="USER", help="run as this user once the sockets are bound"
    )
    group.add_argument("-g", "--group", metavar="GROUP", help="run as this group, too")
    group.add_argument(
        "--umask",
        metavar="OCTAL",
        help="the mask for the modes of new files, logs and pid file among them",
    )


def _add_logging(parser: Parser) -> None:
    group = parser.add_argument_group("what it writes")
    group.add_argument("--access-log", metavar="FILE|-|off", help=_row("logging", "access"))
    group.add_argument("--log-level", metavar="LEVEL", help=_row("logging", "level"))
    group.add_argument("--log-format", metavar="text|json", help=_row("logging", "format"))
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q", "--quiet", action="store_true", help="warnings and worse only, and no banner"
    )
    loudness.add_argument("-v", "--verbose", action="store_true", help="debug messages too")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="whether to use colours; auto heeds NO_COLOR and FORCE_COLOR",
    )


def _add_other(parser: Parser) -> None:
    group = parser.add_argument_group("instead of serving")
    group.add_argument(
        "--check",
        metavar="[import]",
        choices=("values", "import"),
        help="check the configuration; --check=import loads the applications too",
    )
    group.add_argument(
        "--print-config", action="store_true", help="print each value and where it comes from"
    )
    group.add_argument("--list-mounts", action="store_true", help="print what is mounted where")
    group.add_argument(
        "--print-completion",
        metavar="bash|zsh|fish",
        choices=("bash", "zsh", "fish"),
        help="print a completion script for a shell",
    )
    group.add_argument("--version", action="store_true", help="print the versions in use")
    group.add_argument("-h", "--help", action="store_true", help="print this")


def actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    """Answer the flags of a parser, for scripts and docs made from it."""
    return [action for action in parser._actions if action.option_strings]
