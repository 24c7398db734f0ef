"""A roll from its first look at the hosts to its last word: locked, looked at, staged, conducted.

Nothing is changed on any host before all of them are locked, well, and have what they need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sitebus.errors import (
    AccessDenied,
    BadJournal,
    CannotJournal,
    NoPreviousRelease,
    RollOver,
    RollRefused,
    SiteDenied,
)
from sitebus.fleet import journal
from sitebus.fleet.conductor import UNREACHED, Conductor, Record, Tell, Traces, replay, sentence_of
from sitebus.fleet.crowd import together
from sitebus.fleet.health import Standing
from sitebus.fleet.journal import Journal, Past
from sitebus.fleet.operations import Order, Target
from sitebus.fleet.rolling import OPEN, Cause, Plan, Result, Roll, State

#: What is written down of a roll that was not begun.
REFUSED = "refused"

#: What a first look at a host came to.
Look = Standing | Exception
_DENIED = (AccessDenied, SiteDenied)


class Report(NamedTuple):
    """What became of a roll.

    Attributes:
        id: Its name.
        result: A `Result`, or ``refused``.
        states: How each host stands.
        why: What went wrong, by host.
        denied: Every host refuses this user.
        note: What there is to say of the roll as a whole.
        is_unreachable: Nothing but that is wrong with the hosts that are not as they should be.
    """

    id: str
    result: str
    states: Mapping[str, State]
    why: Mapping[str, str]
    denied: bool = False
    note: str = ""
    is_unreachable: bool = False


class Locking(Protocol):
    """What `sitebus.fleet.locks.Locks` does."""

    def take(self, name: str) -> None: ...
    def keep(self) -> None: ...
    def free(self) -> None: ...


class Verdict(NamedTuple):
    """Which hosts are not as they should be, before anything was changed."""

    #: They answer, and are not well.
    down: tuple[str, ...] = ()
    #: They cannot be reached.
    absent: tuple[str, ...] = ()


def judge(looks: Mapping[str, Look], allowed: int, force: bool = False) -> Verdict:
    """Answer which hosts are not as they should be, if a roll may go on all the same.

    Raises:
        RollRefused: Nothing may be changed.
    """
    why = {name: said for name, each in looks.items() if (said := _what_is_wrong(each))}
    absent = tuple(name for name in why if isinstance(looks[name], UNREACHED))
    down = tuple(name for name in why if isinstance(looks[name], Standing))
    if refusing := {name: why[name] for name in why if name not in (*absent, *down)}:
        raise RollRefused(f"it cannot be done on {_hosts(len(refusing))}", refusing)
    if looks and len(absent) == len(looks):
        raise RollRefused("no host can be reached", why)
    if len(why) >= allowed and why and not force:
        are = "is" if len(why) == 1 else "are"
        raise RollRefused(
            f"{len(why)} of {_hosts(len(looks))} {are} not healthy, and --max-unavailable is "
            f"{allowed}; --force goes on all the same",
            why,
        )
    return Verdict(down, absent)


def look_at(targets: Mapping[str, Target]) -> dict[str, Look]:
    """Answer a first look at each host, which changes nothing."""
    works = {name: target.preflight for name, target in targets.items()}
    looks = {ended.name: ended.error or ended.value for ended in together(works)}
    return {name: each for name in targets if (each := looks[name]) is not None}


def _what_is_wrong(look: Look) -> str:
    if isinstance(look, Standing):
        return "" if look.is_healthy else look.why_not
    return sentence_of(look)


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"


def seen(look: Look) -> Record:
    """Answer what is told of a first look."""
    if isinstance(look, Standing):
        told = {"state": look.state, "release": look.release, "to": look.to}
        return {"ok": look.is_healthy, **told, "why": look.why_not}
    return {"ok": False, "state": None, "why": sentence_of(look)}


class Rollout:
    """One roll.

    Args:
        id: Its name.
        order: What is done on each host.
        plan: Which hosts, in which order.
        targets: The hosts, by name.
        locks: Keep others away from them.
        tell: Is handed every event.
        undoes: Whether a failure is answered by undoing what was done, where that can be.
        force: Whether hosts that are not well beforehand hold up nothing.
    """

    def __init__(
        self,
        id: str,
        order: Order,
        plan: Plan,
        targets: Mapping[str, Target],
        locks: Locking,
        tell: Tell,
        *,
        undoes: bool = True,
        force: bool = False,
    ) -> None:
        self.id = id
        self.order = order
        self.targets = targets
        self.force = force
        self.roll = Roll(plan, undoes and order.changes_release)
        self.traces = Traces()
        self.note = ""
        self._denied = self._unreachable = self._is_stopped = False
        self._locks = locks
        self._tell_all = tell
        self._telling = threading.Lock()
        self._journal: Journal | None = None

    def stop(self, why: str = "") -> None:
        """Change no more hosts than those that are worked on right now."""
        self.note = self.note or why
        self._is_stopped = True
        self.roll.stop()

    def begin(self, folder: Path, about: Mapping[str, Any]) -> Report:
        """Do it, and write it down in *folder*, with what there is to know *about* it.

        Raises:
            CannotJournal: It cannot be written down; nothing was begun.
        """
        with Journal.create(folder, self.id) as self._journal:
            plan = self.roll.plan._asdict()
            header = {"is": "roll", "v": journal.VERSION, "id": self.id, **about, **plan}
            header |= {**self.order._asdict(), "undoes": self.roll.undoes, "at": time.time()}
            # A roll that cannot be written down is not begun.
            self._journal.write(header)
            self._tell_all(header)
            return self._run(self.roll.plan.hosts)

    def resume(self, past: Past) -> Report:
        """Go on with a roll where its journal ends.

        Raises:
            RollOver: Nothing is left of it.
            BadJournal: It makes no sense.
            CannotJournal: It cannot be written.
        """
        records = journal.read(past.path)
        try:
            self.traces = replay(self.roll, records)
        except (ValueError, KeyError) as error:
            raise BadJournal(str(past.path), len(records), f"makes no sense: {error}") from error
        if (past.ended == REFUSED and not self.roll.touched) or self.roll.result not in OPEN:
            raise RollOver(past.id, past.ended or str(self.roll.result))
        self.roll.resume()
        back = (State.LOST, State.FAILED, State.DONE)
        left = self.roll.of(*back if self.roll.is_back else (State.WAITING,))
        with Journal.reopen(past.path) as self._journal:
            self.tell({"is": "resume", "id": self.id, "hosts": list(left)})
            return self._run(left)

    def tell(self, record: Record) -> None:
        """Write an event down, and hand it on.

        Raises:
            CannotJournal: A host was to be begun with.
        """
        record = {**record, "at": round(time.time(), 3)}
        with self._telling:
            if self._journal is not None:
                try:
                    self._journal.write(record)
                except CannotJournal as error:
                    # To undo what was done is worth more than to have written it down.
                    self._journal = None
                    self.stop(str(error))
                    if record.get("state") is State.RUNNING:
                        raise
            self._tell_all(record)

    def _run(self, hosts: Sequence[str]) -> Report:
        result, refusal = REFUSED, None
        try:
            self._prepare(hosts)
            conductor = Conductor(self.roll, self.order, self.targets, self.traces, self.tell)
            result = str(conductor.run())
            # As long as nobody else may roll, who might want just the release that goes.
            if result == Result.DONE:
                self._tidy()
        except RollRefused as error:
            refusal = error
        # Whoever leaves at once does so: the locks go with the links to the hosts.
        self._locks.free()
        return self._end(result, refusal)

    def _prepare(self, hosts: Sequence[str]) -> None:
        looks = self._look(hosts)
        self._locks.keep()
        self._denied = all(isinstance(each, _DENIED) for each in looks.values())
        wrong = [each for each in looks.values() if _what_is_wrong(each)]
        self._unreachable = bool(wrong) and all(isinstance(each, UNREACHED) for each in wrong)
        # What the roll itself has done to a host must not keep it from going on.
        touched = {
            name
            for name in self.roll.touched
            if isinstance(looks.get(name), (Standing, *UNREACHED))
        }
        fresh = {name: each for name, each in looks.items() if name not in touched}
        verdict = judge(fresh, self.roll.plan.max_unavailable, self.force)
        if self.force:
            self.roll.excuse(verdict.absent)
        else:
            self.roll.expect(verdict.down)
        for name in verdict.absent:
            self.roll.apply(name, Cause.ABSENT)
            why = self.traces.why[name] = _what_is_wrong(looks[name])
            told: Record = {"is": "host", "host": name, "cause": Cause.ABSENT}
            self.tell({**told, "state": State.UNKNOWN, "why": why})
        # Where hosts go back to what they have each had before, there is nothing to be brought.
        brings = self.order.changes_release and bool(self.order.release)
        if brings and not (self.roll.is_back or self._is_stopped):
            self._stage(self.roll.of(State.WAITING))

    def _look(self, hosts: Iterable[str]) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        for ended in together({name: partial(self._look_at, name) for name in hosts}):
            look = ended.error or ended.value
            assert look is not None
            looks[ended.name] = self._noted(ended.name, look)
            self.tell({"is": "look", "host": ended.name, **seen(looks[ended.name])})
        return looks

    def _noted(self, name: str, look: Look) -> Look:
        """Answer a look, after it was noted where the host may have to go back to."""
        if not isinstance(look, Standing):
            return look
        self.traces.before.setdefault(name, look.release)
        to = self.traces.to.setdefault(name, look.to)
        if self.order.changes_release and to is None:
            return NoPreviousRelease(name, "there is no release before the one in place")
        return look

    def _look_at(self, name: str) -> Standing:
        self._locks.take(name)
        return self.targets[name].preflight()

    def _stage(self, hosts: Sequence[str]) -> None:
        why = {}
        for name in hosts:
            self.tell({"is": "stage", "host": name, "state": "running"})
        for ended in together({name: self.targets[name].stage for name in hosts}):
            record: Record = {"is": "stage", "host": ended.name, "seconds": round(ended.seconds, 3)}
            if ended.error is None:
                self.tell({**record, "state": "done", **(ended.value or {})})
            else:
                why[ended.name] = sentence_of(ended.error)
                self.tell({**record, "state": "failed", "why": why[ended.name]})
        if why:
            raise RollRefused(f"{_hosts(len(why))} did not get the release", why)

    def _end(self, result: str, refusal: RollRefused | None = None) -> Report:
        why = dict(self.traces.why)
        if refusal is not None:
            why |= refusal.hosts
            self.note = str(refusal)
        # One that was begun before can be resumed all the same.
        left = result == REFUSED and bool(self.roll.touched)
        record: Record = {"is": "end", "id": self.id, "result": Result.STOPPED if left else result}
        self.tell({**record, "hosts": dict(self.roll.states), "why": why, "note": self.note})
        states = dict(self.roll.states)
        unreachable = self._unreachable if refusal is not None else self._is_lost(result)
        return Report(self.id, result, states, why, self._denied, self.note, unreachable)

    def _is_lost(self, result: str) -> bool:
        """Whether it failed only for hosts that nothing is known of any more."""
        bad = self.roll.of(State.LOST, State.UNKNOWN)
        worse = self.roll.of(State.FAILED, State.STUCK)
        return result in (Result.FAILED, Result.BROKEN) and bool(bad) and not worse

    def _tidy(self) -> None:
        for ended in together({n: self.targets[n].tidy for n in self.roll.of(State.DONE)}):
            if ended.error is not None:
                said = f"what is too old was not removed: {sentence_of(ended.error)}"
                self.tell({"is": "note", "host": ended.name, "note": said})
