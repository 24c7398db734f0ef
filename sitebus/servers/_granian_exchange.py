"""One request to an ASGI application, and its response, between it and granian.

What granian's Rust gives for it is told in `sitebus.servers._granian_asgi`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sitebus.errors import BadMessage, BodyTooLarge
from sitebus.servers._granian_inbox import Inbox
from sitebus.servers._granian_outgoing import left_after, length_of
from sitebus.servers.heads import Refusal

if TYPE_CHECKING:
    from sitebus.servers._granian_asgi import AsgiCaller

Message = dict[str, Any]

#: After so many pieces of a body it is time to know whether the client is still there.
PIECES = 4

_GONE: Message = {"type": "http.disconnect"}


class Exchange:
    """One request and its response, as the application sees them."""

    # On the class: few requests ever change them.
    #: Whether the response has begun.
    begun = False
    #: How many pieces it had that are not the last one; 0 again after that.
    pieces = 0
    #: Why the request's body is not waited for any more.
    refusal: Refusal | None = None
    _inbox: Inbox | None = None
    #: Whether the body was read to its end.
    _is_read = False
    _received = 0
    _waited = 0.0
    #: How many bytes of the response's body there must be from now on, if it said that.
    _left: int | None = None
    #: How the response begins, if nothing was sent of it yet.
    _head: Message | None = None

    def __init__(self, caller: AsgiCaller, proto: Any, method: str) -> None:
        self._caller = caller
        self._proto = proto
        self._method = method

    @property
    def is_gone(self) -> bool:
        """Whether the client is known to have left."""
        return self._inbox is not None and self._inbox.is_gone

    @property
    def is_over(self) -> bool:
        """Whether there is nobody to be told anything, or who was told it."""
        return self.refusal is not None or self.is_gone

    async def receive(self) -> Message:
        """Answer the next message; that the client has left, if it is too slow.

        Raises:
            BodyTooLarge: There is too much of the body.
        """
        inbox = self._inbox = self._inbox or Inbox(self._proto.receive)
        if self.refusal is not None or (inbox.is_gone and not inbox.has_news):
            return _GONE.copy()  # at once, for who only wants to know
        if self._is_read:
            return await inbox.receive()
        message = await self._in_time(inbox)
        if message is None:
            self._refuse(Refusal(408, "The body of the request did not come in time."))
            return _GONE.copy()
        self._is_read = not message.get("more_body")
        self._received += len(message.get("body", b""))
        most = self._caller.max_body
        if most and self._received > most:
            self._refuse(Refusal(413, "The body of the request is too large."))
            raise BodyTooLarge(most)
        return message

    async def _in_time(self, inbox: Inbox) -> Message | None:
        caller = self._caller
        patience = caller.timeout
        if caller.min_rate:
            allowed = patience + self._received / caller.min_rate - self._waited
            patience = min(patience, allowed)
        began = time.monotonic()
        message = await inbox.receive_within(patience)
        self._waited += time.monotonic() - began
        return message

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        if not self.begun:
            self._caller.answer(self._proto, refusal)

    def send(self, message: Message) -> Any:
        if self.refusal is not None:
            return _nothing()  # as to a client that has left
        if message["type"] == "http.response.start":
            return self._start(message)
        body = message.get("body", b"")
        if type(body) is not bytes:
            _check_body(message)
        is_last = not message.get("more_body")
        if self._left is not None and message["type"] == "http.response.body":
            self._left = left_after(self._left, len(body), is_last=is_last)
        if self._head is not None:
            self._begin(self._head)
        if not is_last:
            return self._send_piece(_as_piece(message))
        if self.pieces:
            self.pieces = 0
        return self._proto.send(message)

    def _start(self, message: Message) -> Any:
        if self._head is not None or self.begun:
            raise BadMessage("a second response", "a request has one")
        head = self._caller.start(self._proto, message)
        self._left = length_of(head["headers"], head["status"], self._method)
        self._head = head
        return _nothing()

    def _begin(self, head: Message) -> None:
        # Not before there is a body: granian, which sends nothing before either, takes no other.
        self._head = None
        self._proto.send(head)
        self.begun = True

    def end(self) -> None:
        """Ask granian for nothing any more, and know nothing of it."""
        # Whoever keeps this, if only for a traceback, must not keep a socket by it.
        self._proto = NOBODY
        if self._inbox is not None:
            self._inbox.let_go()

    def _send_piece(self, message: Message) -> Any:
        self.pieces += 1
        send = self._proto.send
        if self.pieces <= PIECES:
            return send(message)
        inbox = self._inbox = self._inbox or Inbox(self._proto.receive)
        return inbox.send_piece(send, message)


class Nobody:
    """Whom an application speaks to that goes on after its end."""

    async def receive(self) -> Message:
        return _GONE.copy()

    async def send(self, message: Message) -> None: ...


NOBODY = Nobody()


def _as_piece(message: Message) -> Message:
    """Answer a piece of a body, of which there is more, as granian takes it."""
    return message if message["more_body"] is True else {**message, "more_body": True}


def _check_body(message: Message) -> None:
    body = message.get("body", b"")
    if not isinstance(body, bytes | bytearray | memoryview):
        raise BadMessage(f"a body of type {type(body).__name__}", "it is bytes")


async def _nothing() -> None: ...
