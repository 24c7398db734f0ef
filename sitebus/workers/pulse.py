"""A worker's signs of life, with what its supervisor goes by: how busy, how late, how large.

Once a second it looks at itself; it speaks only while there is something to tell, and now and then
so that silence means something. The event loop is left asleep unless there is something to tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sitebus.control.builtin import rss
from sitebus.process import Engine
from sitebus.relay import Poller
from sitebus.workers.tally import Tally

#: How often it looks at itself; seconds.
EVERY = 1.0


class Pulse:
    """Give a beat to *send* every second that something happens, and every *idle* seconds else.

    Args:
        engine: Whose loop may be late.
        tally: What counts the requests.
        inside: Answers how many requests are inside applications.
        poller: What keeps the time; if its thread gets no turn, the silence says so.
        send: Is given the values of a beat.
    """

    def __init__(
        self,
        engine: Engine,
        tally: Tally,
        inside: Callable[[], int],
        poller: Poller,
        send: Callable[[dict[str, Any]], object],
    ) -> None:
        self._engine = engine
        self._tally = tally
        self._inside = inside
        self._poller = poller
        self._send = send
        self._cancel: Callable[[], None] = lambda: None
        self._idle = EVERY
        self._quiet = 0.0
        self._requests = -1
        self._was_late = False
        self._asked: float | None = None
        self._lag = 0.0

    def start(self, idle: float) -> None:
        """Begin, with a first beat at once."""
        self._idle = max(idle, EVERY)
        self._quiet = self._idle
        self._poller.call_soon(self._beat)

    def stop(self) -> None:
        """End; no beat comes after this."""
        self._idle = 0.0
        self._cancel()

    def _beat(self) -> None:
        if not self._idle:
            return
        self._quiet += EVERY
        requests, in_flight = self._tally.requests, self._inside()
        stirs = bool(in_flight) or requests != self._requests or self._quiet >= self._idle
        now = time.monotonic()
        lag = self._measure(now, stirs)
        if stirs or (lag > EVERY) != self._was_late:
            self._requests, self._was_late, self._quiet = requests, lag > EVERY, 0.0
            self._send(self._look(now, requests, in_flight, lag))
        self._cancel = self._poller.call_at(time.monotonic() + EVERY, self._beat)

    def _look(self, now: float, requests: int, in_flight: int, lag: float) -> dict[str, Any]:
        return {
            "requests": requests,
            "in_flight": in_flight,
            "oldest": self._tally.oldest(now),
            "lag": lag,
            "rss": rss(),
            "next": self._idle + EVERY,
        }

    def _measure(self, now: float, again: bool) -> float:
        """Answer how long the event loop, if there is one, took for what it was given last.

        It is given something new, which wakes it, only if *again* says so.
        """
        loop = self._engine.present_loop
        if loop is None:
            return 0.0
        asked = self._asked
        if asked is not None:
            return now - asked  # it has not come to it yet
        lag, self._lag = self._lag, 0.0
        if again:
            self._asked = now
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(self._came)
        return lag

    def _came(self) -> None:
        if self._asked is not None:
            self._lag = time.monotonic() - self._asked
            self._asked = None
