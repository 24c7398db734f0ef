"""`Face` for ASGI servers: what visitors see of a site's reloads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sitebus.reload.face import EVENTS, FRESH, HEADER, HEARTBEAT, Face, Insert

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send

#: With these a server would answer that a page has not changed, or send it compressed.
_CONDITIONS = (
    *(b"if-none-match", b"if-modified-since", b"if-range", b"range"),
    b"accept-encoding",
)


async def serve(face: Face, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request as *face* shows it."""
    assert face.asgi_app is not None
    if scope["type"] != "http":
        await face.asgi_app(scope, receive, send)
        return
    if face.browser and scope["path"] == EVENTS:
        await _events(face, scope, receive, send)
        return
    failure, headers = face.failure, dict(scope["headers"])
    if failure is not None and (face.cold or face.on_error == "page"):
        told, body = face.page(failure, html=_wants_html(headers))
        await _send(send, 500, told, b"" if scope["method"] == "HEAD" else body)
        return
    snippet = face.snippet(failure) if _is_visited(headers) else b""
    if failure is None and not snippet:
        await face.asgi_app(scope, receive, send)
        return
    await _marked(face.asgi_app, scope, receive, send, snippet, failure is not None)


async def _marked(
    app: ASGIApplication,
    scope: Scope,
    receive: Receive,
    send: Send,
    snippet: bytes,
    failed: bool,
) -> None:
    """Serve a request whose response is marked, and has *snippet* in it if it is a page."""
    if snippet and _wants_html(dict(scope["headers"])):
        kept = [pair for pair in scope["headers"] if pair[0] not in _CONDITIONS]
        scope = {**scope, "headers": kept}
    if scope["method"] == "HEAD":
        snippet = b""
    insert = Insert(snippet)

    async def mark(message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = [_text(pair) for pair in message.get("headers", ())]
            pairs = insert.headers(str(message["status"]), [*pairs, HEADER] if failed else pairs)
            message = {**message, "headers": [_bytes(pair) for pair in pairs]}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            body = insert.into(bytes(body) if isinstance(body, (bytearray, memoryview)) else body)
            if not message.get("more_body", False):
                body += insert.last()
            message = {**message, "body": body}
        await send(message)

    # To send a file by itself would leave the snippet out.
    extensions = scope.get("extensions") or {}
    rest = {name: each for name, each in extensions.items() if "send" not in name}
    await app({**scope, "extensions": rest}, receive, mark)


class _Box:
    """Where other threads put a page's events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, said: bytes | None) -> None:
        self._loop.call_soon_threadsafe(self.queue.put_nowait, said)


async def _events(face: Face, scope: Scope, receive: Receive, send: Send) -> None:
    told = [("Content-Type", "text/event-stream"), FRESH, ("X-Accel-Buffering", "no")]
    if scope["method"] != "GET":
        await _send(send, 200, told, b"")
        return
    headers = [_bytes(pair) for pair in told]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    box = _Box()
    gone = asyncio.ensure_future(_gone(receive))
    gone.add_done_callback(lambda _: box.queue.put_nowait(None))
    try:
        said: bytes | None = face.streams.join(box)
        while said is not None:
            await send({"type": "http.response.body", "body": said, "more_body": True})
            said = await _next(box)
        await send({"type": "http.response.body"})
    except OSError:
        pass  # the page is closed
    finally:
        gone.cancel()
        face.streams.leave(box)


async def _next(box: _Box) -> bytes | None:
    try:
        return await asyncio.wait_for(box.queue.get(), HEARTBEAT)
    except TimeoutError:
        return b":\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    pairs = [_bytes(pair) for pair in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _bytes(header: tuple[str, str]) -> tuple[bytes, bytes]:
    return header[0].lower().encode("latin-1"), header[1].encode("latin-1")


def _text(header: Any) -> tuple[str, str]:
    return str(header[0], "latin-1"), str(header[1], "latin-1")


def _is_visited(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"sec-fetch-dest", b"document") in (b"document", b"iframe", b"frame")


def _wants_html(headers: dict[bytes, bytes]) -> bool:
    return b"text/html" in headers.get(b"accept", b"")
