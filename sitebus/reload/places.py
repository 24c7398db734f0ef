"""Which directories to watch for a file, and whether their file systems tell of changes.

A path is a chain of directories and links. Whoever replaces the file, or a link on the way
(``current`` for the next release), or one of the directories that lead there, changes an entry of
one of these directories. A directory that is not there will be an entry of the nearest one that is.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

#: File systems that other machines write to, or the host of a virtual one, without our kernel
#: hearing of it.
SILENT = re.compile(
    r"nfs\d*|cifs|smb\w*|9p|afs|ceph|lustre|ncpfs|vboxsf|vmhgfs|prl_fs|drvfs|virtiofs|fuse(?!ctl)\S*"
)

#: Links to links to links end somewhere, or nowhere.
_MOST_LINKS = 40

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Places(NamedTuple):
    """What to watch, in directories as they are really called."""

    #: With what each is now: another directory of the same name is to be watched anew.
    folders: dict[str, tuple[int, int]]
    #: Entries of these directories that matter.
    names: frozenset[str]


def of(files: Iterable[str], folders: Iterable[str]) -> Places:
    """Answer where to watch for changes of *files*, and for new entries of *folders*."""
    watched: dict[str, tuple[int, int]] = {}
    names: set[str] = set()
    resolved: dict[str, str | None] = {}

    def folder_of(path: str) -> str | None:
        if path not in resolved:
            resolved[path] = _resolve(path, watched, names)
        return resolved[path]

    for path in files:
        folder, name = os.path.split(path)
        real = folder_of(folder)
        names.add(name)
        if real is None:
            continue
        _watch(real, watched)
        if os.path.islink(os.path.join(real, name)):
            _resolve(path, watched, names)
    for path in folders:
        real = folder_of(path)
        if real is not None:
            _watch(real, watched)
    for real in tuple(watched):
        _watch_above(real, watched, names)
    return Places(watched, frozenset(names))


def _resolve(path: str, watched: dict[str, tuple[int, int]], names: set[str]) -> str | None:
    """Answer the real path, noting the links on the way; None if there is nothing."""
    rest = deque(part for part in path.split(os.sep) if part)
    real, links = os.path.abspath(os.sep), 0
    while rest:
        name = rest.popleft()
        step = os.path.normpath(os.path.join(real, name))
        try:
            target = os.readlink(step)
        except OSError:
            if not os.path.lexists(step):
                names.add(name)
                _watch(real, watched)
                return None
            real = step
            continue
        links += 1
        names.add(name)
        _watch(real, watched)
        if links > _MOST_LINKS:
            return None
        if os.path.isabs(target):
            real = os.path.abspath(os.sep)
        rest.extendleft(reversed([part for part in target.split(os.sep) if part]))
    if links:
        folder, name = os.path.split(real)
        if not os.path.isdir(real):
            # The end of a link to a file.
            names.add(name)
            _watch(folder, watched)
    return real


def _watch(folder: str, watched: dict[str, tuple[int, int]]) -> None:
    if folder in watched:
        return
    try:
        status = os.stat(folder)
    except OSError:
        return
    if os.path.isdir(folder):
        watched[folder] = (status.st_dev, status.st_ino)
    else:
        _watch(os.path.dirname(folder), watched)


def _watch_above(folder: str, watched: dict[str, tuple[int, int]], names: set[str]) -> None:
    """Watch the directories in which *folder*, or one above it, may be replaced by another."""
    device, _ = watched[folder]
    while (above := os.path.dirname(folder)) != folder:
        try:
            status = os.stat(above)
        except OSError:
            return
        # A place to mount is not replaced; and what anybody writes to is busy with other things.
        if status.st_dev != device or status.st_mode & stat.S_ISVTX or above == os.sep:
            return
        names.add(os.path.basename(folder))
        watched.setdefault(above, (status.st_dev, status.st_ino))
        folder = above


def silent(folders: Iterable[str], mounts: str = "/proc/self/mountinfo") -> tuple[str, str] | None:
    """Answer the first of *folders* whose file system tells of no changes, and its type."""
    types = _types(mounts)
    for folder in folders:
        mount = next((each for each in types if _within(folder, each)), None)
        if mount is not None and SILENT.fullmatch(types[mount]):
            return folder, types[mount]
    return None


def _types(mounts: str) -> dict[str, str]:
    """Answer the types of file systems by where they are mounted, the longest paths first."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.partition(" - ") for line in file]
    except OSError:
        return {}
    # A later mount covers an earlier one at the same place.
    found = {_unescaped(left.split()[4]): right.split()[0] for left, dash, right in lines if dash}
    return dict(sorted(found.items(), key=lambda item: len(item[0]), reverse=True))


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), path)


def _within(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")
