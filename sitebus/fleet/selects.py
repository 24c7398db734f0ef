"""Answers of several hosts, taken as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sitebus.closing import Closing
from sitebus.fleet.calls import Pending

if TYPE_CHECKING:
    from sitebus.fleet._mitogen import Choice


class Select(Closing):
    """Answers of several hosts, in the order in which they come.

    It may hold others; each is iterated over once, as pairs of a host's name and its result or
    error.

    Args:
        calls: What is waited for: what `Host.call_async` has answered, and other selects.
        timeout: How long to wait for each next one.
    """

    def __init__(
        self,
        choice: Callable[[], Choice],
        calls: Iterable[Pending | Select] = (),
        timeout: float | None = None,
    ) -> None:
        self.timeout = timeout
        self._make = choice
        self._choice = choice()
        self._pending: list[Pending] = []
        self._nested: list[Select] = []
        for each in calls:
            self.add(each)

    def add(self, call: Pending | Select) -> None:
        """Wait for one more.

        Raises:
            ValueError: It is in another select already, or this one in it.
        """
        if isinstance(call, Select):
            self._choice.add(call._choice)
            self._nested.append(call)
            return
        if not call.is_done and call.feed is not None:
            self._choice.add(call.feed)
        self._pending.append(call)

    def remove(self, call: Pending | Select) -> None:
        """Wait for one less; what it comes to is not told here."""
        if isinstance(call, Select):
            self._choice.remove(call._choice)
            self._nested.remove(call)
            return
        if call.feed is not None:
            self._choice.remove(call.feed)
        self._pending.remove(call)

    @property
    def calls(self) -> list[Pending]:
        """What is waited for, here and in the others."""
        return [*self._pending, *(each for other in self._nested for each in other.calls)]

    def __bool__(self) -> bool:
        return bool(self.calls)

    def get(self, timeout: float | None = None) -> tuple[str, Any]:
        """Answer the next host's name, and its result or error.

        Raises:
            TimeoutError: None has come in time; all are waited for as before.
            LookupError: There is nothing to wait for.
        """
        call = self.next_call(timeout)
        return call.host, call.outcome()

    def next_call(self, timeout: float | None = None) -> Pending:
        """Answer the next call that is done; raises as `get` does."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            calls = self.calls
            if not calls:
                raise LookupError("there is nothing to wait for; add what call_async answers")
            done = self._first_done(calls)
            if done is not None:
                self._forget(done)
                return done
            self._hear(calls, end)

    def _first_done(self, calls: Iterable[Pending]) -> Pending | None:
        now = time.monotonic()
        for call in calls:
            if not call.is_done and call.ends is not None and call.ends <= now:
                call.expire()
        return next((call for call in calls if call.is_done), None)

    def _hear(self, calls: Iterable[Pending], end: float | None) -> None:
        ends = [each for each in (end, *(call.ends for call in calls)) if each is not None]
        left = max(0.0, min(ends) - time.monotonic()) if ends else None
        try:
            receiver, message = self._choice.get(left)
        except TimeoutError:
            if end is not None and end <= time.monotonic():
                raise
            return
        for call in calls:
            if call.feed is not None and call.feed.receiver is receiver:
                call.hear(message)
                return

    def _forget(self, call: Pending) -> None:
        for nested in self._nested:
            nested._forget(call)
        if call in self._pending:
            self._pending.remove(call)

    def close(self) -> None:
        """Wait for nothing more; the calls go on."""
        for call in self._pending:
            if call.feed is not None:
                self._choice.remove(call.feed)
        self._choice.close()
        self._pending.clear()
        self._nested.clear()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        while self:
            yield self.get(self.timeout)
