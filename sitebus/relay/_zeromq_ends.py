"""The two ends of a connection by ZeroMQ: the one that listens, and the one that connects."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import zmq

from sitebus.relay._zeromq_wires import BATCHES, DOMAIN, NOBLOCK, SNDMORE, Line, Room, Wire
from sitebus.sockets.addresses import Address

#: Milliseconds for the system to connect.
_CONNECT = 2000
#: Milliseconds; a day.
_NEVER = 86_400_000
#: Connections that have said nothing: for one more the oldest goes. Who speaks as a peer does so
#: within milliseconds, so those who do not keep no peer out, nor take all descriptors.
MOST_STRANGERS = 200
#: Says that the one who listens wants no more of the connection.
_CLOSED = b""


class Bound(Wire):
    """The socket to which others connect: each has a number that libzmq gave it."""

    def __init__(self, room: Room) -> None:
        self._lines: dict[bytes, Line] = {}
        #: The connections there are, by the descriptor each has in libzmq, and where it leads.
        self._accepted: dict[int, str] = {}
        self._descriptors: dict[Line, int] = {}
        #: Descriptors of those that have said nothing, or are not listened to any more.
        self._strangers: dict[int, None] = {}
        self._ports: set[int] = set()
        self._failure = ""
        super().__init__(room, zmq.ROUTER)

    def listen(self, place: Address) -> Address:
        """Listen on one more address; answer what it really is."""
        self.socket.setsockopt(zmq.IPV6, ":" in place.host)
        self.socket.bind(f"tcp://{place}")
        port = self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        self._ports.add(int(port))
        return place._replace(port=int(port))

    def drop(self, line: Line) -> None:
        """Send it what waits, tell it, and ignore what it sends."""
        if self._send_all(line) and not line.is_broken:
            with suppress(zmq.ZMQError):
                self._put(line, _CLOSED)
        self._forget(line)
        if line in self._descriptors:
            self._strangers[self._descriptors[line]] = None
        self._settle()

    def _lines_there(self) -> list[Line]:
        return list(self._lines.values())

    def _equip(self) -> None:
        super()._equip()
        # Else what is sent to somebody who is gone, or too slow, would vanish without a word.
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Who connects has no name of its own choice, so that nobody can take over another's.
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        if self.room.settings.keys is not None:
            self.socket.setsockopt(zmq.CURVE_SERVER, 1)
            self.socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)

    def _put(self, line: Line, batch: bytes) -> bool:
        try:
            self.socket.send(line.peer, NOBLOCK | SNDMORE)
        except zmq.Again:
            raise
        except zmq.ZMQError:
            # It is gone, as the monitor will tell: not in the middle of what somebody sends.
            line.break_off()
            return False
        self.socket.send(batch, NOBLOCK)
        return True

    def _take(self) -> int:
        try:
            peer = self.socket.recv(NOBLOCK)
        except zmq.Again:
            return -1
        line = self._lines.get(peer)
        if line is None:
            frame = self.socket.recv(NOBLOCK, copy=False)
            self._skip()
            line, batch = self._met(peer, frame), frame.bytes
        else:
            batch = self.socket.recv(NOBLOCK)
            self._skip()
        if line is None or not line.is_open or not batch:
            return len(batch)
        return self._hear(line, batch)

    def _skip(self) -> None:
        """Leave out further frames; no peer of ours sends any."""
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv(NOBLOCK)

    def _met(self, peer: bytes, frame: zmq.Frame) -> Line | None:
        """Answer the line of somebody whose first message this is."""
        # Before it is known whose descriptor it is now, and that it is not gone already.
        self._news()
        fd = int(frame.get(zmq.SRCFD))
        if fd not in self._accepted:
            return None
        name = key = None
        keys = self.room.settings.keys
        if keys is not None:
            # It was known when the connection was made, and that may be a while ago.
            key = str(frame.get("User-Id")).encode()
            name = keys.name_of(key)
            if name is None:
                self._shut(fd)
                return None
        where = self._accepted[fd] or str(frame.get("Peer-Address"))
        line = Line(self, where, name, key, peer)
        self._lines[peer] = line
        self._descriptors[line] = fd
        self._strangers.pop(fd, None)
        self.room.tell(self.room.hearer.joined, line)
        return line

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accepted[value] = _address_of(value)
            self._strangers[value] = None
            if len(self._strangers) > MOST_STRANGERS:
                self._turn_out(next(iter(self._strangers)))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = "it does not speak as a peer with a key does"
            if self.room.settings.keys is None:
                self._failure = "it does not speak as a peer without keys does"
        elif event == zmq.EVENT_DISCONNECTED:
            self._disconnected(value)

    def _expel(self, line: Line, why: str) -> None:
        fd = self._descriptors.get(line)
        super()._expel(line, why)
        if fd is not None:
            # It may not heed that we want no more of it.
            self._shut(fd)

    def _shut(self, fd: int) -> None:
        # To close it is libzmq's business; which may have done so, and it is somebody else's now.
        with suppress(OSError), _own(fd) as sock:
            if sock.getsockname()[1] in self._ports:
                sock.shutdown(socket.SHUT_RDWR)

    def _turn_out(self, fd: int) -> None:
        del self._strangers[fd]
        self._shut(fd)
        who = self._accepted.get(fd, "").rpartition(":")[0]
        why = f"more than {MOST_STRANGERS} connections do not say who they are"
        self.room.refused(who or "somebody", why)

    def _disconnected(self, fd: int) -> None:
        who = self._accepted.pop(fd, "")
        self._strangers.pop(fd, None)
        failure, self._failure = self._failure, ""
        if failure:
            self.room.refused(who or "somebody", failure)
        for line in [each for each, its in self._descriptors.items() if its == fd]:
            del self._descriptors[line]
            self._after_last_words(partial(self._part, line))

    def _part(self, line: Line) -> None:
        # What it had said is there, among what others say.
        self._receive(2 * BATCHES * len(self._lines))
        self._lines.pop(line.peer, None)
        self._leave(line, "the connection is gone")


class Dialed(Wire):
    """One attempt to connect, and the connection that comes of it.

    Args:
        room: What all share.
        address: Where it leads, for people.
        name: Whose key it must be.
        key: That key.
        ended: Is told the complaint and how long there was a connection, once, when it is over.
    """

    def __init__(
        self,
        room: Room,
        address: str,
        name: str | None,
        key: bytes | None,
        ended: Callable[[str, float], object],
    ) -> None:
        self.line: Line | None = None
        self._address = address
        self._name = name
        self._key = key
        self._ended = ended
        self._failure = ""
        self._is_over = False
        super().__init__(room, zmq.DEALER)

    def dial(self, place: Address) -> None:
        """Begin to connect."""
        self.socket.setsockopt(zmq.IPV6, ":" in place.host)
        self.socket.connect(f"tcp://{place}")

    def drop(self, line: Line) -> None:
        """Send what waits, and close the socket, which tells the other end."""
        self._send_all(line)
        lasted = time.monotonic() - line.since
        self._forget(line)
        self._is_over = True
        self.close(1.0)
        # A pause that grows, however long it has lasted: it was not wanted.
        self._ended("", min(lasted, 1e-6))

    def _lines_there(self) -> list[Line]:
        return [] if self.line is None else [self.line]

    def _equip(self) -> None:
        super()._equip()
        # Told not to connect again, or to keep nothing for later, libzmq drops what it has received
        # when the connection ends (4.3.5). So it is told to wait for longer than the socket lives.
        self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
        self.socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT)
        if self._key is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, self._key)

    def _put(self, line: Line, batch: bytes) -> bool:
        self.socket.send(batch, NOBLOCK)
        return True

    def _take(self) -> int:
        try:
            batch = self.socket.recv(NOBLOCK)
        except zmq.Again:
            return -1
        if self.line is None:
            self._news()
        if self.line is None or not self.line.is_open:
            return len(batch)
        if batch == _CLOSED:
            self._end("the other end has closed it")
            return 0
        return self._hear(self.line, batch)

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.line = Line(self, self._address, self._name, self._key)
            self.room.tell(self.room.hearer.joined, self.line)
        elif event in _FAILURES:
            self._failure = _FAILURES[event]
        elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
            if self.line is None:
                self._end("")
            else:
                self._after_last_words(self._part)

    def _part(self) -> None:
        self._receive(2 * BATCHES)
        self._end("the connection is gone")

    def _end(self, why: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        line, lasted = self.line, 0.0
        self.close(0)
        if line is not None:
            lasted = time.monotonic() - line.since
            self._leave(line, why)
        self._ended(self._failure, lasted)


_FAILURES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not know our key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "it does not speak as a peer with the same keys does",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it did not say who it is; does it have another key?",
}


def _address_of(fd: int) -> str:
    """Answer where a connection of libzmq's leads, for people; it may be gone again."""
    try:
        with _own(fd) as sock:
            host, port = sock.getpeername()[:2]
    except OSError:
        return ""
    return str(Address("tcp", host, port))


def _own(fd: int) -> socket.socket:
    """Answer a descriptor of libzmq's as a socket of our own, which is closed as such.

    Raises:
        OSError: It is gone, or is none any more.
    """
    number = os.dup(fd)
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise
