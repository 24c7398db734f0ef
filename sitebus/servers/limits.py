"""Refuse request bodies that are too large, in front of an ASGI application.

What is left of such a body is nothing to read: the connection closes behind the answer.

For servers that take bodies of any length; those that refuse them by themselves need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sitebus.errors import BodyTooLarge

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send

_KIND = "413 Content Too Large"
_TEXT = b"The body of the request is too large."
_MOST_DIGITS = 30


def limited(
    app: ASGIApplication, most: int, complain: Callable[[str, str], object] | None = None
) -> ASGIApplication:
    """Answer *app*, which gets no more than *most* bytes of a request's body; 0 is any.

    A body that is too large is answered with 413, before the application is called where its
    length is told. Where it is not, the application's ``receive`` raises `BodyTooLarge`.

    Args:
        app: What is asked in the end.
        most: How many bytes.
        complain: Is told, as ``complain(kind, message)``, who was refused.
    """
    if not most:
        return app

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        counted = _Counted(receive, send, most)
        if _said_length(scope) > most or await counted.is_too_large(app, scope):
            await _refuse(scope, send, complain)

    return served


class _Counted:
    """One request, whose body is counted as it is received."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive = receive
        self._send = send
        self._most = most
        self._left = most
        self._started = False

    async def is_too_large(self, app: ASGIApplication, scope: Scope) -> bool:
        """Have *app* serve it; tell whether it has too much, and nobody has said so."""
        try:
            await app(scope, self._receive_some, self._send_some)
        except BodyTooLarge:
            if self._started:
                raise
        # It may have kept that to itself.
        return self._left < 0 and not self._started

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
    # Any more digits would be more than all the disks there are, and Python ends somewhere, too.
    return int(said[0][:_MOST_DIGITS]) if said and said[0].isdigit() else 0


async def _refuse(scope: Scope, send: Send, complain: Callable[[str, str], object] | None) -> None:
    if complain is not None:
        client = scope.get("client")
        who = client[0] if client and client[0] else "a client"
        complain(_KIND, f"Refused a request from {who}: {_KIND}. {_TEXT.decode()}")
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_TEXT))]
    if scope.get("http_version", "1.1").startswith("1"):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _TEXT})
