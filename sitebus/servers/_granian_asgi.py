"""ASGI between a worker of granian and the application, which runs on the engine's loop.

What granian's Rust gives, and this relies on:

- ``_schedule_fn(watcher)`` of a scheduler is called in one of its threads for each request. A
  watcher has ``scope`` (with ports as text, and an HTTP version of ``1`` for 1.0) and ``proto``,
  with ``receive()`` and ``send(message)``; ``taskref(task)`` keeps the task, and ``done()`` ends
  the request: with 500 if there was no response, with a broken connection in the middle of one.
- To send to a client that has left is no error, and needs no time: only ``receive()`` tells of it.
  Of two of these at a time, one would be told so wrongly.
- ``more_body`` that is no bool counts as false, and a body that is no bytes as empty.
- A response that breaks off ends its connection, which HTTP/1.0 takes for the end of the body.
- A WebSocket's ``send`` of ``websocket.close`` waits for a ``receive()`` that is under way; the
  awaitable of that has ``cancel()``.
- A status that is none, and a subprotocol that cannot be in a header, end the process.
- ``asgi`` and ``extensions`` of all scopes are the same two dicts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sitebus.errors import BadMessage, ClientGone
from sitebus.servers import _granian_head as heads
from sitebus.servers._granian_crew import scheduler
from sitebus.servers._granian_exchange import Exchange
from sitebus.servers._granian_head import shown
from sitebus.servers._granian_inbox import FAILED, FINISHED, WebSocket, check_status
from sitebus.servers._granian_sockets import Place, reset
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import Door
from sitebus.servers.heads import Refusal
from sitebus.servers.hosting import Speech

Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
Log = Callable[[str, int, bool], object]

#: How long the loop may take to cancel what it runs; seconds.
CUT_TIMEOUT = 0.5

_FAILED = Refusal(500, "The server could not answer the request.")


class AsgiCaller:
    """Runs *app* on *loop* for the workers of one crew.

    Args:
        app: The ASGI application.
        loop: A running loop, in a thread of its own.
        server_header: What the Server header says.
        max_head: The longest request head in bytes, if that is below granian's least; else 0.
        max_body: The longest request body in bytes; 0 for any length.
        timeout: Seconds that a client may send nothing of a body.
        min_rate: Bytes a second that a body must come in at least; 0 is any.
        complaints: Is told what clients do wrong.
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
        timeout: float,
        min_rate: float,
        complaints: Complaints,
        name: str,
        log: Log,
    ) -> None:
        self.draining = False
        self.timeout = timeout
        self.min_rate = min_rate
        self._complaints = complaints
        self._app = app
        self._loop = loop
        self._server = (b"server", server_header.encode("latin-1"))
        self._max_head = max_head
        self.max_body = max_body
        self._log = log
        # A text of its own: it is told from equal ones by its identity.
        self._tag = f"{name} request "[:-1]
        #: Responses under way that began before a drain did.
        self.begun: set[Any] = set()
        self._websockets: set[WebSocket] = set()

    def scheduler(self, door: Door) -> Any:
        """Answer what a worker calls for each request through *door*."""
        loop, tag = self._loop, self._tag
        host, port, *_ = _address(door)
        server = host, port
        place = Place.of(door.socket)

        def begin(watcher: Any) -> None:
            scope = watcher.scope
            scope["root_path"] = ""
            scope["server"] = server
            address, number = scope["client"]
            scope["client"] = (address, int(number)) if address else None
            if scope["http_version"] == "1":
                scope["http_version"] = "1.0"
            # What an application leaves in its scope is not for the next request to see.
            scope["asgi"] = {"version": "3.0", "spec_version": "2.3"}
            scope["extensions"] = {"http.response.pathsend": {}, "websocket.http.response": {}}
            refusal = heads.refusal(scope) or self._too_large(scope)
            if refusal is not None:
                serving = self._refuse(watcher, scope, refusal)
            elif scope["type"] == "http":
                serving = self._serve(watcher, scope, place)
            else:
                serving = self._serve_websocket(watcher, scope)
            watcher.taskref(loop.create_task(serving, name=tag))

        def schedule(watcher: Any) -> None:
            try:
                loop.call_soon_threadsafe(begin, watcher)
            except RuntimeError:  # the loop has ended, and granian would not look at this error
                watcher.done()

        return scheduler(loop, schedule)

    @property
    def answering(self) -> bool:
        """Whether responses are under way that did not say that the connection closes."""
        return bool(self.begun)

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

    def served(self) -> set[tuple[str, int]] | None:
        """Answer which clients are served now; None if the loop has no time to tell."""
        served: Future[set[tuple[str, int]]] = Future()

        def tell() -> None:
            scopes = [_scope_of(task) for task in self._tasks()]
            served.set_result({scope["client"] for scope in scopes if scope and scope["client"]})

        self._soon(tell)
        try:
            return served.result(CUT_TIMEOUT)
        except TimeoutError:
            return None

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

    def _too_large(self, scope: Message) -> Refusal | None:
        most = self.max_body
        if self._max_head and heads.size(scope) > self._max_head:
            return Refusal(431, f"The header is longer than {self._max_head} bytes.")
        if most and int(dict(scope["headers"]).get(b"content-length") or 0) > most:
            return Refusal(413, "The body of the request is too large.")
        return None

    async def _refuse(self, watcher: Any, scope: Message, refusal: Refusal) -> None:
        try:
            heads.tell_of(self._complaints, scope, refusal)
            if scope["type"] == "http":
                self.answer(watcher.proto, refusal)
            else:
                await watcher.proto.send({"type": "websocket.close"})
        finally:
            watcher.done()

    def answer(self, proto: Any, refusal: Refusal) -> None:
        """Answer in the application's place, with the last that the client is told."""
        text = refusal.why.encode() + b"\n"
        length = (b"content-length", b"%d" % len(text))
        headers = [(b"content-type", b"text/plain"), length, (b"connection", b"close")]
        # Neither has to be waited for.
        proto.send(
            {
                "type": "http.response.start",
                "status": refusal.status,
                "headers": [*headers, self._server],
            }
        )
        proto.send({"type": "http.response.body", "body": text})

    async def _serve(self, watcher: Any, scope: Message, place: Place) -> None:
        proto = watcher.proto
        exchange = Exchange(self, proto, scope["method"])
        try:
            await self._app(scope, exchange.receive, exchange.send)
            if not exchange.begun and not exchange.is_over:
                expected = "http.response.start and http.response.body were expected"
                raise BadMessage("no response", expected)
        except asyncio.CancelledError:
            pass  # kept in the task, it would keep this frame, and so the watcher, and so the task
        except ClientGone:
            pass  # which is nobody's fault
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would end the loop
            if not exchange.is_over:
                self._report(scope, error)
                if not exchange.begun:
                    self.answer(proto, _FAILED)
        finally:
            self.begun.discard(proto)
            if exchange.refusal is not None:
                heads.tell_of(self._complaints, scope, exchange.refusal)
            if exchange.pieces and scope["http_version"] == "1.0" and not exchange.is_gone:
                reset(place, scope["client"])
            exchange.end()
            watcher.done()

    def start(self, proto: Any, message: Message) -> Message:
        """Answer the start of a response as granian takes it, with the server's own headers."""
        status = message["status"]
        if not 100 <= status <= 999:  # here as well, since a call would be felt
            check_status(status)
        headers = list(message.get("headers") or ())
        for name, _ in headers:
            if len(name) == 6 and name.lower() == b"server":
                break
        else:
            headers.append(self._server)
        if self.draining:
            headers.append((b"connection", b"close"))
        else:
            self.begun.add(proto)
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _serve_websocket(self, watcher: Any, scope: Message) -> None:
        websocket = WebSocket(watcher.proto)
        code = FINISHED
        self._websockets.add(websocket)
        if self.draining:
            websocket.leave()
        try:
            await self._app(scope, websocket.receive, websocket.send)
        except asyncio.CancelledError:
            pass  # kept in the task, it would keep this frame, and so the watcher, and so the task
        except ClientGone:
            pass  # which is nobody's fault
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would end the loop
            self._report(scope, error)
            code = FAILED
        finally:
            self._websockets.discard(websocket)
            await websocket.finish(code)
            watcher.done()

    def _report(self, scope: Message, error: BaseException) -> None:
        self._log(f"Unhandled error while serving {shown(scope)}: {error!r}", 40, True)


def _address(door: Door) -> tuple[Any, ...]:
    name = door.socket.getsockname()
    return (name, None) if door.socket.family == socket.AF_UNIX else name


def _request_of(task: asyncio.Task[Any]) -> str:
    scope = _scope_of(task)
    return shown(scope) if scope is not None else task.get_name()


def _scope_of(task: asyncio.Task[Any]) -> Message | None:
    frame = getattr(task.get_coro(), "cr_frame", None)
    scope: Message | None = frame.f_locals["scope"] if frame is not None else None
    return scope
