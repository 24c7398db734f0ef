"""The arguments of ``sitebus-fleet``: a file, a command, and what the command takes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from sitebus.cli.commandline import (
    Argument,
    Parser,
    argument,
    json_value,
    parser_of,
    patience,
    seconds,
)
from sitebus.errors import UsageError, nearest
from sitebus.fleet.rolling import Share

PROGRAM = "sitebus-fleet"


def _share(text: str) -> Share:
    try:
        return Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text)):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a number from 1")
    return int(text)


def _function(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([\w.]+):([A-Za-z_]\w*)", text)
    if not match or match[1].endswith(".py"):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not MODULE:FUNCTION")
    return match[1], match[2]


#: What every command takes.
COMMON = (
    argument(
        "--fleet",
        metavar="FILE",
        help="the fleet's file; $SITEBUS_FLEET, or else fleet.ini, if left out",
    ),
    argument(
        "--hosts",
        metavar="NAMES",
        action="append",
        default=[],
        help="these hosts and groups, with commas between; all if left out",
    ),
    argument("-j", "--json", action="store_true", help="print JSON"),
    argument("--debug", action="store_true", help="print tracebacks, also those of hosts"),
    argument("--mitogen-log", metavar="FILE", help="write there what mitogen does"),
)

_HOSTS = argument("names", nargs="*", metavar="HOST", help="a host or a group; all if left out")
_TIMEOUT = argument(
    "--timeout",
    type=patience,
    default=120.0,
    metavar="SECONDS",
    help="how long each host may take at most; 120 if left out",
)
_FOLLOW = argument(
    "-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C"
)
_YES = argument("-y", "--yes", action="store_true", help="do not ask whether this is meant")

_ROLL = (
    argument(
        "--max-unavailable",
        type=_share,
        default=Share(1),
        metavar="N|N%",
        help="so many hosts may be unavailable at once; 1 if left out",
    ),
    argument(
        "--batch",
        type=_count,
        metavar="N",
        help="work on so many hosts at once; as many as may be unavailable if left out",
    ),
    argument(
        "--canary",
        action="append",
        default=[],
        metavar="GROUP",
        help="begin with these; with those of [fleet] canaries if left out",
    ),
    argument(
        "--soak",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="so long a host has to be well before the next; 2 if left out",
    ),
    argument(
        "--checks",
        type=_count,
        default=3,
        metavar="N",
        help="look at it so often in that time; 3 if left out",
    ),
    argument(
        "--drain",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        dest="drained",
        help="let no requests come to a host for so long before it is changed",
    ),
    argument(
        "--force",
        action="store_true",
        help="go on although hosts are not well, and without those that cannot be reached",
    ),
    argument("--dry-run", action="store_true", help="tell what would be done, and do nothing"),
    argument(
        "--resume",
        nargs="?",
        const="",
        metavar="ID",
        help="go on with a roll that was stopped or cut off, with the options that it has; with "
        "the last one if ID is left out",
    ),
    _TIMEOUT,
)
_ON_FAILURE = argument(
    "--on-failure",
    choices=("rollback", "stop"),
    default="rollback",
    help="undo what was done, which is usual, or leave it",
)
_RESTART = argument(
    "--restart",
    action="store_true",
    help="restart the site's own process as well, so that a changed site.ini counts",
)

#: Every command: what it does, and what it takes.
COMMANDS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    "status": (
        "how the sites stand",
        (
            argument("-v", "--verbose", action="store_true", help="tell more of each host"),
            _HOSTS,
        ),
    ),
    "check": ("whether hosts can be reached, and have what is needed", (_HOSTS,)),
    "deploy": (
        "have every host run a release, one after the other",
        (
            argument(
                "release",
                nargs="?",
                metavar="RELEASE",
                help="the release's directory, or the name of one that the hosts have",
            ),
            _HOSTS,
            argument("--id", metavar="ID", help="its name; that of the directory if left out"),
            _RESTART,
            _ON_FAILURE,
            *_ROLL,
        ),
    ),
    "rollback": (
        "have every host run the release before, one after the other",
        (
            _HOSTS,
            argument("--to", metavar="ID", default="", help="this release instead"),
            _RESTART,
            _ON_FAILURE,
            *_ROLL,
        ),
    ),
    "graceful": (
        "replace the workers of each host, one host after the other",
        (_HOSTS, *_ROLL),
    ),
    "restart": ("restart the site of each host, one host after the other", (_HOSTS, *_ROLL)),
    "start": ("start the sites", (_HOSTS, _TIMEOUT)),
    "stop": ("serve no more, and keep processes and sockets", (_HOSTS, _YES, _TIMEOUT)),
    "exit": ("end the sites", (_HOSTS, _YES, _TIMEOUT)),
    "drain": ("tell those who send requests that none are wanted", (_HOSTS, _TIMEOUT)),
    "undrain": ("tell them that requests are wanted again", (_HOSTS, _TIMEOUT)),
    "run": (
        "run a function of a module of this directory on the hosts, and print what it returns",
        (
            argument("function", type=_function, metavar="MODULE:FUNCTION", help="which"),
            argument("args", nargs="*", type=json_value, metavar="JSON", help="its arguments"),
            _TIMEOUT,
        ),
    ),
    "exec": (
        "run a command on the hosts",
        (_HOSTS, _TIMEOUT, argument("--cwd", metavar="PATH", help="in this directory there")),
    ),
    "push": (
        "copy a file or a directory to the hosts",
        (
            argument("path", metavar="PATH", help="what"),
            argument("dest", metavar="DEST", help="where to, on each host"),
            _HOSTS,
        ),
    ),
    "logs": ("the last lines of the sites' logs", (_FOLLOW, _HOSTS)),
    "events": (
        "the last events of the sites",
        (
            _FOLLOW,
            argument(
                "--channel",
                action="append",
                default=[],
                metavar="NAMES",
                help="only these; worker.* is all whose names begin with that",
            ),
            _HOSTS,
        ),
    ),
    "rolls": (
        "past rolls, and what became of them",
        (argument("id", nargs="?", metavar="ID", help="the whole story of this one"),),
    ),
}

_SYNOPSIS = f"{PROGRAM} [OPTION...] COMMAND [...]"

_DESCRIPTION = """\
Look at the sites of a fleet's hosts, and tell them what to do.
"""
_EPILOG = """\
Exit status: 0 done; 1 it failed, was refused, stopped, or undone; 2 wrong usage; 3 a host is out of
reach; 4 this user may not do that; 130 left by Ctrl-C.
"""

#: A roll's name, where a release's might stand as well.
_ROLL_ID = re.compile(r"\d{8}-\d{6}(-\w*)?")


class Arguments(NamedTuple):
    """What the command line asks for; a help instead of a command if there is none."""

    command: str
    options: argparse.Namespace
    #: What stands behind ``--``.
    rest: tuple[str, ...] = ()
    help: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts and groups that are meant; all if there are none."""
        return (*self.options.hosts, *getattr(self.options, "names", ()))


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    Raises:
        UsageError: it makes no sense.
    """
    words, rest = _cut(list(argv))
    before, command, after = _split(words)
    asked = {"-h", "--help"} & {*before, *after}
    if command is None:
        return _without_command(bool(asked), after)
    parser = build_parser(command)
    if asked:
        return Arguments(command, argparse.Namespace(), help=parser.format_help())
    if rest and command != "exec":
        raise UsageError(f"{command} takes nothing behind --; see {PROGRAM} {command} --help")
    if command == "exec" and not rest:
        raise UsageError(f"which command? Say {PROGRAM} exec [HOST...] -- COMMAND [...]")
    options = parser.parse_intermixed_args(_resumed([*before, *after]))
    return Arguments(command, options, tuple(rest))


def _cut(argv: list[str]) -> tuple[list[str], list[str]]:
    """Answer what stands before a ``--``, and behind it."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _split(argv: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Answer what stands before the command, the command, and what follows."""
    valued = {name for each in COMMON if "action" not in each.settings for name in each.names}
    valued.add("--hosts")
    is_value = False
    for at, word in enumerate(argv):
        if not is_value and not word.startswith("-"):
            return (argv[:at], word, argv[at + 1 :]) if word in COMMANDS else (argv, None, [word])
        is_value = not is_value and word in valued
    return argv, None, []


