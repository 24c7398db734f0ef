"""What others ask of the workers: jobs, questions, messages, and looks; from any thread."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sitebus.control.aggregate import Aggregate
from sitebus.control.exposition import expose
from sitebus.control.families import Family
from sitebus.control.metrics import REGISTRY
from sitebus.errors import ChannelFailures, NoWorkerAnswer, SitebusError, WouldDeadlock
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin
from sitebus.process import Engine
from sitebus.relay import Poller, encode
from sitebus.workers.hand import Hand
from sitebus.workers.hearing import LARGE, Handler, Hearing
from sitebus.workers.keeper import Keeper
from sitebus.workers.member import WorkerPicture
from sitebus.workers.policy import Policy
from sitebus.workers.pool import Pool
from sitebus.workers.tickets import JobTicket
from sitebus.workers.voice import Voice


class Commands(Plugin):
    """The workers as others see them; `sitebus.control.crew.Crew` says what the control uses.

    Attributes:
        aggregate: What all workers have counted.
        keeper: Who does what is asked.
        hearing: Who takes what they say; to be set before they say anything.
    """

    hearing: Hearing

    def __init__(self, bus: Engine, policy: Policy) -> None:
        super().__init__(bus)
        self.aggregate = Aggregate()
        self._voice = Voice(bus)
        self._poller = Poller("sitebus workers", self._voice.stumbled)
        self.keeper = Keeper(bus, policy, self._poller, self._voice)

    # Jobs.

    def roll(self, reason: str) -> JobTicket:
        """Replace every worker, the next one ready before the last one drains.

        Raises:
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self.keeper.want(lambda pool, now: pool.roll(reason, now), "replace the workers")

    def reload(self, reason: str) -> JobTicket:
        """Replace every worker because its code has changed; a reload that runs is given up.

        Raises:
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self.keeper.want(lambda pool, now: pool.reload(reason, now), "reload the workers")

    def scale(self, count: int) -> JobTicket:
        """Have *count* workers from now on.

        Raises:
            BadWorkerCount: That is none.
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self._scale(lambda pool: count)

    def add(self, difference: int) -> JobTicket:
        """Have so many workers more, or fewer, than were wanted last; one at least."""
        return self._scale(lambda pool: max(1, pool.wanted + difference))

    def _scale(self, count: Callable[[Pool], int]) -> JobTicket:
        what = "change their number"
        return self.keeper.want(lambda pool, now: pool.scale(count(pool), now), what)

    def drain(self, slot: int) -> JobTicket:
        """Replace the worker of one slot.

        Raises:
            UnknownWorker: There is none of that number.
            RollRunning: Another job is not done.
            NotServing: The bus is not started.
        """
        return self.keeper.want(lambda pool, now: pool.drain_worker(slot, now), "replace a worker")

    def job(self, id: str) -> JobTicket | None:
        """Find a job; those that ended long ago are forgotten."""
        return self.keeper.tickets.find(id)

    # At once.

    def attempt(self, command: Callable[[], object]) -> None:
        """Do what nobody waits for; a refusal is logged."""
        try:
            command()
        except SitebusError as error:
            self.bus.log(str(error), ERROR)

    def reload_in_place(self) -> None:
        """Have each worker reload in place: log files, certificates, and what plugins do."""
        self.bus.log("Bus graceful: passed on to the workers")
        self.attempt(lambda: self.keeper.post(lambda: self.keeper.broadcast("graceful")))

    def kill(self, slot: int) -> None:
        """End a worker at once, whatever it does; another takes its place.

        Raises:
            UnknownWorker: There is none of that number.
        """
        self.keeper.post(lambda: self.keeper.hand_in(slot).process.kill(signal.SIGKILL))

    def dump(self, slot: int, timeout: float = 5.0) -> str:
        """Answer the stacks of a worker's threads, and what each serves.

        Raises:
            UnknownWorker: There is none of that number.
            NoWorkerAnswer: It does not say, which says something as well.
        """
        keeper = self.keeper
        question = keeper.post(lambda: keeper.questions.ask(keeper.hand_in(slot), "stacks"))
        self._check_thread()
        return str(keeper.questions.wait(slot, "where its threads are", question, timeout))

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
        encode({"is": "call", "re": LARGE, **told})
        deadline = time.monotonic() + timeout
        questions = self.keeper.questions
        asked = self.keeper.post(
            lambda: [(hand.slot, questions.ask(hand, "call", **told)) for hand in self._newest()]
        )
        found: dict[str, Any] = {}
        for slot, question in asked:
            self._check_thread()
            left = max(0.0, deadline - time.monotonic())
            try:
                found[str(slot)] = questions.wait(slot, f"on {channel!r}", question, left)
            except NoWorkerAnswer as error:
                found[str(slot)] = error
        return found

    def ask(
        self, channel: str, args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float
    ) -> list[Any]:
        """Publish in this process and in every worker, and answer all that listeners return.

        Raises:
            ChannelFailures: A listener failed, or a worker did not answer.
        """
        told = self.call(channel, *args, timeout=timeout, **kwargs)
        found = self.hearing.ask(channel, args, kwargs)
        failed = [each for each in told.values() if isinstance(each, Exception)]
        if failed:
            raise ChannelFailures(channel, failed)
        return [*found, *(each for answers in told.values() for each in answers)]

    def _newest(self) -> list[Hand]:
        """Answer one for each slot: of two, during a replacement, the newer one."""
        return list({each.slot: each for each in self.keeper.serving()}.values())

    def _check_thread(self) -> None:
        if self._poller.is_current or self._voice.dispatcher.is_current:
            raise WouldDeadlock("engine.workers", "a thread of its own", "the thread it runs in")

    # For parts of this process that talk to the workers.

    def say(self, text: str, level: int) -> None:
        """Log a line, from whichever thread."""
        self._voice.log(text, level)

    def missed(self, hand: Hand) -> None:
        """Count a message that a worker does not get, and tell of it."""
        self._voice.losses.add(f"worker {hand.slot}")

    def hear(self, what: str, handler: Handler) -> None:
        """Have *handler* called for each message of that name, in the poller's thread."""
        self.hearing.add(what, handler)

    def on_gone(self, handler: Callable[[int], object]) -> None:
        """Have *handler* told the serial of each worker whose process has ended; as above."""
        self.keeper.farewells.append(handler)

    def tell(self, what: str, **values: Any) -> None:
        """Send a message to every worker that serves.

        Raises:
            TypeError: A value is not JSON.
            MessageTooLarge: All together it is too much.
        """
        encode({"is": what, **values})  # what cannot travel is the caller's business
        if self.keeper.is_up:
            self._poller.call_soon(lambda: self.keeper.broadcast(what, **values))

    def export(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Send a message that was published here to every worker; raises what `tell` does."""
        told = {"channel": channel, "args": list(args), "kwargs": dict(kwargs)}
        encode({"is": "publish", **told})
        if self.keeper.is_up:
            self._poller.call_soon(lambda: self.hearing.spread(told))

    # Looks.

    def pictures(self) -> tuple[WorkerPicture, ...]:
        """Answer every worker, and every slot that has none now."""
        keeper = self.keeper
        return keeper.post(keeper.pool.snapshot) if keeper.is_up else keeper.pool.snapshot()

    def mounts(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount, as the newest worker has them."""
        hands = sorted(self.keeper.hands.values(), key=lambda hand: hand.serial)
        return next((hand.mounts for hand in reversed(hands) if hand.mounts), [])

    def families(self) -> list[Family]:
        """Answer what this process has counted, and all of its workers that ever were."""
        return self.aggregate.families(REGISTRY.families())

    def metrics(self) -> str:
        """Answer all of that in the text format of Prometheus."""
        return expose(self.families())
