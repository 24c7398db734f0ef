"""A ZeroMQ socket with its monitor, and the connections that go over it; in the poller's thread."""

from __future__ import annotations

import itertools
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zmq

from sitebus.relay.batches import Outbox, unpack
from sitebus.relay.frames import LIMIT
from sitebus.relay.poller import READ, Poller
from sitebus.relay.transport import Hearer, Settings

#: In whose name libzmq asks who may connect; any name makes it ask.
DOMAIN = b"sitebus"
#: Batches that libzmq holds for each peer in each direction; what waits besides is counted here.
BATCHES = 64
#: What a frame may have besides the largest message: its length, and what encryption adds.
_BESIDES = 1024
#: Milliseconds: between signs of life, and how long they may be missing.
_HEARTBEAT, _SILENCE = 1000, 3000
#: Milliseconds for both to find out who the other is.
_HANDSHAKE = 5000
#: Seconds from when libzmq tells that a connection is gone until all that came by it can be read.
_LAST_WORDS = 0.02
#: Batches that are read before others get their turn.
_AT_ONCE = 64
#: Seconds until sending is tried again to a peer that took no more, if nothing tells before.
_LOOK_AGAIN = 0.01

#: Plain numbers, for they are used with every message.
_POLLIN, NOBLOCK, SNDMORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.SNDMORE)

_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_NUMBERS = itertools.count()
#: How the monitor says which event it is, and its value.
_EVENT = struct.Struct("=Hi")


@dataclass(frozen=True, eq=False)
class Room:
    """What all sockets of a transport share."""

    poller: Poller
    context: zmq.Context[zmq.Socket[bytes]]
    hearer: Hearer
    settings: Settings

    def tell(self, what: Callable[..., object], *arguments: Any) -> None:
        """Tell the hearer, whose mistakes are not the socket's."""
        self.poller.guarded(what, *arguments)

    def refused(self, who: str, why: str) -> None:
        """Tell that somebody was turned away."""
        self.tell(self.hearer.refused, who, why)


class Line:
    """One connection, as the mesh sees it.

    Args:
        wire: The socket that it goes over.
        address: Where it leads, for people.
        name: The node whose key the other end has; None without keys.
        key: That key.
        peer: The number that libzmq gave it, among others of the same socket.
    """

    def __init__(
        self,
        wire: Wire,
        address: str,
        name: str | None,
        key: bytes | None,
        peer: bytes = b"",
    ) -> None:
        self.name = name
        self.address = address
        self.key = key
        self.peer = peer
        self.outbox = Outbox(wire.room.settings.high_water)
        self.is_open = True
        #: Nothing can be sent any more, and what came may still have to be read.
        self.is_broken = False
        self.since = time.monotonic()
        self._wire = wire

    def __repr__(self) -> str:
        return f"<Line {self.name or 'somebody'} {self.address}>"

    def send(self, data: bytes) -> bool:
        """Send one message, soon; answer whether there was room for it."""
        if not self.is_open or self.is_broken or not self.outbox.put(data):
            return False
        self._wire.wants(self)
        return True

    def break_off(self) -> None:
        """Send nothing more."""
        self.is_broken = True
        self.outbox.clear()

    def close(self, why: str) -> None:
        """End it, as soon as what libzmq takes at once is on its way."""
        if self.is_open:
            self._wire.drop(self)