def _resumed(argv: list[str]) -> list[str]:
    """Answer the words with a roll's name joined to its flag: a release's may follow as well."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] == "--resume":
            if _ROLL_ID.fullmatch(word):
                found[-1] = f"--resume={word}"
                continue
            found[-1] = "--resume="
        found.append(word)
    return [*found[:-1], "--resume="] if found[-1:] == ["--resume"] else found


def _without_command(asked: bool, words: list[str]) -> Arguments:
    if asked:
        return Arguments("", argparse.Namespace(), help=overview())
    if not words:
        raise UsageError(f"which command? See {PROGRAM} --help")
    word = words[0][:40]
    near = nearest(word, COMMANDS)
    hint = f"; did you mean {near!r}?" if near else "."
    raise UsageError(f"there is no command {word!r}{hint} See {PROGRAM} --help")


def build_parser(command: str) -> argparse.ArgumentParser:
    """Make the parser of one command."""
    said, arguments = COMMANDS[command]
    return parser_of(Parser, f"{PROGRAM} {command}", said, (*arguments, *COMMON))


def overview() -> str:
    """Answer the help about all commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {said}" for name, (said, _) in COMMANDS.items()]
    flags = [(", ".join(each.names), each.settings) for each in COMMON]
    flags.append(("-h, --help", {"help": "print this, or what a command takes"}))
    shown = [f"{name} {settings.get('metavar', '')}".strip() for name, settings in flags]
    wide = max(map(len, shown))
    options = [
        f"  {name.ljust(wide)}  {settings['help']}"
        for name, (_, settings) in zip(shown, flags, strict=True)
    ]
    head = f"usage: {_SYNOPSIS}\n\n{_DESCRIPTION}\ncommands:"
    return "\n".join([head, *lines, "\noptions:", *options, f"\n{_EPILOG}"])
