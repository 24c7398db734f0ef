"""What the commands with commands of their own, `sitebus-ctl` and `sitebus-fleet`, read alike."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

from sitebus.errors import UsageError

_LONGEST = 86400


class Argument(NamedTuple):
    """An argument of a command, as argparse takes it."""

    names: tuple[str, ...]
    settings: dict[str, Any]


def argument(*names: str, **settings: Any) -> Argument:
    """Make an argument of what `argparse.ArgumentParser.add_argument` would be given."""
    return Argument(names, settings)


def seconds(text: str) -> float:
    """Read a number of seconds, a day at most."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a number of seconds")
    return found


def patience(text: str) -> float:
    """Read a number of seconds, more than none."""
    if found := seconds(text):
        return found
    raise argparse.ArgumentTypeError("should be more than nothing")


def json_value(text: str) -> Any:
    """Read what JSON says."""
    try:
        return json.loads(text)
    except ValueError:
        hint = f"; for a text, say '\"{text}\"'" if text.isidentifier() else ""
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON{hint}") from None


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where more is said.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


AnyParser = TypeVar("AnyParser", bound=Parser)


def parser_of(
    kind: type[AnyParser], prog: str, said: str, arguments: Iterable[Argument]
) -> AnyParser:
    """Make the parser of one command, of which *said* is what its line in the overview says."""
    parser = kind(
        prog=prog,
        description=f"{said[0].upper()}{said[1:]}.",
        # Else each argument would ask for the terminal's width, by a large import.
        formatter_class=partial(argparse.HelpFormatter, width=80),
        allow_abbrev=False,
    )
    for each in arguments:
        parser.add_argument(*each.names, **each.settings)
    return parser
