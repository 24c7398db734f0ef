"""What an ASGI application sends, on its way to the server: looked at, and counted.

An application may break the rules of ASGI, or fail half way. The status and the headers of a
response that does not tell its length are held back until the first of the body is there, as the
specification asks of servers and not all of them do: until then a failure can become a 500. (One
that tells has its body at hand; to hold that back would cost more than the rest of this file.)
Whether headers can be sent at all is for the server to say, and every one of ours does.
Afterwards the response is left unfinished, and the server breaks the connection off, so that no
client takes half a body for a whole one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from sitebus.errors import BadMessage

if TYPE_CHECKING:
    from sitebus.asgi import Message, Receive, Send

#: What a server with the extension of that name takes besides, while the response goes on.
_BODIES = frozenset({"http.response.zerocopysend", "http.response.pathsend"})
_BESIDES = frozenset({
    "http.response.push", "http.response.early_hint", "http.response.debug",
})  # fmt: skip

#: What a response can have; a 1xx is none.
STATUSES = frozenset(range(200, 1000))

_START, _BODY = "http.response.start", "http.response.body"
_SOCKET = "websocket."


#: How far a response is: nothing is known; its beginning waits for the body; the server knows of
#: it; its trailers are to follow; it is complete.
NOTHING, HELD, BEGUN, TRAILING, COMPLETE = range(5)


class Reply:
    """``send`` as an application sees it, for one HTTP request; ``phase`` and ``send`` are given.

    Written for speed: it is on every request's way.
    """

    __slots__ = ("held", "phase", "send")

    phase: int
    #: The server's.
    send: Send
    #: What began the response and waits for the body.
    held: Message

    def say(self, message: Message) -> Awaitable[None]:
        """Be the application's ``send``."""
        # Not a coroutine of its own: one less for each message. A method, because to call an
        # instance takes the interpreter twice as long. ``self.send(...)`` takes longer, too: it
        # would look for a method first.
        phase = self.phase
        if phase == BEGUN:
            if message["type"] == _BODY:
                if "more_body" not in message or not message["more_body"]:
                    self.phase = COMPLETE
                send = self.send
                return send(message)
        elif phase == NOTHING and message["type"] == _START:
            status = message["status"]
            # To compare with the commonest takes half as long as to look it up.
            if status != 200 and status not in STATUSES:
                raise _bad_status(status)
            try:
                headers = message["headers"]
            except KeyError:
                headers = ()
            if type(headers) is not list:
                message["headers"] = headers = list(headers)
            for name, _ in headers:
                if name == b"content-length" and "trailers" not in message:
                    self.phase = BEGUN
                    send = self.send
                    return send(message)
            self.held, self.phase = message, HELD
            return _nothing()
        return self._rarer(message["type"], message)

    def _rarer(self, kind: Any, message: Message) -> Awaitable[None]:
        if self.phase == COMPLETE:
            raise BadMessage(shown(kind), "the response was complete already")
        if kind == _START:
            raise BadMessage(f"a second {_START}", "a response begins once")
        if (kind == _BODY or kind in _BODIES) and self.phase != NOTHING:
            return self._body(message)
        if kind == _BODY:
            raise BadMessage(_BODY, f"{_START} must come before it")
        if kind == "http.response.trailers" and self.phase == TRAILING:
            if not message.get("more_trailers", False):
                self.phase = COMPLETE
            return self.send(message)
        if kind in _BESIDES:
            return self.send(message)
        raise BadMessage(shown(kind), f"to a request belong {_START} and then {_BODY}")

    def _body(self, message: Message) -> Awaitable[None]:
        """Send off what was held back, with the first of the body."""
        check_body(message)
        held = self.held if self.phase == HELD else None
        if held is not None:
            self.phase = TRAILING if held.get("trailers") else BEGUN
        if self.phase == BEGUN and not message.get("more_body", False):
            self.phase = COMPLETE
        return self.send(message) if held is None else _both(self.send, held, message)


class SocketReply:
    """``receive`` and ``send`` as an application sees them, for one WebSocket."""

    __slots__ = ("_receive", "_send", "accepted", "denied", "left", "phase")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        #: Whether the handshake was answered, and with yes.
        self.accepted = False
        #: Whether a response other than a WebSocket has begun.
        self.denied = False
        #: Whether the application knows that the client has gone; not every server says it twice.
        self.left = False
        #: ``NOTHING`` or ``COMPLETE``.
        self.phase = NOTHING

    async def hear(self) -> Message:
        """Be the application's ``receive``."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.left = True
        return message

    def say(self, message: Message) -> Awaitable[None]:
        """Be the application's ``send``."""
        kind = message["type"]
        if kind == "websocket.accept":
            if self.accepted or self.phase == COMPLETE:
                raise BadMessage(shown(kind), "the WebSocket was answered already")
            self.accepted = True
        elif kind == "websocket.close":
            self.phase = COMPLETE
        elif kind == "websocket.http.response.start":
            if message["status"] not in STATUSES:
                raise _bad_status(message["status"])
            self.denied = True
        elif kind == "websocket.http.response.body":
            if not message.get("more_body", False):
                self.phase = COMPLETE
        elif kind != "websocket.send":
            raise BadMessage(shown(kind), "to a WebSocket belong accept, send and close")
        elif not self.accepted:
            raise BadMessage(shown(kind), "websocket.accept must come before it")
        return self._send(message)


async def _nothing() -> None:
    pass


async def _both(send: Send, start: Message, body: Message) -> None:
    await send(start)
    await send(body)


def _bad_status(status: object) -> BadMessage:
    return BadMessage(f"the status {status!r:.80}", "it is a number from 200 to 999")


def check_body(message: Message) -> None:
    """Raise unless the message's body is bytes, of some kind that servers take.

    Raises:
        BadMessage: It is not.
    """
    body = message.get("body", b"")
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise BadMessage(f"a body of type {type(body).__name__}", "it is bytes")


def shown(kind: object) -> str:
    """Answer a message's type for another message."""
    return f"{kind!s:.80}" if isinstance(kind, str) else f"a message of type {kind!r:.80}"
