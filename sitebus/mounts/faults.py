"""What becomes of a request whose ASGI application fails, or returns before it has answered.

The failure is recorded, the client told as far as that is still possible, and a client that has
gone is nobody's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from sitebus.errors import BadMessage
from sitebus.mounts.reply import BEGUN, COMPLETE, NOTHING, Reply, SocketReply
from sitebus.mounts.telling import described, send_answer

if TYPE_CHECKING:
    from sitebus.asgi import Receive, Scope, Send
    from sitebus.mounts import Mount

#: What a WebSocket is closed with whose application failed (RFC 6455, section 7.4.1).
_INTERNAL_ERROR = 1011


async def unfinished(mount: Mount, scope: Scope, receive: Receive, send: Send, reply: Any) -> None:
    """Deal with an application that returned too soon, unless it was left alone before."""
    if type(reply) is SocketReply:
        if not reply.left and not await has_left(receive):
            await _unclosed(mount, scope, send, reply)
        return
    if await has_left(receive):
        return
    expected = (
        "the last of the body must follow"
        if reply.phase != NOTHING
        else "http.response.start and http.response.body were expected"
    )
    sent = "only a part of the response" if reply.phase != NOTHING else "no response"
    await _excused(mount, scope, send, reply, BadMessage(sent, expected))


async def _unclosed(mount: Mount, scope: Scope, send: Send, reply: SocketReply) -> None:
    """Deal with an application that left a WebSocket open, or unanswered."""
    if reply.denied:
        error = BadMessage("only a part of the response", "the last of the body must follow")
        mount.record(described(scope), error)
        return  # the server breaks it off
    if not reply.accepted:
        mount.record(described(scope), BadMessage("nothing", "a WebSocket is to be answered"))
    code = 1000 if reply.accepted else _INTERNAL_ERROR
    await _quietly(send({"type": "websocket.close", "code": code, "reason": ""}))


async def failed(
    mount: Mount, scope: Scope, receive: Receive, send: Send, reply: Any, error: BaseException
) -> None:
    """Record *error* and answer a 500, or leave the response unfinished if it is too late."""
    if isinstance(error, asyncio.CancelledError) and _is_cancelled():
        raise error
    if type(reply) is SocketReply:
        if _is_lost(error) and (reply.left or await has_left(receive)):
            return  # the client has gone, which is nobody's fault
        mount.record(described(scope), error)
        if reply.phase != COMPLETE and not reply.denied:
            code = _INTERNAL_ERROR
            await _quietly(send({"type": "websocket.close", "code": code, "reason": ""}))
        return
    if _is_lost(error) and await has_left(receive):
        return
    await _excused(mount, scope, send, reply, error)


async def _excused(
    mount: Mount, scope: Scope, send: Send, reply: Reply, error: BaseException
) -> None:
    environ = described(scope)
    mount.record(environ, error)
    # Before anything is awaited: the application's tasks may go on.
    phase, reply.phase = reply.phase, COMPLETE
    if phase < BEGUN:
        await _quietly(send_answer(mount.page(environ, error), scope, send))


async def _quietly(sending: Awaitable[None]) -> None:
    try:
        await sending
    except Exception:  # noqa: BLE001 - the server's: nobody is there to be told, in its own words
        pass


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or bool(task.cancelling())


def _is_lost(error: BaseException) -> bool:
    """Tell whether *error* may come from a lost connection, perhaps by way of a framework's."""
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None or isinstance(cause, OSError):
            break
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, OSError)


async def has_left(receive: Receive) -> bool:
    """Tell whether the server knows that the client has gone, without waiting for it to go."""
    known = getattr(getattr(receive, "__self__", None), "has_left", None)
    if isinstance(known, bool):
        return known  # the bridge's own: to ask would make it read what may take its time to come
    for _ in range(_MOST_PENDING):
        asking = asyncio.ensure_future(receive())
        # The server answers at once if it knows, in one step or a few.
        await asyncio.wait({asking}, timeout=0)
        if not asking.done():
            # What a server answers by code that is not Python's may not heed it, nor end.
            asking.cancel()
            asking.add_done_callback(_heard)
            return False
        if asking.cancelled() or asking.exception() is not None:
            return True
        message = asking.result()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            return True
    return False  # it still talks


#: So many messages are looked through for the news that a client has gone.
_MOST_PENDING = 1000


def _heard(asking: asyncio.Future[Any]) -> None:
    """Take notice of a failure, or asyncio complains of it."""
    if not asking.cancelled():
        asking.exception()
