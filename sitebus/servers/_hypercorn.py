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

Besides, in `sitebus.servers._hypercorn_visitor` (a connection) and ``_hypercorn_talk`` (a request):

- A client that stops in the middle of a body, or reads nothing of what it is sent, is given up in
  time, where hypercorn waits for ever; one that leaves is forgotten at once.
- A body that the application does not receive, a handshake that is refused, a request behind one
  that fails and a stream that its client gives up keep their connections open in hypercorn, for
  good; not in ours.
- A response that breaks off is broken off over HTTP/2 too, and what comes of a body after its
  response costs no other stream.
- A client that is refused while it still sends is heard out, so that it gets to know.
- Requests that two servers could read in two ways are refused, and so is the switch from HTTP/1.1
  to HTTP/2 (h2c): see ``_hypercorn_wire``. What follows the last request of a connection is no
  reason to refuse that one.
- A head that does not come in time is answered with 408. HTTP/2 without a request is given up.
- A client that floods with HTTP/2 frames of no use, or with requests that it gives up at once, is
  told to calm down and closed; priorities are not looked at: see ``_hypercorn_http2``. So is one
  that floods with pings and small pieces of messages (``_hypercorn_websocket``), or that goes on
  after its message was too long. However fast one sends, others have their turn in between.
- The application is told each time it asks that its client has left, and by ``send`` too.
- The status line says what the status means, and the head of a response goes with its body.

These modules know hypercorn from inside. What they rely on, documented or not:

- `TCPServer(app, loop, config, context, state, reader, writer)`: ``run()`` serves one connection;
  ``protocol.protocol`` is an `H11Protocol` or an `H2Protocol`; ``_read_data()`` is called when it
  is made, and before it is given anything; ``protocol_send(event)`` gets all that is to be done on
  the connection; ``_idle_timeout()`` runs in a task of its own while the connection is idle, from
  its beginning, begun by ``idle_task.restart(group, action)``, and is cancelled by a request;
  ``_initiate_server_close()`` ends the connection in good order, and so does
  ``protocol.handle(Closed())`` without closing it.
- ``app`` is called ``(scope, receive, send, sync_spawn, call_soon)``, in a task for each request;
  ``receive`` is the ``get`` of a queue of ``Config.max_app_queue_size``, ``send`` a method of the
  stream.
- A stream: ``stream_id``, ``state``, ``closed``; ``app_put`` is how the application is told, once
  there is one. ``stream_send(StreamClosed(id))`` of a protocol lets go of it.
- `H11Protocol`: ``connection`` is all that it has of h11, and may become one of a class of ours;
  its ``trailing_data`` is what was read and not yet served, ``their_state`` how far the request
  is. h11 writes the ``reason`` of a `Response` into the status line. ``_send_error_response(n)``
  answers before there is a stream. `H11WSConnection.h11_connection` is h11's beneath a WebSocket.
- h11's `Connection`: ``_reader`` is called with the buffer, whose bytes are ``_data``, and comes
  from ``_get_io_object(role, event, readers)`` with each new state; ``_length`` is what that for a
  body of known length has; ``_request_method`` is of the request that is answered.
- The address of a client is ``client``, of the protocol and of the wrapper that may make another.
- `H2Protocol`: ``streams`` may be changed for a dict of ours; ``_close_stream(id)``, ``_flush()``,
  ``_window_updated(id)``; ``connection.highest_inbound_stream_id``; new streams are refused when
  ``context.terminated`` is set.
- `H2Protocol.connection` may become one of a class of ours too, before anything is received: when
  it sends its settings. h2's `H2Connection` calls ``_receive_frame(frame)``, which answers events,
  for each frame but those that only continue a header, and ends the connection with the code of a
  `ProtocolError` that it raises. ``send_data`` and ``end_stream`` are called for each response.
- `Config`: ``response_headers(protocol)`` is asked for each response and its answer not changed;
  ``logger_class`` is made once, and its methods are awaited.
- A WebSocket's stream has wsproto's `Connection` as its ``connection``, once ``websocket.accept``
  was sent, and that may become one of a class of ours: what is heard comes from its ``events()``,
  what is said goes through its ``send(event)``.
- A ``websocket.close`` sent by the application is a close frame with its code.

``tests/servers/test_hypercorn_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sitebus.servers._hypercorn_settings import LogTo, Settings
from sitebus.servers._hypercorn_talk import FAREWELL, Conversation
from sitebus.servers._hypercorn_visitor import Visitor
from sitebus.servers.arrivals import Arrivals
from sitebus.servers.complaints import WINDOW, Complaints
from sitebus.servers.heads import Refusal
from sitebus.servers.limits import limited
from sitebus.servers.looped import LoopServer

if TYPE_CHECKING:
    import ssl

    from sitebus.asgi import ASGIApplication, Scope
    from sitebus.sockets.networks import Networks

#: How many bytes of a request are told of one that hangs.
_MOST_TOLD = 200


class Doorway(asyncio.StreamReaderProtocol):
    """The end of a connection, which knows who a proxy says is at the other."""

    client: tuple[str, int] | str | None = None


