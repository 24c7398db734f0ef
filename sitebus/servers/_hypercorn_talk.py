"""One request or WebSocket of hypercorn's, between it and the application."""

from __future__ import annotations

import asyncio
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

from hypercorn.protocol.http_stream import ASGIHTTPState

from sitebus.servers._hypercorn_websocket import Messages
from sitebus.servers.heads import MOST_FIELDS, Refusal

if TYPE_CHECKING:
    from sitebus.asgi import Message, Receive, Scope, Send
    from sitebus.servers._hypercorn_visitor import Visitor

#: Seconds that a client has for its own part in closing a WebSocket.
FAREWELL = 1.0
#: What a WebSocket is closed with: service restart, come again (RFC 6455 and its registry).
RESTART = 1012
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-fv:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
#: In capitals; of visible characters, without a fragment: as `sitebus.servers.heads` has them.
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")

#: Fields of which two would be a choice.
_SINGLE = (b"host", b"content-length", b"content-type")


class ClientLeft(ConnectionResetError):
    """What an application gets that goes on sending; if it lets it pass, that is no fault."""

    def __str__(self) -> str:
        return "the client has left"


class Talk:
    """What requests and WebSockets have in common.

    Attributes:
        stream: hypercorn's.
    """

    #: What ASGI calls the messages of an answer.
    _answer: str

    def __init__(self, visitor: Visitor, receive: Any, send: Any) -> None:
        self.visitor = visitor
        self.stream = send.__self__
        self._receive: Receive = receive
        self._send: Send = send
        self._unreceived: asyncio.Queue[Message] = receive.__self__

    @property
    def is_behind(self) -> bool:
        """Whether the application has left so much unreceived that no more shall be read."""
        most = self.visitor.house.settings.most_unreceived
        return 0 < most < self._unreceived.qsize() and not self.stream.closed

    async def run(self, scope: Scope) -> None:
        """Run the application, unless it is not to see this."""
        refusal = _refusal_for(scope, self.visitor.house.max_header)
        if refusal is None:
            await self._talk(scope)
        else:
            await self._refuse(refusal)

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    async def _talk(self, scope: Scope) -> None:
        await self.visitor.house.application(scope, self.receive, self.send)

    async def _refuse(self, refusal: Refusal) -> None:
        self.visitor.complain(refusal)
        text = refusal.why.encode("ascii") + b"\r\n"
        about = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
        start = {"type": f"{self._answer}.start", "status": refusal.status, "headers": about}
        await self.send(start)
        await self.send({"type": f"{self._answer}.body", "body": text})


class Exchange(Talk):
    """One request and its response."""

    _answer = "http.response"
    _is_whole = False

    async def receive(self) -> Message:
        message = await self._hear()
        if message["type"] == "http.disconnect":
            # For whoever asks next, or asks at the same time.
            self._unreceived.put_nowait(message)
        elif not message.get("more_body"):
            self._is_whole = True
        self.visitor.read_on()
        return message

    async def _hear(self) -> Message:
        if self._is_whole or not self._unreceived.empty():
            return await self._receive()
        while True:
            try:
                # A client that stops in the middle of a body is as silent as any other.
                async with asyncio.timeout(self.visitor.house.timeout):
                    return await self._receive()
            except TimeoutError:
                # Unless it is us who do not listen.
                if not self.visitor.is_paused:
                    await self.visitor.give_up(self.stream)

    async def send(self, message: Message) -> None:
        if self.stream.closed and self.stream.state is not ASGIHTTPState.CLOSED:
            raise ClientLeft
        if message["type"] == "http.response.start":
            if self.visitor.ends_here:
                message = {**message, "headers": _closing(message.get("headers", ()))}
            self.visitor.hold_head()
            await self._send(message)
            return
        await self._send(message)
        await self.visitor.let_go_head()
        self.visitor.read_on()


class Conversation(Talk):
    """One WebSocket."""

    _answer = "websocket.http.response"
    _is_open = False
    _is_left = False

    async def _talk(self, scope: Scope) -> None:
        conversations = self.visitor.house.conversations
        conversations.add(self)
        try:
            await super()._talk(scope)
        finally:
            conversations.discard(self)

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._unreceived.put_nowait(message)
            if self._is_left:
                return {**message, "code": RESTART, "reason": ""}
        self.visitor.read_on()
        return message

    async def send(self, message: Message) -> None:
        if self.stream.closed:
            raise ClientLeft
        if self._is_left:
            # The application has not heard yet; it must not hold up those who will tell it.
            await asyncio.sleep(0)
            return
        await self._send(message)
        if message["type"] == "websocket.close":
            self._is_open = False
        elif message["type"] == "websocket.accept":
            self._is_open = True
            self._tame()
            if self.visitor.house.draining:
                await self.leave()

    async def leave(self) -> None:
        """Close it, for the server's reasons."""
        if self._is_open:
            self._is_open, self._is_left = False, True
            await self._send({"type": "websocket.close", "code": RESTART, "reason": "restarting"})

    def _tame(self) -> None:
        """Bound what the client may do, and for how long it may put off a close."""
        connection, visitor = self.stream.connection, self.visitor
        connection.__class__ = Messages

        def give_up() -> None:
            visitor.let_go(self.stream)

        def refuse() -> None:
            visitor.complain_of("WebSocket frames of no use", "who sends too many small frames")
            give_up()

        connection.prepare(refuse, lambda: visitor.loop.call_later(FAREWELL, give_up))

    async def give_up(self) -> None:
        """End it for a client that does not close on its part."""
        if self._is_left:
            await self.visitor.give_up(self.stream)


def _refusal_for(scope: Scope, most: int) -> Refusal | None:
    """Look at what only HTTP/2 comes so far with."""
    if scope["http_version"] != "2":
        return None
    return _refusal_for_target(scope) or _refusal_for_header(scope, most)


def _refusal_for_target(scope: Scope) -> Refusal | None:
    method = scope.get("method", "CONNECT")
    path, query = scope["raw_path"], scope["query_string"]
    if not _METHOD.fullmatch(method):
        return Refusal(400, "The method of the request is not a word in capitals.")
    if not _PATH.fullmatch(path + query) and (method, path) != ("OPTIONS", b"*"):
        return Refusal(400, "The target of the request is no path.")
    return None


def _refusal_for_header(scope: Scope, most: int) -> Refusal | None:
    if most and _size(scope) > most:
        return Refusal(431, f"The header is longer than {most} bytes.")
    names = [name for name, _ in scope["headers"]]
    if len(names) > MOST_FIELDS:
        return Refusal(431, f"The header has more than {MOST_FIELDS} lines.")
    if any(names.count(name) > 1 for name in _SINGLE):
        return Refusal(400, "A field that may be there once is there twice.")
    if not all(_HOST.fullmatch(value) for name, value in scope["headers"] if name == b"host"):
        return Refusal(400, "The Host is not a name or an address.")
    return None


def _size(scope: Scope) -> int:
    """Answer about how long the head was; h11 lets pass what arrives in one piece."""
    target = len(scope["raw_path"]) + len(scope["query_string"])
    headers = scope["headers"]
    # ": " and the end of the line of each.
    return target + sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def _closing(headers: Any) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return [*kept, (b"connection", b"close")]
