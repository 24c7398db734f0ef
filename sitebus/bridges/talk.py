"""One request of an ASGI application under a WSGI server: a task on a loop, a thread that waits.

What the application sends gathers until the thread takes it; if the thread is behind, the
application waits. What it wants to receive, the thread reads when it has nothing else to do.
"""

from __future__ import annotations

import asyncio
import http
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from sitebus.bridges.environs import scope_of
from sitebus.bridges.headers import decoded, told_length
from sitebus.bridges.incoming import Incoming
from sitebus.errors import (
    BadMessage,
    ClientGone,
    LeftByException,
    LoopEnded,
    ResponseBroken,
    WouldDeadlock,
    WrongLength,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Message

#: So much is sent that no thread has taken; bytes.
AHEAD = 64 << 10

#: An application is cancelled if it has not noticed for so long that its client left; seconds.
GRACE = 1.0

_START, _BODY = "http.response.start", "http.response.body"

#: Their responses end with the headers.
_BODILESS = (204, 304)

_STATUSES = {status.value: f"{status.value} {status.phrase}" for status in http.HTTPStatus}


class Talk:
    """One request: what the application says on the loop, and the thread that waits for it."""

    __slots__ = (
        "__weakref__", "_ahead", "_app", "_arrived", "_asked", "_asleep", "_chunks", "_complete",
        "_done", "_error", "_gate", "_given", "_gone", "_head", "_incoming", "_lock", "_loop",
        "_lost", "_mute", "_over", "_promised", "_ran", "_scope", "_task", "_waiters", "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        app: ASGIApplication,
        environ: WSGIEnvironment,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Talk], object],
    ) -> None:
        self._app = app
        self._loop = loop
        self._done = done
        self._scope = scope_of(environ)
        self._incoming = Incoming(environ)
        # What only the loop touches.
        self._task: asyncio.Task[None] | None = None
        self._ran = False
        self._waiters: list[asyncio.Future[None]] = []
        self._arrived: deque[Message] = deque()
        if self._incoming.ended:
            self._arrived.append({"type": "http.request", "body": b"", "more_body": False})
        self._asked = False
        #: Whether reading has told that the client left.
        self._lost = False
        self._complete = False
        self._mute = self._scope["method"] == "HEAD"
        #: The Content-Length, or -1.
        self._promised = -1
        self._given = 0
        # What both sides touch, under the lock.
        self._lock = threading.Lock()
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._chunks: list[bytes] = []
        self._ahead = 0
        #: Whether the application wants more of the request.
        self._wanted = False
        #: Whether the thread gets nothing more.
        self._over = False
        self._error: BaseException | None = None
        #: Whether nobody takes anything more.
        self._gone = False
        self._asleep = False
        self._gate = threading.Lock()
        self._gate.acquire()

    # In the thread.

    def answer(self, start_response: StartResponse) -> Iterable[bytes]:
        """Begin the request, wait for the response to begin, and answer its body.

        Raises:
            WouldDeadlock: This is the thread of the loop.
        """
        if asyncio._get_running_loop() is self._loop:
            self._done(self)
            raise WouldDeadlock(
                "a WSGI call of an ASGI application", "await asyncio.to_thread(...)"
            )
        try:
            # Not the thread's context: it has what other requests left there.
            self._loop.call_soon_threadsafe(self._begin, context=Context())
        except RuntimeError:
            self._done(self)
            raise
        try:
            chunk, over = self.next()
            assert self._head is not None
            start_response(*self._head)
        except BaseException:
            self.leave()
            raise
        if over:
            return [chunk] if chunk else []
        return _Body(self, chunk)

    def next(self) -> tuple[bytes, bool]:
        """Wait for more of the body, and answer it and whether it is the last.

        Raises:
            Exception: The application failed.
        """
        while True:
            with self._lock:
                there = self._chunks or self._over
                wanted = self._wanted
                self._asleep = not (there or wanted)
            if there:
                return self._take()
            if wanted:
                self._read()
            else:
                self._gate.acquire()

    def _take(self) -> tuple[bytes, bool]:
        with self._lock:
            chunks, self._chunks = self._chunks, []
            ahead, self._ahead = self._ahead, 0
            over = self._over
        if ahead >= AHEAD:
            self._post(self._changed)
        if not chunks:
            self._raise()
        chunk = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return chunk, over and self._error is None

    def _raise(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            error = None  # or its traceback keeps this frame, which keeps the traceback

    def _read(self) -> None:
        message = self._incoming.read()
        with self._lock:
            self._wanted = False
        self._post(self._arrive, message)

    @property
    def has_left(self) -> bool:
        """Whether the client is known to have left; to ``receive`` would read on, and wait."""
        return self._gone or self._lost

    def leave(self) -> None:
        """The server takes nothing more: its client has left."""
        if not self._gone:
            self._gone = True
            self._post(self._left)

    def _post(self, call: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed; what ran on it is gone
            self._end(LoopEnded())
            self._done(self)

    def cancel(self) -> None:
        """End what goes on, from any thread."""
        self._end(LeftByException(asyncio.CancelledError()))
        self._post(self._cancel)

    # On the loop.

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        self._ran = True
        if self._over:
            self._done(self)
            return  # it was called off before it began
        error: BaseException | None = None
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as caught:  # noqa: BLE001 - a stranger's code; the thread raises it
            error = caught
        try:
            self._finish(error)
        finally:
            del error
            self._done(self)

    def _finish(self, error: BaseException | None) -> None:
        """Tell the thread how it ended if that still waits; else the log, if it ended badly."""
        if not self._over and not self._gone:
            self._end(self._explained(error))
        elif error is None or isinstance(error, asyncio.CancelledError):
            return
        elif not (self._gone and _is_lost(error)):
            _log().error("an application failed after its response", exc_info=error)

    def _explained(self, error: BaseException | None) -> Exception:
        if isinstance(error, Exception):
            return error
        if error is not None:
            explained = LeftByException(error)
            explained.__cause__ = error
            return explained
        if self._lost:
            # It was told so, and had nobody to answer.
            return ClientGone("all of its request was read")
        if self._head is None:
            return BadMessage("no response", f"{_START} and {_BODY} were expected")
        if not self._given:
            return BadMessage("only a part of the response", "the last of the body must follow")
        _log().warning("an application did not end its response: %.200r", self._scope["path"])
        return ResponseBroken(self._scope["root_path"] or "/")

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            if not self._over:
                self._over, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._gate.release()

    def _left(self) -> None:
        self._changed()
        if self._task is not None and not (self._complete or self._task.done()):
            self._loop.call_later(GRACE, self._cancel)

    def _cancel(self) -> None:
        if self._task is None:
            return
        if self._ran:
            self._task.cancel()
        else:  # cancelled before it begins, it would not even say that it has ended
            self._loop.call_soon(self._cancel)

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _change(self) -> asyncio.Future[None]:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _arrive(self, message: Message) -> None:
        self._asked = False
        if message["type"] == "http.request":
            self._arrived.append(message)
        else:
            self._lost = True
        self._changed()

    # The application's two calls.

    async def _receive(self) -> Message:
        while True:
            if self._gone or self._complete:
                return {"type": "http.disconnect"}
            if self._arrived:
                return self._arrived.popleft()
            if self._lost:
                return {"type": "http.disconnect"}
            if not self._asked:
                self._ask()
            await self._change()

    def _ask(self) -> None:
        """Have the thread read on, unless it has read everything."""
        if not self._incoming.ended:
            self._asked = True
            with self._lock:
                self._wanted = True
                self._wake()

    async def _send(self, message: Message) -> None:
        kind = message.get("type")
        if self._complete:
            raise BadMessage(_shown(kind), "the response was complete already")
        if self._gone:
            raise ClientGone("all of its response was sent")
        if kind == _BODY:
            await self._body(message)
        elif kind != _START:
            raise BadMessage(_shown(kind), f"to a request belong {_START} and then {_BODY}")
        elif self._head is not None:
            raise BadMessage(f"a second {_START}", "a response begins once")
        else:
            self._start(message)

    def _start(self, message: Message) -> None:
        status = message.get("status")
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise BadMessage(f"the status {status!r:.80}", "it is a number from 200 to 999")
        headers = decoded(message.get("headers", ()))
        if status in _BODILESS:
            # Some servers, and what is in front of them, would wait for the body it speaks of.
            headers = [header for header in headers if header[0].lower() != "content-length"]
        for name, value in headers:
            if name.lower() == "content-length":
                self._promised = told_length(self._promised, value)
        self._mute = self._mute or status in _BODILESS
        self._head = _STATUSES.get(status) or f"{int(status)} Unknown", headers

    async def _body(self, message: Message) -> None:
        if self._head is None:
            raise BadMessage(_BODY, f"{_START} must come before it")
        chunk, last = message.get("body", b""), not message.get("more_body", False)
        if type(chunk) is not bytes:
            chunk = _as_bytes(chunk)
        if self._mute:
            await self._say_nothing(last)
            return
        self._count(chunk, last)
        self._complete = last
        with self._lock:
            if chunk:
                self._chunks.append(chunk)
                self._ahead += len(chunk)
            self._over = self._over or last
            if chunk or last:
                self._wake()
        if last:
            self._changed()
        while self._ahead >= AHEAD and not last:
            if self._gone:
                raise ClientGone("all of its response was sent")
            await self._change()

    async def _say_nothing(self, last: bool) -> None:
        """Let the thread go; the client waits for no body, however long it would be."""
        self._complete = last
        if not self._over:
            self._end(None)
            if not last:
                self._loop.call_later(GRACE, self.leave)
        if last:
            self._changed()
        else:
            await asyncio.sleep(0)

    def _count(self, chunk: bytes, last: bool) -> None:
        """Hold the application to its Content-Length: clients would wait for what is missing."""
        self._given += len(chunk)
        if 0 <= self._promised < self._given or (last and self._given < self._promised):
            raise WrongLength(self._promised, self._given)


class _Body:
    """What a server iterates; closing it early is news that the client has left."""

    __slots__ = ("_first", "_over", "_talk")

    def __init__(self, talk: Talk, first: bytes) -> None:
        self._talk = talk
        self._first = first
        self._over = False

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        chunk, self._first = self._first, b""
        if not chunk and not self._over:
            chunk, self._over = self._talk.next()
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._talk.leave()

    # Not every server closes what it iterates.
    __del__ = close


def _as_bytes(body: object) -> bytes:
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise BadMessage(f"a body of type {type(body).__name__}", "it is bytes")
    return bytes(body)


def _shown(kind: object) -> str:
    return f"{kind!s:.80}" if isinstance(kind, str) else f"a message of type {kind!r:.80}"


def _is_lost(error: BaseException | None) -> bool:
    """Tell whether *error* comes from our own, of a client that left."""
    while error is not None:
        if isinstance(error, ClientGone):
            return True
        error = error.__cause__ or error.__context__
    return False


def _log() -> Any:
    import logging

    return logging.getLogger("sitebus.bridges")
