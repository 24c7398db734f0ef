"""A WSGI application as an ASGI application.

The application runs in a thread; the server's task hands on what it says. For most requests that is
one hop there and one back: the whole response at once, if the application returned a list.

The status and headers wait for the first byte of the body, or the end. A failure before that is
raised to the server, which answers a 500; one after it as well, which makes the server break the
connection off. Nobody is told of a client that left: the application's iterable is closed.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, cast

from sitebus.bridges.environs import environ_of
from sitebus.bridges.headers import encoded, told_length
from sitebus.bridges.outbox import AHEAD, Outbox
from sitebus.bridges.threads import Threads
from sitebus.bridges.upload import ANY_TIME, Pace, Upload
from sitebus.errors import (
    BadMessage,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    LeftByException,
    WrongLength,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from _typeshed import OptExcInfo

    from sitebus.asgi import Message, Receive, Scope, Send

    Headers = list[tuple[str, str]]

#: Their responses end with the headers.
_BODILESS = (204, 304)
_REFUSALS: dict[type, tuple[int, bytes]] = {
    BodyTooLarge: (413, b"413 Content Too Large\n"),
    BodyTooSlow: (408, b"408 Request Timeout\n"),
}


class WsgiUnderAsgi:
    """An ASGI application made of a WSGI application; see `sitebus.bridges.to_asgi`."""

    __sitebus_interface__: Literal["asgi3"] = "asgi3"

    def __init__(
        self,
        app: WSGIApplication,
        threads: Threads,
        *,
        max_body: int = 0,
        pace: Pace = ANY_TIME,
    ) -> None:
        self.app = app
        self.threads = threads
        self.max_body = max_body
        self.pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Request(self, scope, receive, send).serve()
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        else:
            kind = f"a scope of type {scope['type']!r:.80}"
            raise BadMessage(kind, "a WSGI application answers http alone")


async def _live(receive: Receive, send: Send) -> None:
    """WSGI has no lifespan: agree to everything."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


class _Request:
    """One request, seen from the loop."""

    __slots__ = ("_bridge", "_loop", "_outbox", "_receive", "_send", "_upload", "environ")

    def __init__(self, bridge: WsgiUnderAsgi, scope: Scope, receive: Receive, send: Send) -> None:
        self._bridge = bridge
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._loop)
        self._upload: Upload | None = None
        self.environ: WSGIEnvironment = environ_of(scope)

    async def serve(self) -> None:
        try:
            await self._open_body()
            response = _Response(self._bridge.app, self.environ, self._outbox)
            threads = self._bridge.threads
            if threads.full and type(self.environ["wsgi.input"]) is io.BytesIO:
                # Nobody may be there any more when its turn comes. (Who still sends a body is not
                # watched: it would have to be received.)
                self._watch()
            threads.submit(copy_context().run, response.run)
            await self._forward()
        except (BodyTooLarge, BodyTooSlow) as fault:
            await self._refuse(fault)
        finally:
            self._outbox.abandon()
            if self._upload is not None:
                self._upload.end()

    async def _open_body(self) -> None:
        """Put the request's body into the environ."""
        environ = self.environ
        environ["wsgi.errors"] = sys.stderr
        length, most = _length(environ), self._bridge.max_body
        if length == 0:
            environ["wsgi.input"] = io.BytesIO()
            return
        if most and length > most:
            raise BodyTooLarge(most)
        self._upload = Upload(
            self._receive, self._loop, length, most, self._outbox.leave, self._bridge.pace
        )
        whole = None
        if length > 0 and "HTTP_EXPECT" not in environ:
            # It is on its way: a small one need not be asked for, and a thread not wait for it.
            await self._upload.first()
            whole = self._upload.whole()
        environ["wsgi.input"] = (
            io.BufferedReader(self._upload) if whole is None else io.BytesIO(whole)
        )

    async def _forward(self) -> None:
        """Send what the application says, as it says it."""
        send, outbox = self._send, self._outbox
        started = False
        while True:
            start, body, over = await outbox.take()
            if start is not None and start["status"] >= 500:
                self._blame_the_client()
            if outbox.error is not None:
                await self._fail(start, body, started)
            elif outbox.gone and not (over and (started or start)):
                return
            try:
                if start is not None:
                    await send(start)
                await send({"type": "http.response.body", "body": body, "more_body": not over})
            except OSError:
                return  # which is how servers say that the client has left
            if over:
                return
            if not started:
                started = True
                self._watch()

    def _blame_the_client(self) -> None:
        """Raise what kept the body from being read, which the application took for its own."""
        failure = None if self._upload is None else self._upload.failure
        if isinstance(failure, (BodyTooLarge, BodyTooSlow)):
            raise failure

    async def _fail(self, start: Message | None, body: bytes, started: bool) -> None:
        """Raise the error, after what was said before it."""
        if start is not None:
            started = True
            await self._send(start)
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        error, self._outbox.error = self._outbox.error, None
        try:
            if isinstance(error, (BodyTooLarge, BodyTooSlow)) and started:
                raise RuntimeError(str(error)) from error
            if isinstance(error, Exception):
                raise error
            if error is not None:
                raise LeftByException(error) from error
        finally:
            error = None  # or its traceback keeps this frame, which keeps the traceback

    def _watch(self) -> None:
        """Notice that the client leaves, as long as the response goes on."""
        if self._upload is None:
            self._upload = Upload(self._receive, self._loop, -1, 1, self._outbox.leave)
        self._upload.watch()

    async def _refuse(self, fault: BodyTooLarge | BodyTooSlow) -> None:
        """Answer what is wrong with the request's body."""
        status, text = _REFUSALS[type(fault)]
        length = b"%d" % len(text)
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)]
        if self.environ["SERVER_PROTOCOL"].startswith("HTTP/1"):
            headers.append((b"connection", b"close"))  # what follows is the rest of the body
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": text})


