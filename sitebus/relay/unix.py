"""Messages between processes of one machine, over unix sockets: frames, as on a worker's link.

The system says who is at the other end: this user, root, or one that was named; nobody else gets a
word. A socket's file is this user's alone, and goes when the process that made it closes it.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from sitebus.errors import BadAddress, BadFrame, BadRelayAddress, RelayBindError
from sitebus.relay.frames import Cutter, frame
from sitebus.relay.poller import READ, WRITE, Poller
from sitebus.relay.transport import Hearer, Settings
from sitebus.sockets import Address
from sitebus.sockets.files import PRIVATE, SocketFile, listen

#: One read, and about one write; what else is ready gets its turn between two.
_CHUNK = 128 * 1024
#: So many messages wait for a write that takes them all at once.
_TOGETHER = 64
#: What may wait for one peer, beside the number of messages that its settings allow.
_MOST_BYTES = 64 * 1024 * 1024
MOST_CONNECTIONS = 1000
_BACKLOG = 128

#: Seconds between two attempts to connect, at first and at last.
SOON, LATE = 0.05, 2.0
#: When the system gives no descriptor for a connection, the next try; seconds.
_PAUSE = 0.5
#: How long closing may take beyond what was allowed to linger; seconds.
_PATIENCE = 5.0

_CREDENTIALS = struct.Struct("3i")
_NOT_NOW = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM, errno.EINTR)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

_REMEDIES = {
    errno.EADDRINUSE: ("another process listens there", "stop it, or use another path"),
    errno.EEXIST: ("a file is there that is no socket", "remove it, or use another path"),
    errno.ENOENT: ("its directory is not there", "make it, or use another path"),
    errno.EACCES: ("this user may not", "use a directory that is this user's own"),
}


class UnixConnection:
    """One connected socket; see `sitebus.relay.transport.Connection`.

    Args:
        ended: Is told when it is over, whoever ended it.
    """

    def __init__(
        self,
        sock: socket.socket,
        name: str | None,
        address: str,
        poller: Poller,
        hearer: Hearer,
        high_water: int,
        ended: Callable[[UnixConnection], object],
    ) -> None:
        self.name = name
        self.address = address
        self._socket = sock
        self._poller = poller
        self._hearer = hearer
        self._high_water = high_water
        self._ended = ended
        self._cutter = Cutter()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._begun = memoryview(b"")
        self._blocked = self._scheduled = self._closed = self._finishing = False
        #: Whether it is waited for the moment when it takes more.
        self._watched = False

    def __repr__(self) -> str:
        return f"<UnixConnection {self.address}>"

    def begin(self) -> None:
        """Tell that it is there, and read."""
        self._poller.watch(self._socket.fileno(), READ, self._ready)
        self._poller.guarded(self._hearer.joined, self)

    def send(self, data: bytes) -> bool:
        """Send one message, or have it wait; see `Connection.send`."""
        waiting = self._waiting
        if self._closed or self._finishing:
            return False
        if len(waiting) >= self._high_water or self._bytes + len(data) > _MOST_BYTES:
            return False
        part = frame(data)
        waiting.append(part)
        self._bytes += len(part)
        if not self._blocked:
            if len(waiting) >= min(_TOGETHER, self._high_water):
                self._flush()
            elif not self._scheduled:
                self._scheduled = True
                self._poller.call_soon(self._flush)
        return True

    def close(self, why: str) -> None:
        """End it; what waits is sent if it can be at once."""
        self._flush()
        self._close()

    def finish(self, until: float) -> None:
        """End it when all is sent that waits, at the moment *until* at the latest."""
        self._flush()
        if not (self._blocked and until > time.monotonic()):
            self._close()
            return
        self._finishing = True
        self._poller.call_at(until, self._close)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._blocked = False
            self._flush()
        if events & READ and not self._closed:
            self._read()

    def _flush(self) -> None:
        self._scheduled = False
        if self._closed or self._blocked:
            return
        try:
            while self._begun or self._waiting:
                if not self._begun:
                    self._begun = memoryview(self._batch())
                self._begun = self._begun[self._socket.send(self._begun, _NO_SIGNAL) :]
        except OSError as error:
            if error.errno in _NOT_NOW:
                self._blocked = True
            else:
                # What was said before is still to be read; the end of it will come.
                self._drop()
        if self._blocked != self._watched:
            self._watch()
        if self._finishing and not self._blocked:
            self._close()

    def _batch(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._waiting and size < _CHUNK:
            part = self._waiting.popleft()
            parts.append(part)
            size += len(part)
        self._bytes -= size
        return b"".join(parts)

    def _drop(self) -> None:
        self._waiting.clear()
        self._bytes = 0
        self._begun = memoryview(b"")

    def _watch(self) -> None:
        self._watched = self._blocked
        events = READ | (WRITE if self._blocked else 0)
        self._poller.watch(self._socket.fileno(), events, self._ready)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self._lose(error.strerror or str(error))
            return
        if not data:
            self._lose("the other closed it")
            return
        try:
            for message in self._cutter.cut(data):
                self._poller.guarded(self._hearer.heard, self, message)
                if self._closed:
                    return
        except BadFrame as error:
            self._poller.guarded(self._hearer.refused, self.address, str(error))
            self._lose("it sent what is no message")

    def _lose(self, why: str) -> None:
        if not self._closed:
            self._close()
            self._poller.guarded(self._hearer.left, self, why)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._poller.unwatch(self._socket.fileno())
        self._socket.close()
        self._drop()
        self._ended(self)


class UnixTransport:
    """Connections over unix sockets; see `sitebus.relay.transport.Transport`.

    Args:
        poller: In whose thread all is done.
        hearer: Is told of connections and messages.
        settings: Of these, the number of messages that may wait, and the users who may connect.
    """

    def __init__(self, poller: Poller, hearer: Hearer, settings: Settings) -> None:
        self._poller = poller
        self._hearer = hearer
        self._high_water = settings.high_water
        self._uids = frozenset((0, os.geteuid(), *settings.uids))
        self._doors: list[_Door] = []
        self._dialers: list[_Dialer] = []
        self._connections: set[UnixConnection] = set()
        self._closed = False
        self._empty = threading.Event()

    def listen(self, address: str) -> str:
        """Let others connect; see `Transport.listen`."""
        path = _path(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            file = listen(sock, path, _BACKLOG, PRIVATE, None)
        except OSError as error:
            sock.close()
            reason, remedy = _REMEDIES.get(
                error.errno or 0, (error.strerror or str(error), "use another path")
            )
            raise RelayBindError(address, reason, remedy, errno=error.errno) from error
        door = _Door(self, sock, file)
        self._doors.append(door)
        self._poller.watch(sock.fileno(), READ, door.accept)
        return f"unix:{path}"

    def connect(self, address: str, name: str | None = None) -> None:
        """Connect, again and again; see `Transport.connect`."""
        dialer = _Dialer(self, _path(address), name)
        self._dialers.append(dialer)
        self._poller.call_soon(dialer.dial)

    def look_again(self) -> None:
        """End nothing: who may connect is said once."""

    def close(self, linger: float) -> None:
        """End all connections; see `Transport.close`."""
        until = time.monotonic() + linger
        if self._poller.is_current:
            self._end(until)
        elif self._poller.call_soon(lambda: self._end(until)):
            self._empty.wait(linger + _PATIENCE)

    # Below is the poller's thread.

    @property
    def poller(self) -> Poller:
        """In whose thread all is done."""
        return self._poller

    @property
    def is_closed(self) -> bool:
        """Whether there are to be no connections any more."""
        return self._closed

    def admit(
        self,
        sock: socket.socket,
        path: str,
        ended: Callable[[], object],
        *,
        came: bool,
        name: str | None = None,
    ) -> bool:
        """Have *sock* be a connection, if who is at its other end may; tell whether so."""
        sock.setblocking(False)
        pid, uid, _ = _peer_of(sock)
        address = f"unix:{path} (pid {pid})" if came and pid else f"unix:{path}"
        if self._closed:
            sock.close()
            return False
        if len(self._connections) >= MOST_CONNECTIONS:
            sock.close()
            why = f"there are {MOST_CONNECTIONS} connections already"
            self._poller.guarded(self._hearer.refused, f"unix:{path}", why)
            return False
        if uid not in self._uids:
            sock.close()
            whose = "a process" if came else "the process that listens"
            why = f"{whose} of user {uid}, who may not take part, is there"
            self._poller.guarded(self._hearer.refused, f"unix:{path}", why)
            return False

        def over(connection: UnixConnection) -> None:
            self._connections.discard(connection)
            if self._closed and not self._connections:
                self._empty.set()
            ended()

        connection = UnixConnection(
            sock, name, address, self._poller, self._hearer, self._high_water, over
        )
        self._connections.add(connection)
        connection.begin()
        return True

    def _end(self, until: float) -> None:
        self._closed = True
        for door in self._doors:
            door.close()
        for dialer in self._dialers:
            dialer.give_up()
        for connection in list(self._connections):
            connection.finish(until)
        if not self._connections:
            self._empty.set()


class _Door:
    """One socket that others connect to."""

    def __init__(self, transport: UnixTransport, sock: socket.socket, file: SocketFile) -> None:
        self._transport = transport
        self._socket = sock
        self._file = file

    def accept(self, events: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError as error:
            if error.errno not in _NOT_NOW and self._socket.fileno() != -1:
                self._rest()
            return
        self._transport.admit(sock, self._file.path, lambda: None, came=True)

    def close(self) -> None:
        if self._socket.fileno() != -1:
            self._transport.poller.unwatch(self._socket.fileno())
            self._socket.close()
            self._file.remove()

    def _rest(self) -> None:
        """There are no descriptors to be had: nothing else would be heard but this."""
        poller = self._transport.poller
        poller.unwatch(self._socket.fileno())
        poller.call_at(time.monotonic() + _PAUSE, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() != -1:
            self._transport.poller.watch(self._socket.fileno(), READ, self.accept)


class _Dialer:
    """One socket of another that is connected to, again and again."""

    def __init__(self, transport: UnixTransport, path: str, name: str | None) -> None:
        self._transport = transport
        self._path = path
        self._name = name
        self._pause = SOON
        self._since = 0.0
        self._cancel: Callable[[], None] = lambda: None

    def dial(self) -> None:
        if self._transport.is_closed:
            return
        self._since = time.monotonic()
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            self._again()
            return
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError:
            sock.close()
            self._again()
            return
        if not self._transport.admit(sock, self._path, self._again, came=False, name=self._name):
            self._again()

    def give_up(self) -> None:
        self._cancel()

    def _again(self) -> None:
        if self._transport.is_closed:
            return
        now = time.monotonic()
        if now - self._since > LATE:
            self._pause = SOON
        # Many that lost the same peer do not come back all at once.
        moment = now + self._pause * random.uniform(0.7, 1.3)
        self._pause = min(2 * self._pause, LATE)
        self._cancel = self._transport.poller.call_at(moment, self.dial)


def _path(address: str) -> str:
    try:
        parsed = Address.parse(address)
    except BadAddress as error:
        raise BadRelayAddress(address, error.reason, "unix:/run/relay.sock") from error
    if parsed.kind != "unix" or parsed.is_abstract:
        raise BadRelayAddress(address, "it is no path of a unix socket", "unix:/run/relay.sock")
    return parsed.path


def _peer_of(sock: socket.socket) -> tuple[int, int, int]:
    """Answer process, user and group at the other end; nobody's if the system does not say."""
    with suppress(OSError, AttributeError):
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(data)
        return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
    return 0, -1, -1
