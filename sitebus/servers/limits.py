"""Refuse request bodies that are too large, in front of an ASGI application.

For servers that take bodies of any length; those that refuse them by themselves need none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitebus.errors import BodyTooLarge

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send

_TEXT = b"The body of the request is too large."


def limited(app: ASGIApplication, most: int) -> ASGIApplication:
    """Answer *app*, which gets no more than *most* bytes of a request's body; 0 is any.

    A body that is too large is answered with 413, before the application is called where its
    length is told. Where it is not, the application's ``receive`` raises `BodyTooLarge`.
    """
    if not most:
        return app

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif _said_length(scope) > most:
            await _refuse(send)
        else:
            await _Counted(receive, send, most).serve(app, scope)

    return served


class _Counted:
    """One request, whose body is counted as it is received."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive = receive
        self._send = send
        self._most = most
        self._left = most
        self._started = False

    async def serve(self, app: ASGIApplication, scope: Scope) -> None:
        try:
            await app(scope, self._receive_some, self._send_some)
        except BodyTooLarge:
            if self._started:
                raise
        # It may have kept that to itself.
        if self._left < 0 and not self._started:
            await _refuse(self._send)

    async def _receive_some(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise BodyTooLarge(self._most)
        return message

    async def _send_some(self, message: Message) -> None:
        self._started = True
        await self._send(message)


def _said_length(scope: Scope) -> int:
    said = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(said[0]) if said and said[0].isdigit() else 0


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_TEXT))]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _TEXT})
