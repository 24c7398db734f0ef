"""Accept connections on an event loop, and make their TLS handshakes once the client began them.

For the servers that run on the engine's loop. Who speaks HTTP is left out: whoever arrives gets a
protocol from *factory*, and is then in the hands of that.

Plain connections are accepted by the loop itself, which is faster than we could be. Those that are
to speak TLS are accepted here, for three things that a loop's own server cannot do: a drain must
tell a mute client, which may be closed after a moment, from a slow handshake, which must be waited
for; the certificate changes while serving; and who speaks plain HTTP is told so.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from sitebus.errors import CannotAccept
from sitebus.servers.connections import BREATHER, BROKEN, EXHAUSTED, LAST_ROUND

#: The first byte of a TLS handshake record.
HANDSHAKE = b"\x16"
#: How many are accepted before others have their turn.
AT_ONCE = 64
#: How many turns of the loop a connection may take from being accepted to being made; generously.
TURNS = 5

_REFUSAL = b"This port speaks HTTPS only, not HTTP.\r\n"
#: What a client gets that speaks plain HTTP to a TLS port.
PLAIN_TO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)


class Arrivals:
    """The way in, for connections to one server.

    Args:
        loop: The running loop; everything but the constructor is called on it.
        sockets: Listening sockets, non-blocking; they stay open, copies of them are looked at.
        factory: Makes an `asyncio.Protocol` for a connection.
        context: For TLS; new connections use the one that is there when they begin to speak.
        backlog: How many connections the kernel keeps until they are accepted.
        timeout: Seconds until a client that does not get on with its handshake is given up.
        broken: Is told once that nothing can be accepted any more, and why: a `CannotAccept`.
        changed: Is told when there are fewer that are arriving.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        *,
        context: ssl.SSLContext | None,
        backlog: int,
        timeout: float,
        broken: Callable[[OSError], object],
        changed: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._factory = factory
        self._context: ssl.SSLContext | None = None
        if context is not None:
            self.context = context
        self._backlog = backlog
        self._timeout = timeout
        #: How long a client may be silent before it begins.
        self._patience = timeout
        self._broken = broken
        self._changed = changed
        self._servers: list[asyncio.Server] = []
        self._watch: _Watch | None = None
        # Accepted by us, and silent so far.
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        # On their way to becoming connections.
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._open = False

    @property
    def context(self) -> ssl.SSLContext | None:
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        leave_at_once(context)
        self._context = context

    @property
    def arriving(self) -> int:
        """How many were accepted here and are no connections yet."""
        return len(self._silent) + len(self._tasks)

    async def open(self) -> None:
        """Begin to accept.

        Raises:
            CannotAccept: The system does not allow it.
        """
        self._open = True
        try:
            await self._open_all()
        except OSError as error:
            raise CannotAccept(error) from error

    async def _open_all(self) -> None:
        if self._context is not None:
            self._look(True)
            return
        self._watch = _Watch(self._loop, self._sockets, self._break)
        for listening in self._sockets:
            copy = listening.dup()  # it closes what it is given, if it comes so far
            try:
                server = await self._loop.create_server(
                    self._factory, sock=copy, backlog=self._backlog
                )
            except BaseException:
                copy.close()
                raise
            self._servers.append(server)

    def close(self, linger: float) -> None:
        """Accept nothing more; who is silent has *linger* seconds left to begin."""
        self._stop_accepting()
        self._patience = linger
        for silent, timer in self._silent.items():
            timer.cancel()
            self._silent[silent] = self._loop.call_later(linger, self._drop, silent)

    async def wait_made(self) -> None:
        """Return when those whom the loop had accepted are connections."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._close_servers()
        # So that nobody listens any more: uvloop closes in its next turn.
        await asyncio.sleep(0)

    def let_in_who_waits(self) -> None:
        """Accept those whom the kernel has let in: nobody will look at these sockets again."""
        for listening in self._sockets:
            # Bounded: under load newcomers would never end.
            self._accept(listening, LAST_ROUND)

    def cut(self) -> None:
        """Close all that are no connections yet."""
        self._stop_accepting()
        self._close_servers()
        for silent in list(self._silent):
            self._drop(silent)
        for task in self._tasks:
            task.cancel()

    def _stop_accepting(self) -> None:
        if self._open and self._context is not None and self._pause is None:
            self._look(False)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._open = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        for server in self._servers:
            # To close it loses those whom it has accepted and not yet connected.
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _look(self, at_them: bool) -> None:
        for listening in self._sockets:
            if at_them:
                self._loop.add_reader(listening, self._accept, listening)
            else:
                self._loop.remove_reader(listening)

    def _accept(self, listening: socket.socket, most: int = AT_ONCE) -> None:
        for _ in range(most):
            try:
                accepted, _peer = listening.accept()
            except BlockingIOError:
                return  # that was all, or another process was faster
            except OSError as error:
                if self._is_over(error):
                    return
            else:
                self._usher(accepted)

    def _is_over(self, error: OSError) -> bool:
        """Tell whether nobody can be accepted now; else only one was lost, who had left."""
        if error.errno in BROKEN:
            self._break(error)
        elif error.errno in EXHAUSTED:
            if self._open and self._pause is None:
                self._look(False)
                self._pause = self._loop.call_later(BREATHER, self._resume)
        else:
            return False
        return True

    def _resume(self) -> None:
        self._pause = None
        self._look(True)

    def _break(self, error: OSError) -> None:
        if self._open:
            self._stop_accepting()
            self._broken(CannotAccept(error))

    def _usher(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if self._context is None:
            self._begin(self._connect(accepted))
        else:
            self._listen_to(accepted)

    def _listen_to(self, accepted: socket.socket) -> None:
        first = _first_byte(accepted)
        if first is not None:
            self._answer(accepted, first)
            return
        self._silent[accepted] = self._loop.call_later(self._patience, self._drop, accepted)
        self._loop.add_reader(accepted, self._spoken, accepted)

    def _spoken(self, accepted: socket.socket) -> None:
        first = _first_byte(accepted)
        if first is not None:
            self._forget(accepted)
            self._answer(accepted, first)

    def _answer(self, accepted: socket.socket, first: bytes) -> None:
        if first == HANDSHAKE:
            self._begin(self._connect(accepted, self._context))
            return
        with suppress(OSError):
            if first:
                # Closed with something unread, the connection would be reset, and the text lost.
                accepted.recv(65536)
                accepted.send(PLAIN_TO_TLS)
        accepted.close()
        self._changed()

    def _drop(self, accepted: socket.socket) -> None:
        self._forget(accepted)
        accepted.close()
        self._changed()

    def _forget(self, accepted: socket.socket) -> None:
        self._silent.pop(accepted).cancel()
        self._loop.remove_reader(accepted)

    def _begin(self, arrival: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(arrival)
        self._tasks.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed()

    async def _connect(self, accepted: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        try:
            # A plain connection may have none of the times that belong to TLS.
            if tls is None:
                await self._loop.connect_accepted_socket(self._factory, accepted)
            else:
                await self._loop.connect_accepted_socket(
                    self._factory, accepted, ssl=tls, ssl_handshake_timeout=self._timeout
                )
        except (OSError, asyncio.CancelledError):
            accepted.close()  # it left, or is no TLS after all; or it is time to end


class _Watch:
    """Tells that a listening socket is broken, which a loop's own server only complains about."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        broken: Callable[[OSError], object],
    ) -> None:
        self._loop = loop
        self._broken = broken
        self._epoll: Any = None
        # Elsewhere there is nothing that reports a broken socket and no connection.
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            for each in sockets:
                self._epoll.register(each, 0)
            loop.add_reader(self._epoll.fileno(), self._told)

    def _told(self) -> None:
        import errno

        self._broken(OSError(errno.EINVAL, "the listening socket was shut down"))

    def close(self) -> None:
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


def leave_at_once(context: ssl.SSLContext) -> None:
    """Let connections of *context* end without waiting for the client's goodbye.

    An idle client may not look at its connection for a long time. TLS allows it: who closes says
    so (RFC 8446, section 6.1) and owes nothing more.
    """
    if getattr(context, "sslobject_class", None) is _Prompt:
        return
    wrap_bio = context.wrap_bio

    def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **more: Any) -> Any:
        wrapped: Any = wrap_bio(incoming, outgoing, *rest, **more)
        wrapped.outgoing = outgoing
        return wrapped

    context.sslobject_class = _Prompt
    context.wrap_bio = wrap  # type: ignore[method-assign]


class _Prompt(ssl.SSLObject):
    outgoing: ssl.MemoryBIO

    def unwrap(self) -> None:
        """Say goodbye; done, unless something that was said before is still on its way out."""
        # Then asked again once it is out.
        is_behind = self.outgoing.pending > 0
        try:
            super().unwrap()
        except ssl.SSLWantReadError:
            if is_behind:
                raise


def _first_byte(accepted: socket.socket) -> bytes | None:
    """Answer the first byte that was sent, b"" if the client has left, None if it is silent."""
    try:
        return accepted.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
