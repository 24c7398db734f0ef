"""hypercorn's HTTP/1.1, HTTP/2 and WebSocket, on connections that sitebus accepts.

hypercorn reads requests, runs the application and writes responses; that is kept. Its worker
around them binds, starts lifespans (the engine does), takes signals, and loses idle connections
when it stops; ours accepts with `sitebus.servers.arrivals` and drains:

- HTTP/1.1: the last response on a connection says ``Connection: close``, half a request is waited
  for, and a silent connection is closed after the linger.
- HTTP/2: a connection without open streams is sent GOAWAY with the last stream that was served, so
  that its client may safely send again elsewhere what crossed it, and is closed after the linger.
  One with open streams serves them first. Some clients fail those when they see GOAWAY, so only who
  opens more of them after the linger is told before the end, with a GOAWAY that forbids none.
- WebSockets are closed with 1012 (service restart), and the application is told so.

Besides, a client that stops in the middle of a body is given up in time, where hypercorn waits for
ever, and one that leaves is forgotten at once, where hypercorn waits until it is given up.

This is the one module that knows hypercorn from inside. What it relies on, documented or not:

- `TCPServer(app, loop, config, context, state, reader, writer)`: ``run()`` serves one connection;
  ``protocol.protocol`` is an `H11Protocol` or an `H2Protocol`; ``_idle_timeout()`` runs in a task
  of its own while the connection is idle, from its beginning, and is cancelled by a request;
  ``_initiate_server_close()`` ends the connection in good order.
- ``app`` is called ``(scope, receive, send, sync_spawn, call_soon)``, in a task for each request.
- `H11Protocol`: ``connection.trailing_data`` is what was read and not yet served.
- `H2Protocol`: ``connection.highest_inbound_stream_id``; new streams are refused when
  ``context.terminated`` is set.
- `Config`: ``response_headers(protocol)`` is asked for each response and its answer not changed;
  ``logger_class`` is made once, and its methods are awaited.
- A ``websocket.close`` sent by the application is a close frame with its code.

``tests/servers/test_hypercorn_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from itertools import chain
from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import LifespanState

from sitebus.servers.arrivals import Arrivals
from sitebus.servers.looped import LoopServer

if TYPE_CHECKING:
    import ssl

    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send

LogTo = Callable[[str, int, Any], object]

#: What a WebSocket is closed with: service restart, come again (RFC 6455 and its registry).
RESTART = 1012
#: Seconds that a client has for its own part in closing a WebSocket.
FAREWELL = 1.0
#: Seconds that an HTTP/2 connection stays open after GOAWAY at least: what was written before it
#: may still be on its way.
MOMENT = 0.05
#: How many turns of the loop it may take until what was received is seen by hypercorn; generously.
TURNS = 4
#: No stream has a higher number: a GOAWAY that asks to open no more, and forbids none.
EVERY_STREAM = 2**31 - 1
_EMPTY = (b"content-length", b"0")
#: How many bytes of a request are told of one that hangs.
_MOST_TOLD = 200


class Settings(Config):
    """hypercorn's configuration, with the headers of ours."""

    def __init__(self, server_header: str, options: Mapping[str, Any], log: LogTo) -> None:
        self.logger_class = lambda _: Log(log)  # type: ignore[assignment, return-value]
        for name, value in options.items():
            setattr(self, name, value)
        self._server = [(b"server", server_header.encode("latin-1"))] if server_header else []
        self._alternatives = [(b"alt-svc", each.encode()) for each in self.alt_svc_headers]
        self._made_at = 0
        self._made: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._made_at:
            date = [(b"date", formatdate(now, usegmt=True).encode())]
            dated = date if self.include_date_header else []
            self._made, self._made_at = [*dated, *self._server, *self._alternatives], now
        return self._made


class Log:
    """Tells *log_to* what hypercorn logs, on one line whatever a client put into it."""

    def __init__(self, log_to: LogTo) -> None:
        self._log_to = log_to

    async def access(self, *_: object) -> None:
        """Leave it to the site's own access log."""

    async def warning(self, message: str, *args: Any) -> None:
        self._tell(30, message, args)

    async def error(self, message: str, *args: Any) -> None:
        self._tell(40, message, args)

    async def exception(self, message: str, *args: Any) -> None:
        self._tell(40, message, args, traceback=True)

    async def critical(self, message: str, *args: Any) -> None:
        self._tell(50, message, args)

    async def info(self, *_: object) -> None:
        pass

    async def debug(self, *_: object) -> None:
        pass

    def _tell(self, level: int, message: str, args: Any, *, traceback: bool = False) -> None:
        text = (message % args if args else message).encode("unicode_escape").decode("ascii")
        self._log_to(text, level, traceback)


