"""The base of all errors, the exit statuses, and the guess at what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

#: Exit statuses, named as in ``sysexits.h``; ``os.EX_*`` does not exist on every platform.
EX_OK = 0
EX_USAGE = 64
EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_NOPERM = 77
EX_CONFIG = 78


class SitebusError(Exception):
    """The base of every error that is sitebus's own to report."""

    status: ClassVar[int] = EX_SOFTWARE


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Answer the known name that *name* was most likely meant to be, if one is near."""
    names = list(known)
    if not names:
        return None
    import difflib

    close = difflib.get_close_matches(name, names, n=1, cutoff=likeness)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
