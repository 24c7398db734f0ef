"""Wake the main thread when a signal reached another one.

Only the main thread runs Python's signal handlers. The system prefers to give it a signal too, but
not while it has one already: of two in quick succession the second often goes to any other thread,
and a main thread that has gone back to waiting hears of it only when something else wakes it.
Of pairs of signals to a busy machine, 3% were late for ever so. The main thread itself may get one
after it has last looked for signals and before it waits; nothing interrupts that wait then.

Python's own C handler, in whatever thread, can write to a pipe. A thread reads it, and wakes the
main thread the way everybody does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Ends the watch; no signal has this number.
_END = b"\0"


class Wakeup:
    """Call *wake* in a thread of its own soon after any signal; costs nothing while none comes.

    `open` and `close` are for the main thread.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Have signals noted from here on, unless that is somebody else's: they wake by them."""
        if self._pipe is not None:
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            os.close(reading)
            os.close(writing)
            return
        self._pipe = reading, writing

    def watch(self) -> None:
        """Wake from here on, also for what came since `open`; not to be called before a fork."""
        if self._pipe is None or (self._thread is not None and self._thread.is_alive()):
            return
        arguments = (self._pipe[0],)
        name = "sitebus wakeup"
        self._thread = threading.Thread(target=self._watch, args=arguments, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Undo both."""
        if self._pipe is None:
            return
        # First: what a KeyboardInterrupt cuts short is not done twice, on others' descriptors.
        (reading, writing), self._pipe = self._pipe, None
        present = signal.set_wakeup_fd(-1)
        if present != writing:
            signal.set_wakeup_fd(present)
        os.set_blocking(writing, True)
        # Closing it would not do: a forked child may hold it, too.
        os.write(writing, _END)
        if self._thread is not None:
            self._thread.join()
        os.close(reading)
        os.close(writing)
        self._thread = None

    def _watch(self, reading: int) -> None:
        while _END not in os.read(reading, 4096):
            self._wake()


@contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call *wake* soon after any signal while the block runs in the main thread.

    Nothing is called where somebody else has signals noted already, nor where it cannot be had: in
    a subinterpreter, or without a descriptor or a thread to spare.
    """
    wakeup = Wakeup(wake)
    try:
        with suppress(OSError, RuntimeError, ValueError):
            wakeup.open()
            wakeup.watch()
        yield
    finally:
        wakeup.close()