class Hosted(LoopServer):
    """hypercorn's connections over listening sockets that somebody else owns.

    Args:
        loop: The engine's loop.
        sockets: Where to accept; closed at the end.
        application: The ASGI application.
        settings: hypercorn's configuration.
        tls: The context when the sockets speak TLS.
        timeout: Seconds a client may be silent.
        max_header: The longest request head in bytes; 0 is any.
        max_body: The longest request body in bytes, if its length is told; 0 is any.
        header_timeout: Seconds that the head of a request may take; 0 is any.
        most: How many connections are open at once. For one more, the one that has been silent
            longest is closed; if all are busy, it waits in the kernel's queue.
        shares: Whether other processes accept from *sockets* too.
        proxied: The numbers of the sockets whose connections begin with a PROXY header.
        trusted: Who may connect there; everybody if it is empty.
        certificate: What clients are shown, in PEM.
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
        timeout: float,
        max_header: int,
        name: str,
        log: LogTo,
        max_body: int = 0,
        header_timeout: float = 0.0,
        most: int = 1 << 20,
        shares: bool = False,
        proxied: Collection[int] = (),
        trusted: Networks | None = None,
        certificate: str | None = None,
    ) -> None:
        super().__init__(loop, sockets)
        self.settings = settings
        self.timeout = timeout
        self.max_header = max_header
        self.max_body = max_body
        self.header_timeout = header_timeout
        self.certificate = certificate
        self.linger = 0.0
        self.leaving = asyncio.Event()
        self.scopes: dict[int, Scope] = {}
        self.conversations: set[Conversation] = set()
        self._visitors: dict[Visitor, asyncio.Task[Any]] = {}
        # Longest idle first.
        self._idle: dict[Visitor, None] = {}
        # Those who make room, and have not left yet.
        self._leaving: set[Visitor] = set()
        self._complaints = Complaints(lambda message, level: log(message, level, False))
        self.application = limited(application, max_body, self._complaints.tell)
        self._name = name
        self._log = log
        self._left_at = 0.0
        self._next_traceback = 0.0
        self._over = asyncio.Event()
        self._broken: OSError | None = None
        self._arrivals = Arrivals(
            loop,
            self.sockets,
            self._protocol,
            context=tls,
            timeout=timeout,
            broken=self._break,
            changed=self._look_round,
            header_timeout=header_timeout,
            most=most,
            inside=lambda: len(self._visitors) - len(self._leaving),
            make_room=self._make_room,
            shares=shares,
            proxied=proxied,
            trusts=(lambda peer: (peer or "") in trusted) if trusted else None,
            introduce=_introduced,
            log=lambda message, level: log(message, level, False),
            complain=self._complaints.tell,
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
        # All at once: one that does not read would hold up the others.
        farewells = [each.leave() for each in self.conversations]
        farewell = asyncio.gather(*farewells, return_exceptions=True)
        await asyncio.sleep(max(linger, FAREWELL))
        farewell.cancel()
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

    def complain(self, who: str, refusal: Refusal) -> None:
        """Log that a request was refused."""
        kind = refusal.kind
        self._complaints.tell(kind, f"Refused a request from {who}: {kind}. {refusal.why}")

    def complain_of(self, kind: str, who: str, why: str) -> None:
        """Log that a connection is closed."""
        self._complaints.tell(kind, f"Closed the connection of {who}, {why}")

    def note_idle(self, visitor: Visitor, *, is_idle: bool) -> None:
        """Be told that a connection has nothing more to do, or has something."""
        self._idle.pop(visitor, None)
        if is_idle:
            self._idle[visitor] = None

    def _make_room(self) -> bool:
        """Close who has been silent longest; tell whether there was one."""
        for visitor in self._idle:
            if not visitor.has_more:
                del self._idle[visitor]
                self._leaving.add(visitor)
                visitor.writer.transport.abort()
                return True
        return False

    def _protocol(self) -> Doorway:
        reader = asyncio.StreamReader(loop=self.loop)
        return Doorway(reader, self._welcome, loop=self.loop)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        doorway: Any = writer.transport.get_protocol()
        visitor = Visitor(self, reader, writer, doorway.client)
        self._visitors[visitor] = task
        self._idle[visitor] = None
        try:
            await self._attend(visitor)
        except asyncio.CancelledError:
            pass  # asyncio's protocol would complain of it
        finally:
            visitor.forget()
            del self._visitors[visitor]
            self._idle.pop(visitor, None)
            self._leaving.discard(visitor)
            self._look_round()
            self._arrivals.go_on()

    async def _attend(self, visitor: Visitor) -> None:
        try:
            await visitor.run()
        except* OSError:
            pass  # the client has left
        except* Exception as errors:  # noqa: BLE001 - of hypercorn's, and no other client's business
            self._tell_error(visitor, errors)

    def _tell_error(self, visitor: Visitor, errors: BaseExceptionGroup) -> None:
        """Log it, the first in a while with its traceback: a client may know how to cause it."""
        now = self.loop.time()
        if now >= self._next_traceback:
            self._next_traceback = now + WINDOW
            self._log("Error in a connection", 40, errors)
        else:
            visitor.complain_of("error in a connection", "for an error of the server's")

    def _break(self, error: OSError) -> None:
        self._broken = error
        self._over.set()

    def _look_round(self) -> None:
        """End when a drain has nobody left to wait for."""
        if self.leaving.is_set() and not self._visitors and not self._arrivals.arriving:
            self._over.set()

    async def _end(self) -> None:
        self._arrivals.cut()
        self._complaints.flush()
        self.shut.set()
        tasks = list(self._visitors.values())
        for visitor, task in list(self._visitors.items()):
            visitor.writer.transport.abort()
            task.cancel()
        if tasks:
            # An application may take no notice of being cancelled.
            await asyncio.wait(tasks, timeout=FAREWELL)


def _introduced(doorway: Doorway, client: tuple[str, int] | str | None, begun: bytes) -> Doorway:
    doorway.client = client
    return doorway


def _request_of(scope: Scope) -> str:
    # As it was asked for, and escaped: decoded, it could forge lines of the log.
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    asked = scope.get("method", "WebSocket") + " " + target.decode("latin-1")
    text = asked[:_MOST_TOLD].encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(asked) > _MOST_TOLD else text
