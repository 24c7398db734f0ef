"""Ask an ASGI application something, as a server would, and applications to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send


class Got(NamedTuple):
    """What an application sent."""

    messages: list[dict[str, Any]]

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def text(self) -> str:
        return b"".join(each.get("body", b"") for each in self.messages).decode()

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def complete(self) -> bool:
        last = self.messages[-1] if self.messages else {}
        return last.get("type") == "http.response.body" and not last.get("more_body", False)

    @property
    def types(self) -> list[str]:
        return [each["type"] for each in self.messages]


def request(
    path: str = "/",
    *,
    host: str = "localhost",
    root_path: str = "",
    raw_path: bytes | None = None,
    kind: str = "http",
    headers: Iterable[tuple[bytes, bytes]] = (),
    **more: Any,
) -> dict[str, Any]:
    """Answer the scope of a request."""
    from urllib.parse import quote

    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": quote(path).encode() if raw_path is None else raw_path,
        "root_path": root_path,
        "query_string": b"",
        "headers": [(b"host", host.encode()), *headers],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 8080),
        "state": {},
        "extensions": {},
    }
    if kind == "http":
        scope["method"] = "GET"
    return {**scope, **more}


async def asked(
    app: ASGIApplication,
    scope: Scope,
    incoming: Iterable[Message] = ({"type": "http.request", "body": b"", "more_body": False},),
) -> Got:
    """Call *app* with *scope*; what comes after *incoming* never comes."""
    sent: list[dict[str, Any]] = []
    box: asyncio.Queue[Message] = asyncio.Queue()
    for message in incoming:
        box.put_nowait(message)

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(dict(message))

    await asyncio.wait_for(_called(app, scope, box.get, send), 10)
    return Got(sent)


async def _called(app: ASGIApplication, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def ask(app: ASGIApplication, path: str = "/", **more: Any) -> Got:
    """Ask *app* for *path*, in a loop of its own."""
    incoming = more.pop("incoming", ({"type": "http.request", "body": b"", "more_body": False},))
    return asyncio.run(asked(app, request(path, **more), incoming))


async def answer(send: Send, text: str, **headers: str) -> None:
    """Send a response whose length is known."""
    body = text.encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": [*length, *pairs]})
    await send({"type": "http.response.body", "body": body})


def saying(text: str, **headers: str) -> ASGIApplication:
    """An application that says its name, and what it is told of the path."""

    async def say(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        raw = scope["raw_path"].decode() if scope.get("raw_path") is not None else None
        await answer(send, f"{text} {scope['root_path']!r} {scope['path']!r} {raw!r}", **headers)

    return say


class Living:
    """An application with a lifespan, which notes what happens to it in *log*."""

    def __init__(self, name: str, log: list[str], *, fails: str = "", state: Any = None) -> None:
        self.name = name
        self.log = log
        self.fails = fails
        self.state: Mapping[str, Any] = state or {"name": name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await answer(send, f"{self.name} {scope['state'].get('name')}")
            return
        assert (await receive())["type"] == "lifespan.startup"
        if self.fails == "startup":
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        if self.fails == "hangs":
            await asyncio.Event().wait()
        self.log.append(f"{self.name} up")
        scope["state"].update(self.state)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.log.append(f"{self.name} down")
        if self.fails == "shutdown":
            await send({"type": "lifespan.shutdown.failed", "message": "lost"})
            return
        await send({"type": "lifespan.shutdown.complete"})
