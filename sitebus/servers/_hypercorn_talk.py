"""One request or WebSocket of hypercorn's, between it and the application."""

from __future__ import annotations

import asyncio
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

from hypercorn.protocol.http_stream import ASGIHTTPState

from sitebus.servers.heads import Refusal

if TYPE_CHECKING:
    from sitebus.asgi import Message, Receive, Scope, Send
    from sitebus.servers._hypercorn_visitor import Visitor

#: What a WebSocket is closed with: service restart, come again (RFC 6455 and its registry).
RESTART = 1012
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-fv:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)


class ClientLeft(ConnectionResetError):
    """What an application gets that goes on sending; if it lets it pass, that is no fault."""

    def __str__(self) -> str:
        return "the client has left"


class Talk:
    """What requests and WebSockets have in common.

    Attributes:
        stream: hypercorn's.
    """

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
        """Run the application."""
        raise NotImplementedError


class Exchange(Talk):
    """One request and its response."""

    _is_whole = False

    async def run(self, scope: Scope) -> None:
        house = self.visitor.house
        refusal = _refusal_for(scope, house.max_header)
        if refusal is not None:
            await self._refuse(refusal)
            return
        await house.application(scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._hear()
        if message["type"] == "http.disconnect":
            # For whoever asks next, or asks at the same time.
            self._unreceived.put_nowait(message)
        elif not message.get("more_body"):
            self._is_whole = True
        self.visitor.read_on()
        return message

    async def _refuse(self, refusal: Refusal) -> None:
        self.visitor.complain(refusal)
        text = refusal.why.encode("ascii") + b"\r\n"
        about = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
        start = {"type": "http.response.start", "status": refusal.status, "headers": about}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": text})

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

    _is_open = False
    _is_left = False

    async def run(self, scope: Scope) -> None:
        house = self.visitor.house
        house.conversations.add(self)
        try:
            await house.application(scope, self.receive, self.send)
        finally:
            house.conversations.discard(self)

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
            if self.visitor.house.draining:
                await self.leave()

    async def leave(self) -> None:
        """Close it, for the server's reasons."""
        if self._is_open:
            self._is_open, self._is_left = False, True
            await self._send({"type": "websocket.close", "code": RESTART, "reason": "restarting"})

    async def give_up(self) -> None:
        """End it for a client that does not close on its part."""
        if self._is_left:
            await self.visitor.give_up(self.stream)


def _refusal_for(scope: Scope, most: int) -> Refusal | None:
    """Look at what only HTTP/2 comes so far with."""
    if scope["http_version"] != "2":
        return None
    if most and _size(scope) > most:
        return Refusal(431, f"The header is longer than {most} bytes.")
    hosts = {value for name, value in scope["headers"] if name == b"host"}
    if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
        return Refusal(400, "The Host is not a name or an address.")
    if not scope["raw_path"].startswith(b"/") and scope["raw_path"] != b"*":
        return Refusal(400, "The target of the request is no path.")
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
