"""Whether files and directories are as they were, told by what the system says of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

#: In the place of a name: all modules of a directory.
MODULES = "*"

_SUFFIXES = (".py", *EXTENSION_SUFFIXES)

#: A path, and what tells one version of it from another; JSON.
Stamp = list[Any]


def stamps_of(paths: Iterable[str]) -> list[Stamp]:
    """Answer how files and directories are now; one that is not there is, as such.

    A path that ends with `MODULES` stands for the modules in a directory, and what is in them.
    """
    return list(_stamps(paths))


def is_as_it_was(stamps: Iterable[Stamp]) -> bool:
    """Tell whether nothing of what was stamped has changed since."""
    before = list(stamps)
    return stamps_of(str(path) for path, *_ in before) == before


def _stamps(paths: Iterable[str]) -> Iterator[Stamp]:
    for path in map(os.path.abspath, paths):
        folder, name = os.path.split(path)
        try:
            yield [path, _digest(folder)] if name == MODULES else [path, *_told(os.stat(path))]
        except OSError:
            yield [path]


def _digest(folder: str) -> int:
    with os.scandir(folder) as entries:
        found = [
            (each.name, *_told(each.stat())) for each in entries if each.name.endswith(_SUFFIXES)
        ]
    return zlib.crc32(repr(sorted(found)).encode(errors="surrogateescape"))


def _told(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
