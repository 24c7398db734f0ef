"""The sites that a test has running: what they say belongs to the report of its failure.

Where pytest makes the report, the plugin asks for it here; anywhere else it is printed.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from types import TracebackType
from typing import NamedTuple, Protocol, Self

#: More lines are not shown: a site may be a talkative one.
MOST = 200


class Shown(Protocol):
    """What has something to say about a failure."""

    @property
    def title(self) -> str:
        """What it is, in a line."""

    @property
    def told(self) -> str:
        """All that it has said so far."""


class Running(NamedTuple):
    """One whose block is running, and how much it had said when the test began."""

    site: Shown
    said: int = 0


#: The oldest first.
LIVE: list[Running] = []

#: Title and last words of those whose block has ended by an error since the test began.
PARTED: list[tuple[str, str]] = []


def add(site: Shown) -> None:
    LIVE.append(Running(site))


def remove(site: Shown) -> None:
    LIVE[:] = [each for each in LIVE if each.site is not site]


def begin() -> None:
    """Leave what was said so far to the tests before this one."""
    PARTED.clear()
    LIVE[:] = [Running(site, len(site.told)) for site, _ in LIVE]


def sections() -> list[tuple[str, str]]:
    """Answer what each has said to this test, but for who has had nothing to do with it."""
    news = [(site, site.told[said:], said) for site, said in LIVE]
    return [*PARTED, *((site.title, latest(text)) for site, text, said in news if text or not said)]


def show(site: Shown) -> None:
    """Have what *site* has said be read by who reads of the failure."""
    if "pytest_sitebus.fixtures" not in sys.modules:
        print(f"--- {site.title} ---\n{latest(site.told)}")  # noqa: T201 - no plugin reports it
    elif not any(each.site is site for each in LIVE):
        PARTED.append((site.title, latest(site.told)))


def latest(text: str) -> str:
    """Answer the end of *text*, and how much of it is left out."""
    lines = text.splitlines() or ["(nothing)"]
    more = len(lines) - MOST
    if more > 0:
        lines = [f"({more} lines before)", *lines[-MOST:]]
    return "\n".join(lines)


class Block(Shown):
    """What runs while its block does: how that ends is read of if it ends by an error."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        remove(self)
        if error is not None:
            # Before the end: it is of interest whether it ran.
            show(self)
        self.close()
