"""Decides about the workers; the supervisor does what is decided.

A `Pool` is told what happened and when, and answers with actions, values that say what to do. It
has no clock, thread, process or socket. One thread at a time may use it.

Which worker is in which state is a table (`sitebus.workers.states`); what is too many or missing
is found by `sitebus.workers.plan`.
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Callable, Mapping
from typing import Any, Self

from sitebus.errors import BadWorkerCount, UnknownWorker
from sitebus.signalnames import NAMES
from sitebus.workers import actions as act
from sitebus.workers.actions import (
    Action,
    Drain,
    Dump,
    Fail,
    Kill,
    Say,
    Settle,
    Spawn,
    Tell,
)
from sitebus.workers.jobs import Job, JobState, Kind
from sitebus.workers.member import DUMPING, Beat, Member, WorkerPicture
from sitebus.workers.plan import Planner
from sitebus.workers.policy import Policy
from sitebus.workers.roster import Roster
from sitebus.workers.states import WorkerCause, WorkerState

__all__ = [
    "Action",
    "Beat",
    "Drain",
    "Dump",
    "Fail",
    "Job",
    "JobState",
    "Kill",
    "Kind",
    "Policy",
    "Pool",
    "Say",
    "Settle",
    "Spawn",
    "Tell",
    "WorkerPicture",
    "WorkerState",
]

#: A tick that comes later than this finds a supervisor that did not run itself; seconds.
LATE = 2.0

#: How long after its link a worker's process may end and be the cause of both; seconds.
TOGETHER = 0.25

#: How long after a beat is overdue its worker is called stuck; seconds.
SECOND_LOOK = 0.25


class Pool:
    """The workers of one site: tell it what happens, do what it answers.

    Times are monotonic seconds. The methods that answer a `Job` leave what there is to do to the
    next call of any other, `tick` at the latest: `deadline` says that it is due.
    """

    def __init__(self, policy: Policy, random: Callable[[], float] = _random.random) -> None:
        """Make one that has no workers yet.

        Args:
            policy: How many there are to be, and how patient to be with them.
            random: Answers a number from 0 to 1; spreads limits and pauses.
        """
        self._roster = Roster(policy, random)
        self._planner = Planner(self._roster)
        self._now = -math.inf

    @property
    def policy(self) -> Policy:
        """What there is to be; its count follows `scale`."""
        return self._roster.policy

    @property
    def job(self) -> Job | None:
        """The job that is running."""
        return self._planner.job

    @property
    def queued(self) -> Job | None:
        """The job that comes next."""
        return self._planner.queued

    @property
    def wanted(self) -> int:
        """How many workers there will be after all that has been asked for."""
        for job in (self.queued, self.job):
            if job and job.kind is Kind.SCALE:
                return job.number
        return self.policy.count

    @property
    def ready_count(self) -> int:
        """How many workers serve."""
        return self._roster.ready

    @property
    def empty(self) -> bool:
        """No worker's process is left."""
        return not self._roster.members

    # What is wanted.

    def start(self, now: float) -> list[Action]:
        """Start every worker: a job of kind "start", settled when each has been READY.

        If one does not boot, `Fail` says so, and whoever was started is ended again.
        """
        planner = self._planner
        planner.replace(planner.job_for(Kind.START, "start", now), "started again", now)
        return self._answer(now)

    def stop(self, now: float, for_good: bool) -> list[Action]:
        """Drain every worker: a job of kind "stop", settled when the last has ended.

        Args:
            now: The time.
            for_good: The site does not only rest, it exits.
        """
        planner = self._planner
        if planner.job is None or planner.job.kind is not Kind.STOP:
            reason = "the site exits" if for_good else "the site stops"
            planner.replace(planner.job_for(Kind.STOP, reason, now), reason, now)
        return self._answer(now)

    def hurry(self, now: float) -> list[Action]:
        """End at once, by the next signal, whoever is to end: SIGTERM; a second time SIGKILL."""
        for member in self._roster.members.values():
            if member.signal:
                member.due = now
                self._planner.press(member, now)
        return self._answer(now)

    def roll(self, reason: str, now: float) -> Job:
        """Replace every worker, the new one READY before the old one drains.

        Raises:
            RollRunning: another job that was asked for is running.
        """
        return self._accept(Kind.ROLL, reason, now)

    def reload(self, reason: str, now: float) -> Job:
        """Replace every worker at once: the code has changed again, whatever is being done.

        A job that is running is aborted for this one, and whoever boots for it is ended. It is
        done when all new workers are READY; the old ones drain, for a few seconds at most. The
        count of a scale stays asked for.

        Raises:
            RollRunning: the workers are being ended; or started, and another job is queued.
        """
        planner = self._planner
        job = planner.reload(planner.job_for(Kind.RELOAD, reason, now), now)
        planner.plan(now)
        self._now = now
        return job

    def scale(self, count: int, now: float) -> Job:
        """Have *count* workers from now on.

        Raises:
            BadWorkerCount: that is less than one.
            RollRunning: another job that was asked for is running.
        """
        if count < 1:
            raise BadWorkerCount(count)
        return self._accept(Kind.SCALE, f"scale to {count}", now, count)

    def drain_worker(self, slot: int, now: float) -> Job:
        """Replace the worker of one slot.

        Raises:
            UnknownWorker: there is no such slot.
            RollRunning: another job that was asked for is running.
        """
        if slot not in self._roster.wanted:
            raise UnknownWorker(slot, self._roster.count)
        return self._accept(Kind.DRAIN, f"worker {slot} is replaced", now, slot)

    def _accept(self, kind: Kind, reason: str, now: float, number: int = 0) -> Job:
        planner = self._planner
        job = planner.accept(planner.job_for(kind, reason, now, number), now)
        planner.plan(now)
        self._now = now
        return job

    # What happens to a worker. What is said of one that is gone has no effect.

    def spawned(self, serial: int, pid: int, now: float) -> list[Action]:
        """A process was started."""
        member = self._member(serial)
        if member:
            member.pid = pid
            self._planner.tell_of("worker.spawned", member)
            self._planner.press(member, now)
        return self._answer(now)

    def spawn_failed(self, serial: int, error: BaseException, now: float) -> list[Action]:
        """A process could not be started."""
        member = self._member(serial)
        if member:
            reason = f"its process could not be started ({error})"
            self._end(member, reason, now)
        return self._answer(now)

    def ready(self, serial: int, now: float) -> list[Action]:
        """A worker says that it serves; to be followed by its first beat at once."""
        member = self._member(serial)
        if member and member.go(WorkerCause.READY, now):
            member.ready_at = now
            member.expect_beat(now, self.policy)
            self._welcome(member, now)
        return self._answer(now)

    def _welcome(self, member: Member, now: float) -> None:
        planner = self._planner
        planner.tell_of("worker.ready", member, seconds=now - member.born)
        level = act.DEBUG if planner.is_reloading else act.INFO
        planner.say(f"{member.name} is ready after {now - member.born:.1f} s", level)
        for other in self._roster.members.values():
            if other.slot == member.slot and other.signal == act.KILL:
                other.due = min(other.due, max(now, other.since + DUMPING))
        job = planner.job
        if job and member.serial in job.fresh and member.slot in job.todo:
            job.todo.discard(member.slot)
            planner.step(job)

    def unfit(self, serial: int, reason: str, now: float, status: int = 70) -> list[Action]:
        """A worker says that it cannot serve: its boot or its probe failed."""
        member = self._member(serial)
        if member and not member.ready:
            self._fail(member, WorkerCause.UNFIT, reason, now, now + self.policy.kill_after, status)
        return self._answer(now)

    def draining(self, serial: int, now: float) -> list[Action]:
        """A worker drains without having been told to: somebody else told it."""
        member = self._member(serial)
        if member and member.go(WorkerCause.DRAIN, now, "it drains of itself"):
            member.end_by(now + self.policy.drain_timeout)
            self._planner.tell_of("worker.draining", member, reason=member.reason)
        return self._answer(now)

    def beat(self, serial: int, beat: Beat, now: float) -> list[Action]:
        """A worker says how it is."""
        member = self._member(serial)
        if member:
            hung, member.beat = member.hangs(self.policy), beat
            if member.ready:
                self._judge(member, hung, now)
        return self._answer(now)

    def _judge(self, member: Member, hung: bool, now: float) -> None:
        member.expect_beat(now, self.policy)
        member.wish = member.outgrown(now, self.policy)
        if member.hangs(self.policy) and not hung:
            self._planner.tell_of("worker.stuck", member, reason=member.wish)
            self._planner.say(f"{member.name}: {member.wish}", act.ERROR)
            self._planner.out.append(Dump(member.serial))

    def ended(self, serial: int, status: int, now: float) -> list[Action]:
        """A process has ended, with a status or, if that is negative, by a signal."""
        member = self._member(serial)
        if member:
            self._planner.tell_of("worker.gone", member, status=status)
            self._end(member, how_it_ended(status), now)
        return self._answer(now)

    def _end(self, member: Member, reason: str, now: float) -> None:
        if not self._planner.lose(member, WorkerCause.ENDED, reason, now):
            self._planner.say(f"{member.name}: {reason}", act.DEBUG)
        self._planner.gone(member)

    def link_ended(self, serial: int, now: float) -> list[Action]:
        """The link to a worker has ended: its process mostly has too, and is told of at once."""
        member = self._member(serial)
        if member and member.live:
            member.doubt = "its link has ended, and its process goes on"
            member.due = now + TOGETHER
        return self._answer(now)

    # The time.

    def tick(self, now: float) -> list[Action]:
        """Do what is due by now."""
        self._forgive(now - self._roster.limit(), now)
        for member in list(self._roster.members.values()):
            if member.limit <= now:
                self._overdue(member, now)
            elif now >= member.expires:
                member.wish = member.outgrown(now, self.policy)
        self._roster.forget_old_failures(now)
        return self._answer(now)

    def deadline(self) -> float | None:
        """Answer when the next tick is due; None if nothing is, until something happens."""
        if self._planner.out:
            return self._now
        due = min(self._roster.limit(), self._roster.refill(), self._roster.recovery())
        if self.job is None:
            due = min(due, self._limits())
        return None if due == math.inf else due

    def _limits(self) -> float:
        """Answer when the next worker may be replaced for its age, or what it came to."""
        members = self._roster.members.values()
        due = min((member.expires for member in members), default=math.inf)
        if self._roster.wishes():
            due = min(due, self._planner.recycling.after)
        return due

    def _forgive(self, late: float, now: float) -> None:
        """Let the time in which this supervisor did not run be nobody's fault."""
        if not LATE < late < math.inf:
            return
        for member in self._roster.members.values():
            if member.ready:
                member.due = max(member.due, now + self.policy.heartbeat_timeout)
            else:
                member.due = max(member.due + late, now + LATE)

    def _overdue(self, member: Member, now: float) -> None:
        """Do without a worker that has not done in time what was expected of it."""
        kill_after = self.policy.kill_after
        if member.doubt and member.live:
            by = now + self.policy.drain_timeout
            self._fail(member, WorkerCause.CUT_OFF, member.doubt, now, by)
        elif member.ready and not member.silent:
            # What it said may be there to be read: this tick may come before that.
            member.silent, member.due = True, now + SECOND_LOOK
        elif member.ready:
            self._dump(member)
            late = self.policy.heartbeat_timeout
            reason = f"its beat is more than {late:g} s late (heartbeat_timeout)"
            self._fail(member, WorkerCause.STUCK, reason, now, now + kill_after)
            member.signal = act.KILL
        elif member.live:
            self._dump(member)
            reason = f"it was not ready within {self.policy.boot_timeout:g} s (boot_timeout)"
            self._fail(member, WorkerCause.UNFIT, reason, now, now + DUMPING)
        else:
            self._planner.press(member, now)

    def _dump(self, member: Member) -> None:
        if member.pid:
            self._planner.out.append(Dump(member.serial))

    def _fail(
        self,
        member: Member,
        cause: WorkerCause,
        reason: str,
        now: float,
        by: float,
        status: int = 70,
    ) -> None:
        """Do without a worker whose process goes on; send it signals from *by* on."""
        if self._planner.lose(member, cause, reason, now, status):
            member.end_by(by)
            self._planner.press(member, now)

    # Looking at it, and carrying it over.

    def snapshot(self) -> tuple[WorkerPicture, ...]:
        """Answer what is known of each worker, by slot, and of each slot that has none."""
        return self._roster.pictures()

    def to_json(self, now: float | None = None) -> dict[str, Any]:
        """Put everything into JSON, for who goes on in this process's place.

        Jobs are not carried over, nor workers without a process: there should be none.

        Args:
            now: The time; the last one that was told, if it is left out.
        """
        return {
            **self._roster.to_json(self._now if now is None else now),
            "jobs": self._planner.jobs,
        }

    @classmethod
    def from_json(
        cls,
        data: Mapping[str, Any],
        now: float,
        policy: Policy | None = None,
        random: Callable[[], float] = _random.random,
    ) -> Self:
        """Go on with the workers of a pool that was put into JSON.

        Args:
            data: What `to_json` answered.
            now: The time.
            policy: What there should be now; as it was, if it is left out.
            random: Answers a number from 0 to 1.
        """
        pool = cls(policy or Policy(**data["policy"]), random)
        pool._roster.restore(data, now)
        pool._planner.jobs = data["jobs"]
        pool._now = now
        return pool

    def _member(self, serial: int) -> Member | None:
        return self._roster.members.get(serial)

    def _answer(self, now: float) -> list[Action]:
        self._now = now
        self._planner.plan(now)
        return self._planner.take()


def how_it_ended(status: int) -> str:
    """Put the end of a process into words."""
    if status < 0:
        return f"killed by {NAMES.get(-status, f'signal {-status}')}"
    return f"ended with status {status}"
