"""What a setting's text may say, and the value it becomes.

A kind parses text, says in one phrase what it expected when the text is wrong, and writes a value
back as text for ``--print-config`` and the docs.
Which settings exist, and of what kind they are, is told in `sitebus.config.options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

from sitebus.errors import BadAddress, BadNetwork
from sitebus.sockets.addresses import Address
from sitebus.sockets.networks import normal_network

T = TypeVar("T")


class Context(NamedTuple):
    """Where a text was written: paths in it are relative to this directory."""

    directory: Path


class BadValue(ValueError):
    """A text that its kind cannot read; the message is what was expected instead."""


class Kind(Generic[T]):
    """One type of setting.

    ``expected`` is the phrase of an error message, ``metavar`` the placeholder in a help text.
    Only a ``multiline`` kind takes a text that goes on in further lines.
    """

    expected: str = "a text"
    metavar: str = "TEXT"
    multiline: ClassVar[bool] = False

    def parse(self, text: str, context: Context) -> T:
        """Read *text*.

        Raises:
            BadValue: it is not a text of this kind.
        """
        raise NotImplementedError

    def format(self, value: T) -> str:
        """Write *value* so that `parse` would read it again."""
        return str(value)

    def bad(self) -> BadValue:
        """Answer the error that says what was expected."""
        return BadValue(f"expected {self.expected}")


class Text(Kind[str]):
    """Any text on one line."""

    expected = "a text that is not empty"

    def parse(self, text: str, context: Context) -> str:
        """Take the text as it is."""
        if not text:
            raise self.bad()
        return text


class FreeText(Kind[str]):
    """Any text at all, on any number of lines: what a stranger's setting may be."""

    expected = "any text"
    multiline = True

    def parse(self, text: str, context: Context) -> str:
        """Take the text as it is."""
        return text


class Boolean(Kind[bool]):
    """yes or no."""

    expected = "yes or no"
    metavar = "yes|no"
    words: ClassVar[dict[str, bool]] = {
        **dict.fromkeys(("yes", "true", "on", "1"), True),
        **dict.fromkeys(("no", "false", "off", "0"), False),
    }

    def parse(self, text: str, context: Context) -> bool:
        """Read the words of the usual ini files."""
        try:
            return self.words[text.lower()]
        except KeyError:
            raise self.bad() from None

    def format(self, value: bool) -> str:
        """Write yes or no."""
        return "yes" if value else "no"


class Integer(Kind[int]):
    """A whole number between two bounds."""

    metavar = "N"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest
        self.expected = f"a whole number from {lowest} to {highest}"

    def parse(self, text: str, context: Context) -> int:
        """Read decimal digits."""
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise self.bad()
        number = int(text)
        if not self.lowest <= number <= self.highest:
            raise self.bad()
        return number


class Duration(Kind[float]):
    """A length of time between two bounds, in seconds once it is read."""

    metavar = "DURATION"
    units: ClassVar[dict[str, float]] = {
        "": 1.0,
        "ms": 0.001,
        "s": 1.0,
        "m": 60.0,
        "h": 3600.0,
        "d": 86400.0,
    }

    def __init__(self, lowest: float = 0.0, highest: float = 86400.0) -> None:
        self.lowest = lowest
        self.highest = highest
        least = f"at least {self.format(lowest)} and " if lowest else ""
        most = f"{least}at most {self.format(highest)}"
        self.expected = f"a duration such as 10s, 500ms, 5m or 1h, {most}"

    def parse(self, text: str, context: Context) -> float:
        """Read a number and its unit; seconds when there is none."""
        number, unit = _number_and_unit(text)
        if number is None or unit not in self.units:
            raise self.bad()
        seconds = number * self.units[unit]
        if not self.lowest <= seconds <= self.highest:
            raise self.bad()
        return seconds

    def format(self, value: float) -> str:
        """Write the largest unit that gives a whole number."""
        for unit, seconds in reversed(self.units.items()):
            whole = round(value / seconds)
            if unit and whole and math.isclose(value / seconds, whole):
                return f"{whole}{unit}"
        return f"{value:g}s"


