"""What ``${...}`` in a value stands for.

``${here}``, ``${env:NAME}``, ``${env:NAME:-default}``, ``${file:path}``, ``${secret:name}`` and
``${section:key}``; ``$$`` is a dollar, and a percent sign is nothing special.
What an expansion answers is never expanded again: a password may hold any characters.
What ``${section:key}`` names is found by the caller, which knows the sections.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sitebus.errors import nearest

#: Nobody writes more than this by hand; ten settings that each name the last one twice do.
LIMIT = 1 << 20
_DEPTH = 8


class Expanded(NamedTuple):
    """A text without placeholders, and whether any of it is a secret."""

    text: str
    secret: bool = False


class CannotExpand(ValueError):
    """A placeholder stands for nothing; the message says why."""


class Scope(NamedTuple):
    """What placeholders can see.

    Attributes:
        directory: that of the file in which the text stands.
        variable: answers an environment variable, None when it is not set.
        lookup: answers the value of a section's key.
    """

    directory: Path
    variable: Callable[[str], Expanded | None]
    lookup: Callable[[str, str], Expanded]


def expand(text: str, scope: Scope, depth: int = 0) -> Expanded:
    """Answer *text* with every placeholder replaced.

    Raises:
        CannotExpand: one of them stands for nothing.
    """
    parts: list[str] = []
    secret = False
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        position = dollar + 1
        following = text[position : position + 1]
        if following == "{":
            end = _closing(text, position + 1)
            found = _replace(text[position + 1 : end], scope, depth)
            parts.append(found.text)
            secret = secret or found.secret
            position = end + 1
        else:
            parts.append("$")
            position += following == "$"
    parts.append(text[position:])
    if sum(map(len, parts)) > LIMIT:
        raise CannotExpand("the value grows beyond 1MB")
    return Expanded("".join(parts), secret)


def _closing(text: str, start: int) -> int:
    """Answer where the brace closes that was opened before *start*."""
    depth = 1
    for match in re.compile(r"\$\$|\$\{|\}").finditer(text, start):
        depth += {"${": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    raise CannotExpand("'${' without '}' (a dollar before a brace is written $$)")


def _replace(name: str, scope: Scope, depth: int) -> Expanded:
    if depth > _DEPTH:
        raise CannotExpand(f"placeholders stand more than {_DEPTH} deep in each other")
    if name == "here":
        return Expanded(str(scope.directory))
    scheme, colon, rest = name.partition(":")
    if not colon:
        raise CannotExpand(_unknown(name))
    if scheme == "env":
        return _variable(rest, scope, depth)
    if scheme == "file":
        return Expanded(_read(scope.directory / rest, name), secret=True)
    if scheme == "secret":
        return Expanded(_secret(rest, scope), secret=True)
    section, _, key = name.rpartition(":")
    return scope.lookup(section, key)


def _unknown(name: str) -> str:
    near = nearest(name[:60], ["here"])
    hint = f" - did you mean ${{{near}}}?" if near else f" - did you mean ${{env:{name[:60]}}}?"
    return f"${{{name[:60]}}} names nothing{hint}"


def _variable(text: str, scope: Scope, depth: int) -> Expanded:
    name, dash, default = text.partition(":-")
    value = scope.variable(name)
    if value is not None and (value.text or not dash):
        return value
    if dash:
        return expand(default, scope, depth + 1)
    raise CannotExpand(
        f"environment variable {name[:60]!r} is not set (${{env:NAME:-default}} has a default)"
    )


def _secret(name: str, scope: Scope) -> str:
    if not re.fullmatch(r"[\w@%+=,-][\w.@%+=,-]*", name):
        raise CannotExpand(f"{name[:60]!r} is not the name of a secret")
    given = scope.variable("CREDENTIALS_DIRECTORY")
    places = [Path(given.text, name)] if given else []
    places.append(Path("/run/secrets", name))
    for place in places:
        if place.is_file():
            return _read(place, f"secret:{name}")
    raise CannotExpand(f"there is no secret {name!r}: looked for {' and '.join(map(str, places))}")


def _read(path: Path, name: str) -> str:
    """Answer what a small text file holds, without the end of its last line."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotExpand(f"${{{name}}}: cannot read {path}: {reason}") from error
    if len(data) > LIMIT:
        raise CannotExpand(f"${{{name}}}: {path} is larger than 1MB")
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise CannotExpand(f"${{{name}}}: {path} is not UTF-8 text") from error