def _length(environ: WSGIEnvironment) -> int:
    """Answer how long the request's body is; -1 if only its end will tell."""
    length = environ.get("CONTENT_LENGTH", "")
    if length.isdecimal():
        return int(length)
    may_have_one = "HTTP_TRANSFER_ENCODING" in environ or environ["SERVER_PROTOCOL"] > "HTTP/2"
    return -1 if may_have_one else 0


class _Response:
    """The same request, seen from the thread: ``start_response``, ``write`` and the iterable."""

    __slots__ = ("_app", "_environ", "_given", "_headers", "_mute", "_outbox", "_over", "_promised",
                 "_sent", "_status")  # fmt: skip

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment, outbox: Outbox) -> None:
        self._app = app
        self._environ = environ
        self._outbox = outbox
        self._status: str | None = None
        self._headers: Headers = []
        #: Whether the status and headers have been handed over.
        self._sent = False
        self._over = False
        #: Whether there is no body, whatever the application gives.
        self._mute = False
        #: The Content-Length, or -1.
        self._promised = -1
        self._given = 0

    def run(self) -> None:
        """Call the application and hand on all that it gives; raises nothing."""
        if self._outbox.gone:
            return
        result: Any = None
        try:
            result = self._app(self._environ, cast("StartResponse", self.start))
            kind = type(result)
            if kind is list or kind is tuple:
                self._finish_at_once(result)
            else:
                self._finish(result)
        except BaseException as error:  # noqa: BLE001 - a stranger's code; the task raises it
            self._over = True
            self._outbox.finish(None, b"", None if self._was_lost_to(error) else error)
        # Only now: the client need not wait for it.
        _close(result)

    def start(
        self, status: str, headers: Headers, exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """Be the application's ``start_response``."""
        if self._over:
            raise RuntimeError("start_response was called after the response was complete")
        if exc_info:
            try:
                if self._sent:
                    raise cast("BaseException", exc_info[1]).with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the traceback keeps this frame, which keeps the traceback
        elif self._status is not None:
            raise RuntimeError("start_response was called a second time without exc_info")
        self._status, self._headers = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        """Be the ``write`` that ``start_response`` answers."""
        if self._over:
            raise RuntimeError("write was called after the response was complete")
        self._put(_checked(data))

    def _was_lost_to(self, error: BaseException) -> bool:
        """Tell whether *error* only says that the client has gone, which is nobody's fault."""
        return self._outbox.gone and isinstance(error, ClientGone)

    def _finish_at_once(self, chunks: Sequence[bytes]) -> None:
        if len(chunks) == 1:
            self._end(_checked(chunks[0]))
        elif sum(map(len, chunks)) > AHEAD:
            self._finish(chunks)
        else:
            self._end(b"".join(map(_checked, chunks)))

    def _finish(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if _checked(chunk):
                self._put(chunk)
                if self._mute:
                    break
            elif self._outbox.gone:
                raise ClientGone("all of its response was sent")
        self._end(b"")

    def _end(self, chunk: bytes) -> None:
        head = self._head() if not self._sent else None
        self._count(chunk, last=True)
        self._sent = self._over = True
        self._outbox.finish(head, b"" if self._mute else chunk)

    def _put(self, chunk: bytes) -> None:
        head = self._head() if not self._sent else None
        self._count(chunk)
        self._sent = True
        self._outbox.put(head, b"" if self._mute else chunk)

    def _head(self) -> Message:
        """Answer what begins the response, after a look at what the application said."""
        if self._status is None:
            raise RuntimeError("the application did not call start_response")
        status, headers = _code(self._status), encoded(self._headers)
        self._promised = -1
        self._mute = status in _BODILESS or self._environ["REQUEST_METHOD"] == "HEAD"
        if status in _BODILESS:
            # Servers would wait for the body of which this speaks.
            headers = [header for header in headers if header[0] != b"content-length"]
        for name, value in headers:
            if name == b"content-length":
                self._promised = told_length(self._promised, value.decode("latin-1"))
        return {"type": "http.response.start", "status": status, "headers": headers}

    def _count(self, chunk: bytes, *, last: bool = False) -> None:
        """Hold the application to its Content-Length: clients take the rest for the next answer."""
        if self._promised < 0 or self._mute:
            return
        self._given += len(chunk)
        if self._given > self._promised or (last and self._given < self._promised):
            raise WrongLength(self._promised, self._given)


def _checked(chunk: object) -> bytes:
    if not isinstance(chunk, bytes):
        raise TypeError(f"the body has a {type(chunk).__name__} where bytes belong")
    return chunk


def _code(status: object) -> int:
    if not isinstance(status, str):
        raise TypeError(f"the status is of type {type(status).__name__}, not str: {status!r:.80}")
    code = status[:3]
    if not (len(code) == 3 and code.isascii() and code.isdigit() and status[3:4] in ("", " ")):
        raise ValueError(f"the status does not begin with a number of three digits: {status!r:.80}")
    if code < "200":
        raise ValueError(f"another response must follow the status {status!r:.80}; leave it out")
    return int(code)


def _close(result: Any) -> None:
    """Close what the application returned; the response is decided, so that a failure is logged."""
    try:
        close: Callable[[], Any] | None = getattr(result, "close", None)
        if close is not None:
            close()
    except BaseException:
        import logging

        logging.getLogger("sitebus.bridges").exception("closing a response failed")
