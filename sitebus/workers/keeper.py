"""Keeps the workers: does what the pool decides, and tells the pool what happens.

Everything here is done in the poller's thread, one event after the other, and nothing waits for
anything. `Keeper.post` brings others' work there.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from sitebus.errors import NotServing, SitebusError, UnknownWorker
from sitebus.process import Engine
from sitebus.relay import READ, Poller
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
from sitebus.workers.hand import Hand
from sitebus.workers.jobs import Job, JobState, Kind
from sitebus.workers.nursery import Failure, Nursery
from sitebus.workers.policy import Policy
from sitebus.workers.pool import Pool
from sitebus.workers.questions import Questions
from sitebus.workers.states import WorkerState
from sitebus.workers.tickets import JobTicket, Tickets
from sitebus.workers.voice import DEBUG, INFO, Voice

T = TypeVar("T")

#: How long after its process the link of a worker may end: a child of its own may hold it.
TOGETHER = 0.1


class Keeper:
    """The workers there are, as processes.

    Attributes:
        pool: Decides about them.
        nursery: Starts them; to be set before anything is done.
        lenient: Whether one that has no other to fall back on serves the reason if the site fails.
        hands: Each that has a process, by serial.
        tickets: The jobs.
        questions: What workers are asked.
        farewells: Are told the serial of each that has ended.
        gone: Is set while there is none.
        is_up: Whether there is anybody to do what is posted.
        is_starting: The start of the bus waits for them, and says itself how that went.
        is_frozen: They are the next image's business.
        failure: Why they could not be started.
    """

    nursery: Nursery

    def __init__(self, bus: Engine, policy: Policy, poller: Poller, voice: Voice) -> None:
        self.pool = Pool(policy, random.random)
        self.lenient = False
        self.hands: dict[int, Hand] = {}
        self.tickets = Tickets(poller)
        self.questions = Questions(poller)
        self.farewells: list[Callable[[int], object]] = []
        self.gone = threading.Event()
        self.gone.set()
        self.is_up = self.is_starting = self.is_frozen = False
        self.failure: SitebusError | None = None
        self._bus = bus
        self._poller = poller
        self._voice = voice
        self._cancel_tick: Callable[[], None] = lambda: None
        self._acts: Mapping[type[Action], Callable[[Any], object]] = {
            Spawn: self._spawn,
            Drain: self._drain,
            Dump: self._dump,
            Kill: self._kill,
            Say: self._say,
            Tell: self._tell,
            Settle: self._settle,
            Fail: self._fail,
        }

    # For all threads.

    def post(self, work: Callable[[], T]) -> T:
        """Do *work* in the poller's thread, and answer what it answers.

        Raises:
            NotServing: There is nobody to do it.
        """
        if self._poller.is_current:
            return work()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                done.set_exception(error)

        # It would start for good what only the start of the bus may start.
        if not self.is_up or not self._poller.call_soon(run):
            raise NotServing("talk to the workers", self._bus.state)
        return done.result()

    def want(self, wish: Callable[[Pool, float], Job], what: str) -> JobTicket:
        """Ask the pool for a job; *what* it does is said to who may not.

        Raises:
            NotServing: The bus is not started.
        """
        if self._bus.state != self._bus.machine.running:
            raise NotServing(what, self._bus.state)

        def work() -> JobTicket:
            ticket = self.tickets.of(wish(self.pool, time.monotonic()))
            self._voice.forget_fault()
            self.tick()
            return ticket

        return self.post(work)

    # The pool.

    def begin(self) -> JobTicket:
        """Start every worker."""
        actions = self.pool.start(time.monotonic())
        job = self.pool.job
        assert job is not None
        ticket = self.tickets.of(job)
        self._perform(actions)
        return ticket

    def end(self, for_good: bool) -> None:
        """Have every worker finish and end."""
        self.tell(lambda pool, now: pool.stop(now, for_good))
        self.nursery.give_up()

    def tick(self) -> None:
        """Do what is due."""
        self.tell(lambda pool, now: pool.tick(now))

    def tell(self, event: Callable[[Pool, float], list[Action]]) -> None:
        """Tell the pool of something, and do what it answers."""
        self._perform(event(self.pool, time.monotonic()))

    def unfit(self, serial: int, message: Mapping[str, Any]) -> None:
        """Tell that a worker cannot serve; *message* says why."""
        reason, status = str(message["reason"]), int(message["status"])
        self._note_fault(serial, message)
        self.tell(lambda pool, now: pool.unfit(serial, reason, now, status))

    def freeze(self) -> None:
        """Do nothing any more: the workers are the next image's."""
        self._cancel_tick()
        self.is_frozen = True
        self.nursery.close()
        self.questions.forget()
        self.tickets.release()

    def _perform(self, actions: Iterable[Action]) -> None:
        """Do what was decided, and what is decided because of it."""
        if self.is_frozen:
            return
        for action in actions:
            self._acts[type(action)](action)
        if (job := self.pool.job) is not None:
            self.tickets.of(job)
        if self.pool.empty:
            self.gone.set()
        else:
            self.gone.clear()
        self._cancel_tick()
        due = self.pool.deadline()
        if due is not None:
            self._cancel_tick = self._poller.call_at(due, self.tick)

    def _note_fault(self, serial: int, message: Mapping[str, Any]) -> None:
        job = self.pool.job
        if job is not None and serial in job.fresh:
            self.tickets.of(job).fault = message
            if job.kind is Kind.RELOAD:
                return  # whoever wanted it says it better
        if not message.get("logged"):
            self._voice.log_fault(str(message["text"]))

    def _spawn(self, action: Spawn) -> None:
        job = self.pool.job
        whole = job.id if job is not None and job.whole else ""
        lenient = self.lenient and not self.serving()
        self.nursery.bear(action.serial, action.slot, whole, lenient)

    def born(self, serial: int, hand: Hand | None, failure: Failure | None) -> None:
        """Hear what became of a wish for a worker."""
        if hand is not None:
            self.take(hand)
            pid = hand.process.pid
            self._soon(lambda pool, now: pool.spawned(serial, pid, now))
        elif failure is not None:
            reason, status = failure.reason, failure.status
            self._note_fault(serial, failure.message())
            self._soon(lambda pool, now: pool.unfit(serial, reason, now, status))
            error = OSError(reason)
            self._soon(lambda pool, now: pool.spawn_failed(serial, error, now))

    def take(self, hand: Hand) -> None:
        """Look after a worker from here on."""
        self.hands[hand.serial] = hand
        self._poller.watch(hand.process.fileno(), READ, lambda _: self._ended(hand))

    def _soon(self, event: Callable[[Pool, float], list[Action]]) -> None:
        """Tell the pool once the actions at hand are done."""
        self._poller.call_soon(lambda: self.tell(event))

    def _drain(self, action: Drain) -> None:
        hand = self.hands.get(action.serial)
        if hand is not None:
            successor = any(each is not hand for each in self.serving())
            timeout = self.pool.policy.drain_timeout if action.timeout is None else action.timeout
            hand.send("drain", reason=action.reason, successor=successor, timeout=timeout)

    def _dump(self, action: Dump) -> None:
        hand = self.hands.get(action.serial)
        if hand is not None:
            hand.send("stacks", re=0)

    def _kill(self, action: Kill) -> None:
        hand = self.hands.get(action.serial)
        if hand is not None:
            hand.process.kill(action.signal)

    def _say(self, action: Say) -> None:
        # Why the start failed is raised by it, and said once by who asked for it.
        level = DEBUG if self.is_starting and action.level > INFO else action.level
        self._voice.log(action.text, level)

    def _tell(self, action: Tell) -> None:
        self._voice.tell(action.channel, action.args)

    def _settle(self, action: Settle) -> None:
        self.nursery.settled(action.job.id, action.job.state is JobState.DONE)
        self.tickets.of(action.job).settle()

    def _fail(self, action: Fail) -> None:
        self.failure = action.error

    # The end of a worker.

    def cut_off(self, hand: Hand) -> None:
        """Hear that a worker's link has ended."""
        hand.is_cut_off = True
        self.questions.forget(hand.serial)
        self.bury_if_over(hand)
        if not hand.has_ended and hand.serial in self.hands:
            self.tell(lambda pool, now: pool.link_ended(hand.serial, now))

    def _ended(self, hand: Hand) -> None:
        """A process has ended; what it said last may still be in its link."""
        if hand.process.reap() is None and hand.process.is_alive:
            return
        hand.has_ended = True
        self._poller.unwatch(hand.process.fileno())
        self.bury_if_over(hand)
        if hand.serial in self.hands:
            self._poller.call_at(time.monotonic() + TOGETHER, lambda: self.bury(hand))

    def bury_if_over(self, hand: Hand) -> None:
        """Do without waiting, if all is known: how a fork has ended its zygote has to say."""
        if hand.has_ended and hand.is_cut_off and hand.process.status is not None:
            self.bury(hand)

    def bury(self, hand: Hand) -> None:
        """Forget a worker whose process has ended."""
        if self.hands.pop(hand.serial, None) is None:
            return
        hand.close()
        self.questions.forget(hand.serial)
        for farewell in self.farewells:
            # What it told may make no sense; it has ended all the same.
            self._poller.guarded(farewell, hand.serial)
        status = hand.process.status or 0
        self.tell(lambda pool, now: pool.ended(hand.serial, status, now))

    def lose(self, serial: int) -> None:
        """Tell of the end of a worker of which nothing else is known."""
        self.tell(lambda pool, now: pool.ended(serial, 0, now))

    def hurry(self) -> None:
        """Have each worker cut short whatever it waits for."""
        for hand in self.hands.values():
            hand.send("hurry")

    def kill_all(self) -> None:
        """End each worker at once."""
        for hand in self.hands.values():
            hand.process.kill(signal.SIGKILL)

    # Who is there.

    def serving(self) -> list[Hand]:
        """Answer those that are READY."""
        ready = {each.serial for each in self.pool.snapshot() if each.state is WorkerState.READY}
        return [hand for serial, hand in self.hands.items() if serial in ready]

    def present(self) -> list[Hand]:
        """Answer those that can be told something: also who comes up, and who drains."""
        return [hand for hand in self.hands.values() if not (hand.is_cut_off or hand.has_ended)]

    def hand_in(self, slot: int) -> Hand:
        """Answer the newest worker of *slot*.

        Raises:
            UnknownWorker: There is none.
        """
        found = [hand for hand in self.hands.values() if hand.slot == slot]
        if not found:
            raise UnknownWorker(slot, self.pool.wanted)
        return max(found, key=lambda hand: hand.serial)

    def broadcast(self, what: str, **values: Any) -> None:
        """Send a message to each that serves."""
        for hand in self.serving():
            hand.send(what, **values)
