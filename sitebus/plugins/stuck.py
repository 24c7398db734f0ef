"""Say which requests take long and where they are, and when no thread is left to serve.

Looks at `sitebus.serving`'s registry from a thread of its own, which sleeps while no request is
being served. It reports and does nothing else: a thread cannot be ended from outside without harm.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple

from sitebus.config.kinds import DURATION
from sitebus.config.options import Option, Row
from sitebus.listeners import ERROR, WARNING
from sitebus.mailbox import receive
from sitebus.plugins import Plugin, listens
from sitebus.process import Priority
from sitebus.serving import Frame, Registry, Request, Slot, ThreadPicture, stack_text

#: How often it looks while requests are served, at least; seconds.
PERIOD = 0.25

#: How long a stop waits for its thread, which may be in the middle of a listener; seconds.
GRACE = 1.0

#: How many requests of a group are named.
_MOST_NAMED = 5

#: What its thread is told, besides when a request woke it.
_ENDED = object()
_STOP = object()

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = ("site-packages", "dist-packages")


class ThreadMonitor(Plugin):
    """Log slow requests with their stacks; publish ``stuck`` when every worker thread is busy.

    A request that takes longer than *slow_request* is logged with its stack, again each time its
    age has doubled, and once more when it ends.

    When all worker threads have been busy with one request each for *stuck_after* seconds, the
    channel ``stuck`` is published once, with a tuple of a `sitebus.serving.ThreadPicture` for each,
    and ``unstuck`` when one of them is free again. ``registry.stuck`` is true in between.

    Args:
        bus: The engine, whose ``serving`` is looked at.
        slow_request: Seconds; 0 for never.
        stuck_after: Seconds; 0 for never.
        pool_size: How many worker threads there are, where servers do not say.
        registry: What to look at instead of ``bus.serving``.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("slow_request", DURATION, 10.0, "Log a request that takes longer; 0 is never."),
        Option(
            "stuck_after",
            DURATION,
            30.0,
            "Say so when every worker thread has been busy for longer; 0 is never.",
        ),
    )

    #: Seconds of its own lateness after which it says that nothing could run.
    stalled_after: float = 1.0

    def __init__(
        self,
        bus: Any,
        slow_request: float = 10.0,
        stuck_after: float = 30.0,
        *,
        pool_size: int | None = None,
        registry: Registry | None = None,
    ) -> None:
        super().__init__(bus)
        self.slow_request = slow_request
        self.stuck_after = stuck_after
        self.pool_size = pool_size
        self._registry = registry
        self._thread: threading.Thread | None = None
        self._box: SimpleQueue[object] = SimpleQueue()
        self._slow: dict[Request, _SlowRequest] = {}
        self._left_behind: set[Request] = set()

    @property
    def registry(self) -> Registry:
        """Where the requests are."""
        if self._registry is None:
            serving = getattr(self.bus, "serving", None)
            self._registry = serving if serving is not None else Registry()
        return self._registry

    def subscribe(self) -> None:
        """Declare ``stuck`` and ``unstuck``, and listen on the bus."""
        for channel in ("stuck", "unstuck"):
            self.bus.listeners.setdefault(channel, set())
        super().subscribe()

    def unsubscribe(self) -> None:
        """Stop listening, and stop looking."""
        super().unsubscribe()
        self.stop()

    # After a daemon has forked and before there are requests.
    @listens("start", priority=Priority.SERVE - 1)
    def start(self) -> None:
        """Begin to look."""
        if self._thread is not None or not (self.slow_request or self.stuck_after):
            return
        # Whoever serves before a start was left behind by an earlier life's stop.
        self._left_behind = {request for _, request in self.registry.in_flight()}
        self._slow = {}
        self._box = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(self._box,), name="sitebus thread monitor", daemon=True
        )
        self._thread.start()

    # After the servers: what a drain waits for is what one wants to be told.
    @listens("stop")
    def stop(self) -> None:
        """Look no more; an episode of being stuck ends with it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._box.put(_STOP)
        if thread is not threading.current_thread():
            thread.join(GRACE)
        self.registry.sleeper = None
        self._end_episode()

    def _run(self, box: SimpleQueue[object]) -> None:
        # A command given by a listener of ``stuck`` must not wait for a stop that waits for us.
        roll: set[int] = getattr(self.bus, "serving_threads", set())
        roll.add(threading.get_ident())
        try:
            self._look_until_ended(box)
        finally:
            roll.discard(threading.get_ident())

    def _look_until_ended(self, box: SimpleQueue[object]) -> None:
        due: float | None = None
        while True:
            due = due or self._fall_asleep(box)
            message = receive(box, due)
            if message is _STOP:
                return
            try:
                due = self._act_on(message, due, box)
            # Strangers' listeners, and their log.
            except Exception as error:  # noqa: BLE001
                due = time.monotonic() + self._period
                with suppress(Exception):
                    self.bus.log("Error in the thread monitor", ERROR, traceback=error)

    def _act_on(
        self, message: object | None, due: float | None, box: SimpleQueue[object]
    ) -> float | None:
        """Answer when to look again, if anybody is served."""
        if isinstance(message, float):
            self._tell_lateness(message)
            # Most requests are over before it is worth a look.
            return due or time.monotonic() + self._period
        if message is None and due is not None:
            self._tell_lateness(due)
        return self._look(box)

    def _fall_asleep(self, box: SimpleQueue[object]) -> float | None:
        """Ask to be woken by the next request; answer when to look if it is there already."""
        registry = self.registry

        def wake() -> None:
            registry.sleeper = None
            box.put(time.monotonic())

        registry.sleeper = wake
        if not self._open_requests():
            return None
        registry.sleeper = None
        return time.monotonic() + self._period

    def _look(self, box: SimpleQueue[object]) -> float | None:
        """Report what is due; answer when to look again, or None if nobody is served."""
        open_requests = self._open_requests()
        if self.slow_request:
            self._mind_the_slow(open_requests, box)
        if self.stuck_after:
            self._mind_the_stuck(open_requests)
        if not open_requests:
            return None
        now = time.monotonic()
        due = (due for _, request in open_requests for due in self._dues(request))
        return min((now + self._period, *(each for each in due if each > now)))

    def _dues(self, request: Request) -> Iterable[float]:
        """Answer when there was or is something to say of *request*."""
        if self.slow_request:
            yield self._slow_at(request)
        if self.stuck_after:
            yield request.since + self.stuck_after

    def _slow_at(self, request: Request) -> float:
        slow = self._slow.get(request)
        return request.since + (slow.next_age if slow is not None else self.slow_request)

    @property
    def _period(self) -> float:
        return min(each for each in (PERIOD, self.slow_request, self.stuck_after) if each)

    def _open_requests(self) -> list[tuple[Slot, Request]]:
        found = self.registry.in_flight()
        if self._left_behind:
            self._left_behind &= {request for _, request in found}
            return [each for each in found if each[1] not in self._left_behind]
        return found

    # Slow requests.

    def _mind_the_slow(
        self, open_requests: list[tuple[Slot, Request]], box: SimpleQueue[object]
    ) -> None:
        now = time.monotonic()
        for slot, request in open_requests:
            if now >= self._slow_at(request):
                picture = self.registry.picture(slot, request)
                if picture is not None:
                    self._tell_slow(request, picture, box)
        # What was told of and has ended; the loop above may just have added to it.
        for request, slow in list(self._slow.items()):
            if request.ended:
                del self._slow[request]
                self.bus.log(f"{slow.name} finished after {slow.took(request):.1f} s", WARNING)

    def _tell_slow(
        self, request: Request, picture: ThreadPicture, box: SimpleQueue[object]
    ) -> None:
        slow = self._slow.get(request)
        if slow is None:
            slow = self._slow[request] = _SlowRequest(_name_of(picture), self.slow_request)
            # It may have ended an instant ago; then the next lines notice.
            request.at_end = slow.noticing_the_end(box)
        told, slow.frames = slow.frames, picture.frames
        while slow.next_age <= picture.age:
            slow.next_age *= 2
        said = f"{slow.name} has taken {picture.age:.1f} s so far in {picture.name!r}"
        if told == picture.frames:
            place = picture.frames[-1]
            where = f"{place.where} ({place.file}:{place.line})"
            self.bus.log(f"{said}, and is at the same place still: {where}", WARNING)
        else:
            self.bus.log(f"{said}, which is at\n{_text(picture.inside)}", WARNING)

    # Stuck threads.

    def _mind_the_stuck(self, open_requests: list[tuple[Slot, Request]]) -> None:
        size = self.pool_size or self.registry.workers
        now = time.monotonic()
        busy = [each for each in open_requests if now >= each[1].since + self.stuck_after]
        if not size or len(busy) < size:
            self._end_episode()
        elif not self.registry.stuck:
            seen = (self.registry.picture(*each) for each in busy)
            pictures = tuple(picture for picture in seen if picture is not None)
            if len(pictures) >= size:  # none of them came free while they were looked at
                self._begin_episode(pictures)

    def _begin_episode(self, pictures: tuple[ThreadPicture, ...]) -> None:
        self.registry.stuck = True
        least = min(picture.age for picture in pictures)
        self.bus.log(
            f"All {len(pictures)} worker threads are stuck: each has been at one request for "
            f"{least:.1f} s or longer, and nobody else is served\n{_grouped(pictures)}",
            ERROR,
        )
        self.bus.publish("stuck", pictures)

    def _end_episode(self) -> None:
        if self.registry.stuck:
            self.registry.stuck = False
            self.bus.log("Worker threads are free again", WARNING)
            self.bus.publish("unstuck")

    def _tell_lateness(self, due: float) -> None:
        late = time.monotonic() - due
        if late >= self.stalled_after:
            self.bus.log(
                f"The interpreter was stalled for {late:.1f} s: no thread could run, because "
                "something held the interpreter's lock or the whole machine stood still",
                WARNING,
            )


class _SlowRequest:
    """What was told of one request, and what is to be told next."""

    def __init__(self, name: str, next_age: float) -> None:
        self.name = name
        self.next_age = next_age
        self.frames: tuple[Frame, ...] = ()
        self._ended: float | None = None

    def noticing_the_end(self, box: SimpleQueue[object]) -> Callable[[], None]:
        def notice() -> None:
            self._ended = time.monotonic()
            box.put(_ENDED)

        return notice

    def took(self, request: Request) -> float:
        """Answer how long *request*, which has ended, took."""
        ended = self._ended if self._ended is not None else time.monotonic()
        return ended - request.since


class _Group(NamedTuple):
    """Threads that are at the same place."""

    where: str
    pictures: list[ThreadPicture]

    def __str__(self) -> str:
        count = len(self.pictures)
        named = "".join(
            f"  {each.name}: {each.request}, {each.age:.1f} s\n"
            for each in self.pictures[:_MOST_NAMED]
        )
        more = f"  and {count - _MOST_NAMED} more\n" if count > _MOST_NAMED else ""
        threads = "1 thread" if count == 1 else f"{count} threads"
        return f"{threads} in {self.where}:\n{named}{more}{_text(self.pictures[0].inside)}"


def _grouped(pictures: Iterable[ThreadPicture]) -> str:
    """Write *pictures*, those at the same place together, the most first."""
    groups: dict[tuple[Frame, ...], _Group] = {}
    for picture in pictures:
        place = _place(picture.frames)
        groups.setdefault(place, _Group(place[0].where, [])).pictures.append(picture)
    ordered = sorted(groups.values(), key=lambda group: -len(group.pictures))
    return "\n".join(map(str, ordered))


def _place(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Answer the end of *frames* that tells: from the innermost that is not Python's own.

    Whoever waits is in `threading` or `socket` in the end; who called them is the news.
    """
    for number in range(len(frames) - 1, -1, -1):
        if not _is_pythons_own(frames[number].file):
            return frames[number:]
    return frames[-1:]


def _is_pythons_own(file: str) -> bool:
    inside = file.startswith((_STANDARD_LIBRARY, "<frozen"))
    return inside and not any(name in file for name in _INSTALLED)


def _text(frames: tuple[Frame, ...]) -> str:
    return stack_text(frames).rstrip("\n")


def _name_of(picture: ThreadPicture) -> str:
    serving = picture.request
    mount = f" in {serving.mount}" if serving is not None and serving.mount else ""
    return f"{serving}{mount}"
