"""From the text of an ini file to its headings and settings, each with its line.

`iniconfig` keeps line numbers and was looked at first; this is a tokenizer of our own because it

* stops at the first mistake, where a reader wants all of them at once;
* tells a duplicate's own line and not the line of what it repeats;
* does not keep where a value goes on, nor whether it does;
* ends lines at U+2028, form feeds and the like, after which every line number is wrong, and
  takes a NUL for a letter;
* cuts a heading at ``#``, which may be part of a mount's name typed by mistake.

The grammar: ``[kind argument]`` in the first column; ``key = value`` or ``key: value``; an indented
line goes on with the value above it; ``#`` or ``;`` makes a comment of a line of its own and has no
meaning anywhere else.
What the words mean is for `sitebus.config.reader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sitebus.config.texts import short


class Heading(NamedTuple):
    """A ``[kind argument]`` line."""

    line: int
    kind: str
    argument: str


class Setting(NamedTuple):
    """A ``key = value`` line with the lines that go on with it."""

    line: int
    key: str
    text: str
    #: The line on which the value goes on, or 0.
    more: int = 0


class Mistake(NamedTuple):
    """A line that is none of these."""

    line: int
    message: str
    #: It was to be a heading: what follows does not belong to the heading before.
    heading: bool = False


Token = Heading | Setting | Mistake

_KEY = re.compile(r"[^\s=:\[\]#;][^=:]*")
#: What no editor shows, except for the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def tokenize(text: str) -> Iterator[Token]:
    """Answer what each line of *text* says, mistakes included."""
    setting: Setting | None = None
    more: list[str] = []
    for number, line in _lines(text):
        bare = line.lstrip(" \t")
        if bare == line:
            if setting is not None:
                yield _whole(setting, more)
            token = _token(line, number)
            setting, more = (token, []) if isinstance(token, Setting) else (None, [])
            if setting is None:
                yield token
        elif setting is None:
            yield Mistake(number, _indented(bare))
        else:
            setting = setting._replace(more=setting.more or number)
            more.append(bare)
    if setting is not None:
        yield _whole(setting, more)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Answer the lines that say something, without what stands at their ends."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r").rstrip(" \t")
        bare = line.lstrip(" \t")
        if bare and bare[0] not in "#;":
            yield number, line


def _whole(setting: Setting, more: list[str]) -> Setting:
    if not more:
        return setting
    first = [setting.text] if setting.text else []
    return setting._replace(text="\n".join(first + more))


def _indented(text: str) -> str:
    return f"{short(text)} is indented, and there is no setting above it to go on with"


def _token(line: str, number: int) -> Token:
    control = _CONTROL.search(line)
    if control:
        return Mistake(number, f"the line has a control character, {control[0]!r}")
    if line.startswith("["):
        return _heading(line, number)
    match = _KEY.match(line)
    if match is None or match.end() == len(line):
        return Mistake(number, f"{short(line)} is neither a [section] nor a key = value")
    key = match[0].rstrip(" \t")
    if re.search(r"\s", key):
        return Mistake(number, f"{short(key)} cannot be the name of a setting: it has a space")
    return Setting(number, key, line[match.end() + 1 :].strip(" \t"))


def _heading(line: str, number: int) -> Token:
    if not line.endswith("]"):
        hint = " (comments need their own line)" if "]" in line else ""
        return Mistake(number, f"heading {short(line)} must end with ']'{hint}", True)
    words = line[1:-1].split(None, 1)
    if not words:
        return Mistake(number, "heading [] names no section", True)
    return Heading(number, words[0].lower(), words[1].strip() if len(words) > 1 else "")
