"""Do something for several hosts at once, and hear of each as soon as it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

#: So many at once: what a laptop and its line can bear.
AT_ONCE = 16


class Ended(NamedTuple, Generic[T]):
    """What one of the works came to: a value, or an error."""

    name: str
    value: T | None
    error: Exception | None
    seconds: float


def together(works: Mapping[str, Callable[[], T]], at_once: int = AT_ONCE) -> Iterator[Ended[T]]:
    """Do all *works*, each in a thread; answer them in the order in which they end.

    Whoever is interrupted while it waits for them may leave: the threads hold up no exit.
    """
    ended: SimpleQueue[Ended[T]] = SimpleQueue()
    waiting = list(works.items())[::-1]

    def begin() -> None:
        name, work = waiting.pop()
        threading.Thread(target=_do, args=(name, work, ended), name=name, daemon=True).start()

    for _ in range(min(at_once, len(works))):
        begin()
    for _ in range(len(works)):
        found = ended.get()
        if waiting:
            begin()
        yield found


def _do(name: str, work: Callable[[], T], ended: SimpleQueue[Ended[T]]) -> None:
    began, value, error = time.monotonic(), None, None
    try:
        value = work()
    # Whatever it is, somebody waits for it, and goes on to those who are left.
    except Exception as raised:  # noqa: BLE001
        error = raised
    ended.put(Ended(name, value, error, time.monotonic() - began))
