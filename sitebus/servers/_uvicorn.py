"""uvicorn's HTTP and WebSocket protocols on the engine's event loop, with a way in and out of ours.

uvicorn parses requests, runs applications and writes responses; that is kept as it is, and next to
nothing is added per request. Its `Server` is not used: it binds, catches signals, wakes ten times a
second for as long as it lives, and when it stops it closes connections that it has accepted and not
read, and kept-alive ones under their clients.

- The Date header is made by the first request of a second and thrown away by a timer at its end,
  so that a site that nobody asks anything has no timer.
- Silent clients are given up: one timer for each connection that has not spoken, one for each head
  that did not come whole, and a round, as long as there is anybody, for those that do not go on
  with a body, or take nothing of an answer.
- The drain is ours; see `Server.leave`. So is what is handed on in it: `_uvicorn_keeping`.
- Protocols are mended in `sitebus.servers._uvicorn_mended`, and what they let through is looked at
  in ``_uvicorn_strict``.

These are the modules that know uvicorn from inside. What they rely on, documented or not:

- ``Config.load()`` makes ``http_protocol_class``, ``ws_protocol_class``, ``encoded_headers`` and
  ``loaded_app``, calling the application without arguments to see whether it is a factory (which is
  why it never sees ours); what it wraps around that has the inner one as ``app``. Protocols read
  all of these, and ``timeout_keep_alive``, when they are made.
- A protocol is made with ``config``, ``server_state`` and ``app_state``, those for HTTP with
  ``_loop``. It adds itself to ``server_state.connections`` first of all when it is connected (one
  for a WebSocket instead of the one for HTTP), and leaves with ``discard`` or ``remove``. It logs
  to ``logger``, and requests where ``access_log`` is true. Requests are in ``server_state.tasks``,
  and take ``server_state.default_headers`` when they begin.
- One for HTTP/1.1 has ``transport``, ``flow.read_paused``, ``cycle``, ``timeout_keep_alive`` and
  ``timeout_keep_alive_task``; it cancels that when it receives anything, and sets it when a
  response is complete, to call ``timeout_keep_alive_handler``. ``cycle`` is the last request whose
  head is complete: its ``response_started``, ``response_complete``, ``more_body``, ``scope``,
  ``keep_alive``, ``transport``, ``waiting_for_100_continue`` and ``default_headers``; ``Connection:
  close`` in these is heeded, with ``transport.close()`` after the response. It sends nothing more
  when ``disconnected`` is set, which ``message_event`` tells its application. That is given its
  ``receive`` in the next turn of the loop; what has come of the body is in ``body``.
- After the last of a response was written it calls ``on_response``, which is what was the
  protocol's ``on_response_complete`` when it was made. ``client`` and ``server`` are set by
  ``connection_made``, and read for each request.
- ``send_400_response(text)`` is called when the parser fails, after "Invalid HTTP request
  received." was logged. A body that comes after the answer cancels the timer, too, and nothing sets
  it again. When such a body ends, httptools and h11 leave ``more_body`` true; ``conn.their_state``
  of h11 is then not SEND_BODY. A path that is not ASCII raises UnicodeDecodeError out of
  `ZttpProtocol` and `ZttpH2Protocol`.
- `HttpToolsProtocol` keeps a head of any length. Its ``scope`` is a new one from the first byte of
  a head; it is that of ``cycle`` once the head is complete. It keeps requests that wait in
  ``pipeline``, each with the application that it will call, the last of them first. It collects
  ``headers`` (the list of the scope) by ``on_header``, which is called for trailers too, and
  ``url``, and makes the request in ``on_headers_complete``; what is raised there is a failure of
  the parser. ``_should_upgrade()`` is asked about every request that wants to. It sends chunks to
  clients of HTTP/1.0 unless its ``cycle`` has another ``chunked_encoding`` than None; then no more
  bytes than ``expected_content_length``, which must be 0 at the end. Behind a request for a
  protocol that it does not speak it reads nothing of what came at once; it calls
  ``_unsupported_upgrade_warning()`` while it handles the `httptools.HttpParserUpgrade` that says
  where that begins.
- `H11Protocol` has ``conn``, an `h11.Connection`, which may become one of a class of ours, and asks
  its ``next_event()``; ``_receive_buffer.maybe_extract_next_line()`` of that is for chunks only.
- One for HTTP/2 (`zttp`) has ``cycles`` instead of ``cycle``, and ``conn.close(0, last_stream_id)``
  queues a GOAWAY that ``flush()`` sends. A cycle may become one of a class of ours; it sends
  nothing more when ``disconnected``, and what the client leaves no room for is counted in
  ``stream.pending_bytes``, until ``data_received`` has seen that there is room. What chooses
  between the two has ``timeout_task`` and the ``buffer`` of what it has read, and does it in
  ``_switch(http2, initial_data)``.
- One for WebSocket has ``handshake_complete``, or ``handshake_completed_event``, writes the
  handshake with ``transport.write``, and ``shutdown()`` sends 1012 and closes the transport.
  `WebSocketsSansIOProtocol` waits on when it has not understood a handshake, which is not
  ``handshake_initiated`` then. After a refusal with a response it has ``close_sent`` and
  ``initial_response``, and logs an error unless ``handshake_complete``. The deprecated
  `WebSocketProtocol` calls ``fail_connection()`` for what it cannot read. All of them read what
  they are given in ``data_received``, in any pieces, and stop and go on with ``pause_reading()``
  and ``resume_reading()`` of the transport that they were given.
- ``abort()`` of a transport closes its descriptor and shuts nothing down, on asyncio and uvloop.

``tests/servers/test_uvicorn_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sitebus.servers._uvicorn_keeping import AT_ONCE, Keeping, can_be_kept, introduced
from sitebus.servers._uvicorn_parting import Parting, Protocol
from sitebus.servers._uvicorn_patience import ROUNDS, SOON, Lack, Room, lack_of
from sitebus.servers._uvicorn_polite import FAREWELL, is_running
from sitebus.servers._uvicorn_protocols import Log
from sitebus.servers._uvicorn_state import Crowd, State
from sitebus.servers.arrivals import Arrivals
from sitebus.servers.looped import LoopServer

if TYPE_CHECKING:
    import socket
    import ssl

    import uvicorn

    from sitebus.sockets import Idle

#: The id that no HTTP/2 stream can pass: all that come are still answered (RFC 9113, 6.8).
LAST_STREAM = 2**31 - 1
#: Seconds that tasks have to end when they are cancelled.
CUT = 0.4


class Server(LoopServer):
    """uvicorn's protocols behind listening sockets that somebody else owns.

    Args:
        loop: The running loop, in a thread of its own.
        sockets: Copies of listening sockets.
        config: What `configure` has made.
        context: For TLS.
        timeout: Seconds a client may be silent.
        name: What this server is called in messages.
        log: What the protocols log to.
        header_timeout: Seconds from the first byte of a handshake to its end; 0 is any.
        most: How many connections are open at once; 0 is any.
        shares: Whether other processes accept from *sockets* too.
        proxied: The numbers of *sockets* whose connections begin with a PROXY header.
        trusts: Tells by its address who may connect there; everybody, if not given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        config: uvicorn.Config,
        *,
        context: ssl.SSLContext | None,
        timeout: float,
        name: str,
        log: Log,
        header_timeout: float = 0.0,
        most: int = 0,
        shares: bool = False,
        proxied: Collection[int] = (),
        trusts: Callable[[str | None], bool] | None = None,
    ) -> None:
        super().__init__(loop, sockets)
        self._log = log
        self.name = name
        self._config = config
        self._timeout = timeout
        self._linger: float | None = None
        self._state = State(config, loop)
        self._crowd = self._state.connections = Crowd(self._came, self._went)
        self._change = asyncio.Event()
        self._over: asyncio.Future[None] = loop.create_future()
        # Those that something was waited for from at the last round, and since when.
        self._stuck: dict[Protocol, tuple[Lack, float]] = {}
        self._room = Room(self._crowd)
        self._round: asyncio.TimerHandle | None = None
        self._keeping: Keeping | None = None
        kind: Any = config.http_protocol_class
        self._can_keep = context is None and can_be_kept(kind)
        make = partial(kind, config=config, server_state=self._state, app_state={}, _loop=loop)
        self.arrivals = Arrivals(
            loop,
            sockets,
            make,
            context=context,
            timeout=timeout,
            broken=self._break,
            changed=self._tell,
            introduce=introduced,
            header_timeout=header_timeout,
            most=most,
            inside=self._crowd.__len__,
            make_room=self._room.make,
            shares=shares,
            proxied=proxied,
            trusts=trusts,
            log=lambda message, level: log.log(level, message),
            complain=log.complain,
        )

    async def serve(self) -> None:
        """Serve until drained or cancelled."""
        try:
            await self.arrivals.open()
            self.announce()
            await self._over
            await self._wait_empty()
        finally:
            await self._cut()

    async def leave(self, linger: float) -> None:
        """Accept nothing more, and let everybody go when they have their answer.

        - Whose response has not begun is told in it that the connection closes, as are those who
          ask from now on. That uvicorn does, once it is told.
        - A client that was told otherwise, by the head of a response that is on its way, has
          *linger* seconds after it for another request, as idle ones have from now on.
        - Half a request is waited for, but not longer than for any silent client.
        - A WebSocket is closed with 1012 once it is one.
        - An HTTP/2 client cannot be told with a response, and some clients give up what they have
          asked for when they are told otherwise. So after *linger* its connection is closed when
          nothing is being answered, with a GOAWAY that says what was (RFC 9113, section 6.8). Who
          always has another request on the way gets a GOAWAY for future ones after ``timeout``.

        Where connections are handed on, none of HTTP/1.1 is closed, nor told so: each is given away
        as soon as it is idle.
        """
        self._linger = linger
        if self.hand_on is not None and self._can_keep:
            self._keeping = Keeping(self.hand_on, self.sockets)
        else:
            # New connections read it from there.
            self._config.timeout_keep_alive = linger  # type: ignore[assignment]
            self._state.closing = True
            self._state.forget_headers()
        self.arrivals.close(linger)
        if self._keeping is not None:
            for kept in self.arrivals.take_kept():
                # Only a PROXY header tells of anything else than that.
                peer = kept.peer if isinstance(kept.peer, tuple) else None
                self._keeping.give(kept.door, kept.socket, peer, b"")
        # Those that are being made come to it by themselves.
        for number, connection in enumerate(list(self._crowd), 1):
            self._part(connection)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._shut_doors()
        if not self._over.done():
            self._over.set_result(None)

    async def _shut_doors(self) -> None:
        await self.arrivals.wait_made()
        if self.for_good:
            self.arrivals.let_in_who_waits()
            for each in self.sockets:
                each.close()
        self.shut.set()

    def adopt(self, found: Sequence[tuple[int, Idle]]) -> None:
        """Go on with connections that were idle elsewhere (not from the loop)."""
        for _, each in found:
            if each.socket.gettimeout() != 0:
                each.socket.setblocking(False)
        asyncio.run_coroutine_threadsafe(self._adopt(found), self.loop).result()

    async def _adopt(self, found: Sequence[tuple[int, Idle]]) -> None:
        for door, each in found:
            if self._can_keep and not self.draining:
                self.arrivals.keep(each.socket, door, each.peer, each.begun)
            else:
                each.socket.close()

    def busy(self) -> list[tuple[str, str]]:
        """Answer what is still being served."""
        asked = [scope for each in self._crowd for scope in _scopes(each)]
        unseen = len(self._state.tasks) - len(asked)
        what = [f"{scope.get('method', 'WebSocket')} {_shown(scope)}" for scope in asked]
        return [(self.name, each) for each in what + ["a background task"] * unseen]

    def _came(self, connection: Protocol) -> None:
        connection.logger, connection.access_log = self._log, False
        if getattr(connection, "timeout_keep_alive_task", connection) is None:
            wait = self._timeout if self._linger is None else self._linger
            connection.timeout_keep_alive_task = self.loop.call_later(
                wait, connection.timeout_keep_alive_handler
            )
        if self._round is None:
            self._round = self._next_round()
        if self._linger is not None:
            # It is only being made now.
            self.loop.call_soon(self._part, connection)

    def _went(self, connection: Protocol) -> None:
        # It does not when it was reset.
        for name in "timeout_keep_alive_task", "head_timer":
            timer = getattr(connection, name, None)
            if timer is not None:
                timer.cancel()
        self.arrivals.go_on()
        self._change.set()

    def _tell(self) -> None:
        self._change.set()

    def _break(self, error: OSError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def _look_around(self) -> None:
        """Give up those who have not got on with something for long enough."""
        now = self.loop.time()
        stuck = {}
        for each in list(self._crowd):
            lack = lack_of(each)
            if lack is None:
                continue
            before, since = self._stuck.get(each, (None, now))
            if lack != before:
                since = now
            if now - since > self._timeout - SOON:
                lack.give_up(each)
            else:
                stuck[each] = lack, since
        self._stuck = stuck
        self._round = self._next_round() if self._crowd else None

    def _next_round(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._timeout / ROUNDS, self._look_around)

    def _part(self, connection: Protocol) -> None:
        if connection not in self._crowd or connection.transport.is_closing():
            return
        if self._keeping is not None and can_be_kept(type(connection)):
            self._keeping.see_off(connection)
        elif hasattr(connection, "cycle"):
            self._part_from_http(connection)
        elif hasattr(connection, "cycles"):
            self._part_from_http2(connection)
        elif hasattr(connection, "timeout_task"):
            if not connection.buffer:
                connection.timeout_task.cancel()
                connection.timeout_task = self._soon(connection.transport.close)
        else:
            self._part_from_websocket(connection)

    def _part_from_http(self, connection: Protocol) -> None:
        self._linger_with(connection)
        cycle = connection.cycle
        parting = Parting(connection, self._timeout, _nothing)
        connection.transport = parting
        if is_running(cycle):
            cycle.transport = parting
            if not cycle.response_started:
                cycle.default_headers = self._state.default_headers

    def _part_from_http2(self, connection: Protocol) -> None:
        self._linger_with(connection)
        if not isinstance(connection.transport, Parting):
            connection.transport = Parting(connection, FAREWELL, _nothing)
        self._soon(partial(setattr, connection, "timeout_keep_alive", 0))
        self.loop.call_later(self._timeout, self._send_away, connection)

    def _send_away(self, connection: Protocol) -> None:
        """Let an HTTP/2 client begin nothing more."""
        if connection in self._crowd and not connection.transport.is_closing():
            connection.conn.close(0, LAST_STREAM)
            connection.flush()

    def _part_from_websocket(self, connection: Protocol) -> None:
        transport = connection.transport
        if not (isinstance(transport, Parting) and transport.belongs_to(connection)):
            # The handshake may be what is written next.
            again = partial(self.loop.call_soon, self._part, connection)
            connection.transport = Parting(connection, FAREWELL, again)
        if _is_established(connection):
            try:
                connection.shutdown()
            except Exception:  # noqa: BLE001 - a library's, in whatever state its client left it
                connection.transport.abort()

    def _linger_with(self, connection: Protocol) -> None:
        connection.timeout_keep_alive = self._linger
        if connection.timeout_keep_alive_task is not None:
            connection.timeout_keep_alive_task.cancel()
            connection.timeout_keep_alive_task = self._soon(connection.timeout_keep_alive_handler)

    def _soon(self, call: Callable[[], object]) -> asyncio.TimerHandle:
        assert self._linger is not None
        return self.loop.call_later(self._linger, call)

    async def _wait_empty(self) -> None:
        while self._crowd or self._state.tasks or self.arrivals.arriving:
            self._change.clear()
            if self._crowd or self.arrivals.arriving:
                await self._change.wait()
            else:
                # What an application does after its response.
                await asyncio.wait(self._state.tasks)

    async def _cut(self) -> None:
        """Close whatever is still open."""
        self.arrivals.cut()
        if self._round is not None:
            self._round.cancel()
        for each in list(self._crowd):
            each.transport.abort()
        # Who listens is told of it, and may end by itself.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in self._state.tasks:
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CUT)
        self._log.complaints.flush()


def _nothing() -> None:
    pass


def _is_established(connection: Protocol) -> bool:
    event = getattr(connection, "handshake_completed_event", None)
    return bool(connection.handshake_complete if event is None else event.is_set())


def _scopes(connection: Protocol) -> list[Any]:
    """Answer what *connection* is being served."""
    if hasattr(connection, "cycles"):
        return [cycle.scope for cycle in connection.cycles.values()]
    if hasattr(connection, "cycle"):
        return [connection.cycle.scope] if is_running(connection.cycle) else []
    scope = getattr(connection, "scope", None)
    return [scope] if scope is not None else []


def _shown(scope: Any) -> str:
    # As it was asked for, and escaped: decoded, it could forge lines of the log.
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    text = path[:200].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(path) > 200 else text
