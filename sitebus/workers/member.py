"""One worker process as its supervisor knows it: what it said last, and how long it may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sitebus.workers.actions import KILL, TERM
from sitebus.workers.policy import STEADY, Policy
from sitebus.workers.states import LIVE, WorkerCause, WorkerState, step

#: How long it takes at most to get the stacks of a worker; it is not killed before. Seconds.
DUMPING = 1.0


class Beat(NamedTuple):
    """What a worker says of itself, again and again.

    Attributes:
        requests: How many it has taken, ever.
        in_flight: How many it is at.
        oldest: How old the oldest of those is, in seconds; 0 without any.
        lag: How late its loop or threads get to new work, in seconds.
        rss: Its memory in use, in bytes.
        next: In how many seconds the next beat comes at the latest.
    """

    requests: int = 0
    in_flight: int = 0
    oldest: float = 0.0
    lag: float = 0.0
    rss: int = 0
    next: float = 0.0


class WorkerPicture(NamedTuple):
    """What is known of a worker, or of a slot that has none (its serial and pid are 0).

    Attributes:
        slot: Its number to people.
        serial: Its number for ever.
        pid: Its process; 0 as long as there is none.
        state: A `WorkerState`.
        since: Since when it is in that state; monotonic seconds.
        ready_at: When it became READY; None if it never did.
        beat: What it last said of itself; None if nothing yet.
        restarts: How often a worker of this slot had to be replaced because it failed.
        fatal: Whether this slot's workers fail again and again.
        reason: Why it is in its state, or why the one before it failed; may be empty.
    """

    slot: int
    serial: int
    pid: int
    state: WorkerState
    since: float
    ready_at: float | None
    beat: Beat | None
    restarts: int
    fatal: bool
    reason: str


class Member:
    """A worker, and until when it must have done what is expected of it.

    Attributes:
        due: When there is something to do if nothing is heard until then; infinite if nothing is.
        signal: What to send at `due` to a worker that is to end; 0 if it has been sent everything.
        most: How many requests it may take; infinite if any.
        age: How old it may get; infinite if any.
        wish: Why it should be replaced when there is time for that; empty if it should not.
        doubt: Why it cannot be heard any more; empty if it can.
        silent: A beat is overdue.
    """

    def __init__(self, serial: int, slot: int, now: float) -> None:
        self.serial = serial
        self.slot = slot
        self.pid = 0
        self.state = WorkerState.BOOTING
        self.since = now
        self.born = now
        self.ready_at: float | None = None
        self.beat: Beat | None = None
        self.reason = ""
        self.due = math.inf
        self.signal = 0
        self.most = math.inf
        self.age = math.inf
        self.wish = ""
        self.doubt = ""
        self.silent = False

    def draw(self, policy: Policy, random: Callable[[], float]) -> None:
        """Draw the limits that this worker has for itself."""
        if policy.max_requests:
            self.most = policy.max_requests * (1 + policy.jitter * random())
        if policy.lifetime:
            self.age = policy.lifetime * (1 + policy.jitter * random())

    @property
    def live(self) -> bool:
        """It serves, or is about to."""
        return self.state in LIVE

    @property
    def ready(self) -> bool:
        return self.state is WorkerState.READY

    @property
    def limit(self) -> float:
        """When something is to be done about it; what has no process yet has to wait for that."""
        return math.inf if self.signal and not self.pid else self.due

    @property
    def expires(self) -> float:
        """When it has come of age; infinite if it need not be replaced for that, or will be."""
        if self.ready_at is None or not self.ready or self.wish:
            return math.inf
        return self.ready_at + self.age

    @property
    def name(self) -> str:
        """What people call it."""
        return f"worker {self.slot} (pid {self.pid})" if self.pid else f"worker {self.slot}"

    def go(self, cause: WorkerCause, now: float, reason: str = "") -> bool:
        """Take the row for *cause*, if there is one; answer whether there was."""
        target = step(self.state, cause)
        if target is None:
            return False
        self.state, self.since = target, now
        self.reason = reason
        self.due, self.signal = math.inf, 0
        return True

    def end_by(self, due: float, signal: int = TERM) -> None:
        """Send *signal* at *due* if it has not ended by then."""
        self.due, self.signal = due, signal

    def climb(self, now: float, kill_after: float) -> int:
        """Answer the signal whose time has come, and set the time of the next."""
        signal, self.signal = self.signal, KILL if self.signal == TERM else 0
        self.due = now + kill_after if self.signal else math.inf
        return signal

    def expect_beat(self, now: float, policy: Policy) -> None:
        """Give it until its next beat, and the time that a beat may be late."""
        self.silent = False
        soon = self.beat.next if self.beat else 0.0
        late = policy.heartbeat_timeout
        self.due = now + soon + late if late else math.inf

    def steady(self, now: float) -> bool:
        """Answer whether it has been READY for so long that it would be no part of a loop."""
        return self.ready_at is not None and now >= self.ready_at + STEADY

    def outgrown(self, now: float, policy: Policy) -> str:
        """Answer which of its limits it has come to; empty if none."""
        beat = self.beat or Beat()
        if 0 < policy.request_timeout < beat.oldest:
            return f"a request has taken {beat.oldest:.1f} s (request_timeout)"
        if 0 < policy.max_rss < beat.rss and self.steady(now):
            return f"it uses {beat.rss / 2**20:.0f} MB (max_rss)"
        if beat.requests >= self.most:
            return f"it has taken {beat.requests} requests (max_requests)"
        if self.ready_at is not None and now >= self.ready_at + self.age:
            return f"it has served for {now - self.ready_at:.0f} s (lifetime)"
        return ""

    def hangs(self, policy: Policy) -> bool:
        """Answer whether a request of its is too old."""
        return self.beat is not None and 0 < policy.request_timeout < self.beat.oldest

    def to_json(self, now: float) -> dict[str, Any]:
        """Put it into JSON with ages instead of times."""
        return {
            "serial": self.serial,
            "slot": self.slot,
            "pid": self.pid,
            "state": str(self.state),
            "in_state": now - self.since,
            "old": now - self.born,
            "ready": None if self.ready_at is None else now - self.ready_at,
            "beat": self.beat and list(self.beat),
            "reason": self.reason,
            "left": None if self.due == math.inf else self.due - now,
            "signal": self.signal,
            "most": None if self.most == math.inf else self.most,
            "age": None if self.age == math.inf else self.age,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], now: float) -> Member:
        """Make one of what `to_json` answered."""
        member = cls(data["serial"], data["slot"], now - data["old"])
        member.pid = data["pid"]
        member.state = WorkerState(data["state"])
        member.since = now - data["in_state"]
        member.ready_at = None if data["ready"] is None else now - data["ready"]
        member.beat = data["beat"] and Beat(*data["beat"])
        member.reason = data["reason"]
        member.due = math.inf if data["left"] is None else now + max(0.0, data["left"])
        member.signal = data["signal"]
        member.most = data["most"] or math.inf
        member.age = data["age"] or math.inf
        return member
