"""What comes over a link is done in a thread of its own, in the order in which it came.

Listeners are strangers' code and may take any time; who reads the link must not wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

Work = Callable[[], object]

#: How many pieces of work that can be done without may wait.
MOST = 10_000
#: How many bytes they may have come in, together.
MOST_BYTES = 32 * 1024 * 1024


class _Line:
    """What waits in one life of a dispatcher: what ends a life must not end the next one."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[tuple[Work, int] | None] = SimpleQueue()
        # Two numbers, for two threads: each is counted up by one of them alone.
        self.bytes_in = self.bytes_out = 0


class Dispatcher:
    """Do what `post` is given, one after the other.

    Args:
        name: The thread's.
        on_error: Is told of what a piece of work raised; the next one is done all the same.
        most: How many pieces of work may wait before `offer` refuses more; of large ones, so many
            that they came in `MOST_BYTES`.

    Attributes:
        lost: How many pieces of work `offer` has refused.
    """

    def __init__(
        self, name: str, on_error: Callable[[BaseException], object], most: int = MOST
    ) -> None:
        self.lost = 0
        self._most = most
        self._name = name
        self._on_error = on_error
        self._line = _Line()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(self._line,), name=self._name, daemon=True
            )
            self._thread.start()

    def post(self, work: Work) -> None:
        """Have *work* done soon; any thread may call it."""
        self._line.queue.put((work, 0))

    def offer(self, work: Work, size: int = 0) -> bool:
        """Have *work* done soon, unless too much waits already; tell whether it will be done.

        For what others send, who may send more than listeners can take. Only one thread calls it
        with a size.

        Args:
            work: What is to be done.
            size: How many bytes it holds on to.
        """
        line = self._line
        waiting = line.bytes_in - line.bytes_out
        if line.queue.qsize() >= self._most or (size and waiting + size > MOST_BYTES):
            self.lost += 1
            return False
        if size:
            line.bytes_in += size
        line.queue.put((work, size))
        return True

    def settle(self, timeout: float) -> bool:
        """Wait, *timeout* seconds at most, for what was posted before; tell whether it is done."""
        if self.is_current or self._thread is None:
            return False
        done = threading.Event()
        self.post(done.set)
        return done.wait(timeout)

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that does the work."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> bool:
        """Do what was posted before, in *timeout* seconds at most, and end; tell whether it did."""
        thread = self._thread
        if thread is None:
            return True
        line, self._line = self._line, _Line()
        line.queue.put(None)
        if not self.is_current:
            thread.join(timeout)
        self._thread = None
        return not thread.is_alive()

    def _run(self, line: _Line) -> None:
        while (waiting := line.queue.get()) is not None:
            work, size = waiting
            line.bytes_out += size
            try:
                work()
            # A stranger's listener must not end the rest, and sys.exit() ends no thread of ours.
            except BaseException as error:  # noqa: BLE001
                with suppress(BaseException):
                    self._on_error(error)


class Losses:
    """Count what somebody has missed, and tell of it once for each burst.

    Args:
        post: Has work done soon, after what waits already.
        tell: Is told who has missed something, and how much it was.
    """

    def __init__(self, post: Callable[[Work], object], tell: Callable[[str, int], object]) -> None:
        self._post = post
        self._tell = tell
        self._lock = threading.RLock()
        self._counts: dict[str, int] = {}

    def add(self, who: str, count: int = 1) -> None:
        """Count what *who* has missed; any thread may."""
        with self._lock:
            before = self._counts.get(who, 0)
            self._counts[who] = before + count
        if not before:
            self._post(lambda: self._report(who))

    def _report(self, who: str) -> None:
        with self._lock:
            count = self._counts.pop(who, 0)
        if count:
            self._tell(who, count)