class Visitor(TCPServer):
    """One client."""

    def __init__(
        self, house: Hosted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(
            self._serve,  # type: ignore[arg-type]
            house.loop,
            house.settings,
            WorkerContext(None),
            LifespanState({}),
            reader,
            writer,
        )
        self.house = house
        self._is_asked_to_leave = False

    @property
    def is_http2(self) -> bool:
        return isinstance(self.protocol.protocol, H2Protocol)

    @property
    def has_more(self) -> bool:
        """Whether more was read than was served yet: half a request, or the next one."""
        connection = self.protocol.protocol.connection
        return bool(not self.is_http2 and connection.trailing_data[0])  # type: ignore[union-attr]

    @property
    def ends_here(self) -> bool:
        """Whether a response that begins now shall be the last on its connection."""
        return self.house.draining and not self.is_http2 and not self.has_more

    async def leave(self) -> None:
        """Close the connection in good order."""
        await asyncio.shield(self._initiate_server_close())

    async def _read_data(self) -> None:
        await super()._read_data()
        # The client has left; hypercorn would keep the connection until it is given up.
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        await self._wait_given_up()
        await self.leave()

    async def _wait_given_up(self) -> None:
        house = self.house
        with suppress(TimeoutError):
            async with asyncio.timeout(house.timeout):
                await house.leaving.wait()
        if not house.draining:
            return
        if self.is_http2:
            await self.context.terminated.set()
            self._go_away(self.protocol.protocol.connection.highest_inbound_stream_id)  # type: ignore[union-attr]
            await asyncio.sleep(max(house.linger, MOMENT))
            return
        await asyncio.sleep(house.linger)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self.has_more:
            await asyncio.sleep(house.timeout)

    def _go_away(self, last: int) -> None:
        """Tell an HTTP/2 client that no stream above *last* will be served (RFC 9113, 6.8)."""
        # h2 itself ends the connection with it, and could not finish the streams that are open.
        frame = struct.pack(">HBBBIII", 0, 8, 7, 0, 0, last, 0)
        with suppress(OSError, RuntimeError):
            self.writer.write(frame)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, *_: object) -> None:
        """Run the application for one request, or one WebSocket."""
        house = self.house
        if house.draining and self.is_http2:
            self._ask_to_leave()
        house.scopes[id(scope)] = scope
        try:
            if scope["type"] == "websocket":
                await Conversation(self, receive, send).run(scope)
            else:
                await Exchange(self, receive, send).run(scope)
        finally:
            del house.scopes[id(scope)]

    def _ask_to_leave(self) -> None:
        if not self._is_asked_to_leave and self.house.linger_is_over:
            self._is_asked_to_leave = True
            self._go_away(EVERY_STREAM)


class Exchange:
    """One request and its response."""

    def __init__(self, visitor: Visitor, receive: Receive, send: Send) -> None:
        self._visitor = visitor
        self._receive = receive
        self._send = send
        self._is_whole = False

    async def run(self, scope: Scope) -> None:
        house = self._visitor.house
        if house.max_header and _size(scope) > house.max_header:
            await self.send({"type": "http.response.start", "status": 431, "headers": [_EMPTY]})
            await self.send({"type": "http.response.body", "body": b""})
            return
        await house.application(scope, self.receive, self.send)

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            # A client that stops in the middle of a body is as silent as any other.
            async with asyncio.timeout(self._visitor.house.timeout):
                message = await self._receive()
        except TimeoutError:
            await self._visitor.leave()
            return await self._receive()
        self._is_whole = not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._visitor.ends_here:
            message = {**message, "headers": _closing(message.get("headers", ()))}
        await self._send(message)


class Conversation:
    """One WebSocket."""

    def __init__(self, visitor: Visitor, receive: Receive, send: Send) -> None:
        self.visitor = visitor
        self._receive = receive
        self._send = send
        self._is_open = False
        self._is_left = False

    async def run(self, scope: Scope) -> None:
        house = self.visitor.house
        house.conversations.add(self)
        try:
            await house.application(scope, self.receive, self.send)
        finally:
            house.conversations.discard(self)

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if self._is_left and message["type"] == "websocket.disconnect":
            return {**message, "code": RESTART, "reason": ""}
        return message

    async def send(self, message: Message) -> None:
        if self._is_left:
            return  # the application has not heard yet
        await self._send(message)
        if message["type"] == "websocket.close":
            self._is_open = False
        elif message["type"] == "websocket.accept":
            self._is_open = True
            if self.visitor.house.draining:
                await self.leave()

    async def leave(self) -> None:
        """Close it, for the server's reasons."""
        if self._is_open:
            self._is_open, self._is_left = False, True
            await self._send({"type": "websocket.close", "code": RESTART, "reason": "restarting"})

    async def give_up(self) -> None:
        """End the connection of a client that does not close on its part."""
        # Over HTTP/2 it is shared with others.
        if self._is_left and not self.visitor.is_http2:
            await self.visitor.leave()


