"""Bounds for clients of WebSocket and HTTP/2 that say much and mean little; see `_uvicorn_mended`.

A frame of a few bytes costs its receiver a hundred times what it costs to send. Left alone,
uvicorn's protocols deal at once with all that has come, which can be megabytes of them, and nobody
else has a turn for seconds. So a protocol is given so many frames in a turn of the loop, and who
sends too many that say nothing is closed. That is seen in the heads of the frames, before and
whatever parses them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sitebus.servers._uvicorn_parting import Parting, Protocol

#: How many frames a protocol is given in a turn.
AT_ONCE = 50
#: What comes in pieces of this size is read one a turn; bytes. uvloop reads up to 32 at once.
LARGE = 64 << 10
#: Seconds in which frames are counted.
WINDOW = 10.0
#: Frames in that time that say nothing, beyond what those that do allow for.
MOST_IDLE = 2000
#: How many more for each HTTP/2 frame that does, in either direction: who receives much may say
#: often how much room there is.
IDLE_FOR_EACH = 8
#: How long a piece of a message must be to say something; bytes.
SMALL = 128

_DATA, _HEADERS, _PADDED, _HTTP2_HEAD, _PREFACE = 0, 1, 8, 9, 24
#: What padding can be of a frame; bytes.
_MOST_PADDING = 256


class Frames:
    """The frames of a client, of which only the heads are looked at."""

    #: How many more may say nothing for each that does.
    idle_for_each = 1
    # How much of the last frame is still to come, and what has come of the head of the next.
    _left = 0
    _head = b""
    # Of this window, and when it ends.
    _until = 0.0
    _idle = _useful = 0

    def cut(self, data: bytes, at: int = 0) -> int:
        """Answer where a turn ends in *data*, which is new from *at* on."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + WINDOW
            self._idle = self._useful = 0
        size, last = len(data), self._idle + self._useful + AT_ONCE
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            elif self._idle + self._useful >= last:
                break
            else:
                at = self._read_head(data, at)
        return at

    @property
    def are_too_many(self) -> bool:
        return self._idle > MOST_IDLE + self.idle_for_each * self._useful

    def _read_head(self, data: bytes, at: int) -> int:
        before = len(self._head)
        head = self._head + data[at : at + 14 - before]
        end = self.length_of_head(head)
        if len(head) < end:
            self._head = head
            return at + len(head) - before
        self._head = b""
        self._left, is_useful = self.read(head[:end])
        if is_useful:
            self._useful += 1
        else:
            self._idle += 1
        return at + end - before

    def length_of_head(self, begun: bytes) -> int:
        """Answer how long a head is that has *begun* so; at least more than that, if unknown."""
        raise NotImplementedError

    def read(self, head: bytes) -> tuple[int, bool]:
        """Answer how long the rest of a frame is, and whether it says anything."""
        raise NotImplementedError


class WebSocketFrames(Frames):
    """Those of a WebSocket (RFC 6455, section 5.2)."""

    def length_of_head(self, begun: bytes) -> int:
        if len(begun) < 2:
            return 2
        more = {126: 2, 127: 8}.get(begun[1] & 127, 0)
        return 2 + more + (4 if begun[1] & 128 else 0)

    def read(self, head: bytes) -> tuple[int, bool]:
        length = head[1] & 127
        if length > 125:
            length = int.from_bytes(head[2:4] if length == 126 else head[2:10], "big")
        is_data, is_last = not head[0] & 8, head[0] & 128
        return length, is_data and bool(is_last or length >= SMALL)


class Http2Frames(Frames):
    """Those of HTTP/2 (RFC 9113, section 4.1)."""

    idle_for_each = IDLE_FOR_EACH
    _left = _PREFACE

    def sent(self, data: bytes) -> None:
        """Be told what was sent to the client."""
        self._useful += 1 + len(data) // 16384

    def length_of_head(self, begun: bytes) -> int:
        return _HTTP2_HEAD

    def read(self, head: bytes) -> tuple[int, bool]:
        length, kind = int.from_bytes(head[:3], "big"), head[3]
        if kind == _DATA:
            return length, length > (_MOST_PADDING if head[4] & _PADDED else 0)
        return length, kind == _HEADERS


class Turnstile:
    """A connection's transport that lets in so many frames in a turn of the loop.

    Args:
        connection: What gets them.
        transport: The one that there was before.
        frames: Looks at them.
        take: Is given those of a turn.
        refuse: Is called when there are too many that say nothing.
    """

    def __init__(
        self,
        connection: Protocol,
        transport: Any,
        frames: Frames,
        take: Callable[[bytes], object],
        refuse: Callable[[], object],
    ) -> None:
        # A drain may have given one to the connection that this one was before.
        self._transport: Any = transport._transport if isinstance(transport, Parting) else transport
        self._connection = connection
        self._frames = frames
        self._take: Any = take
        self._refuse: Any = refuse
        # What has come and was not let in, from where on.
        self._rest, self._at = b"", 0
        # Whether the connection takes anything, whether we read nothing, and whether we go on soon.
        self._is_wanted, self._is_held, self._is_due = True, False, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def receive(self, data: bytes) -> None:
        """Let in the first of *data*, and the rest when others had their turn."""
        self._rest, self._at = self._rest[self._at :] + data, 0
        if self._is_wanted and not self._is_due:
            self._let_in()

    def let_go(self) -> None:
        """Forget the connection, which is lost, and all that it holds."""
        self._connection = self._take = self._refuse = None
        self._rest = b""

    def pause_reading(self) -> None:
        self._is_wanted = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_wanted = True
        if self._is_held or self._rest:
            self._go_on_soon()
        else:
            self._transport.resume_reading()

    def _go_on_soon(self) -> None:
        if not (self._is_due or self._connection is None):
            self._is_due = True
            self._connection.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        if self._connection is None or not self._is_wanted:
            return
        if self._connection.transport.is_closing():
            self._rest = b""
        if self._rest:
            self._let_in()
            return
        self._is_held = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _let_in(self) -> None:
        data, at = self._rest, self._at
        end = self._frames.cut(data, at)
        if self._frames.are_too_many:
            self._rest = b""
            self._refuse()
            return
        if end == len(data):
            self._rest, self._at = b"", 0
        else:
            self._at = end
        self._take(data[at:end])
        if (self._rest or len(data) >= LARGE) and not self._transport.is_closing():
            self._is_held = True
            self._transport.pause_reading()
        if self._is_held and self._is_wanted:
            self._go_on_soon()


class CountingTurnstile(Turnstile):
    """One that sees what is sent, too.

    Attributes:
        written: How many bytes that was.
    """

    _frames: Http2Frames
    written = 0

    def write(self, data: bytes) -> None:
        self._frames.sent(data)
        self.written += len(data)
        self._transport.write(data)


def complain_of(connection: Any, kind: str, what: str) -> None:
    """Log that *connection* is closed for *what* it sends."""
    who = connection.client[0] if connection.client else "a unix socket"
    message = f"Closed the connection of {who}, who sends {what}"
    connection.logger.complain(kind, message)
