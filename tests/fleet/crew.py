"""Hosts that are none: what is done to them is noted, and goes wrong as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sitebus.errors import AnotherRoll
from sitebus.fleet.health import Standing
from sitebus.fleet.operations import Kind, Order
from sitebus.fleet.rolling import Plan, Share
from sitebus.fleet.rollout import Rollout

WELL = Standing("STARTED", "", "r1", "r2")


class FakeTarget:
    """A host.

    Attributes:
        faults: What happens instead of a step; ``activate r1`` is the way back to that release.
    """

    def __init__(self, name: str, crew: Crew) -> None:
        self.name = name
        self.standing = WELL
        self.faults: dict[str, Exception | Callable[[], object]] = {}
        self._crew = crew

    def _do(self, what: str) -> None:
        self._crew.done.append((self.name, what))
        self._crew.watch()
        fault = self.faults.get(what)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            fault()

    def preflight(self) -> Standing:
        self._do("preflight")
        return self.standing

    def stage(self) -> Mapping[str, Any]:
        self._do("stage")
        return {"sent": 5}

    def drain(self) -> None:
        self._do("drain")

    def activate(self, release: str | None) -> None:
        self._do(f"activate {release}")

    def graceful(self) -> None:
        self._do("graceful")

    def probe(self, checks: int, over: float) -> None:
        self._do(f"probe {checks} {over:g}")

    def admit(self) -> None:
        self._do("admit")

    def undrain(self) -> None:
        self._do("undrain")

    def tidy(self) -> None:
        self._do("tidy")


class FakeLocks:
    """Locks of hosts of which some are another's."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.held: set[str] = set()
        self.kept = threading.Event()

    def take(self, name: str) -> None:
        if name in self.taken:
            raise AnotherRoll(name, "2026-01-02 03:04:05", "ann@desk", "r-7")
        self.held.add(name)

    def keep(self) -> None:
        self.kept.set()

    def free(self) -> None:
        self.held.clear()


class Crew:
    """Some hosts, and the rolls over them."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.done: list[tuple[str, str]] = []
        self.hosts = {name: FakeTarget(name, self) for name in names}
        #: Called whenever something is done to a host.
        self.watch: Callable[[], object] = lambda: None
        self.locks = FakeLocks()
        self.told: list[dict[str, Any]] = []
        self.order = Order(Kind.DEPLOY, "r2", "/src/r2", soak=0.0, checks=2)

    def __getitem__(self, name: str) -> FakeTarget:
        return self.hosts[name]

    def rollout(
        self, most: int = 1, *, batch: int | None = None, id: str = "roll-1", **more: Any
    ) -> Rollout:
        plan = Plan.make(tuple(self.hosts), Share(most), batch)
        return Rollout(id, self.order, plan, self.hosts, self.locks, self.told.append, **more)

    def steps(self, name: str) -> list[str]:
        """Answer what was done on a host after all were looked at."""
        return [what for host, what in self.done if host == name and what != "preflight"]
