"""One client's connection to hypercorn, and what is mended in how hypercorn keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import AsyncioSingleTask, WorkerContext
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.typing import LifespanState

from sitebus.servers._hypercorn_http2 import EVERY_STREAM, Frames, Streams, go_away
from sitebus.servers._hypercorn_talk import ClientLeft, Conversation, Exchange, Talk
from sitebus.servers._hypercorn_wire import Wire
from sitebus.servers.client_certs import asgi_extension
from sitebus.servers.heads import Refusal
from sitebus.servers.untaken import untaken

if TYPE_CHECKING:
    from sitebus.asgi import Message, Scope
    from sitebus.servers._hypercorn import Hosted

#: Seconds that an HTTP/2 connection stays open after GOAWAY at least: what was written before it
#: may still be on its way.
MOMENT = 0.05
#: How many turns of the loop it may take until what was received is seen by hypercorn; generously.
TURNS = 4
_LATE = Refusal(408, "The head of the request did not come in time.")
#: How many bytes are read at once; fewer of frames and of messages, which are many in so much.
AT_ONCE, FRAMES_AT_ONCE, MESSAGES_AT_ONCE = 1 << 16, 1 << 14, 1 << 12
_GONE: Message = {"type": "websocket.disconnect", "code": 1006}


class IdleTask(AsyncioSingleTask):
    """The one task of a connection that waits; what its group will not begin is not left about."""

    async def restart(self, task_group: Any, action: Callable[..., Any]) -> None:
        """Begin *action* anew."""
        waiting = action()
        try:
            await super().restart(task_group, lambda: waiting)
        except BaseException:
            waiting.close()  # the group is being shut down; before Python 3.13 it stays open
            raise


class Visitor(TCPServer):
    """One client."""

    def __init__(
        self,
        house: Hosted,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: tuple[str, int] | str | None = None,
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
        self.idle_task = IdleTask()
        # Who a proxy says it is; a path is no address.
        self._client = client
        self._tls: dict[str, Any] | None = None
        self._is_idle = True
        # When the last piece of a head came; when all of it must have.
        self._heard = 0.0
        self._late: asyncio.TimerHandle | None = None
        self._room: asyncio.Event | None = None
        self._talks: set[Talk] = set()
        self._is_asked_to_leave = False
        # The head of a response, until there is a body; b"" when it is to come.
        self._head: bytes | None = None
        self._written = 0
        # Whether the client still reads; whether it has heard enough.
        self._watch: asyncio.TimerHandle | None = None
        self._parting: asyncio.TimerHandle | None = None

    @property
    def _at_once(self) -> int:
        if self.is_http2:
            return FRAMES_AT_ONCE
        is_wire = type(self.protocol.protocol.connection) is Wire
        return AT_ONCE if is_wire else MESSAGES_AT_ONCE

    @property
    def is_http2(self) -> bool:
        return isinstance(self.protocol.protocol, H2Protocol)

    def complain(self, refusal: Refusal) -> None:
        """Log that a request of this client's is refused."""
        self.house.complain(self._who, refusal)

    def complain_of(self, kind: str, why: str) -> None:
        """Log that the connection is closed."""
        self.house.complain_of(kind, self._who, why)

    @property
    def _who(self) -> str:
        client = self.protocol.client
        return str(client[0]) if client else "a unix socket"

    @property
    def has_more(self) -> bool:
        """Whether more was read than was served yet: half a request, or the next one."""
        connection = self.protocol.protocol.connection
        return bool(not self.is_http2 and connection.trailing_data[0])  # type: ignore[union-attr]

    @property
    def ends_here(self) -> bool:
        """Whether a response that begins now shall be the last on its connection."""
        connection = self.protocol.protocol.connection
        if type(connection) is not Wire:
            return False
        # hypercorn keeps no connection whose request is not over when its response is.
        return connection.is_spoken_to or (self.house.draining and not self.has_more)

    async def leave(self) -> None:
        """Close the connection in good order."""
        await asyncio.shield(self._initiate_server_close())

    async def give_up(self, stream: Any) -> None:
        """Let a request go whose client does not end it: over HTTP/2, no other with it."""
        if not self.is_http2:
            await self.leave()
            if self.writer.transport.get_write_buffer_size():
                self.writer.transport.abort()  # it does not read either
            return
        await self._http2._close_stream(stream.stream_id)
        await self._reset(stream.stream_id, ErrorCodes.CANCEL)

    def let_go(self, stream: Any) -> None:
        """Give up a request or WebSocket, soon, if it is not over by then."""
        if not stream.closed:
            self._task_group.spawn(self.give_up, stream)

    def forget(self) -> None:
        """Let go of what would still be done in time."""
        for timer in (self._watch, self._parting, self._late):
            if timer is not None:
                timer.cancel()

    # Reading.

    async def _read_data(self) -> None:
        self._prepare()
        while not self.reader.at_eof() and (data := await self._read()) is not None:
            await self._understand(data)
            if self._has_refused():
                await self._close_refused()
            if self._talks:
                await self._wait_for_room()
            if len(data) == self._at_once:
                await asyncio.sleep(0)  # to read on at once would let nobody else have a turn
        await self.protocol.handle(Closed())
        # The client has left; hypercorn would keep the connection until it is given up.
        await self.idle_task.stop()

    def _prepare(self) -> None:
        protocol = self.protocol.protocol
        if self._client is not None:
            client = self._client if isinstance(self._client, tuple) else None
            self.protocol.client = protocol.client = client
        if isinstance(protocol, H11Protocol):
            # To make another costs much, for each connection.
            protocol.connection.__class__ = Wire
            wire: Any = protocol.connection
            wire.prepare(self.house.max_header, self.house.max_body, self.complain)
        secure = self.writer.get_extra_info("ssl_object")
        if secure is not None:
            self._tls = asgi_extension(secure, self.house.certificate)

    async def _read(self) -> bytes | None:
        most = self.config.read_timeout
        reading = self.reader.read(self._at_once)
        try:
            return await (reading if most is None else asyncio.wait_for(reading, most))
        except (OSError, TimeoutError):
            return None

    async def _understand(self, data: bytes) -> None:
        try:
            await self.protocol.handle(RawData(data))
        except (UnicodeError, UnboundLocalError) as error:
            # A path that is none, or is not there, or a WebSocket's headers.
            if not self.is_http2:
                await self._refuse(Refusal(400, "The header has characters that it may not have."))
                return
            self.complain_of("HTTP/2 error", "whose request has no path, or none that can be read")
            self._go_away(0, ErrorCodes.PROTOCOL_ERROR)
            raise ConnectionAbortedError from error
        connection = self.protocol.protocol.connection
        if isinstance(connection, Wire):
            await self._look_at_head(connection)
        elif self.is_http2 and not (self._is_idle or self._http2.streams):
            # hypercorn would wait for its first request for ever.
            await self.protocol_send(Updated(idle=True))

    async def _look_at_head(self, wire: Wire) -> None:
        """Look later whether a head that has begun is complete; most come in one piece."""
        if wire.is_midway:
            self._heard = self.loop.time()
        elif self._late is not None:
            self._late.cancel()
            self._late = None
        if wire.refusal is not None:
            # Nothing more will come for an application.
            await self.protocol.handle(Closed())
        elif wire.is_midway and self._late is None and self.house.header_timeout:
            self._late = self.loop.call_later(self.house.header_timeout, self._give_up_head)

    def _give_up_head(self) -> None:
        self._task_group.spawn(self._refuse, _LATE)

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer what hypercorn has not understood, or will not."""
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)
        connection = protocol.connection
        wire: Any = connection if isinstance(connection, Wire) else connection.h11_connection  # type: ignore[union-attr]
        if wire.is_over or wire.refusal is not None:
            return
        wire.refused(refusal)
        await protocol._send_error_response(refusal.status)
        await self.protocol_send(Closed())

    def _has_refused(self) -> bool:
        """Tell whether hypercorn may have answered without an application."""
        protocol = self.protocol.protocol
        if isinstance(protocol, H11Protocol):
            return protocol.stream is not None and protocol.stream.closed
        return True

    async def _close_refused(self) -> None:
        """Let go of what hypercorn has answered without an application, or in place of one."""
        protocol = self.protocol.protocol
        streams: list[Any]
        if isinstance(protocol, H2Protocol):
            streams = list(protocol.streams.values())
        else:
            streams = [protocol.stream]
        for each in streams:
            if each.closed and _is_refused(each):
                if getattr(each, "app_put", None) is not None:
                    await each.app_put(_GONE)
                await protocol.stream_send(StreamClosed(stream_id=each.stream_id))

    async def _wait_for_room(self) -> None:
        while any(talk.is_behind for talk in self._talks):
            self._room = asyncio.Event()
            await self._room.wait()
        self._room = None

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read because an application is behind."""
        return self._room is not None

    def read_on(self) -> None:
        """Be told that an application may have caught up."""
        if self._room is not None:
            self._room.set()

    # Writing.

    async def protocol_send(self, event: Any) -> None:
        if isinstance(event, RawData):
            if self.is_http2:
                self._tame(self._http2)  # that it has begun is seen by nothing earlier
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._part()
        else:
            self._is_idle = event.idle
            self.house.note_idle(self, is_idle=event.idle)
            await super().protocol_send(event)

    def hold_head(self) -> None:
        """Let the head that comes now wait for the body: one packet, and a system call less."""
        if not self.is_http2:
            self._head = b""

    async def let_go_head(self) -> None:
        """Send what waits, if there is no body yet."""
        if self._head:
            await self._write(b"")

    async def _write(self, data: bytes) -> None:
        if self._head is not None:
            if not self._head:
                self._head = data
                return
            data, self._head = self._head + data, None
        elif not data:
            return
        async with self.send_lock:
            self._written += len(data)
            try:
                self.writer.write(data)
                if self._watch is None and self.writer.transport.get_write_buffer_size():
                    self._look_later()
                await self.writer.drain()
            except (ConnectionError, RuntimeError):
                self.read_on()
                await self.protocol.handle(Closed())

    def _look_later(self) -> None:
        self._watch = self.loop.call_later(self.house.timeout, self._look, self._taken())

    def _look(self, taken: int) -> None:
        """Give up a client that has read nothing since it had *taken* so much."""
        self._watch = None
        if self.writer.transport.get_write_buffer_size():
            if self._taken() == taken:
                self.writer.transport.abort()
            else:
                self._look_later()

    def _taken(self) -> int:
        left = self.writer.transport.get_write_buffer_size()
        return self._written - left - untaken(self.writer.get_extra_info("socket"))

    async def _part(self) -> None:
        """Close, but hear out a client that still speaks: else it may lose what it was sent."""
        connection = self.protocol.protocol.connection
        await self.let_go_head()
        is_spoken_to = False
        if isinstance(connection, Wire):
            is_spoken_to = connection.is_spoken_to
            connection.is_over = True
        self.read_on()
        if not is_spoken_to or self.reader.at_eof():
            await self._close()
            return
        abort = self.writer.transport.abort
        self._parting = self._parting or self.loop.call_later(self.house.timeout, abort)
        with suppress(OSError, RuntimeError):
            if self.writer.can_write_eof():
                self.writer.write_eof()

    # Being idle.

    async def _idle_timeout(self) -> None:
        await self._wait_given_up()
        if self._is_midway:
            await self._refuse(_LATE)
            return
        # Not in a task of its own, before which there may come a request.
        try:
            await self.protocol.handle(Closed())
        finally:
            self.writer.close()

    async def _wait_given_up(self) -> None:
        house = self.house
        with suppress(TimeoutError):
            async with asyncio.timeout(house.timeout):
                await house.leaving.wait()
        if house.draining and self.is_http2:
            await self.context.terminated.set()
            self._go_away(self._http2.connection.highest_inbound_stream_id)
            await asyncio.sleep(max(house.linger, MOMENT))
            return
        if house.draining:
            await asyncio.sleep(house.linger)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        while (left := self._left_for_head()) > 0:  # noqa: ASYNC110 - nothing tells of silence
            await asyncio.sleep(left)
        if self.has_more and not self._is_midway:
            await asyncio.sleep(house.timeout)

    def _left_for_head(self) -> float:
        """Answer how much longer may nothing be said where a head has begun."""
        return self._heard + self.house.timeout - self.loop.time() if self._is_midway else 0.0

    @property
    def _is_midway(self) -> bool:
        connection = self.protocol.protocol.connection
        return isinstance(connection, Wire) and connection.is_midway

    # HTTP/2.

    @property
    def _http2(self) -> H2Protocol:
        protocol = self.protocol.protocol
        assert isinstance(protocol, H2Protocol)
        return protocol

    def _go_away(self, last: int, code: int = 0) -> None:
        """Tell an HTTP/2 client that no stream above *last* will be served (RFC 9113, 6.8)."""
        with suppress(OSError, RuntimeError):
            self.writer.write(go_away(last, code))

    def _ask_to_leave(self) -> None:
        if not self._is_asked_to_leave and self.house.linger_is_over:
            self._is_asked_to_leave = True
            self._go_away(EVERY_STREAM)

    def _tame(self, protocol: H2Protocol) -> None:
        """Bound what a client may do, and let it go on with what was answered before its end."""
        if type(protocol.connection) is not Frames:
            protocol.connection.__class__ = Frames
            frames: Any = protocol.connection
            frames.prepare(self.complain_of)
            protocol.streams = Streams(protocol.streams)

    async def _reset(self, number: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):
            self._http2.connection.reset_stream(number, code)
        await self._http2._flush()
        # hypercorn drops what it would still send when it tries to.
        await self._http2._window_updated(number)

    async def _end_stream(self, stream: Any) -> None:
        if isinstance(stream, HTTPStream):
            if stream.state is ASGIHTTPState.CLOSED:
                return
            if not stream.closed and stream.state is not ASGIHTTPState.REQUEST:
                # hypercorn leaves the client waiting for the rest.
                await self._reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
        if stream.closed:
            # By the client; hypercorn does not see that the connection may be idle now.
            await self._http2.stream_send(StreamClosed(stream_id=stream.stream_id))

    # Being served.

    async def _serve(self, scope: Scope, receive: Any, send: Any, *_: object) -> None:
        """Run the application for one request, or one WebSocket."""
        house = self.house
        if self.is_http2 and house.draining:
            self._ask_to_leave()
        if self._tls is not None:
            scope.setdefault("extensions", {})["tls"] = dict(self._tls)
        kind = Conversation if scope["type"] == "websocket" else Exchange
        talk = kind(self, receive, send)
        house.scopes[id(scope)] = scope
        self._talks.add(talk)
        try:
            await talk.run(scope)
        except ClientLeft:
            pass
        finally:
            del house.scopes[id(scope)]
            self._talks.discard(talk)
            self.read_on()
            if self.is_http2:
                await self._end_stream(talk.stream)


def _is_refused(stream: Any) -> bool:
    if getattr(stream, "app_put", None) is None:
        return True
    return bool(stream.state is ASGIWebsocketState.HANDSHAKE)
