"""What comes over a link is done in a thread of its own, in the order in which it came.

Listeners are strangers' code and may take any time; who reads the link must not wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]


class Dispatcher:
    """Do what `post` is given, one after the other.

    Args:
        name: The thread's.
        on_error: Is told of what a piece of work raised; the next one is done all the same.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], object]) -> None:
        self._name = name
        self._on_error = on_error
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def post(self, work: Work) -> None:
        """Have *work* done soon; any thread may call it."""
        self._queue.put(work)

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that does the work."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> bool:
        """Do what was posted before, in *timeout* seconds at most, and end; tell whether it did."""
        thread = self._thread
        if thread is None:
            return True
        self._queue.put(None)
        if not self.is_current:
            thread.join(timeout)
        self._thread = None
        return not thread.is_alive()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a stranger's listener must not end the rest
                self._on_error(error)
