"""What to do next, so that the workers there are become those that there should be.

Every change of a worker or a wish is followed by one plan: end who is too many, fill slots that
are empty, take the steps of the job that can be taken, and settle it once it is done. The steps of
a job are thus not remembered but found: whatever dies meanwhile, the next plan starts from there.
"""

from __future__ import annotations

import math
from typing import Any

from sitebus.errors import RollRunning, SitebusError, WorkerUnfit
from sitebus.workers import actions as act
from sitebus.workers.backoff import Backoff
from sitebus.workers.beginnings import begin
from sitebus.workers.jobs import UNASKED, Job, JobState, Kind
from sitebus.workers.member import Member
from sitebus.workers.roster import Roster
from sitebus.workers.states import WorkerCause

#: How long a worker whose code has changed may take to finish what it has; seconds.
RELOAD_DRAIN = 5.0


class Planner:
    """Keeps the one job, and what is to be done.

    Attributes:
        roster: Who is there.
        job: What is being done; None if the workers are as they should be.
        queued: The wish that comes after it.
        out: What has been decided and not yet been handed to the supervisor.
        jobs: How many jobs there have been.
        recycling: How replacing workers that came to a limit has failed of late.
    """

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.job: Job | None = None
        self.queued: Job | None = None
        self.out: list[act.Action] = []
        self.jobs = 0
        self.recycling = Backoff(roster.random, free=0)

    def take(self) -> list[act.Action]:
        """Answer what is to be done now, once."""
        out, self.out = self.out, []
        return out

    def say(self, text: str, level: int = act.INFO) -> None:
        self.out.append(act.Say(text, level))

    def tell(self, channel: str, **facts: Any) -> None:
        self.out.append(act.Tell(channel, (facts,)))

    def tell_of(self, channel: str, member: Member, **facts: Any) -> None:
        self.tell(channel, slot=member.slot, serial=member.serial, pid=member.pid, **facts)

    # One worker.

    def spawn(self, slot: int, now: float) -> None:
        """Start a worker in *slot*."""
        roster = self.roster
        member = roster.add(slot, now)
        member.due = now + (roster.policy.boot_timeout or math.inf)
        if self.job and self.job.covers(slot):
            self.job.fresh.add(member.serial)
        self.out.append(act.Spawn(member.serial, slot))

    def drain(self, member: Member, reason: str, now: float) -> None:
        """Let a worker finish and end; one that is booting has nothing to finish."""
        booting = not member.ready
        if not member.go(WorkerCause.DRAIN, now, reason):
            return
        self.tell_of("worker.draining", member, reason=reason)
        self.say(f"{member.name} drains: {reason}", act.DEBUG)
        if booting:
            member.end_by(now)
        else:
            most = self._patience()
            member.end_by(now + (self.roster.policy.drain_timeout if most is None else most))
            self.out.append(act.Drain(member.serial, reason, most))
        self.press(member, now)

    def _patience(self) -> float | None:
        """Answer how long a drain may take, if that is not as long as ever."""
        if not self.is_reloading:
            return None
        return min(RELOAD_DRAIN, self.roster.policy.drain_timeout)

    @property
    def is_reloading(self) -> bool:
        """Whether code has changed, and whoever waits for that is told of little else."""
        return self.job is not None and self.job.kind is Kind.RELOAD

    def press(self, member: Member, now: float) -> None:
        """Send a worker that is to end the signal whose time has come."""
        if member.signal and member.limit <= now:
            signal = member.climb(now, self.roster.policy.kill_after)
            self.out.append(act.Kill(member.serial, signal))

    def lose(
        self, member: Member, cause: WorkerCause, reason: str, now: float, status: int = 70
    ) -> bool:
        """Do without a worker from now on that nobody told to end; answer whether it was of use."""
        live, booted = member.live, member.ready
        if not member.go(cause, now, reason) or not live:
            return False
        channel = "worker.unfit" if not booted else "worker.lost"
        self.tell_of(channel, member, reason=reason)
        # Why a change is not taken up is for who wanted it to say.
        level = act.DEBUG if self.is_reloading else act.ERROR
        if self.job and member.serial in self.job.fresh:
            self._blame(self.job, member, booted, now, status)
        self._count(member, now, level)
        return True

    def _count(self, member: Member, now: float, level: int) -> None:
        """Blame the slot, unless somebody else serves in it."""
        slot, policy = self.roster.slot(member.slot), self.roster.policy
        if self.roster.in_slot(member.slot) or member.slot not in self.roster.wanted:
            self.say(f"{member.name}: {member.reason}", level)
            return
        slot.failed(now, policy, member.reason)
        pause = slot.backoff.after - now
        when = f"in {pause:.1f} s" if pause else "at once"
        self.say(f"{member.name}: {member.reason}; another is started {when}", act.ERROR)
        if slot.backoff.failures == policy.fatal_after:
            self.tell_of("worker.fatal", member, failures=policy.fatal_after, reason=member.reason)
            self.say(
                f"worker {member.slot} failed {policy.fatal_after} times in a row, last because: "
                f"{member.reason}; trying again every {policy.backoff_most:g} s",
                act.CRITICAL,
            )

    def _blame(self, job: Job, member: Member, booted: bool, now: float, status: int) -> None:
        """Give up a job whose worker did not boot; one that died afterwards may do so once."""
        if booted and member.slot not in job.lost:
            job.lost.add(member.slot)
            job.todo.add(member.slot)
            return
        error = WorkerUnfit(member.slot, member.reason, status)
        self.abort(f"{member.name}: {member.reason}", now, error)

    def gone(self, member: Member) -> None:
        """Forget a worker whose process has ended."""
        del self.roster.members[member.serial]
        # What was decided when a job was asked for may not have been handed out yet.
        self.out = [each for each in self.out if getattr(each, "serial", 0) != member.serial]
        if self.job and member.serial in self.job.old:
            self.job.old.discard(member.serial)
            self.step(self.job)

    # The job.

    def accept(self, job: Job, now: float) -> Job:
        """Begin a job, or queue it; answer it, or the one like it that is queued already.

        Raises:
            RollRunning: another one is running.
        """
        if self.job is None:
            self._begin(job, now)
        elif self.queued is not None and self.queued.like(job):
            self.queued.take_over(job)
            return self.queued
        elif self.queued is None and (self.job.kind in UNASKED or self.job.like(job)):
            self.queued = job
        else:
            raise RollRunning(str(job.kind), self.job)
        return job

    def replace(self, job: Job, reason: str, now: float) -> None:
        """Begin a job whatever is running or queued: that is aborted."""
        queued, self.queued = self.queued, None
        if self.job:
            self.abort(reason, now)
        if queued:
            self._close(queued, JobState.ABORTED, now, reason)
        self._begin(job, now)

    def reload(self, job: Job, now: float) -> Job:
        """Begin *job*, a reload, instead of what is running; answer it, or who does it as well.

        Raises:
            RollRunning: the workers are being ended, or are just being started and somebody else
                waits for that.
        """
        if self.job is None or (self.job.kind is not Kind.STOP and self._is_replaceable(self.job)):
            self._supersede(job, now)
        elif self.queued is not None and self.queued.like(job):
            return self.queued
        elif self.queued is None and self.job.kind is Kind.START:
            self.queued = job
        else:
            raise RollRunning(str(job.kind), self.job)
        return job

    def _is_replaceable(self, job: Job) -> bool:
        # Whoever starts the site waits for somebody who serves.
        return job.kind is not Kind.START or self.roster.ready > 0

    def _supersede(self, job: Job, now: float) -> None:
        """Begin *job*, which does all that others are at: nobody who boots is waited for."""
        running, self.job = self.job, None
        if running is not None:
            self._close(running, JobState.ABORTED, now, job.reason, _annoyance(running))
        if self.queued is not None and self.queued.kind is not Kind.SCALE:
            queued, self.queued = self.queued, None
            self._close(queued, JobState.ABORTED, now, job.reason, _annoyance(queued))
        for member in self.roster.live:
            if not member.ready:
                self.drain(member, job.reason, now)
        self._begin(job, now)

    def abort(self, reason: str, now: float, error: SitebusError | None = None) -> None:
        """Give up the job that is running: who is READY stays, and nobody else comes."""
        job, self.job = self.job, None
        assert job is not None
        if job.kind is Kind.SCALE and error:
            self.roster.resize(job.before)
        elif job.kind is Kind.RECYCLE:
            self.recycling.failed(now, self.roster.policy)
        elif job.kind is Kind.START and error and not job.before:
            self.roster.count = 0
            self.out.append(act.Fail(error))
        self._close(job, JobState.ABORTED, now, reason)

    def step(self, job: Job) -> None:
        """Say how far a job is."""
        self.tell("rolling.step", **_facts(job), done=job.total - job.left, total=job.total)

    def _close(
        self, job: Job, state: JobState, now: float, reason: str = "", level: int = act.ERROR
    ) -> None:
        job.end(now, state, reason)
        if state is JobState.DONE:
            self.tell("rolling.done", **_facts(job), seconds=now - job.began)
            level = act.DEBUG if job.kind in (Kind.START, Kind.STOP) else act.INFO
            # Why there is a reload was said when it began.
            why = "" if job.kind is Kind.RELOAD else f": {job.reason}"
            self.say(f"{job.kind} done in {now - job.began:.1f} s{why}", level)
        else:
            self.tell("rolling.abort", **_facts(job))
            quiet = job.kind is Kind.RELOAD  # whoever wanted it says it better
            self.say(f"{job.kind} aborted: {job.reason}", act.DEBUG if quiet else level)
        self.out.append(act.Settle(job))

    def _begin(self, job: Job, now: float) -> None:
        self.job = job
        begin(job, self.roster, now)
        self.tell("rolling.begin", **_facts(job), total=job.total)

    # The plan.

    def plan(self, now: float) -> None:
        """Take every step that can be taken."""
        while True:
            # Who is too many after one job must not seem to be what the next one wants.
            self._thin(now)
            self._begin_next(now)
            self._thin(now)
            self._fill(now)
            if not self._advance(now):
                return

    def _begin_next(self, now: float) -> None:
        if self.job:
            return
        job, self.queued = self.queued, None
        if job and not self.roster.count:
            self._close(job, JobState.ABORTED, now, self._why())
        elif job := job or self._recycling(now):
            self._begin(job, now)

    def _recycling(self, now: float) -> Job | None:
        """Answer a job for the worker that needs it most, if any does."""
        wishes = self.roster.wishes()
        if not wishes or now < self.recycling.after:
            return None
        policy = self.roster.policy
        first = min(wishes, key=lambda each: (not each.hangs(policy), each.serial))
        return self.job_for(Kind.RECYCLE, f"{first.name}: {first.wish}", now, first.serial)

    def job_for(self, kind: Kind, reason: str, now: float, number: int = 0) -> Job:
        """Make a job that has a name of its own."""
        self.jobs += 1
        job = Job(f"{kind}-{self.jobs}", kind, reason, now)
        job.number = number
        return job

    def _thin(self, now: float) -> None:
        """End who is in a slot that is not wanted, or that another serves in."""
        roster, busy = self.roster, self.job.slots if self.job else ()
        for member in roster.live:
            others = [each for each in roster.in_slot(member.slot) if each is not member]
            if member.slot not in roster.wanted:
                self.drain(member, self._why(), now)
            elif member.slot not in busy and others:
                first = min((member, *others), key=lambda each: (not each.ready, each.serial))
                if first is not member:
                    self.drain(member, "another serves in its place", now)

    def _why(self) -> str:
        if self.job:
            return self.job.reason
        return "fewer workers are wanted" if self.roster.count else "the site does not start"

    def _fill(self, now: float) -> None:
        """Start a worker in every slot that has none, unless it has to wait."""
        for number in self.roster.wanted:
            if not self.roster.in_slot(number) and now >= self.roster.slot(number).backoff.after:
                self.spawn(number, now)

    def _advance(self, now: float) -> bool:
        """Take the steps of the job; answer whether it is done."""
        job = self.job
        if job is None:
            return False
        for slot in sorted(job.slots):
            self._retire(job, slot, now)
        for slot in sorted(job.slots):
            self._renew(job, slot, now)
        if job.left:
            return False
        self.job = None
        if job.kind is Kind.RECYCLE:
            self.recycling.reset()
        self._close(job, JobState.DONE, now)
        return True

    def _sides(self, job: Job, slot: int) -> tuple[list[Member], list[Member]]:
        there = self.roster.in_slot(slot)
        old = [member for member in there if member.serial in job.old]
        return old, [member for member in there if member.serial in job.fresh]

    def _retire(self, job: Job, slot: int, now: float) -> None:
        """Drain who has a successor that serves, as long as enough others do."""
        old, new = self._sides(job, slot)
        for member in old:
            if any(each.ready for each in new) and self._enough(job, member):
                self._let_go(job, member, now)

    def _let_go(self, job: Job, member: Member, now: float) -> None:
        """Drain who is to go; a reload is over without waiting for that."""
        self.drain(member, job.reason, now)
        if job.kind is Kind.RELOAD:
            job.old.discard(member.serial)
            self.step(job)

    def _enough(self, job: Job, member: Member) -> bool:
        """Answer whether *member* can be spared.

        Whoever is replaced alone can be: there are as many afterwards as there were before.
        """
        return not (job.whole and member.ready) or self._spare

    @property
    def _spare(self) -> bool:
        roster = self.roster
        return roster.ready - 1 >= roster.count - roster.policy.max_unavailable

    def _renew(self, job: Job, slot: int, now: float) -> None:
        """Start a successor, or make room for it once one of its kind has proved itself."""
        old, new = self._sides(job, slot)
        if not old or new:
            return
        if self.roster.extras < self.roster.policy.extra:
            self.spawn(slot, now)
        elif job.proven and self.roster.policy.max_unavailable and self._spare:
            for member in old:
                self._let_go(job, member, now)
            self.spawn(slot, now)


def _annoyance(job: Job) -> int:
    """Answer how loud to say that a job was replaced: whoever asked for it wants to know."""
    return act.DEBUG if job.kind in UNASKED else act.WARNING


def _facts(job: Job) -> dict[str, Any]:
    state = str(job.state)
    return {"id": job.id, "kind": str(job.kind), "state": state, "reason": job.reason}
