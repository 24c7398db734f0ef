"""What an operation does on one host: its steps, and how each is done and undone there.

An `Order` says what is wanted of every host; it is written down as it is, so that a roll can be
taken up by somebody else. `HostTarget` does it on a real host; whoever conducts a roll knows it as
a `Target` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from sitebus.errors import FleetError, NoPreviousRelease, NoSite, SiteRefused
from sitebus.fleet import agent_site, health
from sitebus.fleet.health import Standing, Wait

if TYPE_CHECKING:
    from sitebus.fleet.host import Host
    from sitebus.fleet.trees import Tree


class Kind(StrEnum):
    """What a roll is for."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    GRACEFUL = "graceful"
    RESTART = "restart"


class Step(StrEnum):
    """What is done on a host; named as the method of a `Target` is."""

    DRAIN = "drain"
    ACTIVATE = "activate"
    GRACEFUL = "graceful"
    PROBE = "probe"
    UNDRAIN = "undrain"


#: What undoes a step, where it can be undone.
UNDOES: Mapping[Step, tuple[Step, ...]] = {
    Step.ACTIVATE: (Step.ACTIVATE, Step.GRACEFUL, Step.PROBE),
    Step.DRAIN: (Step.UNDRAIN,),
}


class Order(NamedTuple):
    """What is wanted of each host.

    Attributes:
        kind: What for.
        release: The release that is to be in place; empty for the one before.
        source: The folder it is in here; empty if the hosts have it.
        drain: For so many seconds before anything is changed, no requests are wanted; 0 for never.
        restart: The site's own process begins anew, with whatever the release says of it.
        soak: So many seconds a host has to be well.
        checks: It is looked at so often in that time.
        timeout: So many seconds a site may take for what it is asked for.
    """

    kind: Kind
    release: str = ""
    source: str = ""
    drain: float = 0.0
    restart: bool = False
    soak: float = 2.0
    checks: int = 3
    timeout: float = 120.0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Order:
        """Answer the order that was written down."""
        known = {name: told[name] for name in cls._fields if name in told}
        return cls(**{**known, "kind": Kind(told["kind"])})

    @property
    def changes_release(self) -> bool:
        """Whether afterwards another release is in place, and so there is something to undo."""
        return self.kind in (Kind.DEPLOY, Kind.ROLLBACK)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done on each host, in this order."""
        before = (Step.DRAIN,) if self.drain else ()
        change = (Step.ACTIVATE,) if self.changes_release else ()
        after = (Step.UNDRAIN,) if self.drain else ()
        return (*before, *change, Step.GRACEFUL, Step.PROBE, *after)


def steps_back(begun: Collection[Step]) -> tuple[Step, ...]:
    """Answer what undoes the steps that were begun with on a host."""
    return tuple(step for cause, steps in UNDOES.items() if cause in begun for step in steps)


class Target(Protocol):
    """A host, to who conducts a roll. What is not done raises a FleetError."""

    @property
    def name(self) -> str: ...

    def preflight(self) -> Standing:
        """Answer how it stands, before anything is done."""

    def stage(self) -> Mapping[str, Any]:
        """Bring the release there, and leave it at that; answer what that took."""

    def drain(self) -> None:
        """Have no requests sent there."""

    def activate(self, release: str | None) -> None:
        """Put a release in place: the new one, or to undo that, the one that was before."""

    def graceful(self) -> None:
        """Have it run what is in place."""

    def probe(self, checks: int, over: float) -> None:
        """Return if it is well, so many times over so many seconds."""

    def undrain(self) -> None:
        """Have requests sent there again, and return when it takes them."""

    def admit(self) -> None:
        """Have requests sent there again as soon as it can take them."""

    def tidy(self) -> None:
        """Remove what is of no use any more."""


#: How long the site is asked to wait for a job in one request, and the host for the site; seconds.
_LOOK, _MARGIN = 10.0, 15.0


def _job_in_the_way(refusal: SiteRefused) -> str:
    """Answer which job has to end before a site does what it was asked for; nothing if none has."""
    more = refusal.fields.get("more")
    job = more.get("job") if isinstance(more, Mapping) else None
    return str(job["id"]) if refusal.code == 409 and isinstance(job, Mapping) else ""


class HostTarget:
    """A host of a fleet.

    Args:
        host: It.
        order: What is wanted of it.
        wait: Waits for some seconds.
        tree: What the release is; several hosts have that in common.
    """

    def __init__(self, host: Host, order: Order, wait: Wait, tree: Tree | None = None) -> None:
        self.host = host
        self.order = order
        self._wait = wait
        self._tree = tree

    @property
    def name(self) -> str:
        return self.host.name

    def preflight(self) -> Standing:
        release, to = self._releases() if self.order.changes_release else (None, None)
        try:
            told = self.host.engine.status()
        except NoSite as error:
            is_new = self.order.kind is Kind.DEPLOY and release is None
            return Standing(None, error.sentence, release, to, is_new)
        why = health.why_not_well(told) or health.why_no_page(self.host)
        return Standing(str(told["state"]), why, release, to)

    def _releases(self) -> tuple[str | None, str | None]:
        """Answer the release that is in place, and the one that is to be."""
        releases = self.host.releases
        return releases.current(), self.order.release or releases.previous()

    def stage(self) -> Mapping[str, Any]:
        if self._tree is not None:
            staged = self.host.releases.stage(self._tree, self.order.release)
            counted = {"files": staged.files, "bytes": staged.size, "sent": staged.sent}
            return {**counted, "was_there": staged.was_there}
        self._check_release(self.order.release)
        return {}

    def _check_release(self, release: str) -> None:
        known = {each.id: each for each in self.host.releases.list()}
        found = known.get(release)
        if found is None:
            others = f"it has {', '.join(known)}" if known else "it has none"
            raise FleetError(
                self.name,
                f"there is no release {release!r} ({others}), nor is a directory of that name "
                "here to be sent",
            )
        # One that was in place is good for that again, whoever has put it there.
        if not (found.is_whole or found.is_current or found.is_previous):
            raise FleetError(self.name, f"release {release!r} was not staged to its end")

    def drain(self) -> None:
        self.host.engine.ready(False)
        self._wait(self.order.drain)

    def activate(self, release: str | None) -> None:
        if release is None:
            raise NoPreviousRelease(
                self.name,
                "it had no release before to go back to; deploy a good one with --force",
            )
        self.host.releases.activate(release)

    def graceful(self) -> None:
        engine = self.host.engine
        try:
            told = engine.status()
        except NoSite:
            engine.start(wait=self.order.timeout)
            return
        is_one_process = told["workers"] is None
        restarts = is_one_process or self._restarts or told["state"] != "STARTED"
        self._in_turn(engine.restart if restarts else engine.graceful)

    def _in_turn(self, ask: Callable[[float], object]) -> None:
        """Ask the site for a job, after one that it is at already.

        That may be the one of the way there, whose end nobody has heard of.
        """
        end = time.monotonic() + self.order.timeout
        while True:
            try:
                ask(max(1.0, end - time.monotonic()))
                return
            except SiteRefused as refusal:
                running = _job_in_the_way(refusal)
                if not running or time.monotonic() >= end:
                    raise
            self._wait_for_job(running, end)

    def _wait_for_job(self, id: str, end: float) -> None:
        """Return when a job of the site's is over, well or not, or time is."""
        while (left := min(_LOOK, end - time.monotonic())) > 0:
            target = f"jobs/{quote(id)}?wait={left:.3f}"
            where, patience = self.host.entry.where, left + _MARGIN
            try:
                told = self.host.ask(agent_site.look, where, target, timeout=patience)
            except SiteRefused:
                return  # it is forgotten, and so over
            if told["job"]["state"] != "running":
                return

    @property
    def _restarts(self) -> bool:
        return self.order.restart or self.order.kind is Kind.RESTART

    def probe(self, checks: int, over: float) -> None:
        health.soak(self.host, checks, over, self._wait)

    def admit(self) -> None:
        self.host.engine.ready(True)

    def undrain(self) -> None:
        self.admit()
        self.host.engine.wait_ready(timeout=self.order.timeout)

    def tidy(self) -> None:
        if self.order.kind is Kind.DEPLOY:
            self.host.releases.remove_old(self.host.entry.keep)
