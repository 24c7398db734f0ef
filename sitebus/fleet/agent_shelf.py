"""Which releases a host has: what there is, as it can be read; nothing is changed here.

Only the standard library, as Python 3.8 has it. What lies where is told in `agent_releases`.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional  # noqa: UP035 - as Python 3.8 has it

#: What a release says of itself, and of its files.
MARK, FILES = ".sitebus-release", ".sitebus-files"

#: Other names among the releases; those with a dash are followed by a release's.
STAGING, LEAVING, BEFORE, LOCK = ".staging-", ".leaving-", ".before", ".lock"


Answer = Dict[str, Any]  # noqa: UP006 - as Python 3.8 has it

#: Path, kind, mode, time of change, size, and digest or target.
Entry = List[Any]  # noqa: UP006 - as Python 3.8 has it

_FIELDS = 6


class Refusal(Exception):
    """What was asked for is not done; `answer` tells why."""

    def __init__(self, kind: str, **told: Any) -> None:
        super().__init__(kind)
        self.answer = {"refused": kind, **told}


def names_in(root: str) -> list[str]:
    """Answer the names of all that may be releases."""
    folder = os.path.join(root, "releases")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [
        name
        for name in names
        if not name.startswith(".") and os.path.isdir(os.path.join(folder, name))
    ]


def mark_of(root: str, id: str) -> Optional[Answer]:  # noqa: UP045 - as Python 3.8 has it
    """Answer what a release says of itself; None if it was not staged to its end."""
    try:
        with open(os.path.join(root, "releases", id, MARK), encoding="utf-8") as file:
            told = json.load(file)
        return told if told["id"] == id and told["v"] == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def files_of(release: str) -> list[Entry]:
    """Answer what a release's files were like when they came; nothing if that is not known."""
    try:
        with open(os.path.join(release, FILES), encoding="utf-8") as file:
            return [each for each in json.load(file) if len(each) == _FIELDS]
    except (OSError, ValueError, TypeError):
        return []


def current_in(root: str) -> str | None:
    """Answer the release that is current; None if there is none.

    Raises:
        Refusal: Something else has its name.
    """
    link = os.path.join(root, "current")
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError:
        raise Refusal("not_a_link", path=link) from None
    folder, found = os.path.split(os.path.normpath(os.path.join(root, target)))
    same = os.path.realpath(folder) == os.path.realpath(os.path.join(root, "releases"))
    if not same or found.startswith("."):
        raise Refusal("not_a_link", path=link)
    return found


def previous_of(root: str, current: str | None) -> str | None:
    """Answer the release that was current before that one, if it is still there."""
    if current is None:
        return None
    try:
        with open(os.path.join(root, "releases", BEFORE, current), encoding="utf-8") as file:
            found = file.read().strip()
    except OSError:
        return None
    return found if found in names_in(root) else None


def were_current(root: str) -> set[str | None]:
    """Answer which releases were current once: somebody else may have staged them."""
    folder = os.path.join(root, "releases", BEFORE)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {previous_of(root, name) for name in names}


def newest_in(root: str) -> str | None:
    """Answer the release that the next one most likely resembles."""
    marks = [mark for mark in (mark_of(root, each) for each in names_in(root)) if mark]
    return str(max(marks, key=lambda mark: mark["staged"])["id"]) if marks else None
