"""What the clients ask for, written twice: `wsgi` and `asgi` have the same pages.

``/echo`` answers the query string, ``/slow`` the same after 300 ms, ``/big`` as many bytes as
`BIG` has, in pieces, and ``/upload`` the digest of what was sent. Over a WebSocket, `asgi` answers
each text with the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

Start = Callable[[str, list[tuple[str, str]]], Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

SLOW = 0.3
#: Beyond what the kernel keeps for a client that does not read.
BIG = hashlib.sha256(b"soak").digest() * (1 << 17)
_PIECE = 1 << 16


def wsgi(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/upload":
        return answer(
            start_response, _digest(iter(lambda: environ["wsgi.input"].read(_PIECE), b""))
        )
    if path == "/big":
        start_response("200 OK", [("Content-Length", str(len(BIG)))])
        return pieces()
    if path == "/slow":
        time.sleep(SLOW)
    elif path != "/echo":
        return answer(start_response, b"", HTTPStatus.NOT_FOUND)
    return answer(start_response, environ["QUERY_STRING"].encode("latin-1"))


def answer(start_response: Start, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> list[bytes]:
    """Answer with *body*, as a WSGI application does."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(f"{status:d} {status.phrase}", headers)
    return [body]


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    if scope["type"] == "websocket":
        await _talk(receive, send)
        return
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/upload":
        await reply(send, _digest([piece async for piece in _uploaded(receive)]))
    elif path == "/big":
        await _reply_big(send)
    elif path in ("/echo", "/slow"):
        await asyncio.sleep(SLOW if path == "/slow" else 0)
        await reply(send, scope["query_string"])
    else:
        await reply(send, b"", HTTPStatus.NOT_FOUND)


async def reply(send: Send, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
    """Answer with *body*, as an ASGI application does."""
    await send(_head(len(body), status))
    await send({"type": "http.response.body", "body": body})


async def _talk(receive: Receive, send: Send) -> None:
    await receive()  # somebody has connected
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _reply_big(send: Send) -> None:
    await send(_head(len(BIG)))
    for piece in pieces():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


def _head(length: int, status: HTTPStatus = HTTPStatus.OK) -> dict[str, Any]:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": int(status), "headers": headers}


async def live(receive: Receive, send: Send) -> None:
    """Come up, and end when told."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _uploaded(receive: Receive) -> Any:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def pieces() -> Iterator[bytes]:
    """Answer `BIG` as it is sent."""
    for start in range(0, len(BIG), _PIECE):
        yield BIG[start : start + _PIECE]


def _digest(parts: Iterable[bytes]) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest().encode()
