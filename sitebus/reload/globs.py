"""Patterns of paths: ``templates/**/*.html``, and what they match.

``*`` and ``?`` stay within one name, ``**`` crosses directories, ``[...]`` is a set of characters.
A directory stands for everything in it. Hidden directories and those of tools are left out, unless
the pattern itself names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_MAGIC = re.compile(r"[*?\[]")
_PARTS = re.compile(r"(?P<deep>\*\*/)|(?P<rest>\*\*)|\*|\?|\[(?P<set>!?\]?[^\]/]*)\]|.", re.DOTALL)

#: What tools keep beside a site's own files.
SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages", "dist-packages"))


class Glob(NamedTuple):
    """A pattern, made absolute."""

    base: str
    expression: re.Pattern[str]
    deep: bool

    @classmethod
    def of(cls, pattern: str, directory: str) -> Glob:
        """Read *pattern*; a relative one starts in *directory*."""
        path = os.path.join(directory, os.path.expanduser(pattern)).replace(os.sep, "/")
        magic = _MAGIC.search(path)
        if magic is None:
            path = os.path.normpath(path)
            # A directory, be it one that is not there at the moment, stands for its content.
            expression = re.compile(re.escape(path.rstrip("/")) + "(?:/.*)?", re.DOTALL)
            is_folder = os.path.isdir(path)
            return cls(path if is_folder else os.path.dirname(path), expression, is_folder)
        base = os.path.normpath(path[: path.rfind("/", 0, magic.start())] or "/")
        rest = path[path.rfind("/", 0, magic.start()) + 1 :]
        expression = re.compile(re.escape(base.rstrip("/")) + "/" + translate(rest), re.DOTALL)
        return cls(base, expression, "/" in rest or "**" in rest)

    def matches(self, path: str) -> bool:
        """Tell whether the absolute *path* is one of those."""
        return self.expression.fullmatch(path) is not None

    @property
    def missing(self) -> str | None:
        """What is not there, of the directories down to the one in which the pattern begins."""
        found = None
        path = self.base
        while not os.path.isdir(path) and os.path.dirname(path) != path:
            found, path = path, os.path.dirname(path)
        return found

    def walk(self) -> tuple[set[str], set[str]]:
        """Answer the files that match now, and the directories where more may appear."""
        files: set[str] = set()
        folders: set[str] = set()
        for folder, names in _folders(self.base, self.deep):
            folders.add(folder)
            paths = (os.path.join(folder, name) for name in names)
            files.update(filter(self.matches, paths))
        return files, folders


def translate(pattern: str) -> str:
    """Answer the regular expression of *pattern*."""
    return "".join(_expression(part) for part in _PARTS.finditer(pattern))


def _expression(part: re.Match[str]) -> str:
    text = part.group()
    if part["deep"]:
        return "(?:.*/)?"
    if part["rest"]:
        return ".*"
    if part["set"]:
        negated = part["set"].startswith("!")
        inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", part["set"].removeprefix("!"))
        # Two of them mean something else to expressions, or will.
        inside = re.sub("--+", lambda dashes: r"\--" if len(dashes[0]) == 2 else r"\-", inside)
        return _set(f"[{'^/' if negated else ''}{inside}]") or re.escape(text)
    return {"*": "[^/]*", "?": "[^/]"}.get(text) or re.escape(text)


def _set(expression: str) -> str | None:
    """Answer *expression*, unless it is none, such as a range from z to a."""
    try:
        re.compile(expression)
    except re.error:
        return None
    return expression


def _folders(base: str, deep: bool) -> Iterator[tuple[str, list[str]]]:
    if not deep:
        try:
            with os.scandir(base) as entries:
                yield base, [entry.name for entry in entries if not entry.is_dir()]
        except OSError:
            pass  # it is not there, or not ours to read
        return
    for folder, below, names in os.walk(base, followlinks=False):
        below[:] = [name for name in below if name not in SKIPPED and not name.startswith(".")]
        yield folder, names


class Ignored:
    """What is not watched, by patterns; one without a slash is matched against the name."""

    def __init__(self, patterns: Iterable[str], directory: str) -> None:
        patterns = tuple(patterns)
        self._paths = [Glob.of(each, directory) for each in patterns if "/" in each]
        self._names = [re.compile(translate(each)) for each in patterns if "/" not in each]

    def __contains__(self, path: str) -> bool:
        if not (self._paths or self._names):
            return False
        name = os.path.basename(path)
        return any(each.fullmatch(name) for each in self._names) or any(
            each.matches(path) for each in self._paths
        )
