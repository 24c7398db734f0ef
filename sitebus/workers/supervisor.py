"""The supervisor's part in a site of several processes: the workers' life is that of the bus.

`sitebus.workers.keeper` does what the pool decides about them; what others ask of them is in
`sitebus.workers.commands`. Here is what start, stop, graceful and restart mean.

Workers are spawned from the poller's thread. No signal is tied to the death of that thread: the end
of the link tells a worker all it needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from sitebus.plugins import call_off, listens
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine, Priority
from sitebus.relay.exports import Exports
from sitebus.sockets import Listener
from sitebus.workers import estate
from sitebus.workers.commands import Commands
from sitebus.workers.estate import Heirloom
from sitebus.workers.hearing import Hearing
from sitebus.workers.launch import Terms
from sitebus.workers.nursery import Nursery
from sitebus.workers.policy import Policy
from sitebus.workers.succession import adopt, bequeath
from sitebus.workers.tickets import JobTicket
from sitebus.workers.voice import WARNING

__all__ = ["JobTicket", "Supervisor"]

#: How often whoever waits for workers looks whether the bus has become impatient; seconds.
GLANCE = 0.05
#: How long the last messages and the threads may take at the end.
GRACE = 1.0
#: How long workers may take once waits are to be cut short; seconds.
HASTE = 2.0


class Supervisor(Commands):
    """Start the workers with the bus, end them with it, and replace them meanwhile.

    ``engine.workers`` while it is subscribed.

    Args:
        bus: The supervisor's engine, whose sockets the workers get.
        policy: How many there are, and how much patience there is with them.
        terms: What they are told.
        listeners: Answers the sockets that they serve on, once those are bound.
        name: The site's.
        exports: The channels whose messages all processes hear, or patterns of them.
        news: Patterns of channels whose messages here the workers hear as well.
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
        news: Iterable[str] = (),
        inplace: bool = False,
        preload: bool = False,
    ) -> None:
        super().__init__(bus, policy)
        self.policy = policy
        self.terms = terms
        self.listeners = listeners
        self.name = name
        self.inplace = inplace
        self._is_adopted = False
        self._estate: tuple[dict[str, Any], list[Heirloom]] | None = None
        self._exports = Exports(bus, exports, self.export, also=news)
        keeper = self.keeper
        self.hearing = Hearing(keeper, self._voice, self._exports, lambda: self.aggregate)
        keeper.lenient = terms.reload
        keeper.farewells.append(lambda serial: self.aggregate.retire(serial))
        keeper.nursery = self._make_nursery(preload)

    def _make_nursery(self, preload: bool) -> Nursery:
        parts: tuple[Any, ...] = (
            self._poller,
            self.terms,
            self.name,
            lambda: [listener.shared for listener in self.listeners()],
            self.hearing.hear,
            self.keeper.cut_off,
            self.keeper.bury_if_over,
            self.keeper.born,
        )
        patience = self.policy.boot_timeout
        if preload:
            from sitebus.workers.preloading import ZygoteNursery

            return ZygoteNursery(*parts, boot_timeout=patience)
        if self.terms.warm:
            from sitebus.workers.warming import WarmNursery

            nursery = WarmNursery(*parts, boot_timeout=patience, warn=self._warn)
            self.hear("seen", nursery.learn)
            return nursery
        return Nursery(*parts)

    def _warn(self, text: str) -> None:
        self._voice.log(text, WARNING)

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

    @listens("start", priority=Priority.SERVE)
    def start(self) -> None:
        """Start the workers, and return when all of them serve.

        Raises:
            WorkerUnfit: The first one could not; the others were ended.
        """
        keeper = self.keeper
        keeper.failure, keeper.is_frozen, self._estate = None, False, None
        self._voice.forget_fault()
        self._poller.start()
        self._voice.dispatcher.start()
        keeper.is_up = True
        if self._goes_on():
            return
        keeper.is_starting = True
        ticket = keeper.post(keeper.begin)
        while not ticket.wait(GLANCE):
            if self.bus.impatient or self.bus.called_off:
                return  # what there is ends with the stop that follows
        keeper.is_starting = False
        # That they are ready is said before that the site serves.
        self._voice.dispatcher.settle(GRACE)
        if keeper.failure is not None:
            call_off(self.bus)
            raise keeper.failure

    def _goes_on(self) -> bool:
        """Go on with what the image before this one has left, if it has left anything."""
        left = estate.take(self.bus.sockets.claim)
        return left is not None and self.keeper.post(lambda: self._adopt(*left))

    def _adopt(self, told: Mapping[str, Any], left: Iterable[Heirloom]) -> bool:
        aggregate = adopt(self.keeper, self._voice, told, left)
        self._is_adopted = aggregate is not None
        if aggregate is not None:
            self.aggregate = aggregate
        return self._is_adopted

    @listens("start", priority=Priority.READY)
    def serve(self) -> None:
        """Be a listener before whom a start ends that was called off meanwhile."""

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Replace the workers of the image before this one, now that this one is complete."""
        self.keeper.is_starting = False
        if self._is_adopted:
            self._is_adopted = False
            self.attempt(lambda: self.roll("the supervisor was restarted"))

    @listens("execv")
    def execv(self) -> None:
        """Have the workers handed down."""
        if self._estate is not None:
            estate.leave(*self._estate, self.bus.legacies)

    @listens("stop", priority=Priority.DRAIN)
    def begin_stop(self) -> None:
        """Have every worker finish what it serves; a restart leaves them to the next image."""
        keeper = self.keeper
        if not keeper.is_up:
            return
        if self.bus.execv:
            self._estate = keeper.post(lambda: bequeath(keeper, self._poller, self.aggregate))
            return
        for_good = self.bus.leaving
        keeper.post(lambda: keeper.end(for_good))
        if for_good:
            # A client had better be refused than wait for nobody; the workers let in who waits.
            for listener in self.listeners():
                self.bus.sockets.close(listener)

    @listens("stop", priority=Priority.SERVER_STOP)
    def stop(self) -> None:
        """Return when the last worker is gone."""
        keeper = self.keeper
        if not keeper.is_up:
            return
        while not keeper.gone.wait(GLANCE):
            if self.bus.impatient:
                keeper.post(keeper.hurry)
                if not keeper.gone.wait(HASTE):
                    keeper.post(keeper.kill_all)
        keeper.post(keeper.questions.forget)
        keeper.post(keeper.nursery.close)
        keeper.is_starting = False

    @listens("exit")
    def exit(self) -> None:
        """End the threads."""
        if self.keeper.is_up:
            self.keeper.is_up = False
            self._voice.dispatcher.stop(GRACE)
            self._poller.stop()

    @listens("graceful")
    def graceful(self) -> None:
        """Replace every worker, or have each reload in place; wait for neither."""
        if self.inplace:
            self.reload_in_place()
        else:
            self.attempt(lambda: self.roll("graceful"))

    def answer(self, signals: SignalHandler, unless: Container[str] = ()) -> None:
        """Have signals do what they do to a supervisor, but for those somebody decided about."""
        signals.renew = lambda: self.attempt(lambda: self.roll("SIGHUP"))
        for name, handler in (
            ("SIGUSR1", self.reload_in_place),
            ("SIGTTIN", lambda: self.attempt(lambda: self.add(1))),
            ("SIGTTOU", lambda: self.attempt(lambda: self.add(-1))),
        ):
            if name not in unless:
                signals.handlers[name] = handler

    def _dump_all(self) -> None:
        """Log where all threads of all workers are; those of this process others log."""
        if self.keeper.is_up:
            self.keeper.post(lambda: self.keeper.broadcast("stacks", re=0))
