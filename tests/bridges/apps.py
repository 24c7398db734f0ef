"""Applications and calls that the bridges' tests share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PLAIN = [("Content-Type", "text/plain")]


class Body:
    """An iterable that counts how often it is closed, and in which thread."""

    def __init__(self, chunks: Iterable[bytes], error: BaseException | None = None) -> None:
        self._chunks = iter(chunks)
        self._error = error
        self.made = 0
        self.closed: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.made += 1
            yield chunk
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed.append(threading.current_thread().name)


def answering(
    make: Callable[[], Any], status: str = "200 OK", headers: Any = PLAIN
) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return make()

    return app


def settled(count: Callable[[], int]) -> int:
    """Wait until *count* does not change any more, and answer it."""
    seen, pause = -1, threading.Event()
    while count() != seen:
        seen = count()
        pause.wait(0.3)
    return seen


def ticking(go: threading.Event) -> Iterator[bytes]:
    while not go.wait(0.01):
        yield b"tick"


def scope_of(**extra: Any) -> dict[str, Any]:
    return {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": [],
        "query_string": b"", **extra,
    }  # fmt: skip


def ask(app: Any, scope: dict[str, Any], *received: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer what *app* sends, on a loop of its own."""
    sent: list[dict[str, Any]] = []
    waiting = list(received)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def chunked(*pieces: bytes) -> bytes:
    """Answer *pieces* as a chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


# What ASGI applications send.


def start(*headers: tuple[str, str], status: int = 200) -> dict[str, Any]:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def body(chunk: bytes | bytearray | memoryview, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": more}
