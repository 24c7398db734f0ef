"""Rolls of ``sitebus-fleet``: from the options to a `Rollout`, and from its events to the terminal.

The first Ctrl-C has a roll stop when the hosts that are worked on are done with, the second one
leaves at once; either way it can be taken up again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from sitebus.cli import fleet_tables as tables
from sitebus.cli.fleet_arguments import PROGRAM
from sitebus.cli.fleet_progress import Progress
from sitebus.cli.fleet_session import DENIED, FAILED, OK, UNREACHABLE, Session
from sitebus.cli.fleet_tables import Line, Mood
from sitebus.errors import NoSuchRoll, NotATree, RollChanged, RollRefused, UsageError
from sitebus.fleet import Host, journal
from sitebus.fleet.journal import Past
from sitebus.fleet.locks import Locks, who
from sitebus.fleet.operations import HostTarget, Kind, Order
from sitebus.fleet.releases import check_id
from sitebus.fleet.rolling import OPEN, Plan, Result, State
from sitebus.fleet.rollout import REFUSED, Report, Rollout, judge, look_at, seen
from sitebus.fleet.trees import Tree, look

_STOPS = (signal.SIGINT, signal.SIGTERM)


def deploy(session: Session) -> int:
    """Have every host run a release."""
    options = session.options
    if options.resume is not None:
        return _resume(session)
    if options.release is None:
        raise UsageError(f"which release? See {PROGRAM} deploy --help")
    source = ""
    if "/" in options.release or os.path.isdir(options.release) or options.id:
        source = os.path.abspath(options.release)
    # Before all that is in a directory is read, which may be a large one that was not meant.
    name = check_id(options.id or os.path.basename(source) or options.release)
    tree = look(source) if source else None
    return _begin(session, _order(session, release=name, source=source), tree)


def rollback(session: Session) -> int:
    """Have every host run the release before."""
    if session.options.resume is not None:
        return _resume(session)
    to = session.options.to
    return _begin(session, _order(session, release=check_id(to) if to else ""))


def reload(session: Session) -> int:
    """Replace workers, or restart, host after host."""
    return _begin(session, _order(session)) if session.options.resume is None else _resume(session)


def _order(session: Session, release: str = "", source: str = "") -> Order:
    options = session.options
    return Order(
        Kind(session.arguments.command),
        release,
        source,
        drain=options.drained,
        restart=getattr(options, "restart", False),
        soak=options.soak,
        checks=options.checks,
        timeout=options.timeout,
    )


def _begin(session: Session, order: Order, tree: Tree | None = None) -> int:
    options, hosts = session.options, session.hosts()
    fleet = session.fleet
    groups = options.canary
    first = [host.name for host in fleet.hosts(*groups)] if groups else fleet.inventory.canaries
    names = [host.name for host in hosts]
    plan = Plan.make(names, options.max_unavailable, options.batch, first)
    about = {"fleet": str(fleet.path), "by": who()}
    if options.dry_run:
        return _dry_run(session, order, plan, hosts, tree)
    undoes = getattr(options, "on_failure", "") == "rollback"
    roll = _Roll(session, journal.new_id(), order, plan, hosts, tree, undoes)
    return roll.lead(lambda rollout: rollout.begin(session.journals, about))


def _resume(session: Session) -> int:
    past = _past(session)
    begun, options = past.begun, session.options
    kind, release = str(begun.get("kind", "")), str(begun.get("release", ""))
    if kind != session.arguments.command:
        raise RollChanged(past.id, f"it is a {kind}; say {PROGRAM} {kind} --resume {past.id}")
    said = getattr(options, "release", None)
    if said and release not in (options.id, os.path.basename(os.path.normpath(said))):
        raise RollChanged(past.id, f"it is for release {release}, not {said}")
    if session.arguments.names:
        meant = {host.name for host in session.fleet.hosts(*session.arguments.names)}
        if meant != {*begun.get("hosts", ())}:
            raise RollChanged(past.id, "it is for other hosts; name none to go on with its own")
    try:
        hosts = session.hosts(*begun["hosts"])
        order = Order.of(begun)
        limits = begun["max_unavailable"], begun["batch"], tuple(begun["canaries"])
    except KeyError as error:
        raise RollChanged(past.id, f"{error} of it is not known here") from error
    plan = Plan(tuple(begun["hosts"]), *limits)
    tree = None
    if order.source:
        # What is gone here may be on all hosts already, and is not needed to go back.
        with suppress(NotATree):
            tree = look(order.source)
    roll = _Roll(session, past.id, order, plan, hosts, tree, bool(begun.get("undoes")))
    return roll.lead(lambda rollout: rollout.resume(past))


def _past(session: Session) -> Past:
    """Answer the roll to go on with: the named one, or the last one that is of the command."""
    if session.options.resume:
        return journal.find(session.journals, session.options.resume)
    for past in journal.rolls(session.journals):
        is_open = past.ended in (*OPEN, "")
        if past.begun.get("kind") == session.arguments.command and is_open:
            return past
    raise NoSuchRoll(None, ())


def _dry_run(
    session: Session, order: Order, plan: Plan, hosts: tuple[Host, ...], tree: Tree | None
) -> int:
    """Tell what would be done, after a look at the hosts that changes nothing."""
    targets = {host.name: HostTarget(host, order, _no_wait, tree) for host in hosts}
    looks = look_at(targets)
    status, note = OK, ""
    try:
        judge(looks, plan.max_unavailable, session.options.force)
    except RollRefused as refusal:
        status, note = FAILED, str(refusal)
    steps = [str(step) for step in order.steps]
    begun = order._asdict()
    batches = [list(batch) for batch in plan.batches()]
    found = {name: seen(each) for name, each in looks.items()}
    told = {"is": "plan", "kind": order.kind, "release": order.release, "steps": steps}
    if session.is_json:
        session.print({**told, "batches": batches, "hosts": found, "refused": note or None})
    else:
        session.write("\n".join(tables.plan(begun, plan, steps)))
        for name, each in found.items():
            line = tables.line({"is": "look", "host": name, **each})
            session.write(line.shown(session.out) if line else name)
        if note:
            session.err.write(f"{PROGRAM}: {note}")
    return status


def _no_wait(seconds: float) -> None:
    """Nothing is waited for where nothing is done."""


class _Roll:
    """A roll that is followed by somebody at a terminal, or by a program."""

    def __init__(
        self,
        session: Session,
        id: str,
        order: Order,
        plan: Plan,
        hosts: tuple[Host, ...],
        tree: Tree | None,
        undoes: bool,
    ) -> None:
        self.session = session
        self._left = threading.Event()
        self._asked = False
        self._progress = Progress(session.out)
        targets = {host.name: HostTarget(host, order, self._left.wait, tree) for host in hosts}
        locks = Locks({host.name: host for host in hosts}, id, self._lost)
        self.rollout = Rollout(
            id,
            order,
            plan,
            targets,
            locks,
            self._tell,
            undoes=undoes,
            force=session.options.force,
        )

    def _lost(self, error: Exception) -> None:
        self.rollout.stop(str(error))

    def lead(self, work: Callable[[Rollout], Report]) -> int:
        """Do it, and answer the exit status."""
        if not self.session.is_json:
            self._progress = Progress.on(self.session.out, self.rollout.targets)
        with self._stopping(), self._progress:
            report = work(self.rollout)
        return self._told(report)

    def _tell(self, record: Mapping[str, Any]) -> None:
        if self.session.is_json:
            # Also if nobody reads it any more: that ends no roll.
            self.session.out.write(json.dumps(record))
            return
        if (line := tables.line(record)) is not None:
            self._progress.show(line)
        if record["is"] == "resume":
            for host in self.rollout.targets:
                if host not in record["hosts"]:
                    self._progress.show(Line(host, "done with before", mood=Mood.GOOD))

    def _told(self, report: Report) -> int:
        session, order = self.session, self.rollout.order
        for host in self.rollout.targets:
            if host in report.why:
                session.err.write(f"{PROGRAM}: {host}: {report.why[host]}")
        note = f": {report.note}" if report.note else ""
        what = tables.what(order._asdict())
        if report.result == Result.DONE and not report.note:
            if not session.is_json:
                session.write(tables.painted(session.out, "done", f"{what} is done"))
        else:
            session.err.write(
                f"{PROGRAM}: {what} {_SAID[report.result]}{note}{self._again(report)}"
            )
        return _status(report)

    def _again(self, report: Report) -> str:
        """Say how to go on, where one can."""
        if report.result not in (*OPEN, ""):
            return ""
        command = f"{PROGRAM} {self.rollout.order.kind} --resume {report.id}"
        return f"; to go on, say {command}"

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Have the first Ctrl-C stop the roll, and the second one leave."""
        before = {number: signal.signal(number, self._stop) for number in _STOPS}
        try:
            yield
        except KeyboardInterrupt:
            self._left.set()
            left = Report(self.rollout.id, Result.RUNNING, {}, {})
            self.session.err.write(f"{PROGRAM}: left at once{self._again(left)}")
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self.rollout.stop()
        self._progress.remark(_STOPPING)


_STOPPING = "stopping once the hosts at work are done with; Ctrl-C again leaves at once"

_SAID = {
    Result.DONE: "is done",
    Result.STOPPED: "was stopped",
    Result.FAILED: "failed",
    Result.ROLLED_BACK: "failed, and was rolled back",
    Result.BROKEN: "failed, and was not rolled back everywhere",
    Result.RUNNING: "goes on",
    REFUSED: "was refused",
}


def _status(report: Report) -> int:
    if report.denied:
        return DENIED
    unknown = State.UNKNOWN in report.states.values()
    if report.result == Result.DONE:
        return UNREACHABLE if unknown else OK
    return UNREACHABLE if report.is_unreachable else FAILED