class Size(Kind[int]):
    """A number of bytes."""

    expected = "a size such as 64KB or 100MB"
    metavar = "SIZE"
    units: ClassVar[dict[str, int]] = {
        "": 1,
        "b": 1,
        "kb": 1 << 10,
        "mb": 1 << 20,
        "gb": 1 << 30,
        "tb": 1 << 40,
    }

    def parse(self, text: str, context: Context) -> int:
        """Read a number and its unit; bytes when there is none."""
        number, unit = _number_and_unit(text)
        if unit in ("k", "m", "g", "t"):
            unit += "b"
        if number is None or unit not in self.units:
            raise self.bad()
        return round(number * self.units[unit])

    def format(self, value: int) -> str:
        """Write the largest unit that gives a whole number."""
        for unit, size in reversed(self.units.items()):
            if len(unit) == 2 and value and value % size == 0:
                return f"{value // size}{unit.upper()}"
        return str(value)


def _number_and_unit(text: str) -> tuple[float | None, str]:
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)[ \t]*([A-Za-z]{0,8})", text)
    if match is None:
        return None, ""
    return float(match[1]), match[2].lower()


class Choice(Kind[str]):
    """One word of a few."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.metavar = "|".join(words)
        last = f" or {words[-1]}" if len(words) > 1 else ""
        self.expected = ", ".join(words[:-1] or words) + last

    def parse(self, text: str, context: Context) -> str:
        """Read one of the words, in any case."""
        word = text.lower()
        if word not in self.words:
            raise self.bad()
        return word


class FilePath(Kind[Path]):
    """A path, relative to the file that names it."""

    def __init__(self, must_be: str = "") -> None:
        """Take any path, or only one that is a ``file`` or a ``directory`` already."""
        self.must_be = must_be
        self.expected = f"the path of a {must_be} that is there" if must_be else "a path"
        self.metavar = {"file": "FILE", "directory": "DIRECTORY"}.get(must_be, "PATH")

    def parse(self, text: str, context: Context) -> Path:
        """Make the path absolute, and look whether it is there if it has to be."""
        if not text:
            raise self.bad()
        path = _path(text, context)
        problem = _why_not(path, self.must_be)
        if problem:
            raise BadValue(problem)
        return path

    def format(self, value: Path) -> str:
        """Write the absolute path."""
        return str(value)


def _path(text: str, context: Context) -> Path:
    if "\0" in text:
        raise BadValue("expected a path, and no path has a NUL in it")
    try:
        return context.directory / Path(text).expanduser()
    except RuntimeError as error:
        raise BadValue(f"expected a path: {error}") from error


def _why_not(path: Path, must_be: str) -> str:
    try:
        if must_be == "file" and not path.is_file():
            return f"{path} is not a file" if path.exists() else f"there is no file {path}"
        if must_be == "directory" and not path.is_dir():
            return (
                f"{path} is not a directory" if path.exists() else f"there is no directory {path}"
            )
    except OSError as error:
        return f"cannot look at {path}: {error.strerror}"
    return ""


class Destination(Kind[str]):
    """Where lines are written: a file, the terminal, or nowhere."""

    expected = "a file, - for the terminal, or off"
    metavar = "FILE|-|off"

    def parse(self, text: str, context: Context) -> str:
        """Make a path absolute; leave ``-`` and ``off`` alone."""
        if not text:
            raise self.bad()
        if text in ("-", "off"):
            return text
        return str(_path(text, context))


class Listing(Kind[tuple[T, ...]]):
    """Several of a kind, separated by commas, spaces or new lines."""

    multiline = True

    def __init__(self, kind: Kind[T], *, expected: str = "") -> None:
        self.kind = kind
        self.metavar = f"{kind.metavar}, ..."
        self.expected = expected or f"a list, each of it {kind.expected}"

    def parse(self, text: str, context: Context) -> tuple[T, ...]:
        """Read each part."""
        return tuple(self.kind.parse(part, context) for part in split(text))

    def format(self, value: Sequence[T]) -> str:
        """Write the parts on one line."""
        return ", ".join(map(self.kind.format, value))


def split(text: str) -> list[str]:
    """Answer the parts of a list: commas, spaces and new lines separate them."""
    return text.replace(",", " ").split()


class Glob(Kind[str]):
    """A file pattern, relative to the file that names it; ``**`` is any depth."""

    expected = "a file pattern such as conf.d/*.ini"
    metavar = "GLOB"

    def parse(self, text: str, context: Context) -> str:
        """Make the pattern absolute."""
        if not text:
            raise self.bad()
        return str(_path(text, context))


class BindAddress(Kind[Address]):
    """An address to listen on."""

    expected = "an address such as 127.0.0.1:8080, [::1]:80, unix:/run/site.sock or fd:3"
    metavar = "ADDRESS"

    def parse(self, text: str, context: Context) -> Address:
        """Read it; the path of a unix socket is relative to the file that names it."""
        try:
            return Address.parse(_absolute_socket(text, context))
        except BadAddress as error:
            raise BadValue(f"{error.reason}; write {error.remedy}") from error


def _absolute_socket(text: str, context: Context) -> str:
    scheme, colon, path = text.partition(":")
    if scheme != "unix" or not path or path.startswith("@"):
        return text
    return f"{scheme}{colon}{_path(path, context)}"


class Reference(Kind[str]):
    """The name of something to import; importing it is left to others."""

    expected = "a name to import, such as package.module:attribute"
    metavar = "MODULE:NAME"

    def parse(self, text: str, context: Context) -> str:
        """Check the spelling only."""
        name = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
        if not re.fullmatch(rf"(?:{name}|.+\.py)(?::{name})?", text):
            raise self.bad()
        return text


class Name(Kind[str]):
    """A name that the file gives to something of its own."""

    expected = "a name without spaces"
    metavar = "NAME"

    def parse(self, text: str, context: Context) -> str:
        """Refuse what could not be told apart in a list."""
        if not re.fullmatch(r"[^\s,\[\]]+", text):
            raise self.bad()
        return text


#: One instance of each kind that has nothing to set.
TEXT: Kind[str] = Text()
FREE_TEXT: Kind[str] = FreeText()
BOOLEAN: Kind[bool] = Boolean()
DURATION: Kind[float] = Duration()
SIZE: Kind[int] = Size()
PATH: Kind[Path] = FilePath()
DESTINATION: Kind[str] = Destination()
REFERENCE: Kind[str] = Reference()
NAME: Kind[str] = Name()
NAMES: Kind[tuple[str, ...]] = Listing(NAME)
PATHS: Kind[tuple[Path, ...]] = Listing(PATH)
GLOBS: Kind[tuple[str, ...]] = Listing(Glob())


class Addresses(Listing[Address]):
    """Addresses to listen on, at least one."""

    def parse(self, text: str, context: Context) -> tuple[Address, ...]:
        """Read each part, and refuse an empty list: a server without a door is a mistake."""
        addresses = super().parse(text, context)
        if not addresses:
            raise self.bad()
        return addresses


ADDRESSES: Kind[tuple[Address, ...]] = Addresses(
    BindAddress(), expected="one or more addresses such as 127.0.0.1:8080 or unix:/run/site.sock"
)


class Network(Kind[str]):
    """Whom to believe: an address, a network, ``unix`` for unix sockets, or ``*`` for anybody."""

    expected = "an address or a network such as 10.0.0.0/8 or ::1, unix, or * for anybody"
    metavar = "NETWORK"

    def parse(self, text: str, context: Context) -> str:
        """Bring it into the one form that says the same."""
        try:
            return normal_network(text)
        except BadNetwork as error:
            raise BadValue(f"{error.reason}; write {error.remedy}") from error


class Binds(Kind[Literal["all"] | tuple[Address, ...]]):
    """Some of a server's addresses, as they are written where it binds them, or all of them."""

    expected = "addresses as they are in bind, or all"
    metavar = "ADDRESS, ...|all"
    multiline = True
    _some: ClassVar[Kind[tuple[Address, ...]]] = Listing(BindAddress())

    def parse(self, text: str, context: Context) -> Literal["all"] | tuple[Address, ...]:
        """Read each part; an empty list is none of them."""
        if text.strip().lower() == "all":
            return "all"
        try:
            return self._some.parse(text, context)
        except BadValue as error:
            raise BadValue(f"{error}, as it is in bind, or all") from error

    def format(self, value: Literal["all"] | tuple[Address, ...]) -> str:
        """Write them on one line."""
        return "all" if value == "all" else self._some.format(value)


NETWORKS: Kind[tuple[str, ...]] = Listing(
    Network(), expected="addresses or networks such as 10.0.0.0/8, ::1 or unix, or * for anybody"
)
BINDS: Kind[Literal["all"] | tuple[Address, ...]] = Binds()