class Hosted(LoopServer):
    """hypercorn's connections over listening sockets that somebody else owns.

    Args:
        loop: The engine's loop.
        sockets: Where to accept; closed at the end.
        application: The ASGI application.
        settings: hypercorn's configuration.
        tls: The context when the sockets speak TLS.
        backlog: How many connections the kernel keeps until they are accepted.
        timeout: Seconds a client may be silent.
        max_header: The longest request head in bytes; 0 is any.
        name: Who is said to be busy.
        log: Is told what hypercorn would log.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        application: ASGIApplication,
        settings: Settings,
        *,
        tls: ssl.SSLContext | None,
        backlog: int,
        timeout: float,
        max_header: int,
        name: str,
        log: LogTo,
    ) -> None:
        super().__init__(loop, sockets)
        self.application = application
        self.settings = settings
        self.timeout = timeout
        self.max_header = max_header
        self.linger = 0.0
        self.leaving = asyncio.Event()
        self.scopes: dict[int, Scope] = {}
        self.conversations: set[Conversation] = set()
        self._visitors: dict[Visitor, asyncio.Task[Any]] = {}
        self._name = name
        self._log = log
        self._left_at = 0.0
        self._over = asyncio.Event()
        self._broken: OSError | None = None
        self._arrivals = Arrivals(
            loop,
            self.sockets,
            self._protocol,
            context=tls,
            backlog=backlog,
            timeout=timeout,
            broken=self._break,
            changed=self._look_round,
        )

    @property
    def linger_is_over(self) -> bool:
        return self.leaving.is_set() and self.loop.time() > self._left_at + self.linger

    async def serve(self) -> None:
        try:
            await self._arrivals.open()
            self.announce()
            await self._over.wait()
        finally:
            await self._end()
        if self._broken is not None:
            raise self._broken

    async def leave(self, linger: float) -> None:
        self.linger = linger
        self._left_at = self.loop.time()
        await self._close_doors(linger)
        self.leaving.set()
        self._look_round()
        for each in list(self.conversations):
            await each.leave()
        await asyncio.sleep(max(linger, FAREWELL))
        for each in list(self.conversations):
            await each.give_up()

    async def _close_doors(self, linger: float) -> None:
        self._arrivals.close(linger)
        await self._arrivals.wait_made()
        if self.for_good:
            self._arrivals.let_in_who_waits()
            for each in self.sockets:
                each.close()
        self.shut.set()

    def renew(self, context: ssl.SSLContext) -> None:
        """Use *context* for connections from now on; from any thread."""
        self._arrivals.context = context

    def busy(self) -> list[tuple[str, str]]:
        return [(self._name, _request_of(scope)) for scope in self.scopes.values()]

    def _protocol(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader(loop=self.loop)
        return asyncio.StreamReaderProtocol(reader, self._welcome, loop=self.loop)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visitor = Visitor(self, reader, writer)
        self._visitors[visitor] = task
        try:
            await self._attend(visitor)
        except asyncio.CancelledError:
            pass  # asyncio's protocol would complain of it
        finally:
            del self._visitors[visitor]
            self._look_round()

    async def _attend(self, visitor: Visitor) -> None:
        try:
            await visitor.run()
        except* OSError:
            pass  # the client has left
        except* Exception as errors:  # noqa: BLE001 - of hypercorn's, and no other client's business
            self._log("Error in a connection", 40, errors)

    def _break(self, error: OSError) -> None:
        self._broken = error
        self._over.set()

    def _look_round(self) -> None:
        """End when a drain has nobody left to wait for."""
        if self.leaving.is_set() and not self._visitors and not self._arrivals.arriving:
            self._over.set()

    async def _end(self) -> None:
        self._arrivals.cut()
        self.shut.set()
        tasks = list(self._visitors.values())
        for visitor, task in list(self._visitors.items()):
            visitor.writer.transport.abort()
            task.cancel()
        if tasks:
            # An application may take no notice of being cancelled.
            await asyncio.wait(tasks, timeout=FAREWELL)


def _size(scope: Scope) -> int:
    """Answer about how long the head was; h11 lets pass what arrives in one piece."""
    target = len(scope["raw_path"]) + len(scope["query_string"])
    headers = scope["headers"]
    # ": " and the end of the line of each.
    return target + sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def _closing(headers: Any) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return [*kept, (b"connection", b"close")]


def _request_of(scope: Scope) -> str:
    # As it was asked for, and escaped: decoded, it could forge lines of the log.
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    asked = scope.get("method", "WebSocket") + " " + target.decode("latin-1")
    text = asked[:_MOST_TOLD].encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(asked) > _MOST_TOLD else text
