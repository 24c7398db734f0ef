"""A link: messages, and descriptors with them, over a stream socket that two processes share.

Sending never blocks. What the socket does not take at once waits its turn, up to a limit; what goes
beyond it is dropped and counted, so that a process that does not read costs another some memory and
nothing else. Each thread's messages arrive in the order in which it sent them.

The end of the stream is how either process learns of the death of the other. What the other had
said before it died is still heard, also when it can no longer be answered.

A descriptor travels with the first byte of its message, and systems differ in how much else a read
answers with it; so a message says itself that one belongs to it, under the key `CARRIES`, which the
receiver does not get to see.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sitebus.errors import BadFrame
from sitebus.relay.frames import Decoder, encode
from sitebus.relay.poller import READ, WRITE, Poller

#: What may wait to be sent: bytes, and messages.
QUEUE_BYTES = 4 * 1024 * 1024
QUEUE_MESSAGES = 10_000

CARRIES = "+fd"

#: One read, and about one write; what else is ready gets its turn between two.
_CHUNK = 64 * 1024
#: So many buffers a system takes at once at least (IOV_MAX is 16 by POSIX, 1024 everywhere).
_BUFFERS = 64
_INT = 4
_NOT_NOW = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM)
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Rest(NamedTuple):
    """What is under way on a link: of a message that has begun to come, and yet to be sent."""

    begun: bytes = b""
    unsent: bytes = b""


NOTHING = Rest()

_OnMessage = Callable[[dict[str, Any], int | None], object]


class _Outbox:
    """What waits to be sent, in order, each with the descriptor that it owns."""

    def __init__(self) -> None:
        self._items: deque[tuple[memoryview, int | None]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, data: bytes, fd: int | None) -> bool:
        """Add a message, and answer whether there was room."""
        if len(self._items) >= QUEUE_MESSAGES or self._size + len(data) > QUEUE_BYTES:
            return False
        self._items.append((memoryview(data), fd))
        self._size += len(data)
        return True

    def batch(self) -> tuple[list[memoryview], int | None]:
        """Answer what to send next, and the descriptor that goes with its first byte."""
        parts: list[memoryview] = []
        size = 0
        # By number: what is finalized meanwhile may add to them.
        for number in range(min(len(self._items), _BUFFERS)):
            data, fd = self._items[number]
            if parts and (fd is not None or size >= _CHUNK):
                break
            parts.append(data)
            size += len(data)
        return parts, self._items[0][1]

    def sent(self, size: int) -> int:
        """Take out *size* bytes, and answer how many messages ended with them."""
        self._size -= size
        done = 0
        while self._items:
            data, fd = self._items.popleft()
            if fd is not None:
                os.close(fd)
            if size < len(data):
                self._items.appendleft((data[size:], None))
                break
            size -= len(data)
            done += 1
            if not size:
                break
        return done

    def drop(self) -> None:
        """Take out the first message."""
        data, fd = self._items.popleft()
        self._size -= len(data)
        if fd is not None:
            os.close(fd)

    def take(self) -> bytes:
        """Take out all that goes without a descriptor, and drop the others."""
        found = b"".join(data for data, fd in self._items if fd is None)
        self.clear()
        return found

    def clear(self) -> int:
        """Drop all, and answer how many there were."""
        count = len(self._items)
        while self._items:
            self.drop()
        return count


class Link:
    """One end of a connection between two processes; the socket is its own from here on.

    It reads at once. What is made in the poller's thread is not told anything before this turn is
    over.

    Args:
        on_message: Is given each message, and the descriptor that came with it, which is closed
            when it returns: ``os.dup`` what is to be kept.
        on_end: Is given the link when the other end has closed it, or sent what is no message, but
            not when it was closed here. Both are called in the poller's thread.
        rest: What another image of this process had left of it, see `detach`.

    Attributes:
        sent: Messages that the system took.
        received: Messages that came.
        lost: Messages that were to be sent and were dropped.
        error: Why the link has ended, unless the other end just closed it.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        on_message: _OnMessage,
        on_end: Callable[[Link], object],
        rest: Rest = NOTHING,
    ) -> None:
        self.sent = self.received = self.lost = 0
        self.error: Exception | None = None
        self._socket = sock
        self._poller = poller
        self._on_message = on_message
        self._on_end = on_end
        # Reentrant, as is all of `send`: what is finalized in the middle of it may want to log.
        self._lock = threading.RLock()
        self._outbox = _Outbox()
        self._decoder = Decoder()
        self._descriptors: deque[int | None] = deque()
        self._flushing = self._waiting = self._broken = self._closing = False
        self._closed = threading.Event()
        sock.setblocking(False)
        self._decoder.feed(rest.begun)
        if rest.unsent:
            self._outbox.put(rest.unsent, None)
            self._waiting = True
        poller.watch(sock.fileno(), READ | (WRITE if rest.unsent else 0), self._ready)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Answer two sockets that are connected, for a link in each of two processes."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def __repr__(self) -> str:
        counts = f"sent {self.sent}, received {self.received}, lost {self.lost}"
        return f"<Link {self.fileno()} {counts}>"

    def fileno(self) -> int:
        """Answer the descriptor of the socket; -1 once it is closed."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], fd: int | None = None) -> bool:
        """Send a message, or have it sent as soon as the other end reads; any thread may.

        Args:
            message: A JSON object.
            fd: A descriptor to go with it, which is closed here whatever becomes of it.

        Returns:
            Whether it is on its way; else it is dropped and counted.

        Raises:
            NotJson: It holds what JSON cannot say; a TypeError.
            MessageTooLarge: It is too large.
            OSError: *fd* is no open descriptor.
        """
        if fd is not None:
            os.fstat(fd)
        try:
            data = encode(message if fd is None else {**message, CARRIES: True})
        except BaseException:
            _close(fd)
            raise
        with self._lock:
            if self._closing or self._broken or not self._outbox.put(data, fd):
                self.lost += 1
                _close(fd)
                return False
            lost = self.lost
            if not (self._waiting or self._flushing):
                self._flush()
            return self.lost == lost

    def close(self, flush: float = 0.0) -> None:
        """Close the link; what has not been sent after *flush* seconds is dropped and counted.

        In the poller's thread this returns at once, and the link closes when all is sent or the
        time is over. In another it waits for that.
        """
        with self._lock:
            self._closing = True
        until = time.monotonic() + flush
        if self._poller.is_current:
            self._linger(until)
        elif not self._poller.call_soon(lambda: self._linger(until)):
            self._finish()
        elif flush > 0:
            self._closed.wait(flush)

    def detach(self) -> tuple[socket.socket, Rest]:
        """Let go of the socket, for the next image of this process; in the poller's thread.

        Messages that wait to be sent with a descriptor are dropped.

        Returns:
            The socket, and what its next link has to begin with.
        """
        self._poller.unwatch(self.fileno())
        with self._lock:
            rest = Rest(self._decoder.held, self._outbox.take())
            self._closing = True
            self._close_descriptors()
            self._closed.set()
        return self._socket, rest

    # Below the lock is held.

    def _flush(self) -> None:
        """Send until nothing is left or the socket is full; then have the poller go on."""
        self._flushing = True
        try:
            while self._outbox and self._push():
                pass
        finally:
            self._flushing = False
        # Only now nobody adds to it any more who would rely on this very flush.
        if self._outbox:
            self._waiting = True
            self._poller.call_soon(self._watch)

    def _push(self) -> bool:
        """Send something; answer whether the socket takes more."""
        parts, fd = self._outbox.batch()
        try:
            size = self._socket.sendmsg(parts, _rights(fd), _NO_SIGNAL)
        except OSError as error:
            return self._cannot_send(error.errno, fd)
        self.sent += self._outbox.sent(size)
        return True

    def _cannot_send(self, number: int | None, fd: int | None) -> bool:
        if number in _NOT_NOW:
            return False
        if fd is not None and number not in _GONE:
            # ETOOMANYREFS, say: too many are under way already. It may be so for ever.
            self._outbox.drop()
            self.lost += 1
            return True
        # Nobody reads any more, and something may still be there to be read.
        self._broken = True
        self.lost += self._outbox.clear()
        return False

    # Below this is the poller's thread.

    def _watch(self) -> None:
        if self._closed.is_set():
            return
        with self._lock:
            events = (0 if self._closing else READ) | (WRITE if self._waiting else 0)
        self._poller.watch(self.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & READ and not self._closing:
            self._read()

    def _write(self) -> None:
        with self._lock:
            if self._outbox:
                self._push()
            # In this order: whoever sends in between does so itself.
            self._waiting = False
            if self._outbox:
                self._waiting = True
                return
        if self._closing:
            self._finish()
        else:
            self._watch()

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                _CHUNK, socket.CMSG_LEN(_INT), _CLOSE_ON_EXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        self._descriptors += _descriptors(ancillary, flags)
        if data:
            self._take(data)
        else:
            self._end(None)

    def _take(self, data: bytes) -> None:
        bad: BadFrame | None = None
        try:
            messages = self._decoder.feed(data)
        except BadFrame as error:
            messages, bad = error.before, error
        for message in messages:
            if not self._closing:
                self._deliver(message)
        # What came with the message that has only begun to come is still to be asked for.
        self._close_descriptors(1 if self._decoder.unfinished and not bad else 0)
        if bad:
            self._end(bad)

    def _deliver(self, message: dict[str, Any]) -> None:
        carries = message.pop(CARRIES, False)
        fd = self._descriptors.popleft() if carries and self._descriptors else None
        self.received += 1
        self._poller.guarded(self._on_message, message, fd)
        if fd is not None:
            self._poller.guarded(os.close, fd)

    def _close_descriptors(self, kept: int = 0) -> None:
        while len(self._descriptors) > kept:
            _close(self._descriptors.popleft())

    def _linger(self, until: float) -> None:
        with self._lock:
            done = not self._outbox or time.monotonic() >= until
            self._waiting = True
        if done:
            self._finish()
        elif not self._closed.is_set():
            self._watch()
            self._poller.call_at(until, self._finish)

    def _end(self, error: Exception | None) -> None:
        if self._closing:
            return
        self.error = error
        self._finish()
        self._poller.guarded(self._on_end, self)

    def _finish(self) -> None:
        if self._closed.is_set():
            return
        # Without the lock: it may have to wait for the poller, and that for the lock.
        self._poller.unwatch(self.fileno())
        with self._lock:
            self._closing = True
            self._socket.close()
            self.lost += self._outbox.clear()
            self._close_descriptors()
            self._closed.set()


def _rights(fd: int | None) -> list[tuple[int, int, bytes]]:
    if fd is None:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(_INT, sys.byteorder))]


def _descriptors(ancillary: list[tuple[int, int, bytes]], flags: int) -> list[int | None]:
    """Answer the descriptor that a read brought; None for one that this process had no room for."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += memoryview(data[: len(data) // _INT * _INT]).cast("i")
    for fd in found:
        os.set_inheritable(fd, False)
    for fd in found[1:]:
        os.close(fd)
    if found:
        return [found[0]]
    return [None] if flags & socket.MSG_CTRUNC else []


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
