"""What the client of an ASGI application says, when the application does not ask for it.

granian takes whatever is sent to a client that has left, and says nothing: an application that
only sends would never end, and one that sends without a pause would hold the event loop for ever.
So the server asks in its place, a message ahead, and tells it by `ClientGone`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sitebus.errors import BadMessage, ClientGone
from sitebus.servers._granian_outgoing import check_count
from sitebus.servers.connections import LONGEST_WAIT

Message = dict[str, Any]

#: What tells that the client has left.
GONE = frozenset({"http.disconnect", "websocket.disconnect"})
#: The server restarts; the client may come back at once (RFC 6455, 7.4.1 and its registry).
RESTARTING = 1012
#: How a WebSocket is closed that the application left open, or in which it failed.
FINISHED, FAILED = 1000, 1011
#: So many pieces may be sent until others on the loop have their turn.
TURN = 8


class Inbox:
    """What one client says, of which granian may be asked for one message at a time.

    Args:
        receive: granian's.
    """

    def __init__(self, receive: Callable[[], Any]) -> None:
        #: Whether the client is known to have left.
        self.is_gone = False
        self._receive = receive
        self._asked: Any = None
        #: What was asked ahead of the application, and is still to be told to it.
        self._known: deque[Message] = deque()
        self._ahead: asyncio.Task[None] | None = None
        self._turn = 0

    @property
    def has_news(self) -> bool:
        """Whether something was asked ahead that nobody was told."""
        return bool(self._known)

    async def receive(self) -> Message:
        """Answer the next message."""
        ahead = self._ahead
        if ahead is not None and not self._known:
            # Who stops waiting for it leaves it to the next who asks.
            await asyncio.wait([ahead])
            if ahead.cancelled():
                raise asyncio.CancelledError
        return self._known.popleft() if self._known else await self._ask()

    async def receive_within(self, seconds: float) -> Message | None:
        """Answer the next message, or None if there is none for so long."""
        if seconds <= 0:
            return None
        expired = False

        def give_up() -> None:
            nonlocal expired
            expired = True
            self.interrupt()

        alarm = asyncio.get_running_loop().call_later(min(seconds, LONGEST_WAIT), give_up)
        try:
            return await self.receive()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not expired or (task is not None and task.cancelling()):
                raise
            return None
        finally:
            alarm.cancel()

    async def send_piece(self, send: Callable[[Message], Any], message: Message) -> None:
        """Send one piece of many.

        Raises:
            ClientGone: There is nobody to send it to.
        """
        self.look_ahead()
        self._turn += 1
        if self._turn % TURN == 0:
            await asyncio.sleep(0)
        if self.is_gone:
            raise ClientGone("all of its response was sent")
        await send(message)

    def look_ahead(self) -> None:
        """Ask for a message, if nobody does; what follows the end of a body is asked for, too."""
        known = self._known
        is_enough = known and (known[-1].get("more_body", True) or len(known) > 1)
        if self._asked is None and self._ahead is None and not is_enough:
            self._ahead = asyncio.ensure_future(self._look())

    def end(self) -> None:
        """Ask no more ahead of the application."""
        # Not kept: one that has not begun would hold on to this, and so to granian's sockets.
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()

    def let_go(self) -> None:
        """Ask no more, and know nothing of granian."""
        self.end()
        self._receive = _nobody

    def interrupt(self) -> None:
        """Ask no more; the application is cancelled where it waits for an answer."""
        self.end()
        # There is nothing to cancel in what was answered at once.
        with suppress(AttributeError):
            self._asked.cancel()

    async def _look(self) -> None:
        try:
            self._known.append(await self._ask())
        except Exception:  # noqa: BLE001 - granian's, in its own words: there is nothing any more
            self.is_gone = True
        finally:
            self._ahead = None

    async def _ask(self) -> Message:
        self._asked = self._receive()
        try:
            message: Message = await self._asked
        finally:
            self._asked = None
        if message["type"] in GONE:
            self.is_gone = True
        return message


async def _nobody() -> Message:
    return {"type": "http.disconnect"}


class WebSocket:
    """One WebSocket, which the server may have to close while the application waits for it.

    Args:
        proto: granian's.
    """

    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self._inbox = Inbox(proto.receive)
        self._is_open = False
        self._leaving = False
        self._closing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        if self._leaving:
            return {"type": "websocket.disconnect", "code": RESTARTING}
        try:
            return await self._inbox.receive()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._leaving or (task is not None and task.cancelling()):
                raise
            return {"type": "websocket.disconnect", "code": RESTARTING}

    async def send(self, message: Message) -> None:
        if self._leaving:
            return  # as to a client that has left
        kind = message["type"]
        if kind == "websocket.send":
            if self._is_open:
                await self._inbox.send_piece(self._proto.send, _as_frame(message))
                return
        elif kind == "websocket.accept":
            check_count(message.get("headers") or ())
            self._is_open = True
            protocol = message.get("subprotocol")
            if protocol is not None and not (protocol.isascii() and protocol.isprintable()):
                raise BadMessage(f"the subprotocol {protocol!r}", "it must be plain text")
        elif kind == "websocket.close":
            self._is_open = False
        elif kind == "websocket.http.response.start":
            check_status(message["status"])
            check_count(message.get("headers") or ())
        await self._proto.send(message)

    def leave(self) -> None:
        """Close it because the server stops; the application learns of it when it receives."""
        if not self._leaving:
            self._leaving = True
            self._close(RESTARTING)

    async def finish(self, code: int) -> None:
        """Return when the client has been told that it is closed; with *code* unless it was."""
        if self._is_open and self._closing is None and not self._inbox.is_gone:
            self._close(code)
        if self._closing is not None:
            await asyncio.wait([self._closing])
        self._inbox.end()

    def _close(self, code: int) -> None:
        # granian would wait until the client says something.
        self._inbox.interrupt()
        self._closing = asyncio.ensure_future(self._say_close(code))

    async def _say_close(self, code: int) -> None:
        with suppress(Exception):  # the client has left already
            await self._proto.send({"type": "websocket.close", "code": code})


def check_status(status: int) -> None:
    """Raise unless *status* is one; granian would end the process."""
    if not 100 <= status <= 999:
        raise BadMessage(f"the status {status!r}", "it must be a number from 100 to 999")


def _as_frame(message: Message) -> Message:
    data = message.get("bytes")
    return message if data is None or type(data) is bytes else {**message, "bytes": bytes(data)}
