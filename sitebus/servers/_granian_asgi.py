"""ASGI between a worker of granian and the application, which runs on the engine's loop.

What granian's Rust gives, and this relies on:

- ``_schedule_fn(watcher)`` of a scheduler is called in one of its threads for each request. A
  watcher has ``scope`` (with ports as text, and an HTTP version of ``1`` for 1.0) and ``proto``,
  with ``receive()`` and ``send(message)``; ``taskref(task)`` keeps the task, and ``done()`` ends
  the request: with 500 if there was no response, with a broken connection in the middle of one.
- A WebSocket's ``send`` of ``websocket.close`` waits for a ``receive()`` that is under way; the
  awaitable of that has ``cancel()``.
- A status that is none, and a subprotocol that cannot be in a header, end the process.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sitebus.errors import BadMessage, BodyTooLarge
from sitebus.servers._granian import scheduler
from sitebus.servers.connections import Door
from sitebus.servers.hosting import Speech

Message = dict[str, Any]
Send = Callable[[Message], Any]
Log = Callable[[str, int, bool], object]

#: How long the loop may take to cancel what it runs; seconds.
CUT_TIMEOUT = 0.5
#: The server restarts; the client may come back at once (RFC 6455, 7.4.1 and its registry).
RESTARTING = 1012


class AsgiCaller:
    """Runs *app* on *loop* for the workers of one crew.

    Args:
        app: The ASGI application.
        loop: A running loop, in a thread of its own.
        server_header: What the Server header says.
        max_head: The longest request head in bytes, if that is below granian's least; else 0.
        max_body: The longest request body in bytes; 0 for any length.
        name: What its tasks are called.
        log: Is told, as ``log(message, level, traceback)``, what goes wrong.
    """

    speech: Speech = "asgi"

    def __init__(
        self,
        app: Callable[..., Any],
        loop: asyncio.AbstractEventLoop,
        *,
        server_header: str,
        max_head: int,
        max_body: int,
        name: str,
        log: Log,
    ) -> None:
        self.draining = False
        self._app = app
        self._loop = loop
        self._server = (b"server", server_header.encode("latin-1"))
        self._max_head = max_head
        self._max_body = max_body
        self._log = log
        # A text of its own: it is told from equal ones by its identity.
        self._tag = f"{name} request "[:-1]
        #: Responses under way that began before a drain did.
        self._begun: set[Any] = set()
        self._websockets: set[WebSocket] = set()

    def scheduler(self, door: Door) -> Any:
        """Answer what a worker calls for each request through *door*."""
        loop, tag = self._loop, self._tag
        host, port, *_ = _address(door)

        def begin(watcher: Any) -> None:
            scope = watcher.scope
            scope["root_path"] = ""
            scope["server"] = (host, port)
            address, number = scope["client"]
            scope["client"] = (address, int(number)) if address else None
            if scope["http_version"] == "1":
                scope["http_version"] = "1.0"
            serve = self._serve if scope["type"] == "http" else self._serve_websocket
            watcher.taskref(loop.create_task(serve(watcher, scope), name=tag))

        def schedule(watcher: Any) -> None:
            try:
                loop.call_soon_threadsafe(begin, watcher)
            except RuntimeError:  # the loop has ended, and granian would not look at this error
                watcher.done()

        return scheduler(loop, schedule, schedule)

    @property
    def answering(self) -> bool:
        """Whether responses are under way that did not say that the connection closes."""
        return bool(self._begun)

    def leave(self) -> None:
        """Close the WebSockets; the others are told with their responses."""
        self._soon(self._close_websockets)

    def wait_idle(self) -> None:
        """Return when the tasks of all requests have ended."""
        idle = self._wait_tasks()
        try:
            asyncio.run_coroutine_threadsafe(idle, self._loop).result()
        except RuntimeError:  # the loop has ended, and the tasks with it
            idle.close()

    def cut(self) -> list[str]:
        """Cancel what still runs, and answer which requests that was for."""
        cancelled: Future[list[str]] = Future()

        def cancel() -> None:
            tasks = self._tasks()
            cancelled.set_result([_request_of(task) for task in tasks])
            for task in tasks:
                task.cancel()

        self._soon(cancel)
        try:
            return cancelled.result(CUT_TIMEOUT)
        except TimeoutError:
            return ["something that blocks the event loop"]

    def busy(self) -> list[str]:
        """Need not be asked: what was cut was told then."""
        return []

    def _soon(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [
            task for task in asyncio.all_tasks(self._loop) if task.get_name() is self._tag
        ]  # fmt: skip

    async def _wait_tasks(self) -> None:
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    def _close_websockets(self) -> None:
        for websocket in self._websockets:
            websocket.leave()

    async def _serve(self, watcher: Any, scope: Message) -> None:
        proto = watcher.proto
        send = proto.send

        def checked(message: Message) -> Any:
            if message["type"] == "http.response.start":
                message = self._start(proto, message)
            return send(message)

        try:
            if self._max_head or self._max_body:
                await self._serve_within_limits(scope, proto, checked)
            else:
                await self._app(scope, proto.receive, checked)
        except asyncio.CancelledError:
            pass  # kept in the task, it would keep this frame, and so the watcher, and so the task
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would end the loop
            self._report(scope, error)
        finally:
            self._begun.discard(proto)
            watcher.done()

    def _start(self, proto: Any, message: Message) -> Message:
        """Answer the start of a response as granian takes it, with the server's own headers."""
        status = message["status"]
        if not 100 <= status <= 999:  # here as well, since a call would be felt
            _check_status(status)
        headers = list(message.get("headers") or ())
        if not any(len(name) == 6 and name.lower() == b"server" for name, _ in headers):
            headers.append(self._server)
        if self.draining:
            headers.append((b"connection", b"close"))
        else:
            self._begun.add(proto)
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _serve_within_limits(self, scope: Message, proto: Any, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._max_head and _head_size(scope) > self._max_head:
            await _refuse(send, 431, b"Request Header Fields Too Large")
        elif self._max_body and int(headers.get(b"content-length") or 0) > self._max_body:
            await _refuse(send, 413, b"Content Too Large")
        else:
            try:
                await self._app(scope, self._limited(proto.receive), send)
            except BodyTooLarge:
                with suppress(Exception):  # a response that has begun cannot be another
                    await _refuse(send, 413, b"Content Too Large")

    def _limited(self, receive: Callable[[], Any]) -> Callable[[], Any]:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message: Message = await receive()
            received += len(message.get("body", b""))
            if self._max_body and received > self._max_body:
                raise BodyTooLarge(self._max_body)
            return message

        return counted

    async def _serve_websocket(self, watcher: Any, scope: Message) -> None:
        websocket = WebSocket(watcher.proto)
        self._websockets.add(websocket)
        if self.draining:
            websocket.leave()
        try:
            await self._app(scope, websocket.receive, websocket.send)
        except asyncio.CancelledError:
            pass  # kept in the task, it would keep this frame, and so the watcher, and so the task
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would end the loop
            self._report(scope, error)
        finally:
            self._websockets.discard(websocket)
            await websocket.wait_closed()
            watcher.done()

    def _report(self, scope: Message, error: BaseException) -> None:
        self._log(f"Unhandled error while serving {_asked(scope)}: {error!r}", 40, True)


class WebSocket:
    """One WebSocket, which the server may have to close while the application waits for it."""

    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self._leaving = False
        self._waiting: Any = None
        self._closing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        if self._leaving:
            return {"type": "websocket.disconnect", "code": RESTARTING}
        self._waiting = self._proto.receive()
        try:
            message: Message = await self._waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._leaving or (task is not None and task.cancelling()):
                raise
            return {"type": "websocket.disconnect", "code": RESTARTING}
        finally:
            self._waiting = None
        return message

    async def send(self, message: Message) -> None:
        if self._leaving:
            return  # as to a client that has left
        if message["type"] == "websocket.accept":
            protocol = message.get("subprotocol")
            if protocol is not None and not (protocol.isascii() and protocol.isprintable()):
                raise BadMessage(f"the subprotocol {protocol!r}", "it must be plain text")
        elif message["type"] == "websocket.http.response.start":
            _check_status(message["status"])
        await self._proto.send(message)

    def leave(self) -> None:
        """Close it because the server stops; the application learns of it when it receives."""
        if not self._leaving:
            self._leaving = True
            # granian would wait until the client says something.
            with suppress(AttributeError):  # nobody waits, or for what is there already
                self._waiting.cancel()
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def wait_closed(self) -> None:
        """Return when the client has been told, if it had to be."""
        if self._closing is not None:
            await asyncio.wait([self._closing])

    async def _close(self) -> None:
        with suppress(Exception):  # the client has left already
            await self._proto.send({"type": "websocket.close", "code": RESTARTING})


def _check_status(status: int) -> None:
    if not 100 <= status <= 999:
        raise BadMessage(f"the status {status!r}", "it must be a number from 100 to 999")


def _address(door: Door) -> tuple[Any, ...]:
    name = door.socket.getsockname()
    return (name, None) if door.socket.family == socket.AF_UNIX else name


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _head_size(scope: Message) -> int:
    """Answer about how long the request's head was."""
    told = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return told + len(scope["raw_path"]) + len(scope["query_string"])


def _asked(scope: Message) -> str:
    # As it was asked for: decoded, it could forge lines of the log.
    path = scope["raw_path"][:200].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f"{scope.get('method', 'WebSocket')} {path}"


def _request_of(task: asyncio.Task[Any]) -> str:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return _asked(frame.f_locals["scope"]) if frame is not None else task.get_name()
