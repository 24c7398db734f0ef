"""What was compiled from sources that are only just written is not kept for the next worker.

Python takes bytecode for current if its source has the same size and was modified in the same
second: a release that follows another within it would be served as the one before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from sitebus.reload.bytecode import forget

#: How old a source must be for its bytecode to be told from that of a later one; seconds.
SAFE = 2.0


def forget_what_is_new(since: float) -> None:
    """Remove the bytecode of imported sources that were modified just before *since*, or later.

    Args:
        since: When this process began to import, in seconds since 1970.
    """
    forget(path for path in _sources() if _modified(path) > since - SAFE)


def _sources() -> Iterator[str]:
    for module in tuple(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(".py"):
            yield path


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
