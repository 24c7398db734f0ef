"""What a site is made of, as far as somebody can see: this process, or others that tell of it.

`sitebus.reload.sources` asks a sight what is imported, what was opened and when, and whether there
may be more of it than last time. `OWN` is what this process sees of itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from sitebus.reload import modules
from sitebus.reload.modules import Imported
from sitebus.reload.opened import OPENED


class Sight(Protocol):
    """What somebody sees of a site.

    Attributes:
        news: Whether there may be something else to see since this was last set to False.
    """

    news: bool

    @property
    def times(self) -> Mapping[str, int]:
        """When each file was first opened, in nanoseconds; it only grows, or is another mapping."""

    @property
    def named(self) -> Collection[str]:
        """Files that the processes that are seen have named."""

    @property
    def size(self) -> object:
        """Another one if there may be other code; cheap enough to ask all the time."""

    def code(self, match: str) -> Imported:
        """Answer what is imported; see `sitebus.reload.modules.imported`."""

    def note(self, path: str, when: int) -> None:
        """Take *path* as opened at that time, unless it was before."""

    def tell(self) -> None:
        """Ring, since there may be other files to watch."""

    def connect(self, ring: Callable[[], object]) -> None:
        """Have *ring* called, in the middle of anything, whenever something may be new."""

    def disconnect(self, ring: Callable[[], object]) -> None:
        """Undo `connect`."""


class OwnSight:
    """What this process sees of itself."""

    named: Collection[str] = ()

    @property
    def news(self) -> bool:
        """Whether something was opened since this was last set to False."""
        return OPENED.news

    @news.setter
    def news(self, is_so: bool) -> None:
        OPENED.news = is_so

    @property
    def times(self) -> Mapping[str, int]:
        """When each file was first opened."""
        return OPENED.times

    @property
    def size(self) -> object:
        """How many modules there are."""
        return len(sys.modules)

    def code(self, match: str) -> Imported:
        """Answer what is imported here."""
        return modules.imported(match)

    def note(self, path: str, when: int) -> None:
        """Take *path* as opened at that time, unless it was before."""
        OPENED.times.setdefault(path, when)

    def tell(self) -> None:
        """Ring."""
        OPENED.tell()

    def connect(self, ring: Callable[[], object]) -> None:
        """Have *ring* called whenever something may be new."""
        OPENED.connect(ring)

    def disconnect(self, ring: Callable[[], object]) -> None:
        """Undo `connect`."""
        OPENED.disconnect(ring)


OWN = OwnSight()
