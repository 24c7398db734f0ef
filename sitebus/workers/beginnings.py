"""What each kind of job sets out to do, given who is there when it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sitebus.workers.jobs import Job, Kind
from sitebus.workers.roster import Roster


def begin(job: Job, roster: Roster, now: float) -> None:
    """Fix which slots *job* fills anew and who is to go, and how many slots there are from now."""
    _BEGINNINGS[job.kind](job, roster, now)


def _start(job: Job, roster: Roster, now: float) -> None:
    before, roster.count = roster.count, roster.policy.count
    ready = {member.slot for member in roster.live if member.ready}
    job.begin(now, set(roster.wanted) - ready, (), before)
    job.fresh = {member.serial for member in roster.live if not member.ready}
    _at_once(roster, job.slots)


def _stop(job: Job, roster: Roster, now: float) -> None:
    before, roster.count = roster.count, 0
    job.begin(now, (), roster.members, before)


def _roll(job: Job, roster: Roster, now: float) -> None:
    job.begin(now, roster.wanted, [member.serial for member in roster.live], roster.count)
    _at_once(roster, job.slots)


def _scale(job: Job, roster: Roster, now: float) -> None:
    before = roster.count
    old = [each.serial for each in roster.members.values() if each.slot > job.number]
    more = range(before + 1, job.number + 1) if before else ()
    job.begin(now, more, old, before)
    roster.resize(job.number)


def _drain(job: Job, roster: Roster, now: float) -> None:
    slots = {job.number} & set(roster.wanted)
    old = [member.serial for slot in slots for member in roster.in_slot(slot)]
    job.begin(now, slots, old, roster.count)
    _at_once(roster, slots)


def _recycle(job: Job, roster: Roster, now: float) -> None:
    slot = roster.members[job.number].slot
    job.begin(now, {slot}, {job.number}, roster.count)


def _at_once(roster: Roster, slots: Iterable[int]) -> None:
    """Let slots that wait after failures wait no longer: what is new may be what heals them."""
    for slot in slots:
        roster.slot(slot).backoff.after = 0.0


_BEGINNINGS: Mapping[Kind, Callable[[Job, Roster, float], None]] = {
    Kind.START: _start,
    Kind.STOP: _stop,
    Kind.ROLL: _roll,
    Kind.SCALE: _scale,
    Kind.DRAIN: _drain,
    Kind.RECYCLE: _recycle,
    Kind.RELOAD: _roll,
}