class Wire(ABC):
    """A socket, its monitor, and whoever has something to send over it."""

    def __init__(self, room: Room, kind: int) -> None:
        self.room = room
        self.socket: zmq.Socket[bytes] = room.context.socket(kind)
        self.is_closed = False
        self._waiting: dict[Line, None] = {}
        #: Sending, or reading, is asked for.
        self._is_due = self._is_read_due = False
        #: It reads, and will send then.
        self._is_busy = False
        self._cancel: Callable[[], None] | None = None
        self._then: Callable[[], object] | None = None
        self._equip()
        self._monitor = self._watched()
        self._fds = [fileno(each) for each in (self.socket, self._monitor)]
        for fd, callback in zip(self._fds, (self._readable, self._told), strict=True):
            room.poller.watch(fd, READ, callback)
        # A descriptor tells nothing before somebody has looked in vain.
        room.poller.call_soon(lambda: self._told(READ))

    @property
    def waits(self) -> bool:
        """Whether something has yet to be sent."""
        return bool(self._waiting)

    def wants(self, line: Line) -> None:
        """Have what a line has to send be sent.

        The first at once, for it may be the only one; what comes in the same turn goes together.
        """
        self._waiting[line] = None
        if not (self._is_due or self._is_busy):
            self._soon()
            self._send()

    def when_sent(self, then: Callable[[], object], until: float) -> None:
        """Call *then* when nothing waits any more, or at a moment."""
        self._then = then
        self.room.poller.call_at(until, self._done)
        self._soon()

    def close(self, linger: float) -> None:
        """Close the socket; what libzmq has taken has *linger* seconds."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._cancel is not None:
            self._cancel()
        for fd in self._fds:
            self.room.poller.unwatch(fd)
        # In this order: closed first, the monitor would be told of it, and block.
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(round(linger * 1000))
        self._done()

    def look_again(self, known: Mapping[str | None, bytes]) -> None:
        """End the lines of those whose keys are not *known* any more, or are others by now."""
        for line in self._lines_there():
            if line.is_open and line.key is not None and known.get(line.name) != line.key:
                self.room.refused(line.name or line.address, "its key is gone, or cannot be read")
                # What waits is not for somebody without one.
                line.outbox.clear()
                self._expel(line, "its key is not known any more")

    def _expel(self, line: Line, why: str) -> None:
        self.room.tell(self.room.hearer.left, line, why)
        self.drop(line)

    @abstractmethod
    def drop(self, line: Line) -> None:
        """End a line that the mesh does not want any more."""

    @abstractmethod
    def _lines_there(self) -> list[Line]:
        """Answer the lines that go over it."""

    @abstractmethod
    def _happened(self, event: int, value: int) -> None:
        """Note what the monitor says."""

    @abstractmethod
    def _take(self) -> int:
        """Take one message from the socket, and answer its size; -1 if there is none."""

    @abstractmethod
    def _put(self, line: Line, batch: bytes) -> bool:
        """Give a batch to libzmq; answer whether the line can take another.

        Raises:
            zmq.Again: It takes no more now.
        """

    def _watched(self) -> zmq.Socket[bytes]:
        """Answer what tells what happens to the socket."""
        place = f"inproc://sitebus-monitor-{next(_NUMBERS)}"
        self.socket.monitor(place, _EVENTS)
        monitor = self.room.context.socket(zmq.PAIR)
        # With an end to what may wait, strangers who come and go could have libzmq wait for us.
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.connect(place)
        return monitor

    def _equip(self) -> None:
        set_ = self.socket.setsockopt
        set_(zmq.LINGER, 0)
        set_(zmq.SNDHWM, BATCHES)
        set_(zmq.RCVHWM, BATCHES)
        set_(zmq.MAXMSGSIZE, LIMIT + _BESIDES)
        set_(zmq.HEARTBEAT_IVL, _HEARTBEAT)
        set_(zmq.HEARTBEAT_TIMEOUT, _SILENCE)
        set_(zmq.HEARTBEAT_TTL, _SILENCE)
        set_(zmq.HANDSHAKE_IVL, _HANDSHAKE)
        keys = self.room.settings.keys
        if keys is not None:
            set_(zmq.CURVE_PUBLICKEY, keys.public)
            set_(zmq.CURVE_SECRETKEY, keys.secret)

    def _told(self, events: int) -> None:
        """Hear the monitor, and what came before what it says."""
        self._is_busy = True
        try:
            self._news()
        finally:
            self._is_busy = False
        self._readable(events)

    def _readable(self, events: int) -> None:
        # Answers wait until all is read.
        self._is_busy = True
        try:
            may_be_more = self._receive()
        finally:
            self._is_busy = False
        if may_be_more:
            # Others have their turn first.
            self._read_on()
        if self._waiting:
            self._flush()

    def _read_on(self) -> None:
        if not self._is_read_due and not self.is_closed:
            self._is_read_due = self.room.poller.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_read_due = False
        self._readable(READ)

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = self.room.poller.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        self._flush()

    def _flush(self) -> None:
        if self.is_closed:
            return
        self._send()
        self._settle()
        if not self._waiting:
            self._done()

    def _done(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    def _settle(self) -> None:
        """Look at what is there, for the descriptor may have told it before it was asked."""
        has_come = self._has_come()
        if self._waiting:
            # That look may have been when libzmq learned that there is room again.
            self._send()
            if self._waiting:
                self._later()
            has_come = self._has_come()
        if has_come:
            self._read_on()

    def _after_last_words(self, part: Callable[[], object]) -> None:
        def work() -> None:
            if not self.is_closed:
                part()

        self.room.poller.call_at(time.monotonic() + _LAST_WORDS, work)

    def _has_come(self) -> bool:
        return not self.is_closed and is_readable(self.socket)

    def _later(self) -> None:
        """Try again in a moment: which of many peers has room again, nothing tells."""
        if self._cancel is None and not self.is_closed:
            moment = time.monotonic() + _LOOK_AGAIN
            self._cancel = self.room.poller.call_at(moment, self._look_again)

    def _look_again(self) -> None:
        self._cancel = None
        self._flush()

    def _news(self) -> None:
        """Hear all that the monitor has to say."""
        while not self.is_closed and is_readable(self._monitor):
            self._happened(*_EVENT.unpack(self._monitor.recv_multipart(NOBLOCK)[0]))

    def _receive(self, most: int = _AT_ONCE) -> bool:
        """Receive what is there, up to *most* batches; answer whether there may be more."""
        while most > 0 and not self.is_closed and self._take() >= 0:
            most -= 1
        return most == 0

    def _send(self) -> None:
        for line in list(self._waiting):
            if self.is_closed:
                return
            if self._send_all(line):
                self._waiting.pop(line, None)

    def _send_all(self, line: Line) -> bool:
        """Send what waits; answer whether nothing waits any more."""
        while batch := line.outbox.batch():
            try:
                if not self._put(line, batch):
                    return True
            except zmq.Again:
                return False
            line.outbox.sent()
        return True

    def _hear(self, line: Line, batch: bytes) -> int:
        messages = unpack(batch)
        if messages is None:
            self.room.refused(line.name or line.address, "it sent what is no message")
            line.close("it sent what is no message")
            return len(batch)
        for data in messages:
            if line.is_open:
                self.room.tell(self.room.hearer.heard, line, data)
        return len(batch)

    def _forget(self, line: Line) -> bool:
        """Let go of a line; answer whether it was open."""
        was, line.is_open = line.is_open, False
        self._waiting.pop(line, None)
        line.outbox.clear()
        return was

    def _leave(self, line: Line, why: str) -> None:
        if self._forget(line):
            self.room.tell(self.room.hearer.left, line, why)


def fileno(sock: zmq.Socket[bytes]) -> int:
    """Answer the descriptor that tells of changes."""
    return int(sock.getsockopt(zmq.FD))


def is_readable(sock: zmq.Socket[bytes]) -> bool:
    """Tell whether something can be received."""
    return bool(int(sock.getsockopt(zmq.EVENTS)) & _POLLIN)
