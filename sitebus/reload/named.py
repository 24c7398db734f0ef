"""A set of files that somebody named, which says so when it becomes another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sitebus.reload.opened import OPENED


class Named(set[str]):
    """Paths; whoever watches hears at once of any more or less, and need not ask for it."""


def _telling(change: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(change)
    def telling(paths: Named, *values: Any) -> Any:
        result = change(paths, *values)
        OPENED.tell()
        return result

    return telling


_CHANGES = (
    *("add", "update", "discard", "remove", "pop", "clear"),
    *("difference_update", "intersection_update", "symmetric_difference_update"),
    *("__ior__", "__isub__", "__iand__", "__ixor__"),
)

for _name in _CHANGES:
    setattr(Named, _name, _telling(getattr(set, _name)))
