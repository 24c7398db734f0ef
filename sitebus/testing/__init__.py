"""For tests of what is hosted here: a real site for a test, in its process or in a child.

pytest finds the fixtures by itself (`pytest_sitebus`); the same is here for any other program.
Nothing is imported before it is used: a test that only waits has no use for a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sitebus.testing.cases import SiteTestCase
    from sitebus.testing.leftovers import nothing_left, open_descriptors
    from sitebus.testing.processes import PATIENCE, Child, SiteProcess
    from sitebus.testing.served import ServedSite
    from sitebus.testing.waiting import wait_for

_PLACES = {
    "Child": "processes",
    "PATIENCE": "processes",
    "ServedSite": "served",
    "SiteProcess": "processes",
    "SiteTestCase": "cases",
    "nothing_left": "leftovers",
    "open_descriptors": "leftovers",
    "wait_for": "waiting",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, at last."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return found


__all__ = [
    "PATIENCE",
    "Child",
    "ServedSite",
    "SiteProcess",
    "SiteTestCase",
    "nothing_left",
    "open_descriptors",
    "wait_for",
]
