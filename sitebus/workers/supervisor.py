"""The supervisor's part in a site of several processes: it does what the pool decides.

`Pool` is told what happens and answers what is to be done; both happen in the poller's thread, one
event after the other, and nothing there waits for anything. Bus messages of workers, and log lines,
go through a dispatcher, since listeners may take their time. Commands come from any thread; they
are posted to the poller, and whoever gave one waits for its job if it wants to.

Workers are spawned from the poller's thread. No signal is tied to the death of that thread: the end
of the link tells a worker all it needs to know.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from sitebus.control.aggregate import Aggregate
from sitebus.control.exposition import expose
from sitebus.control.families import Family
from sitebus.control.metrics import REGISTRY
from sitebus.errors import (
    ChannelFailures,
    NotServing,
    NoWorkerAnswer,
    SitebusError,
    UnknownWorker,
    WouldDeadlock,
)
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin, call_off, listens
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine, Priority
from sitebus.relay import READ, Poller, encode
from sitebus.relay.dispatch import Dispatcher
from sitebus.relay.exports import Exports
from sitebus.sockets import Listener
from sitebus.workers import estate
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
from sitebus.workers.estate import Heirloom
from sitebus.workers.hand import Hand
from sitebus.workers.jobs import Job
from sitebus.workers.launch import Terms
from sitebus.workers.member import Beat, WorkerPicture
from sitebus.workers.nursery import Failure, Nursery, ZygoteNursery
from sitebus.workers.policy import Policy
from sitebus.workers.pool import Pool
from sitebus.workers.states import WorkerState

T = TypeVar("T")
Message = Mapping[str, Any]

#: How often whoever waits for workers looks whether the bus has become impatient; seconds.
GLANCE = 0.05
#: How long the last messages and the threads may take at the end.
GRACE = 1.0
#: How many jobs that have ended are remembered.
REMEMBERED = 100
#: How long workers may take once waits are to be cut short; seconds.
HASTE = 2.0
#: How long after its process the link of a worker may end: a child of its own may hold it.
TOGETHER = 0.1

DEBUG, INFO, WARNING = 10, 20, 30
#: More than a worker can have of anything: what JSON says exactly everywhere.
_LARGE = 1 << 53


class JobTicket:
    """A job as whoever wanted it sees it; see `sitebus.control.crew.JobView`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.settled = threading.Event()

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def kind(self) -> str:
        return str(self._job.kind)

    @property
    def state(self) -> str:
        return str(self._job.state)

    @property
    def reason(self) -> str:
        return self._job.reason

    @property
    def began(self) -> float:
        return self._job.began

    @property
    def ended(self) -> float | None:
        return self._job.ended

    @property
    def progress(self) -> tuple[int, int]:
        """How many of how many steps are done."""
        return self._job.total - self._job.left, self._job.total

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end, at most *timeout* seconds long; answer whether it has come."""
        return self.settled.wait(timeout)


class Supervisor(Plugin):
    """Start the workers with the bus, end them with it, and replace them meanwhile.

    ``engine.workers`` while it is subscribed; `sitebus.control.crew.Crew` says what others use.

    Args:
        bus: The supervisor's engine, whose sockets the workers get.
        policy: How many there are, and how much patience there is with them.
        terms: What they are told.
        listeners: Answers the sockets that they serve on, once those are bound.
        name: The site's.
        exports: The channels whose messages all processes hear.
        inplace: Whether a graceful is passed on, rather than a replacement of all.
        preload: Whether workers are forked from a process that has loaded the site.
    """

    def __init__(
        self,
        bus: Engine,
        policy: Policy,
        terms: Terms,
        listeners: Callable[[], Sequence[Listener]],
        *,
        name: str = "site",
        exports: Iterable[str] = (),
        inplace: bool = False,
        preload: bool = False,
    ) -> None:
        super().__init__(bus)
        self.policy = policy
        self.terms = terms
        self.listeners = listeners
        self.name = name
        self.inplace = inplace
        self._pool = Pool(policy, random.random)
        self._hands: dict[int, Hand] = {}
        self._tickets: dict[str, JobTicket] = {}
        self._questions: dict[int, tuple[int, Future[Any]]] = {}
        self._numbers = itertools.count(1)
        self._turns = itertools.count()
        self._failure: SitebusError | None = None
        self._told = ""
        self._aggregate = Aggregate()
        self._starting = False
        self._frozen = False
        self._adopted = False
        self._estate: dict[str, Any] | None = None
        self._heirlooms: list[Heirloom] = []
        self._up = False
        self._gone = threading.Event()
        self._gone.set()
        self._cancel_tick: Callable[[], None] = lambda: None
        self._poller = Poller("sitebus workers", self._stumbled)
        self._dispatcher = Dispatcher("sitebus relay", self._failed)
        self._exports = Exports(bus, exports, self._export)
        self._nursery = self._make_nursery(preload)
        self._hears: Mapping[str, Callable[[Hand, Message], object]] = {
            "ready": self._hear_ready,
            "unfit": self._hear_unfit,
            "beat": self._hear_beat,
            "log": self._hear_log,
            "publish": self._hear_publish,
            "answer": self._hear_answer,
            "stacks": self._hear_stacks,
            "metrics": self._hear_metrics,
            "draining": self._hear_draining,
        }
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

    def _make_nursery(self, preload: bool) -> Nursery:
        parts = (
            self._poller,
            self.terms,
            self.name,
            lambda: [listener.shared for listener in self.listeners()],
            self._hear,
            self._link_ended,
            self._bury_if_over,
            self._born,
        )
        if preload:
            return ZygoteNursery(*parts, boot_timeout=self.policy.boot_timeout)
        return Nursery(*parts)

    def subscribe(self) -> None:
        """Listen on the bus, and be its workers."""
        super().subscribe()
        self._exports.subscribe()
        self.bus.subscribe("SIGQUIT", self._dump_all)
        self.bus.workers = self

    def unsubscribe(self) -> None:
        """Listen no more."""
        if self.bus.workers is self:
            self.bus.workers = None
        self.bus.unsubscribe("SIGQUIT", self._dump_all)
        self._exports.unsubscribe()
        super().unsubscribe()

    # The life, as the bus has it.

    @listens("start", priority=Priority.SERVE)
    def start(self) -> None:
        """Start the workers, and return when all of them serve.

        Raises:
            WorkerUnfit: The first one could not; the others were ended.
        """
        self._failure, self._told = None, ""
        self._frozen, self._estate = False, None
        self._poller.start()
        self._dispatcher.start()
        self._up = True
        left = estate.take(self.bus.sockets.claim)
        if left is not None and self._post(lambda: self._adopt(*left)):
            return
        self._starting = True
        ticket = self._post(self._begin)
        while not ticket.wait(GLANCE):
            if self.bus.impatient or self.bus.called_off:
                return  # what there is ends with the stop that follows
        self._starting = False
        # That they are ready is said before that the site serves.
        self._dispatcher.settle(GRACE)
        if self._failure is not None:
            call_off(self.bus)
            raise self._failure

    @listens("start", priority=Priority.READY)
    def serve(self) -> None:
        """Be a listener before whom a start ends that was called off meanwhile."""

    def _begin(self) -> JobTicket:
        actions = self._pool.start(time.monotonic())
        job = self._pool.job
        assert job is not None
        ticket = self._ticket(job)
        self._perform(actions)
        return ticket

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Replace the workers of the image before this one, now that this one is complete."""
        self._starting = False
        if self._adopted:
            self._adopted = False
            self._attempt(lambda: self.roll("the supervisor was restarted"))

    def _adopt(self, told: Mapping[str, Any], left: Iterable[Heirloom]) -> bool:
        """Go on with the workers that the image before this one has left, if that can be."""
        try:
            pool = Pool.from_json(told["pool"], time.monotonic(), self.policy, random.random)
            self._aggregate = Aggregate.from_json(told["metrics"])
        except (KeyError, TypeError, ValueError):
            # Of another version. They finish what they serve, and leave.
            for each in left:
                each.close()
            return False
        self._adopted = True
        self._pool = pool
        lost = {each.serial for each in self._pool.snapshot()} - {0}
        for each in left:
            hand = self._nursery.adopt(each)
            self._hands[hand.serial] = hand
            self._watch(hand)
            lost.discard(hand.serial)
        for serial in lost:
            self._perform(self._pool.ended(serial, 0, time.monotonic()))
        self._log(f"Going on with {len(self._hands)} workers", INFO)
        self._tick()
        return True

    def _bequeath(self) -> None:
        """Leave the workers to the next image; they serve on, and notice nothing."""
        for hand in [each for each in self._hands.values() if each.is_cut_off]:
            hand.process.end()
            self._bury(hand)
        self._cancel_tick()
        self._frozen = True
        self._nursery.close()
        self._forget_questions()
        for ticket in self._tickets.values():
            ticket.settled.set()
        now = time.monotonic()
        for hand in self._hands.values():
            # Said already, but maybe not heard yet: who has no process is not carried over.
            self._pool.spawned(hand.serial, hand.process.pid, now)
        pool = self._pool.to_json(now)
        metrics = self._aggregate.to_json(REGISTRY.families())
        self._estate = {"pool": pool, "metrics": metrics}
        for hand in self._hands.values():
            self._poller.unwatch(hand.process.fileno())
            self._heirlooms.append(hand.detach())
        self._hands.clear()
        self._gone.set()

    @listens("execv")
    def execv(self) -> None:
        """Have the workers handed down."""
        if self._estate is not None:
            estate.leave(self._estate, self._heirlooms, self.bus.legacies)

    @listens("stop", priority=Priority.DRAIN)
    def begin_stop(self) -> None:
        """Have every worker finish what it serves; a restart leaves them to the next image."""
        if not self._up:
            return
        if self.bus.execv:
            self._post(self._bequeath)
            return
        for_good = self.bus.leaving
        self._post(lambda: self._begin_stop(for_good))
        if for_good:
            # A client had better be refused than wait for nobody; the workers let in who waits.
            for listener in self.listeners():
                self.bus.sockets.close(listener)

    def _begin_stop(self, for_good: bool) -> None:
        self._perform(self._pool.stop(time.monotonic(), for_good))
        self._nursery.give_up()

    @listens("stop", priority=Priority.SERVER_STOP)
    def stop(self) -> None:
        """Return when the last worker is gone."""
        if not self._up:
            return
        while not self._gone.wait(GLANCE):
            if self.bus.impatient:
                self._post(self._hurry)
                if not self._gone.wait(HASTE):
                    self._post(self._kill_all)
        self._post(self._forget_questions)
        self._post(self._nursery.close)
        self._starting = False

    @listens("exit")
    def exit(self) -> None:
        """End the threads."""
        if self._up:
            self._up = False
            self._dispatcher.stop(GRACE)
            self._poller.stop()

    @listens("graceful")
    def graceful(self) -> None:
        """Replace every worker, or have each reload in place; wait for neither."""
        if self.inplace:
            self.reload_in_place()
        else:
            self._attempt(lambda: self.roll("graceful"))

    def reload_in_place(self) -> None:
        """Have each worker reload in place: log files, certificates, and what plugins do."""
        self.bus.log("Bus graceful: passed on to the workers")
        self._attempt(lambda: self._post(lambda: self._broadcast("graceful")))

    def answer(self, signals: SignalHandler, unless: Container[str] = ()) -> None:
        """Have signals do what they do to a supervisor, but for those somebody decided about."""
        signals.renew = lambda: self._attempt(lambda: self.roll("SIGHUP"))
        for name, handler in (
            ("SIGUSR1", self.reload_in_place),
            ("SIGTTIN", lambda: self._attempt(lambda: self.add(1))),
            ("SIGTTOU", lambda: self._attempt(lambda: self.add(-1))),
        ):
            if name not in unless:
                signals.handlers[name] = handler

    def _attempt(self, command: Callable[[], object]) -> None:
        """Do what nobody waits for; a refusal is logged."""
        try:
            command()
        except SitebusError as error:
            self.bus.log(str(error), ERROR)

    # The workers, as others see them.

    def pictures(self) -> tuple[WorkerPicture, ...]:
        """Answer every worker, and every slot that has none now."""
        return self._post(self._pool.snapshot) if self._up else self._pool.snapshot()

    def mounts(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount, as the newest worker has them."""
        hands = sorted(self._hands.values(), key=lambda hand: hand.serial)
        return next((hand.mounts for hand in reversed(hands) if hand.mounts), [])

    def roll(self, reason: str) -> JobTicket:
        """Replace every worker, the next one ready before the last one drains.

        Raises:
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self._want(lambda now: self._pool.roll(reason, now), "replace the workers")

    def scale(self, count: int) -> JobTicket:
        """Have *count* workers from now on.

        Raises:
            BadWorkerCount: That is none.
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self._want(lambda now: self._pool.scale(count, now), "change their number")

    def add(self, difference: int) -> JobTicket:
        """Have so many workers more, or fewer, than were wanted last; one at least."""
        return self._want(
            lambda now: self._pool.scale(max(1, self._pool.wanted + difference), now),
            "change their number",
        )

    def drain(self, slot: int) -> JobTicket:
        """Replace the worker of one slot.

        Raises:
            UnknownWorker: There is none of that number.
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self._want(lambda now: self._pool.drain_worker(slot, now), "replace a worker")

    def kill(self, slot: int) -> None:
        """End a worker at once, whatever it does; another takes its place.

        Raises:
            UnknownWorker: There is none of that number.
        """
        self._post(lambda: self._hand_in(slot).process.kill(signal.SIGKILL))

    def dump(self, slot: int, timeout: float = 5.0) -> str:
        """Answer the stacks of a worker's threads, and what each serves.

        Raises:
            UnknownWorker: There is none of that number.
            NoWorkerAnswer: It does not say, which says something as well.
        """
        question = self._post(lambda: self._question(self._hand_in(slot), "stacks"))
        return str(self._wait_answer(slot, "where its threads are", question, timeout))

    def call(
        self, channel: str, /, *args: Any, timeout: float = 5.0, **kwargs: Any
    ) -> dict[str, Any]:
        """Publish on *channel* in every worker that serves, and gather what its listeners answer.

        Args:
            channel: Any channel of the workers' buses.
            args: JSON, as all that travels.
            timeout: Seconds to wait for them all.
            kwargs: Named values; JSON.

        Returns:
            By the worker's number, as text: the list of what its listeners returned, or the error
            that it is without them.

        Raises:
            TypeError: A value is not JSON.
            MessageTooLarge: All together it is too much.
        """
        told = {"channel": channel, "args": list(args), "kwargs": kwargs}
        encode({"is": "call", "re": _LARGE, **told})
        deadline = time.monotonic() + timeout
        # Of two in one slot, during a replacement, the newer one.
        asked = self._post(
            lambda: [
                (hand.slot, self._question(hand, "call", **told))
                for hand in {each.slot: each for each in self._serving()}.values()
            ]
        )
        found: dict[str, Any] = {}
        for slot, question in asked:
            left = max(0.0, deadline - time.monotonic())
            try:
                found[str(slot)] = self._wait_answer(slot, f"on {channel!r}", question, left)
            except NoWorkerAnswer as error:
                found[str(slot)] = error
        return found

    def families(self) -> list[Family]:
        """Answer what this process has counted, and all of its workers that ever were."""
        return self._aggregate.families(REGISTRY.families())

    def metrics(self) -> str:
        """Answer all of that in the text format of Prometheus."""
        return expose(self.families())

    def job(self, id: str) -> JobTicket | None:
        """Find a job; those that ended long ago are forgotten."""
        return self._tickets.get(id)

    # From here on: the poller's thread, but for `_post` and `_want`.

    def _post(self, work: Callable[[], T]) -> T:
        """Do *work* in the poller's thread, and answer what it answers."""
        if self._poller.is_current:
            return work()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                done.set_exception(error)

        # It would start for good what only the start of the bus may start.
        if not self._up or not self._poller.call_soon(run):
            raise NotServing("talk to the workers", self.bus.state)
        return done.result()

    def _want(self, wish: Callable[[float], Job], what: str) -> JobTicket:
        if self.bus.state != self.bus.machine.running:
            raise NotServing(what, self.bus.state)

        def work() -> JobTicket:
            ticket = self._ticket(wish(time.monotonic()))
            self._told = ""  # who asks once more will want to see it once more
            self._tick()
            return ticket

        return self._post(work)

    def _ticket(self, job: Job) -> JobTicket:
        if job.id not in self._tickets:
            while len(self._tickets) >= REMEMBERED:
                del self._tickets[next(iter(self._tickets))]
            self._tickets[job.id] = JobTicket(job)
        return self._tickets[job.id]

    def _tick(self) -> None:
        self._perform(self._pool.tick(time.monotonic()))

    def _perform(self, actions: Iterable[Action]) -> None:
        """Do what was decided, and what is decided because of it."""
        if self._frozen:
            return  # it is the next image's business
        for action in actions:
            self._acts[type(action)](action)
        if (job := self._pool.job) is not None:
            self._ticket(job)
        if self._pool.empty:
            self._gone.set()
        else:
            self._gone.clear()
        self._cancel_tick()
        due = self._pool.deadline()
        if due is not None:
            self._cancel_tick = self._poller.call_at(due, self._tick)

    def _spawn(self, action: Spawn) -> None:
        job = self._pool.job
        whole = job.id if job is not None and job.whole else ""
        self._nursery.bear(action.serial, action.slot, whole)

    def _born(self, serial: int, hand: Hand | None, failure: Failure | None) -> None:
        if hand is not None:
            self._hands[serial] = hand
            self._watch(hand)
            pid = hand.process.pid
            self._soon(lambda now: self._pool.spawned(serial, pid, now))
        elif failure is not None:
            reason, status = failure.reason, failure.status
            self._tell_of_fault(failure.text)
            self._soon(lambda now: self._pool.unfit(serial, reason, now, status))
            error = OSError(reason)
            self._soon(lambda now: self._pool.spawn_failed(serial, error, now))

    def _watch(self, hand: Hand) -> None:
        self._poller.watch(hand.process.fileno(), READ, lambda _: self._ended(hand))

    def _soon(self, event: Callable[[float], list[Action]]) -> None:
        """Tell the pool once the actions at hand are done."""
        self._poller.call_soon(lambda: self._perform(event(time.monotonic())))

    def _drain(self, action: Drain) -> None:
        hand = self._hands.get(action.serial)
        if hand is not None:
            successor = any(each is not hand for each in self._serving())
            timeout = self.policy.drain_timeout
            hand.send("drain", reason=action.reason, successor=successor, timeout=timeout)

    def _dump(self, action: Dump) -> None:
        hand = self._hands.get(action.serial)
        if hand is not None:
            hand.send("stacks", re=0)

    def _dump_all(self) -> None:
        """Log where all threads of all workers are; those of this process others log."""
        if self._up:
            self._post(lambda: self._broadcast("stacks", re=0))

    def _kill(self, action: Kill) -> None:
        hand = self._hands.get(action.serial)
        if hand is not None:
            hand.process.kill(action.signal)

    def _say(self, action: Say) -> None:
        # Why the start failed is raised by it, and said once by who asked for it.
        level = DEBUG if self._starting and action.level > INFO else action.level
        self._log(action.text, level)

    def _tell(self, action: Tell) -> None:
        self._dispatcher.post(lambda: self._publish(action.channel, action.args))

    def _settle(self, action: Settle) -> None:
        self._nursery.settled(action.job.id, str(action.job.state) == "done")
        self._ticket(action.job).settled.set()

    def _fail(self, action: Fail) -> None:
        self._failure = action.error

    # What happens to a worker.

    def _hear(self, hand: Hand, message: Message, fd: int | None) -> None:
        what = str(message.get("is"))
        if what == "kept":
            self._pass_on(hand, fd)
        elif what in self._hears:
            try:
                self._hears[what](hand, message)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                said = f"worker {hand.slot} sent what makes no sense ({what:.40}): {error!r:.400}"
                self._dispatcher.offer(lambda: self.bus.log(said, ERROR))

    def _hear_ready(self, hand: Hand, message: Message) -> None:
        hand.mounts = [(str(a), str(b), str(c)) for a, b, c in message["mounts"]]
        self._perform(self._pool.ready(hand.serial, time.monotonic()))

    def _hear_unfit(self, hand: Hand, message: Message) -> None:
        reason, status, text = (message[name] for name in ("reason", "status", "text"))
        self._tell_of_fault(str(text))
        self._perform(self._pool.unfit(hand.serial, str(reason), time.monotonic(), int(status)))

    def _tell_of_fault(self, text: str) -> None:
        """Log a traceback, once: each worker would say the same."""
        if text and text != self._told:
            self._told = text
            self._log(text, ERROR)

    def _hear_beat(self, hand: Hand, message: Message) -> None:
        requests, in_flight, rss = (int(message[name]) for name in ("requests", "in_flight", "rss"))
        oldest, lag, next_one = (float(message[name]) for name in ("oldest", "lag", "next"))
        beat = Beat(requests, in_flight, oldest, lag, rss, next_one)
        if not all(0 <= each < _LARGE for each in beat):
            raise ValueError(f"{beat} cannot be")
        self._perform(self._pool.beat(hand.serial, beat, time.monotonic()))

    def _hear_log(self, hand: Hand, message: Message) -> None:
        text, level = f"worker {hand.slot}: {message['message']}", int(message["level"])
        lost = self._dispatcher.lost
        if self._dispatcher.offer(lambda: self.bus.log(text, level)) and lost:
            self._dispatcher.lost = 0
            self._log(f"{lost} messages of workers were lost: listeners are too slow", WARNING)

    def _hear_publish(self, hand: Hand, message: Message) -> None:
        channel, args, kwargs = (message[name] for name in ("channel", "args", "kwargs"))
        if channel not in self._exports.channels:
            raise ValueError(f"channel {channel!r} is not exported")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise TypeError("args and kwargs are a list and an object")
        for other in self._serving():
            if other is not hand:
                other.send("publish", channel=channel, args=args, kwargs=kwargs)
        self._dispatcher.offer(lambda: self._exports.publish(channel, args, kwargs))

    def _hear_answer(self, hand: Hand, message: Message) -> None:
        _, question = self._questions.pop(int(message["re"]), (0, None))
        if question is None or question.done():
            return
        if "error" in message:
            what = "what it was asked"
            question.set_exception(NoWorkerAnswer(hand.slot, what, str(message["error"])))
        else:
            question.set_result(message["result"])

    def _hear_draining(self, hand: Hand, message: Message) -> None:
        self._perform(self._pool.draining(hand.serial, time.monotonic()))

    def _hear_metrics(self, hand: Hand, message: Message) -> None:
        snapshot = message["snapshot"]
        if not isinstance(snapshot, dict):
            raise TypeError("a snapshot is an object")
        self._aggregate.take(hand.slot, hand.serial, snapshot)

    def _hear_stacks(self, hand: Hand, message: Message) -> None:
        if message["re"]:
            self._hear_answer(hand, {"re": message["re"], "result": message["text"]})
        else:
            self._log(f"worker {hand.slot}, all threads:\n{message['text']}", WARNING)

    def _pass_on(self, hand: Hand, fd: int | None) -> None:
        """Give idle connections to a worker that serves, in turn."""
        others = [each for each in self._serving() if each is not hand]
        if others and fd is not None:  # else they are closed, as at any stop
            others[next(self._turns) % len(others)].send("kept", os.dup(fd))

    def _link_ended(self, hand: Hand) -> None:
        hand.is_cut_off = True
        self._forget_questions(hand.serial)
        self._bury_if_over(hand)
        if not hand.has_ended and hand.serial in self._hands:
            self._perform(self._pool.link_ended(hand.serial, time.monotonic()))

    def _ended(self, hand: Hand) -> None:
        """A process has ended; what it said last may still be in its link."""
        if hand.process.reap() is None and hand.process.is_alive:
            return
        hand.has_ended = True
        self._poller.unwatch(hand.process.fileno())
        self._bury_if_over(hand)
        if hand.serial in self._hands:
            self._poller.call_at(time.monotonic() + TOGETHER, lambda: self._bury(hand))

    def _bury_if_over(self, hand: Hand) -> None:
        """Do without waiting, if all is known: how a fork has ended its zygote has to say."""
        if hand.has_ended and hand.is_cut_off and hand.process.status is not None:
            self._bury(hand)

    def _bury(self, hand: Hand) -> None:
        if self._hands.pop(hand.serial, None) is None:
            return
        hand.close()
        self._forget_questions(hand.serial)
        # What it told may make no sense; it has ended all the same.
        self._poller.guarded(self._aggregate.retire, hand.serial)
        self._perform(self._pool.ended(hand.serial, hand.process.status or 0, time.monotonic()))

    def _hurry(self) -> None:
        for hand in self._hands.values():
            hand.send("hurry")

    def _kill_all(self) -> None:
        for hand in self._hands.values():
            hand.process.kill(signal.SIGKILL)

    # What all have in common.

    def _serving(self) -> list[Hand]:
        """Answer those that are READY."""
        ready = {each.serial for each in self._pool.snapshot() if each.state is WorkerState.READY}
        return [hand for serial, hand in self._hands.items() if serial in ready]

    def _hand_in(self, slot: int) -> Hand:
        """Answer the newest worker of *slot*.

        Raises:
            UnknownWorker: There is none.
        """
        found = [hand for hand in self._hands.values() if hand.slot == slot]
        if not found:
            raise UnknownWorker(slot, self._pool.wanted)
        return max(found, key=lambda hand: hand.serial)

    def _broadcast(self, what: str, **values: Any) -> None:
        for hand in self._serving():
            hand.send(what, **values)

    def _export(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Send a message that was published here to every worker."""
        told = {"channel": channel, "args": list(args), "kwargs": dict(kwargs)}
        encode({"is": "publish", **told})  # what cannot travel is the caller's business
        if self._up:
            self._poller.call_soon(lambda: self._broadcast("publish", **told))

    def _question(self, hand: Hand, what: str, **values: Any) -> Future[Any]:
        number = next(self._numbers)
        question: Future[Any] = Future()
        self._questions[number] = hand.serial, question
        if not hand.send(what, re=number, **values):
            self._forget_questions(hand.serial)
        return question

    def _wait_answer(self, slot: int, what: str, question: Future[Any], timeout: float) -> Any:
        if self._poller.is_current or self._dispatcher.is_current:
            raise WouldDeadlock("engine.workers", "a thread of its own", "the thread it runs in")
        try:
            return question.result(timeout)
        except TimeoutError:
            self._poller.call_soon(lambda: self._forget_question(question))
            raise NoWorkerAnswer(slot, what, f"nothing came within {timeout:g} s") from None

    def _forget_question(self, question: Future[Any]) -> None:
        for number, (_, each) in list(self._questions.items()):
            if each is question:
                del self._questions[number]

    def _forget_questions(self, serial: int | None = None) -> None:
        """Give up on what a worker, or everybody, was asked."""
        for number, (whose, question) in list(self._questions.items()):
            if serial in (None, whose):
                del self._questions[number]
                if not question.done():
                    question.set_exception(NoWorkerAnswer(0, "what it was asked", "it has ended"))

    def _log(self, text: str, level: int) -> None:
        self._dispatcher.post(lambda: self.bus.log(text, level))

    def _publish(self, channel: str, args: Sequence[Any]) -> None:
        with suppress(ChannelFailures):  # logged already
            self.bus.publish(channel, *args)

    def _stumbled(self, error: BaseException) -> None:
        # Not here: whoever listens to the log may take any time.
        self._dispatcher.post(lambda: self._failed(error))

    def _failed(self, error: BaseException) -> None:
        self.bus.log(f"Error among the workers: {error}", ERROR, traceback=error)
