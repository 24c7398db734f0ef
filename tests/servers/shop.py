"""One application, written twice: for WSGI and for ASGI, with the same pages.

Tests tell its pages when to go on; what happened to them can be read from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal

Speech = Literal["wsgi", "asgi"]
Message = dict[str, Any]
Send = Callable[[Message], Any]
Receive = Callable[[], Any]

#: How long a page waits to be told to go on.
PATIENCE = 20.0
BLOCK = b"0123456789abcdef" * 4096
HELLO = b"hello"


class Sign:
    """An event that threads and event loops can wait for."""

    def __init__(self) -> None:
        self._given: Future[None] = Future()

    def give(self) -> None:
        with suppress(Exception):  # given before
            self._given.set_result(None)

    @property
    def is_given(self) -> bool:
        return self._given.done()

    def wait(self) -> None:
        self._given.result(PATIENCE)

    async def soon(self) -> None:
        # Shielded: who is cancelled while waiting must not cancel the sign.
        given = asyncio.shield(asyncio.wrap_future(self._given))
        await asyncio.wait_for(given, PATIENCE)


class Shop:
    """An application with a page for each thing that a server must get right.

    Attributes:
        entered: Given by the page that waits, when it is reached.
        opened: Waited for there.
        inside: How many wait there.
        left: Given when an endless response was ended.
        closed_with: The close code of each WebSocket.
    """

    def __init__(self) -> None:
        self.entered = Sign()
        self.opened = Sign()
        self.inside = 0
        self.left = Sign()
        self.closed_with: list[int] = []
        self._lock = threading.Lock()

    def face(self, speech: Speech) -> Any:
        return self.wsgi if speech == "wsgi" else self.asgi

    def _enter(self) -> None:
        with self._lock:
            self.inside += 1
        self.entered.give()

    # For WSGI.

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = environ["PATH_INFO"].strip("/").partition("/")[0] or "hello"
        answer: Iterable[bytes] = getattr(self, f"wsgi_{page}")(environ, start_response)
        return answer

    def wsgi_hello(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return _answer(start_response, HELLO)

    def wsgi_echo(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH")
        body = environ["wsgi.input"]
        return _answer(start_response, body.read(int(length)) if length else body.read())

    def wsgi_told(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"].encode("latin-1").decode(),
            "query": environ["QUERY_STRING"],
            "scheme": environ["wsgi.url_scheme"],
            "version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
            "said": environ.get("HTTP_X_SAID"),
            "client": environ.get("REMOTE_ADDR"),
            "port": int(environ["SERVER_PORT"]),
        }
        return _answer(start_response, json.dumps(told).encode())

    def wsgi_gate(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._enter()
        self.opened.wait()
        return _answer(start_response, HELLO)

    def wsgi_stream(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first "
        self.entered.give()
        self.opened.wait()
        yield b"second "
        yield b"last"

    def wsgi_big(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        blocks = int(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Length", str(blocks * len(BLOCK)))])
        return (BLOCK for _ in range(blocks))

    def wsgi_endless(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield BLOCK
        finally:
            self.left.give()

    def wsgi_lines(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        how: dict[str, Callable[[], list[bytes]]] = {
            "read": lambda: [*(body.read(3) + body.read()).splitlines(keepends=True), body.read()],
            "readline": lambda: [body.readline() for _ in range(4)],
            "readlines": lambda: [*body.readlines(), body.read(1)],
            "iterated": lambda: [*body, body.readline()],
        }
        lines = how[environ["QUERY_STRING"]]()
        return _answer(start_response, b"|".join(lines))

    def wsgi_raise(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise LookupError("no such shelf")

    # For ASGI.

    async def asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self.asgi_websocket(receive, send)
            return
        # Lifespans are the engine's; no server may start one.
        assert scope["type"] == "http"
        page = scope["path"].strip("/").partition("/")[0] or "hello"
        await getattr(self, f"asgi_{page}")(scope, receive, send)

    async def asgi_websocket(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        self.closed_with.append(event["code"])

    async def asgi_hello(self, scope: Message, receive: Receive, send: Send) -> None:
        await _reply(send, HELLO)

    async def asgi_echo(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the client left in the middle of its body")
            body += event.get("body", b"")
            more = event.get("more_body", False)
        await _reply(send, body)

    async def asgi_told(self, scope: Message, receive: Receive, send: Send) -> None:
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "scheme": scope["scheme"],
            "version": scope["http_version"],
            "said": dict(scope["headers"]).get(b"x-said", b"").decode() or None,
            "client": scope["client"] and scope["client"][0],
            "port": scope["server"] and scope["server"][1],
        }
        await _reply(send, json.dumps(told).encode())

    async def asgi_gate(self, scope: Message, receive: Receive, send: Send) -> None:
        self._enter()
        await self.opened.soon()
        await _reply(send, HELLO)

    async def asgi_stream(self, scope: Message, receive: Receive, send: Send) -> None:
        await _begin(send, [(b"content-type", b"text/plain")])
        await _go_on(send, b"first ")
        self.entered.give()
        await self.opened.soon()
        await _go_on(send, b"second ")
        await _go_on(send, b"last")
        await _go_on(send, b"", more=False)

    async def asgi_big(self, scope: Message, receive: Receive, send: Send) -> None:
        blocks = int(scope["query_string"])
        await _begin(send, [(b"content-length", b"%d" % (blocks * len(BLOCK)))])
        for _ in range(blocks):
            await _go_on(send, BLOCK)
        await _go_on(send, b"", more=False)

    async def asgi_endless(self, scope: Message, receive: Receive, send: Send) -> None:
        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        watch = asyncio.ensure_future(gone())
        await _begin(send, [(b"content-type", b"text/plain")])
        try:
            while not watch.done():
                await _go_on(send, BLOCK)
                # A send that has nowhere to go may answer at once.
                await asyncio.sleep(0)
        except OSError:
            pass  # the other way to learn that the client has left
        finally:
            watch.cancel()
            self.left.give()

    async def asgi_raise(self, scope: Message, receive: Receive, send: Send) -> None:
        raise LookupError("no such shelf")


def _answer(start_response: Any, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def _begin(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def _go_on(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _reply(send: Send, body: bytes) -> None:
    length = b"%d" % len(body)
    await _begin(send, [(b"content-type", b"text/plain"), (b"content-length", length)])
    await _go_on(send, body, more=False)


class Own:
    """Answers the number of its process."""

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return _answer(start_response, b"%d" % os.getpid())

    async def asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        await _reply(send, b"%d" % os.getpid())
