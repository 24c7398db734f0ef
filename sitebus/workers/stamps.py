"""Whether files and directories are as they were, told by what the system says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

#: A path, and what tells one version of it from another; JSON.
Stamp = list[Any]


def stamps_of(paths: Iterable[str]) -> list[Stamp]:
    """Answer how files and directories are now; one that is not there is, as such."""
    return list(_stamps(paths))


def is_as_it_was(stamps: Iterable[Stamp]) -> bool:
    """Tell whether nothing of what was stamped has changed since."""
    before = list(stamps)
    return stamps_of(str(path) for path, *_ in before) == before


def _stamps(paths: Iterable[str]) -> Iterator[Stamp]:
    for path in map(os.path.abspath, paths):
        try:
            found = os.stat(path)
        except OSError:
            yield [path]
        else:
            yield [path, found.st_ino, found.st_size, found.st_mtime_ns]
