"""What there is to send: a directory, entry by entry, each with what tells it from another."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sitebus.errors import NotATree

#: What is no part of a release, wherever it lies.
LEFT_OUT = frozenset({".git", ".hg", ".svn", "__pycache__"})
#: What releases on hosts have of their own.
_OURS = frozenset({".sitebus-release", ".sitebus-files"})


class Entry(NamedTuple):
    """One file, directory or link.

    Attributes:
        path: Where it is in the tree.
        kind: ``f``, ``d`` or ``l``.
        mode: Who may do what with it.
        changed: When it was changed, in seconds.
        size: Of a file.
        digest: Of a file; the target of a link.
    """

    path: str
    kind: str
    mode: int
    changed: int
    size: int
    digest: str


class Tree(NamedTuple):
    """A directory as it was when it was looked at.

    Attributes:
        path: Where it is.
        entries: All that is in it, a directory before what is in that.
        digest: What tells it from any other.
    """

    path: str
    entries: tuple[Entry, ...]
    digest: str

    @property
    def size(self) -> int:
        """How many bytes its files have."""
        return sum(each.size for each in self.entries)


def look(path: str | os.PathLike[str], leave_out: Collection[str] = LEFT_OUT) -> Tree:
    """Answer what is in a directory.

    Raises:
        NotATree: It cannot be sent as a release: it is not there, cannot be read, or has in it what
            is no file, or leads out of it.
    """
    root = os.path.abspath(path)
    if not os.path.isdir(root):
        reason = "it is not a directory" if os.path.exists(root) else "there is no such directory"
        raise NotATree(path, reason)
    try:
        entries = tuple(_walk(root, "", frozenset(leave_out)))
    except OSError as error:
        raise NotATree(error.filename or path, (error.strerror or str(error)).lower()) from error
    # Whether it was touched is no difference.
    told = [(each.path, each.kind, each.mode, each.digest) for each in entries]
    return Tree(root, entries, hashlib.sha256(json.dumps(told).encode()).hexdigest())


def _walk(root: str, folder: str, leave_out: frozenset[str]) -> Iterator[Entry]:
    with os.scandir(os.path.join(root, folder)) as found:
        entries = sorted(found, key=lambda each: each.name)
    for each in entries:
        if each.name in leave_out or (not folder and each.name in _OURS):
            continue
        path = os.path.join(folder, each.name)
        _refuse_odd(path)
        about = each.stat(follow_symlinks=False)
        mode, changed = about.st_mode & 0o777, int(about.st_mtime)
        if stat.S_ISLNK(about.st_mode):
            yield Entry(path, "l", 0o777, changed, 0, _target(root, path))
        elif stat.S_ISDIR(about.st_mode):
            yield Entry(path, "d", mode, changed, 0, "")
            yield from _walk(root, path, leave_out)
        elif stat.S_ISREG(about.st_mode):
            yield Entry(path, "f", mode, changed, about.st_size, _digest(each.path))
        else:
            raise NotATree(each.path, "it is neither a file nor a directory nor a link")


def _refuse_odd(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise NotATree(ascii(path), "its name is not UTF-8; give it another") from None


def _target(root: str, path: str) -> str:
    target = os.readlink(os.path.join(root, path))
    place = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if os.path.isabs(target) or place.split(os.sep)[0] == os.pardir:
        reason = f"it is a link that leads out of it, to {target}; copy what is there, or leave it"
        raise NotATree(os.path.join(root, path), reason)
    _refuse_odd(target)
    return target


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
