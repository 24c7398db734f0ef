"""The arguments of ``sitebus-ctl``: a site, a command, and what the command takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from sitebus.cli.commandline import (
    Argument,
    Parser,
    argument,
    json_value,
    parser_of,
    patience,
)
from sitebus.errors import UsageError, nearest

PROGRAM = "sitebus-ctl"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a number")
    return int(text)


_JSON = argument("-j", "--json", action="store_true", help="print answers as JSON")
_WAIT = argument("--wait", action="store_true", help="wait until it has ended")
_TIMEOUT = argument(
    "--timeout",
    type=patience,
    default=600.0,
    metavar="SECONDS",
    help="how long to wait at most; 600 if left out",
)
_WORKER = argument("worker", type=_number, metavar="N", help="the number of the worker")
_FOLLOW = argument(
    "-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C"
)

#: Every command: what it does, and what it takes.
COMMANDS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    "status": ("how the site stands", ()),
    "workers": ("its worker processes", ()),
    "graceful": (
        "replace the workers one by one; without workers, reload in place",
        (_WAIT, _TIMEOUT),
    ),
    "restart": (
        "run the site's command line again in its process, and wait until it serves",
        (
            argument("--force", action="store_true", help="do not try the new program first"),
            _TIMEOUT,
        ),
    ),
    "stop": ("serve no more, and keep process and sockets", (_TIMEOUT,)),
    "start": ("serve again after a stop", (_TIMEOUT,)),
    "exit": ("end the site", (_TIMEOUT,)),
    "reopen": ("reload in place: log files, certificates", (_TIMEOUT,)),
    "scale": (
        "have that many workers",
        (
            argument("count", type=_number, metavar="N", help="how many workers"),
            _WAIT,
            _TIMEOUT,
        ),
    ),
    "drain": ("replace one worker", (_WORKER, _WAIT, _TIMEOUT)),
    "kill": ("end one worker at once; another takes its place", (_WORKER,)),
    "dump": ("where every thread of a worker is", (_WORKER,)),
    "threads": ("where every thread of the site's own process is", ()),
    "jobs": ("what was asked for, and what became of it", ()),
    "events": (
        "the last events",
        (
            _FOLLOW,
            argument(
                "channels",
                nargs="*",
                metavar="CHANNEL",
                help="only these; worker.* is all whose names begin with that",
            ),
        ),
    ),
    "logs": ("the last lines of the log", (_FOLLOW,)),
    "publish": (
        "publish on a channel that [control] publish names",
        (
            argument("channel", metavar="CHANNEL", help="the channel"),
            argument(
                "args", nargs="*", type=json_value, metavar="JSON", help="the message's values"
            ),
        ),
    ),
    "bus": ("the channels of the bus, and who listens", ()),
    "config": ("each setting, and where it comes from", ()),
    "ready": (
        "whether the site wants requests, as /readyz tells those who send them",
        (argument("wanted", choices=("on", "off"), help="on or off"),),
    ),
    "metrics": ("what is counted", ()),
    "wait": (
        "wait until the site is ready",
        (
            argument("condition", choices=("ready",), help="ready"),
            _TIMEOUT,
        ),
    ),
    "relay": (
        "make the keys of a relay's node; or tell the peers of a running relay",
        (
            argument("what", choices=("keygen", "peers"), help="keygen or peers"),
            argument(
                "name",
                nargs="?",
                metavar="NAME",
                help="for keygen: the node's name; this host's if left out",
            ),
            argument(
                "--dir",
                default="conf/relay",
                metavar="DIR",
                help="for keygen: the directory of the keys; conf/relay if left out",
            ),
        ),
    ),
}

_SYNOPSIS = f"{PROGRAM} [-j] [TARGET] COMMAND [...]"

_DESCRIPTION = """\
Look at a running site, and tell it what to do.

TARGET is a site.ini, the name of a site, or the path of a control socket. If left out, it is the
site.ini of this directory, or else the only site that runs.
"""
_EPILOG = """\
Exit status: 0 done; 1 it failed, or was refused; 2 wrong usage; 3 the site is not running; 4 this
user may not do that.
"""


#: How argparse begins the sentence about words that it has no use for.
_TOO_MUCH = "unrecognized arguments: "


class _Parser(Parser):
    """A parser that says where a target stands."""

    def error(self, message: str) -> NoReturn:
        if message.startswith(_TOO_MUCH) and not message.startswith(f"{_TOO_MUCH}-"):
            message += " (a TARGET comes before the command)"
        super().error(message)


class Arguments(NamedTuple):
    """What the command line asks for; a help instead of a command if there is none."""

    target: str | None
    command: str
    options: argparse.Namespace
    help: str = ""

    @property
    def json(self) -> bool:
        """Whether answers are printed as they come."""
        return bool(self.options.json)


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    Raises:
        UsageError: it makes no sense.
    """
    before, target, command, rest = _split(argv)
    if command is None:
        return _without_command(before, target)
    parser = build_parser(command)
    if {"-h", "--help"} & {*before, *rest}:
        return Arguments(target, command, argparse.Namespace(json=False), parser.format_help())
    return Arguments(target, command, parser.parse_args([*before, *rest]))


def _split(argv: Sequence[str]) -> tuple[list[str], str | None, str | None, list[str]]:
    """Answer flags, target, command, and what follows that; the latter three may be missing."""
    flags, words = [], []
    for at, word in enumerate(argv):
        if word.startswith("-"):
            flags.append(word)
            continue
        words.append(word)
        if word in COMMANDS:
            return flags, words[0] if len(words) > 1 else None, word, list(argv[at + 1 :])
        if len(words) > 1:
            break
    return flags, words[0] if words else None, None, words[1:]


def _without_command(flags: list[str], target: str | None) -> Arguments:
    if {"-h", "--help"} & set(flags):
        return Arguments(None, "", argparse.Namespace(json=False), overview())
    near = nearest((target or "")[:40], COMMANDS)
    hint = f" - did you mean {near}?" if near else ""
    raise UsageError(f"which command?{hint} See {PROGRAM} --help")


def build_parser(command: str) -> argparse.ArgumentParser:
    """Make the parser of one command."""
    said, arguments = COMMANDS[command]
    return parser_of(_Parser, f"{PROGRAM} [TARGET] {command}", said, (_JSON, *arguments))


def overview() -> str:
    """Answer the help about all commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {said}" for name, (said, _) in COMMANDS.items()]
    commands = "\n".join(lines)
    flags = "  -j, --json  print answers as JSON\n  -h, --help  print this, or what a command takes"
    return (
        f"usage: {_SYNOPSIS}\n\n{_DESCRIPTION}\ncommands:\n{commands}\n\noptions:\n{flags}\n\n"
        f"{_EPILOG}"
    )
