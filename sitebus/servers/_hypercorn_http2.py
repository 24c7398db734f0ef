"""What hypercorn's HTTP/2 lacks: bounds for what costs much and says nothing, and a way to leave.

What is relied on of h2 is told at the top of `sitebus.servers._hypercorn`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from h2.connection import H2Connection
from h2.events import DataReceived, PriorityUpdated, RequestReceived, StreamReset
from h2.exceptions import DenialOfServiceError, ProtocolError

#: No stream has a higher number: a GOAWAY that asks to open no more, and forbids none.
EVERY_STREAM = 2**31 - 1
#: Seconds in which frames are counted.
WINDOW = 10.0
#: Requests that a client may give up in that time, beyond as many as it lets end.
MOST_GIVEN_UP = 200
#: Frames in that time that are neither a request nor a part of a body, and how many more for each
#: that is, in either direction: who receives much may say often how much room there is.
MOST_IDLE, IDLE_FOR_EACH = 2000, 8

#: Is told that a client's connection is closed: the kind of reason, and what the client did.
Complain = Callable[[str, str], object]


def go_away(last: int, code: int = 0) -> bytes:
    """Answer the frame that says that no stream above *last* is served (RFC 9113, 6.8)."""
    # h2 itself ends the connection with it, and could not finish the streams that are open.
    return struct.pack(">HBBBIII", 0, 8, 7, 0, 0, last, code)


class Frames(H2Connection):
    """A connection of h2's that becomes one of ours with `prepare`.

    To give up a request costs its client nothing, and the application all of its work; a frame that
    says nothing costs more to read than to send. Who does either too often is told to calm down.
    """

    _complain: Complain
    _is_over = False
    # Of this window, and when it ends.
    _until = 0.0
    _given_up = _ended = _idle = _useful = 0

    def prepare(self, complain: Complain) -> None:
        """Tell *complain* why a connection is closed, once."""
        self._complain = complain

    def receive_data(self, data: Any) -> Any:
        if self._is_over:
            return []  # what was on its way when the client was told to leave
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + WINDOW
            self._given_up = self._ended = self._idle = self._useful = 0
        try:
            return super().receive_data(data)
        except ProtocolError as error:
            self._is_over = True
            if not isinstance(error, Flood):
                self._complain("HTTP/2 error", "who does not speak HTTP/2 as it is meant")
            raise

    def send_data(self, *args: Any, **kwargs: Any) -> None:
        self._useful += 1
        super().send_data(*args, **kwargs)

    def end_stream(self, stream_id: int) -> None:
        self._ended += 1
        super().end_stream(stream_id)

    def _receive_frame(self, frame: Any) -> Any:
        events = super()._receive_frame(frame)
        if any(map(_is_useful, events)):
            self._useful += 1
            _spoil_small_methods(events)
        else:
            self._idle += 1
            self._given_up += any(type(each) is StreamReset for each in events)
            self._check()
        return [each for each in events if not self._is_dropped(each)]

    def _is_dropped(self, event: Any) -> bool:
        """Tell whether it is nobody's business, and see to it."""
        if type(event) is DataReceived and not event.data:
            self.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return True
        # RFC 9113 has given priorities up; hypercorn fails when there are many.
        return type(event) is PriorityUpdated

    def _check(self) -> None:
        if self._given_up > MOST_GIVEN_UP + self._ended:
            self._refuse("HTTP/2 requests given up", "who gives up too many requests")
        if self._idle > MOST_IDLE + IDLE_FOR_EACH * self._useful:
            self._refuse("HTTP/2 frames of no use", "who sends too many frames that say nothing")

    def _refuse(self, kind: str, why: str) -> None:
        self._complain(kind, why)
        raise Flood(why)


class Flood(DenialOfServiceError):
    """A client that sends too much of what costs more to read than to send."""


class Streams(dict[int, Any]):
    """The streams of a connection; what belongs to none goes nowhere."""

    def __missing__(self, number: int) -> _Nobody:
        return _Nobody()


class _Nobody:
    async def handle(self, _event: object) -> None:
        pass


def _is_useful(event: Any) -> bool:
    return type(event) is RequestReceived or (type(event) is DataReceived and bool(event.data))


def _spoil_small_methods(events: list[Any]) -> None:
    """Let a method that is not in capitals be none: to hypercorn, ``get`` is GET."""
    for each in events:
        if type(each) is RequestReceived:
            each.headers = [
                (name, value + b" " if name == b":method" and value != value.upper() else value)
                for name, value in each.headers
            ]
