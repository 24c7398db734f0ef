"""Have the bus told of the threads that a library runs applications in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def announcing(
    app: Callable[..., Any], roll: set[int], tell: Callable[[str], object]
) -> Callable[..., Any]:
    """Answer *app* so that each thread that calls it is on the *roll* before it does."""
    here = threading.local()

    def announced(environ: Any, start_response: Any) -> Any:
        if not hasattr(here, "listed"):
            here.listed = _Listed(roll, tell)
        return app(environ, start_response)

    return announced


class _Listed:
    """A thread's entry in the roll, gone with the thread."""

    def __init__(self, roll: set[int], tell: Callable[[str], object]) -> None:
        self.roll = roll
        self.tell = tell
        self.ident = threading.get_ident()
        roll.add(self.ident)
        self._say("acquire_thread")

    def __del__(self) -> None:
        # A thread's locals go when it ends, in the thread itself.
        self.roll.discard(self.ident)
        self._say("release_thread")

    def _say(self, channel: str) -> None:
        # What listeners raise is logged by the bus, and no business of a request's.
        with suppress(Exception):
            self.tell(channel)
