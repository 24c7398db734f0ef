"""What was asked of hosts, and how its answers come: at once, one by one, or both ways.

Nothing here knows how a host is reached; a call holds a feed of what is said, and is told what to
do with the host's process when it is over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sitebus.closing import Closing
from sitebus.errors import CallTimeout, FleetError, HostLost
from sitebus.fleet.said import failure, read, senseless, shaped

if TYPE_CHECKING:
    import asyncio

    from sitebus.fleet._mitogen import Feed

#: How many items of a stream are read before more are asked for; less than the agent's window.
_HALF_A_WINDOW = 128
#: How long a host may take to say that both ways are open; seconds.
_OPENING = 10.0
#: A message has room for numbers below this one.
_HANDLES = 1 << 32


class End(Enum):
    """How a call was over."""

    GOOD = "good"
    LATE = "late"
    STOPPED = "stopped"
    LOST = "lost"


#: Told once, when a call is over.
Over = Callable[[End], object]


class Call:
    """One thing that was asked of a host.

    Attributes:
        host: The host's name.
        what: What was asked for, for messages.
    """

    def __init__(self, host: str, what: str, feed: Feed | None, over: Over) -> None:
        self.host = host
        self.what = what
        self.feed = feed
        self._over = over
        self._ended: End | None = None
        self._lock = threading.Lock()

    def _end(self, how: End) -> None:
        with self._lock:
            if self._ended is not None:
                return
            self._ended = how
        feed, self.feed = self.feed, None
        if feed is not None:
            if how in (End.LATE, End.STOPPED):
                feed.link.tell(feed.number, 0)
            feed.close()
        self._over(how)

    def _take(self, said: str | bytes) -> dict[str, Any]:
        """Read what was said; a failure is raised, and the call over."""
        if isinstance(said, bytes):
            return {"bytes": said}
        told = read(said)
        if told is None:
            self._end(End.STOPPED)
            raise senseless(self.host)
        if "failed" in told:
            self._end(End.GOOD)
            raise failure(self.host, self.what, told["failed"])
        if "done" in told:
            self._end(End.GOOD)
        return told

    def _next(self, timeout: float | None) -> dict[str, Any]:
        """Answer what is said next.

        Raises:
            TimeoutError: Nothing is, in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            feed = self.feed
            if feed is None:
                raise HostLost(self.host, f"{self.what} was given up; ask again")
            left = None if end is None else max(0.0, end - time.monotonic())
            said = self._heard(lambda feed=feed, left=left: feed.get(left))  # type: ignore[misc]
            if said is not None:
                return self._take(said)

    def _heard(self, hear: Callable[[], str | bytes | None]) -> str | bytes | None:
        try:
            return hear()
        except HostLost:
            self._end(End.LOST)
            raise

    def _late(self, seconds: float) -> CallTimeout:
        self._end(End.LATE)
        sentence = (
            f"{self.what} has not ended within {seconds:g} s; what it does there is not known"
        )
        return CallTimeout(self.host, f"{sentence}; allow more, or see the host's own logs")


