"""One client of the control socket: reads its requests, and writes what it is answered.

Everything here runs in the thread of the socket, and nothing waits: what cannot be read or written
now is read or written when the system says so, or the client is given up.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from sitebus.control.later import Later
from sitebus.control.peers import Peer, Role
from sitebus.control.rings import Entry
from sitebus.control.wire import (
    CONTINUE,
    FEED_HEAD,
    MOST_BODY,
    MOST_HEAD,
    Feed,
    Reply,
    Request,
    lost,
    refusal,
)
from sitebus.servers import heads
from sitebus.servers.heads import Head, Refusal

#: Seconds that a client may take to say what it wants, or to take what it is answered.
PATIENCE = 10.0
#: Seconds that a refused client may take to close, so that it can read why.
LINGER = 1.0
#: Seconds that a client has to ask that came just before the socket is closed.
LAST_WORD = 0.2
#: Of a feed, no more waits to be taken; the rest stays in the ring.
_MOST_WAITING = 64 * 1024
_CHUNK = 64 * 1024

Answer = Reply | Later | Feed


class Host(Protocol):
    """What a client needs of the socket that it came by."""

    def respond(self, request: Request) -> Answer:
        """Answer a request; never raises."""

    def watch(self, connection: Connection, events: int) -> None:
        """Call `Connection.turn` when one of *events* can be done."""

    def forget(self, connection: Connection) -> None:
        """Watch it no more: it is closed."""

    def call_soon(self, work: Callable[[], object]) -> None:
        """Have *work* called in the thread of the socket."""


class Connection:
    """A client.

    Attributes:
        due: When it is given up, or its answer is; `time.monotonic` seconds, None for never.
        feed: What it follows, if it does.
    """

    def __init__(self, host: Host, sock: socket.socket, peer: Peer, role: Role) -> None:
        self._host = host
        self.socket = sock
        self.peer = peer
        self.role = role
        self.due: float | None = time.monotonic() + PATIENCE
        self.feed: Feed | None = None
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._head: Head | None = None
        self._later: Later | None = None
        self._keeps = True
        #: Nothing more is answered: it is closed when what waits is sent.
        self._last = False
        self._lingers = False
        self._closed = False
        #: It has had an answer: what it sends now, it may send elsewhere as well.
        self._answered = False
        #: This answer is the last.
        self._ending = False

    # What the socket calls.

    def turn(self, events: int) -> None:
        """Do what can be done."""
        try:
            if not self._closed and events & selectors.EVENT_READ:
                self._read()
            if not self._closed and events & selectors.EVENT_WRITE:
                self._write()
                self.pull()
                self._advance()
        except OSError:
            self.close()  # it is gone

    def overdue(self) -> None:
        """Its time is over."""
        if self._later is not None and self._later.otherwise is not None:
            self._later.settle(self._later.otherwise())
        else:
            self.close()

    def refuse(self, reply: Reply) -> None:
        """Answer without having read anything, and close."""
        self._send(reply, last=True)

    def end(self) -> None:
        """Answer what it has asked already, and close: the socket is about to be closed."""
        self._ending = True
        if self.feed is not None:
            self._end_feed()
        elif self._later is not None and self._later.otherwise is not None:
            self._later.settle(self._later.otherwise())
        elif self._is_free:
            self._hear_out()

    def _end_feed(self) -> None:
        self.pull()
        self.feed, self._last = None, True
        if not self._outbox:
            self.close()

    def _hear_out(self) -> None:
        """Read what was sent in time; a client that has only just come may be about to ask."""
        with suppress(BlockingIOError):
            self._read()
        if self._is_free:
            if self._answered:
                self.close()
            else:
                self.due = time.monotonic() + LAST_WORD

    def pull(self) -> None:
        """Take what is new from the ring, as far as the client keeps up."""
        if self.feed is None or self._closed:
            return
        entries, missed = self.feed.ring.after(self.feed.after)
        if missed and len(self._outbox) >= _MOST_WAITING:
            self.close()  # it does not read, and what it would have read next is lost
            return
        if missed:
            self._outbox += lost(missed)
        whole = self._take(self.feed, entries)
        if whole and not self.feed.follows:
            self.feed, self._last = None, True
        self._try_write()
        if not whole and not self._outbox:
            self._host.call_soon(self.pull)

    def _take(self, feed: Feed, entries: list[Entry]) -> bool:
        """Have the entries wait to be sent, unless too much waits; tell whether all of them do."""
        after = feed.after
        for entry in entries:
            if len(self._outbox) >= _MOST_WAITING:
                break
            after = entry.number
            if feed.takes(entry):
                self._outbox += feed.encode(entry)
        self.feed = feed._replace(after=after)
        return not entries or after == entries[-1].number

    def close(self) -> None:
        """Let go of it."""
        if not self._closed:
            self._closed = True
            self._later = self.feed = None
            self._host.forget(self)
            self.socket.close()

    # Reading.

    def _read(self) -> None:
        data = self.socket.recv(_CHUNK)
        if not data:
            self.close()
        elif not (self._last or self.feed is not None):  # else nobody listens any more
            if self._is_free and self._head is None and not self._inbox:
                self.due = time.monotonic() + PATIENCE
            self._inbox += data
            self._advance()
            if len(self._inbox) > MOST_HEAD + MOST_BODY:
                self.close()

    def _advance(self) -> None:
        """Answer what has come whole, one after the other."""
        while self._is_free and self._inbox:
            try:
                request = self._next()
            except Refusal as why:
                self._send(refusal(why.status, why.why), last=True)
                return
            if request is None:
                return
            self._keeps = request.head.keeps
            self._answer(request, self._host.respond(request))

    @property
    def _is_free(self) -> bool:
        return not (self._closed or self._last or self._later or self.feed or self._outbox)

    def _next(self) -> Request | None:
        """Take the next request out of what has come, if it is whole."""
        if self._head is None:
            end = heads.find_end(bytes(self._inbox[: MOST_HEAD + 4]), MOST_HEAD)
            if end < 0:
                return None
            self._head = heads.read(bytes(self._inbox[:end]), MOST_BODY)
            del self._inbox[: end + 4]
            if self._head.length is None:
                raise Refusal(400, "A body is sent with a Content-Length here.")
            if self._head.waits and self._head.length > len(self._inbox):
                self._outbox += CONTINUE
                self._try_write()
        length = self._head.length or 0
        if len(self._inbox) < length:
            return None
        head, self._head = self._head, None
        body = bytes(self._inbox[:length])
        del self._inbox[:length]
        return Request(head, body, self.peer, self.role)

    # Answering.

    def _answer(self, request: Request, answer: Answer) -> None:
        if isinstance(answer, Reply):
            self._send(answer, with_body=request.head.method != "HEAD")
        elif isinstance(answer, Later):
            self._wait_for(answer)
        else:
            self.due = None
            self.feed = answer
            self._outbox += FEED_HEAD
            self.pull()

    def _wait_for(self, later: Later) -> None:
        self._later = later
        self.due = None if later.timeout is None else time.monotonic() + later.timeout
        later.then(lambda reply: self._host.call_soon(lambda: self._settle(later, reply)))

    def _settle(self, later: Later, reply: Reply) -> None:
        if self._later is later:
            self._later = None
            self._send(reply, last=self._last)
            self._advance()

    def _send(self, reply: Reply, *, last: bool = False, with_body: bool = True) -> None:
        self._last = last or self._ending or not self._keeps
        self._answered = True
        self._outbox += _encoded(reply, not self._last, with_body)
        self.due = time.monotonic() + PATIENCE
        self._try_write()

    def _try_write(self) -> None:
        try:
            self._write()
        except OSError:
            self.close()  # it is gone

    def _write(self) -> None:
        if self._outbox:
            try:
                sent = self.socket.send(self._outbox)
            except BlockingIOError:
                sent = 0
            del self._outbox[:sent]
        if not self._outbox:
            self._written()
        if not self._closed:
            writes = selectors.EVENT_WRITE if self._outbox else 0
            self._host.watch(self, selectors.EVENT_READ | writes)

    def _written(self) -> None:
        """Everything that was to be said for now is sent."""
        if self._last and not self._lingers:
            # What it has sent and nobody has read would have the system take the answer back.
            self._lingers = True
            self.socket.shutdown(socket.SHUT_WR)
            self.due = time.monotonic() + LINGER


def _encoded(reply: Reply, keeps: bool, with_body: bool) -> bytes:
    try:
        return reply.encode(keeps, with_body)
    except (TypeError, ValueError) as error:
        # A number, or a name, from workers or from the bus that no JSON has.
        return refusal(500, f"the answer cannot be written: {error}").encode(keeps, with_body)
