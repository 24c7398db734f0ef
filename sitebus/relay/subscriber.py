"""What a part of a program hears of other nodes, when it asks.

Messages wait here, up to a limit; what comes beyond it is dropped and counted, for a subscriber
that nobody asks must not fill the memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sitebus.closing import Closing
from sitebus.relay.dispatch import MOST_BYTES
from sitebus.relay.patterns import Patterns

if TYPE_CHECKING:
    from sitebus.relay.envelope import Envelope


class Subscriber(Closing):
    """Get the messages of some channels, in order; made by ``relay.subscribe(channels)``.

    A ``for`` and an ``async for`` over it end when it is closed, here or by the end of the relay.

    Args:
        channels: The channels, or patterns of them.
        most: How many messages may wait; of large ones, as many as came in `MOST_BYTES`.
        on_close: Is told when it is closed.
        on_loss: Is told of each message that there was no room for.

    Attributes:
        lost: How many messages there was no room for.
    """

    def __init__(
        self,
        channels: Patterns,
        most: int,
        on_close: Callable[[Subscriber], object],
        on_loss: Callable[[], object],
    ) -> None:
        self.channels = channels
        self.lost = 0
        self._most = most
        self._on_close = on_close
        self._on_loss = on_loss
        self._waiting: deque[Envelope] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._wakers: set[Callable[[], object]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Subscriber {', '.join(self.channels)}>"

    @property
    def closed(self) -> bool:
        """Whether no more messages come; some may wait."""
        return self._closed

    def get(self, block: bool = False, timeout: float | None = None, envelope: bool = False) -> Any:
        """Answer the next message; None if there is none.

        Args:
            block: Wait for one.
            timeout: Wait so many seconds at most; for ever if left out.
            envelope: Answer the whole `Envelope`, with its channel and its source, and not only
                what was put.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._waiting and block and not self._closed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return self._take(envelope)

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        envelope: bool = False,
    ) -> Any:
        """Wait for the next message, on any event loop; None if there is none in time."""
        import asyncio

        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self._arrival()
                    with self._changed:
                        # Somebody else may have been quicker.
                        if self._waiting or self._closed:
                            return self._take(envelope)
        except TimeoutError:
            return None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                raise StopIteration
            return self._take(False)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while True:
            await self._arrival()
            with self._changed:
                if self._waiting:
                    return self._take(False)
                if self._closed:
                    raise StopAsyncIteration

    def close(self) -> None:
        """Get no more messages; those that wait can still be asked for."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._wake()
        self._on_close(self)

    def offer(self, envelope: Envelope) -> None:
        """Have a message wait here, if it is for one of the channels; for the relay."""
        if envelope.ch not in self.channels:
            return
        with self._changed:
            if self._closed:
                return
            size = self._size + envelope.size
            if len(self._waiting) < self._most and (size <= MOST_BYTES or not envelope.size):
                self._waiting.append(envelope)
                self._size = size
                self._wake()
                return
            self.lost += 1
        self._on_loss()

    def _take(self, whole: bool) -> Any:
        if not self._waiting:
            return None
        envelope = self._waiting.popleft()
        self._size -= envelope.size
        return envelope if whole else message_in(envelope)

    def _wake(self) -> None:
        self._changed.notify()
        for wake in self._wakers:
            wake()

    async def _arrival(self) -> None:
        """Wait until a message waits or none will come."""
        import asyncio

        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(arrived.set)

        with self._changed:
            if self._waiting or self._closed:
                return
            self._wakers.add(wake)
        try:
            await arrived.wait()
        finally:
            with self._changed:
                self._wakers.discard(wake)


def message_in(envelope: Envelope) -> Any:
    """Answer what was put; of what was published on a bus, its one value, or all it carries."""
    if len(envelope.args) == 1 and not envelope.kw:
        return envelope.args[0]
    return {"args": list(envelope.args), "kwargs": envelope.kw}


class Ear(Protocol):
    """What wants the messages of some channels; a `Subscriber`, for one."""

    @property
    def channels(self) -> Patterns:
        """Which ones."""

    def offer(self, envelope: Envelope) -> None:
        """Take a message; any thread may call this, and it must not block."""

    def close(self) -> None:
        """Expect no more."""


class Audience:
    """The subscribers of this process.

    Args:
        most: How many messages may wait for each.
        want: Has the messages that an ear wants sent here from now on.
        unwant: Undoes that.
        lost: Is told of each message that a subscriber had no room for.
    """

    def __init__(
        self,
        most: int,
        want: Callable[[Ear], object],
        unwant: Callable[[Ear], object],
        lost: Callable[[], object],
    ) -> None:
        self._most = most
        self._want = want
        self._unwant = unwant
        self._lost = lost
        self._lock = threading.RLock()
        #: Replaced as a whole, so that whoever tells them something keeps those it began with.
        self._ears: tuple[Ear, ...] = ()

    @property
    def wants(self) -> tuple[Patterns, ...]:
        """What each of them wants."""
        return tuple(each.channels for each in self._ears)

    def subscriber(self, channels: Patterns) -> Subscriber:
        """Make a subscriber, which hears nothing before it may `join`."""
        return Subscriber(channels, self._most, self.leave, self._lost)

    def join(self, ear: Ear) -> None:
        """Have an ear hear from here on."""
        self._want(ear)
        with self._lock:
            self._ears = (*self._ears, ear)

    def hear(self, envelope: Envelope) -> bool:
        """Give a message to those that want it; tell whether anybody does."""
        wanted = [each for each in self._ears if envelope.ch in each.channels]
        for each in wanted:
            each.offer(envelope)
        return bool(wanted)

    def has_ear_for(self, channel: str) -> bool:
        """Tell whether anybody wants messages on a channel."""
        return any(channel in each.channels for each in self._ears)

    def close(self) -> None:
        """Close them all."""
        for each in self._ears:
            each.close()

    def leave(self, ear: Ear) -> None:
        """Have an ear hear no more; no harm if it never did."""
        with self._lock:
            left = tuple(each for each in self._ears if each is not ear)
            gone, self._ears = len(left) < len(self._ears), left
        if gone:
            self._unwant(ear)