class Pending(Call):
    """An answer that is to come.

    Args:
        timeout: How long it may take in all, from now.
        error: What it has come to before it began.
    """

    def __init__(
        self,
        host: str,
        what: str,
        feed: Feed | None,
        over: Over,
        *,
        timeout: float | None = None,
        error: FleetError | None = None,
        shape: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(host, what, feed, over)
        self.timeout = timeout
        self.ends = None if timeout is None else time.monotonic() + timeout
        self._error = error
        self._value: Any = None
        self._done = error is not None
        self._shape = shape

    @property
    def is_done(self) -> bool:
        """Whether `result` answers at once."""
        return self._done

    def result(self, timeout: float | None = None) -> Any:
        """Answer what came of it.

        Args:
            timeout: How long to wait, if not as long as it may take.

        Raises:
            CallTimeout: It has not come in time; the call is given up.
            HostLost: It will not come.
            RemoteError: It is an exception.
        """
        if not self._done:
            self.ends_within(timeout)
            left = None if self.ends is None else max(0.0, self.ends - time.monotonic())
            self._settle(lambda: self._next(left))
        if self._error is not None:
            raise self._error
        return self._value

    def _settle(self, hear: Callable[[], dict[str, Any]]) -> None:
        try:
            told = hear()
            done = told.get("done")
            self._value = done if self._shape is None else shaped(self.host, self._shape, done)
        except TimeoutError:
            self.expire()
        except FleetError as error:
            self._error = error
        self._done = True

    def ends_within(self, timeout: float | None) -> None:
        """Have it take no longer than *timeout* seconds from now."""
        if timeout is None:
            return
        ends = time.monotonic() + timeout
        if self.ends is None or ends < self.ends:
            self.ends, self.timeout = ends, timeout

    def expire(self) -> None:
        """Give it up, since it takes longer than it may."""
        self._error, self._done = self._late(self.timeout or 0.0), True

    def cancel(self) -> None:
        """Give it up: nobody wants the answer."""
        if not self._done:
            self._error = HostLost(self.host, f"{self.what} was given up; ask again")
            self._done = True
            self._end(End.STOPPED)

    def outcome(self) -> Any:
        """Answer what came of it, as `result` does, or the error that it has come to."""
        try:
            return self.result()
        except FleetError as error:
            return error

    def hear(self, message: Any) -> bool:
        """Take a message that came by a choice; tell whether it was the answer."""
        feed = self.feed
        if feed is None or self._done:
            return False
        said: list[str | bytes | None] = []

        def take() -> dict[str, Any]:
            said.append(self._heard(lambda: feed.read(message)))
            return {} if said[0] is None else self._take(said[0])

        try:
            told = take()
        except FleetError as error:
            self._error, self._done = error, True
            return True
        if said[0] is None:
            return False
        self._settle(lambda: told)
        return True

    async def aresult(self) -> Any:
        """Answer what came of it without holding up the loop; raises as `result` does."""
        import asyncio  # who awaits has it; for a command it would be the largest of its imports

        if self._done or self.feed is None:
            return self.result()
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        receiver = self.feed.receiver

        def notify(_: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(heard.set)

        receiver.notify = notify
        try:
            while not self._done:
                await self._hear_next(receiver, heard)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.result()

    async def _hear_next(self, receiver: Any, heard: asyncio.Event) -> None:
        import asyncio

        heard.clear()
        while not self._done and receiver.size():
            self.hear(receiver.get(block=False, throw_dead=False))
        if self._done:
            return
        left = None if self.ends is None else max(0.0, self.ends - time.monotonic())
        try:
            await asyncio.wait_for(heard.wait(), left)
        except TimeoutError:
            self.expire()


class Stream(Call, Closing, Iterator[Any]):
    """What a host sends, one by one, until it ends or is closed."""

    def __init__(
        self,
        host: str,
        what: str,
        feed: Feed | None,
        over: Over,
        shape: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(host, what, feed, over)
        self._read = 0
        self._shape = shape

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Answer what comes next.

        Raises:
            StopIteration: Nothing comes any more.
            TimeoutError: Nothing comes in time; the stream goes on.
            HostLost: The host is gone.
            RemoteError: It has come to an exception.
        """
        if self.feed is None:
            raise StopIteration
        try:
            told = self._next(timeout)
        except HostLost:
            if self._ended is not End.STOPPED:
                raise
            told = {}  # another thread has closed it
        if "item" not in told:
            self._end(End.GOOD)
            raise StopIteration
        self._allow()
        return self._shaped(told["item"])

    def _shaped(self, item: Any) -> Any:
        if self._shape is None:
            return item
        try:
            return shaped(self.host, self._shape, item)
        except FleetError:
            self._end(End.STOPPED)
            raise

    def _allow(self) -> None:
        self._read += 1
        feed = self.feed
        if self._read % _HALF_A_WINDOW == 0 and feed is not None:
            feed.link.tell(feed.number, _HALF_A_WINDOW)

    def close(self) -> None:
        """Have it end on the host, and here."""
        self._end(End.STOPPED)


class Duplex(Call):
    """A function that runs on a host with bytes going both ways.

    Bytes are sent from any thread; one thread iterates over those that come, or waits for the
    result.
    """

    def __init__(self, host: str, what: str, feed: Feed | None, over: Over) -> None:
        super().__init__(host, what, feed, over)
        self._came: deque[bytes] = deque()
        self._closed = False
        self._value: Any = None
        self._done = False
        self._handle = 0
        self._wait_open()

    def _wait_open(self) -> None:
        end = time.monotonic() + _OPENING
        while not self._handle and not self._done:
            try:
                self._hear(max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise self._late(_OPENING) from None

    def _hear(self, timeout: float | None) -> None:
        told = self._next(timeout)
        if "bytes" in told:
            self._came.append(told["bytes"])
        self._handle = self._opened(told.get("open", self._handle))
        self._closed = self._closed or "closed" in told
        if "done" in told:
            self._value, self._done = told["done"], True

    def _opened(self, handle: Any) -> int:
        # What cannot be written into a message's head would end mitogen's thread, for all hosts.
        if type(handle) is int and 0 <= handle < _HANDLES:
            return handle
        self._end(End.STOPPED)
        raise senseless(self.host)

    def send(self, data: bytes) -> None:
        """Send bytes; never waits.

        Raises:
            HostLost: The host is gone.
        """
        feed = self.feed
        if feed is None or feed.link.is_lost:
            raise HostLost(self.host, f"{self.what} has ended there, or the link to it broke")
        feed.link.send(self._handle, data)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            while self._came:
                yield self._came.popleft()
            if self._closed or self._done:
                return
            try:
                self._hear(None)
            except HostLost:
                if self._ended is not End.STOPPED:
                    raise
                return  # another thread has stopped it

    def close(self) -> None:
        """Say that nothing follows: the host's iteration ends."""
        feed = self.feed
        if feed is not None:
            feed.link.finish(self._handle)

    def stop(self) -> None:
        """Have it end on the host, and here."""
        self._end(End.STOPPED)

    def result(self, timeout: float | None = None) -> Any:
        """Answer what the function has answered; raises as `Pending.result` does."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._done:
            try:
                self._hear(None if end is None else max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise self._late(timeout or 0.0) from None
        return self._value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
