"""The metrics of several processes as those of one site.

Each worker's last snapshot is kept; when the worker has ended, what it has counted joins a base
that its successors' counts are added to, so that no counter of the site ever goes back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from sitebus.control.families import Family, Part, folded, from_json, to_json

#: What the supervisor is called beside its workers.
SUPERVISOR = "supervisor"


class _Told(NamedTuple):
    slot: int
    snapshot: Mapping[str, Any]


class Aggregate:
    """What all workers that ever were have counted.

    Workers are known by their ``serial``, which only grows; a successor has its predecessor's slot.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The one that told something last comes last.
        self._told: dict[int, _Told] = {}
        self._base: list[Family] = []
        self._ended: set[int] = set()
        self._ended_below = 1

    def take(self, slot: int, serial: int, snapshot: Mapping[str, Any]) -> None:
        """Keep what a worker tells now; what comes after its end is left out."""
        with self._lock:
            if serial >= self._ended_below and serial not in self._ended:
                self._told.pop(serial, None)
                self._told[serial] = _Told(slot, snapshot)

    def retire(self, serial: int) -> None:
        """Keep what a worker has counted that has ended; to be called for every one that does."""
        with self._lock:
            if serial < self._ended_below or serial in self._ended:
                return
            self._note_end(serial)
            told = self._told.pop(serial, None)
            if told is not None:
                own = [Part("", 1, each) for each in _read(told.snapshot) if _lasts(each)]
                self._base = folded([*self._old(), *own])

    def families(self, own: Iterable[Family] = ()) -> list[Family]:
        """Answer what the site is now.

        Args:
            own: What the supervisor counts itself.
        """
        with self._lock:
            told, old = dict(self._told), list(self._old())
        mine = [Part(SUPERVISOR, 0, each) for each in own]
        parts = [
            Part(str(each.slot), serial, family)
            for serial, each in told.items()
            for family in _read(each.snapshot)
        ]
        return folded([*old, *mine, *parts])

    @property
    def workers(self) -> tuple[int, ...]:
        """The serials of those that have told something and have not ended."""
        with self._lock:
            return tuple(sorted(self._told))

    def to_json(self, own: Iterable[Family] = ()) -> dict[str, Any]:
        """Answer what a restart of the supervisor needs, which keeps its workers.

        Args:
            own: What the supervisor has counted itself, and will forget.
        """
        mine = [Part(SUPERVISOR, 0, each) for each in own if _lasts(each)]
        with self._lock:
            return {
                "base": [to_json(family) for family in folded([*self._old(), *mine])],
                # Until each has told anew, no counter may go back.
                "told": [[each.slot, serial, each.snapshot] for serial, each in self._told.items()],
                "ended": sorted(self._ended),
                "ended_below": self._ended_below,
            }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Answer what `to_json` told of.

        Raises:
            KeyError, TypeError, ValueError: It is no such thing.
        """
        made = cls()
        made._base = [from_json(each) for each in data["base"]]
        made._ended = set(map(int, data["ended"]))
        made._ended_below = int(data["ended_below"])
        for slot, serial, snapshot in data.get("told", ()):  # an older release leaves none
            made.take(int(slot), int(serial), snapshot)
        return made

    def _old(self) -> Iterator[Part]:
        return (Part("", -1, family) for family in self._base)

    def _note_end(self, serial: int) -> None:
        self._ended.add(serial)
        # Serials are given in order: those of all but the last few need no place of their own.
        while self._ended_below in self._ended:
            self._ended.discard(self._ended_below)
            self._ended_below += 1


def _lasts(family: Family) -> bool:
    return family.kind in ("counter", "histogram", "summary")


def _read(snapshot: Mapping[str, Any]) -> Iterator[Family]:
    """Answer what a snapshot tells; what is not to be understood is left out."""
    told = snapshot.get("families")
    for data in told if isinstance(told, list) else ():
        try:
            yield from_json(data)
        except (TypeError, ValueError):
            continue
