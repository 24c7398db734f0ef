"""Who is there: the worker processes by serial, and the slots that they fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sitebus.workers.backoff import Backoff
from sitebus.workers.member import Member, WorkerPicture
from sitebus.workers.policy import STEADY, Policy
from sitebus.workers.states import WorkerState


class Slot:
    """The place of one worker after the other.

    Attributes:
        number: From 1; what people call its worker.
        backoff: How its workers fail, and when the next may be started.
        restarts: How many of its workers had to be replaced because they failed.
        since: When the last of them failed.
        reason: Why it did.
    """

    def __init__(self, number: int, random: Callable[[], float]) -> None:
        self.number = number
        self.backoff = Backoff(random)
        self.restarts = 0
        self.since = 0.0
        self.reason = ""

    def failed(self, now: float, policy: Policy, reason: str) -> None:
        """Count a worker that left this slot without one, and set when the next may be started."""
        self.restarts += 1
        self.since = now
        self.reason = reason
        self.backoff.failed(now, policy)

    def fatal(self, policy: Policy) -> bool:
        """Answer whether its workers fail again and again."""
        return 0 < policy.fatal_after <= self.backoff.failures

    def to_json(self, now: float) -> dict[str, Any]:
        return {
            "number": self.number,
            "failures": self.backoff.failures,
            "pause": max(0.0, self.backoff.after - now),
            "restarts": self.restarts,
            "ago": now - self.since,
            "reason": self.reason,
        }

    def restore(self, data: Mapping[str, Any], now: float) -> None:
        """Take over what `to_json` answered."""
        self.backoff.failures = data["failures"]
        self.backoff.after = now + data["pause"]
        self.restarts = data["restarts"]
        self.since = now - data["ago"]
        self.reason = data["reason"]


class Roster:
    """Workers and slots; answers questions about them, and decides nothing.

    Attributes:
        policy: What there should be.
        random: Answers a number from 0 to 1.
        count: How many slots are to be filled now; 0 before a start and from a stop on.
        members: Every worker whose process may still be there, by serial.
        last: The last serial that was given.
    """

    def __init__(self, policy: Policy, random: Callable[[], float]) -> None:
        self.policy = policy
        self.random = random
        self.count = 0
        self.members: dict[int, Member] = {}
        self.last = 0
        self._slots: dict[int, Slot] = {}

    def add(self, slot: int, now: float) -> Member:
        """Make a worker that never was."""
        self.last += 1
        member = self.members[self.last] = Member(self.last, slot, now)
        member.draw(self.policy, self.random)
        return member

    def resize(self, count: int) -> None:
        """Fill so many slots from now on, or from the next start."""
        self.count = count if self.count else 0
        self.policy = self.policy._replace(count=count)
        self._slots = {number: slot for number, slot in self._slots.items() if number <= count}

    def slot(self, number: int) -> Slot:
        if number not in self._slots:
            self._slots[number] = Slot(number, self.random)
        return self._slots[number]

    @property
    def wanted(self) -> range:
        """The slots that are to be filled."""
        return range(1, self.count + 1)

    @property
    def live(self) -> list[Member]:
        """Every worker that serves or is about to, by serial."""
        return [member for member in self.members.values() if member.live]

    def in_slot(self, slot: int) -> list[Member]:
        """Answer who serves in *slot*, or is about to, by serial."""
        return [member for member in self.live if member.slot == slot]

    @property
    def ready(self) -> int:
        """How many serve."""
        return sum(member.ready for member in self.members.values())

    @property
    def extras(self) -> int:
        """How many are beyond one for each slot."""
        live = self.live
        return len(live) - len({member.slot for member in live})

    def forget_old_failures(self, now: float) -> None:
        """Let a slot whose worker has been READY for long be as good as any."""
        for member in self._recovering():
            if member.steady(now):
                self.slot(member.slot).backoff.reset()

    def _recovering(self) -> Iterator[Member]:
        for member in self.members.values():
            if member.ready and self.slot(member.slot).backoff.failures:
                yield member

    def wishes(self) -> list[Member]:
        """Answer who serves, and should be replaced."""
        return [each for each in self.live if each.ready and each.wish]

    def recovery(self) -> float:
        """Answer when the next slot is as good as any again; infinite if none is any worse."""
        return min(
            (each.ready_at + STEADY for each in self._recovering() if each.ready_at is not None),
            default=math.inf,
        )

    def limit(self) -> float:
        """Answer when the time of some worker is up; infinite if none has any."""
        return min((member.limit for member in self.members.values()), default=math.inf)

    def refill(self) -> float:
        """Answer when a slot may be filled again; infinite if none has to wait."""
        empty = set(self.wanted) - {member.slot for member in self.live}
        return min((self.slot(number).backoff.after for number in empty), default=math.inf)

    def pictures(self) -> tuple[WorkerPicture, ...]:
        """Answer what is known of each worker, and of each slot that has none."""
        there = {member.slot for member in self.members.values()}
        pictures = [self._picture(member) for member in self.members.values()]
        pictures += [self._vacancy(number) for number in self.wanted if number not in there]
        return tuple(sorted(pictures))

    def _picture(self, member: Member) -> WorkerPicture:
        slot = self.slot(member.slot)
        return WorkerPicture(
            member.slot,
            member.serial,
            member.pid,
            member.state,
            member.since,
            member.ready_at,
            member.beat,
            slot.restarts,
            slot.fatal(self.policy),
            member.reason,
        )

    def _vacancy(self, number: int) -> WorkerPicture:
        slot = self.slot(number)
        fatal = slot.fatal(self.policy)
        state = WorkerState.GONE
        return WorkerPicture(
            number, 0, 0, state, slot.since, None, None, slot.restarts, fatal, slot.reason
        )

    def to_json(self, now: float) -> dict[str, Any]:
        """Put everything into JSON with ages instead of times."""
        return {
            "policy": self.policy._asdict(),
            "count": self.count,
            "last": self.last,
            "members": [each.to_json(now) for each in self.members.values() if each.pid],
            "slots": [each.to_json(now) for each in self._slots.values()],
        }

    def restore(self, data: Mapping[str, Any], now: float) -> None:
        """Take over what `to_json` answered; how many there are to be is as this policy says."""
        self.last = data["last"]
        self.count = self.policy.count if data["count"] else 0
        for each in data["slots"]:
            if each["number"] <= self.policy.count:
                self.slot(each["number"]).restore(each, now)
        for each in data["members"]:
            member = Member.from_json(each, now)
            self.members[member.serial] = member
            if member.ready:
                member.expect_beat(now, self.policy)
