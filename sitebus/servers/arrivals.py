"""Accept connections on an event loop, and hear who speaks before a server does.

For the servers that run on the engine's loop. Who speaks HTTP is left out: whoever arrives gets a
protocol from *factory*, and is then in the hands of that.

A loop's own server is not used, for things that it cannot do. Out of descriptors, some complain a
thousand times a second, and others accept newcomers only to close them. A drain must tell a mute
client, which may be closed after a moment, from a slow handshake, which must be waited for. The
certificate changes while serving, who speaks plain HTTP to it is told so, and before all that a
proxy may have to say for whom it comes.

Those that were answered elsewhere before, and were kept, wait here too, as sockets, until they say
something (`sitebus.servers.sleepers`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from sitebus.errors import BadProxyHeader, CannotAccept, ClientGone
from sitebus.servers import proxy_protocol
from sitebus.servers.connections import BREATHER, BROKEN, EXHAUSTED, LAST_ROUND, SHORTAGE
from sitebus.servers.handshakes import HANDSHAKE, PLAIN_TO_TLS, leave_at_once
from sitebus.servers.sharing import Share
from sitebus.servers.sleepers import Sleepers

#: How many are accepted before others have their turn.
AT_ONCE = 64
#: The kinds of complaint about clients that are refused here.
NO_HEADER, NO_TLS = "no PROXY header", "plain HTTP to a TLS port"

Peer = tuple[str, int] | None


class Newcomer:
    """A socket that is no connection yet.

    Args:
        accepted: Non-blocking.
        door: The number of the listening socket.
        peer: Who is at its other end, if that is not who the socket says.
        begun: What was read of it.
        header: Reads the PROXY header that it begins with.
    """

    __slots__ = ("begun", "door", "header", "peer", "socket", "timer")

    def __init__(
        self,
        accepted: socket.socket,
        door: int,
        peer: proxy_protocol.Place | None = None,
        begun: bytes = b"",
        header: proxy_protocol.Reader | None = None,
    ) -> None:
        self.socket = accepted
        self.door = door
        self.peer = peer
        self.begun = begun
        self.header = header
        self.timer: asyncio.TimerHandle | None = None


class Arrivals:
    """The way in, for connections to one server.

    Args:
        loop: The running loop; everything but the constructor is called on it.
        sockets: Listening sockets, non-blocking; they stay open.
        factory: Makes an `asyncio.Protocol` for a connection.
        context: For TLS; new connections use the one that is there when they begin to speak.
        timeout: Seconds until a client that says nothing is given up.
        broken: Is told once that nothing can be accepted any more, and why: a `CannotAccept`.
        changed: Is told when there are fewer that are arriving.
        header_timeout: Seconds from the first byte to the end of a handshake, or of a PROXY
            header; *timeout* if it is 0.
        most: How many may be here at once, connections and others; 0 is any. More wait in the
            kernel's queue.
        inside: Tells how many connections there are.
        make_room: Closes one of them for another, if one is idle, and tells whether it did.
        shares: Whether other processes accept from these sockets too, and should have their part.
        proxied: The numbers of the sockets whose connections begin with a PROXY header.
        trusts: Tells whether one may come to those, by its address (None for a unix socket).
        introduce: Answers a protocol of the factory that knows its client's address and what that
            said; for *proxied*, and for `keep`.
        log: Is told, as ``log(message, level)``, why nobody is accepted.
        complain: Is told, as ``complain(kind, message)``, who was refused.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        factory: Callable[[], Any],
        *,
        context: ssl.SSLContext | None,
        timeout: float,
        broken: Callable[[OSError], object],
        changed: Callable[[], object],
        header_timeout: float = 0.0,
        most: int = 0,
        inside: Callable[[], int] = lambda: 0,
        make_room: Callable[[], bool] = lambda: False,
        shares: bool = False,
        proxied: Collection[int] = (),
        trusts: Callable[[str | None], bool] | None = None,
        introduce: Callable[[Any, Any, bytes], Any] | None = None,
        log: Callable[[str, int], object] | None = None,
        complain: Callable[[str, str], object] | None = None,
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._factory = factory
        self._context: ssl.SSLContext | None = None
        if context is not None:
            self.context = context
        self._timeout = timeout
        self._header_timeout = header_timeout or timeout
        #: How long a client may be silent before it begins.
        self._patience = timeout
        self._broken = broken
        self._changed = changed
        self._most = most
        self._inside = inside
        self._make_room = make_room
        self._share = Share() if shares else None
        # While others are let go first.
        self._courtesy: asyncio.TimerHandle | None = None
        self._proxied = frozenset(proxied)
        self._trusts = trusts
        self._introduce = introduce
        self._log = log
        self._complain = complain
        # Those that something is waited for from, longest silent first.
        self._silent: dict[socket.socket, Newcomer] = {}
        # Those that were answered elsewhere.
        self._kept: Sleepers[Newcomer] = Sleepers(loop, self._make, self._drop)
        # On their way to becoming connections.
        self._tasks: dict[asyncio.Task[Any], socket.socket] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._short_at = float("-inf")
        #: How many came at once the last time.
        self._burst = 1
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
        return len(self._silent) + len(self._kept) + len(self._tasks)

    async def open(self) -> None:
        """Begin to accept.

        Raises:
            CannotAccept: The system does not allow it.
        """
        self._open = True
        try:
            self._look(True)
        except OSError as error:
            raise CannotAccept(error) from error

    def keep(self, sock: socket.socket, door: int, peer: Peer, begun: bytes) -> None:
        """Go on with a connection that was answered elsewhere, and of whose next *begun* was read.

        It becomes one here when it says something, or at once if it has.
        """
        newcomer = Newcomer(sock, door, peer, begun)
        if begun:
            self._make(newcomer)
        else:
            self._kept.add(newcomer, self._patience)

    def take_kept(self) -> list[Newcomer]:
        """Take those that were kept and have said nothing; they are not looked at any more."""
        return self._kept.take_all()

    def drop_oldest(self) -> bool:
        """Close who has been silent longest; tell whether there was one."""
        # Who was kept has been here from the beginning.
        newcomer = self._kept.take_first() or next(iter(self._silent.values()), None)
        if newcomer is None:
            return False
        self._drop(newcomer)
        return True

    def close(self, linger: float) -> None:
        """Accept nothing more; who is silent has *linger* seconds left to begin."""
        self._stop_accepting()
        self._patience = linger
        self._kept.hurry(linger)
        for each in self._silent.values():
            if each.header is None or not len(each.header):
                self._time(each, linger)

    async def wait_made(self) -> None:
        """Return when those who have said all that is needed are connections."""
        # uvloop stops to look at the doors in its next turn.
        await asyncio.sleep(0)

    def let_in_who_waits(self) -> None:
        """Accept those whom the kernel has let in: nobody will look at these sockets again."""
        for door in range(len(self._sockets)):
            self._burst = LAST_ROUND  # bounded: under load newcomers would never end
            self._accept(door, LAST_ROUND)

    def go_on(self) -> None:
        """Be told that one has left: if nobody more could come in, one can now."""
        if self._pause is not None:
            self._pause.cancel()
            self._resume()

    def cut(self) -> None:
        """Close all that are no connections yet."""
        self._stop_accepting()
        for each in (*self._kept.take_all(), *self._silent.values()):
            self._drop(each)
        for task in self._tasks:
            task.cancel()

    def _stop_accepting(self) -> None:
        if self._open and self._pause is None and self._courtesy is None:
            self._look(False)
        for waiting in self._pause, self._courtesy:
            if waiting is not None:
                waiting.cancel()
        self._pause = self._courtesy = None
        self._open = False

    def _look(self, at_them: bool) -> None:
        for door, listening in enumerate(self._sockets):
            if not at_them:
                self._loop.remove_reader(listening)
            elif self._share is None:
                self._loop.add_reader(listening, self._accept, door)
            else:
                self._loop.add_reader(listening, self._accept_our_share, door, self._share)

    def _accept_our_share(self, door: int, share: Share) -> None:
        if self._courtesy is not None:
            return  # told before others were let go first
        if share.is_ours():
            self._accept(door, 1)
        else:
            self._look(False)
            self._courtesy = self._loop.call_later(share.wait(), self._look_again, door)

    def _look_again(self, door: int) -> None:
        self._courtesy = None
        self._look(True)
        self._accept(door, 1)

    def _accept(self, door: int, most: int = AT_ONCE) -> None:
        # To ask when there is nobody costs as much as a newcomer: no more often than it must.
        listening = self._sockets[door]
        for taken in range(min(most, self._burst)):
            if not self._has_room(is_first=not taken):
                return
            try:
                accepted, peer = listening.accept()
            except BlockingIOError:
                # That was all, or another process was faster.
                if self._share is not None:
                    self._share.lost()
                self._burst = max(1, taken)
                return
            except OSError as error:
                if self._is_over(error):
                    return
            else:
                if self._share is not None:
                    self._share.won()
                self._usher(accepted, door, peer)
        self._burst = min(2 * self._burst, AT_ONCE)

    def _has_room(self, *, is_first: bool) -> bool:
        """Tell whether one more may come in, and make room for the *first* who waits."""
        if not self._most or not self._open or self._inside() + self.arriving < self._most:
            return True
        if not is_first or (self._tasks and self._context is None):
            # Perhaps nobody waits; who does is the first the next time. And who is just being made
            # a connection may be counted twice, for a turn or two.
            return False
        if self.drop_oldest() or self._make_room():
            return True
        self._rest()
        return False

    def _is_over(self, error: OSError) -> bool:
        """Tell whether nobody can be accepted now; else only one was lost, who had left."""
        if error.errno in BROKEN:
            if self._open:
                self._stop_accepting()
                self._broken(CannotAccept(error))
        elif error.errno in EXHAUSTED:
            self._tell_shortage(error)
            self._rest()
        else:
            return False
        return True

    def _tell_shortage(self, error: OSError) -> None:
        now = self._loop.time()
        if self._log is not None and now - self._short_at > SHORTAGE:
            self._log(f"{CannotAccept(error)}; pausing", 40)
        self._short_at = now

    def _rest(self) -> None:
        """Accept nobody for a moment."""
        if self._open and self._pause is None:
            self._look(False)
            self._pause = self._loop.call_later(BREATHER, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._look(True)

    def _usher(self, accepted: socket.socket, door: int, peer: Any) -> None:
        if self._context is None and door not in self._proxied:
            # It becomes non-blocking on its way.
            self._connect(accepted, self._factory)
            return
        accepted.setblocking(False)
        newcomer = Newcomer(accepted, door)
        if door in self._proxied:
            if self._trusts is not None and not self._trusts(peer[0] if peer else None):
                self._refuse(newcomer, NO_HEADER, "who is no trusted proxy")
                return
            newcomer.header = proxy_protocol.Reader()
        self._hear(newcomer)

    def _hear(self, newcomer: Newcomer) -> None:
        """Take what it has said; wait for more if that is not enough."""
        if newcomer.header is not None and not self._has_header(newcomer, newcomer.header):
            return
        if self._context is None:
            self._make(newcomer)
            return
        first = _first_byte(newcomer.socket)
        if first is None:
            self._wait_for(newcomer, self._patience)
        else:
            self._answer(newcomer, first)

    def _has_header(self, newcomer: Newcomer, header: proxy_protocol.Reader) -> bool:
        was_silent = not len(header)
        try:
            found = proxy_protocol.receive(newcomer.socket, header)
        except BadProxyHeader as error:
            self._refuse(newcomer, NO_HEADER, f"which cannot be served: {error.reason}")
            return False
        except (ClientGone, OSError):
            self._close(newcomer)
            return False
        if isinstance(found, proxy_protocol.NeedMore):
            if newcomer.socket not in self._silent:
                self._wait_for(newcomer, self._patience)
            if was_silent and len(header):
                self._time(newcomer, self._header_timeout)
            return False
        newcomer.header = None
        newcomer.peer = found.peer
        return True

    def _wait_for(self, newcomer: Newcomer, seconds: float) -> None:
        if newcomer.socket not in self._silent:
            self._silent[newcomer.socket] = newcomer
            self._loop.add_reader(newcomer.socket, self._hear, newcomer)
        self._time(newcomer, seconds)

    def _time(self, newcomer: Newcomer, seconds: float) -> None:
        if newcomer.timer is not None:
            newcomer.timer.cancel()
        newcomer.timer = self._loop.call_later(seconds, self._drop, newcomer)

    def _answer(self, newcomer: Newcomer, first: bytes) -> None:
        if first == HANDSHAKE:
            self._make(newcomer)
            return
        if not first:
            self._close(newcomer)
            return
        with suppress(OSError):
            # Closed with something unread, the connection would be reset, and the text lost.
            newcomer.socket.recv(65536)
            newcomer.socket.send(PLAIN_TO_TLS)
        self._refuse(newcomer, NO_TLS, "which speaks plain HTTP to a port for HTTPS")

    def _refuse(self, newcomer: Newcomer, kind: str, why: str) -> None:
        if self._complain is not None:
            who = _who(newcomer)
            self._complain(kind, f"Refused a connection from {who}, {why}")
        self._close(newcomer)

    def _drop(self, newcomer: Newcomer) -> None:
        self._close(newcomer)

    def _close(self, newcomer: Newcomer) -> None:
        self._forget(newcomer)
        newcomer.socket.close()
        self._changed()

    def _forget(self, newcomer: Newcomer) -> None:
        if newcomer.timer is not None:
            newcomer.timer.cancel()
            newcomer.timer = None
        if self._silent.pop(newcomer.socket, None) is not None:
            self._loop.remove_reader(newcomer.socket)

    def _make(self, newcomer: Newcomer) -> None:
        self._forget(newcomer)
        factory = self._factory
        if self._introduce is not None and (newcomer.peer or newcomer.begun):
            known = self._introduce(factory(), newcomer.peer, newcomer.begun)

            def factory() -> Any:
                return known

        self._connect(newcomer.socket, factory)

    def _connect(self, accepted: socket.socket, factory: Callable[[], Any]) -> None:
        connect: Any = self._loop.connect_accepted_socket
        # A plain connection may have none of the times that belong to TLS.
        if self._context is None:
            arrival = connect(factory, accepted)
        else:
            patience = self._header_timeout
            arrival = connect(factory, accepted, ssl=self._context, ssl_handshake_timeout=patience)
        task = self._loop.create_task(arrival)
        self._tasks[task] = accepted
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        accepted = self._tasks.pop(task)
        if task.cancelled() or isinstance(task.exception(), OSError):
            accepted.close()  # it left, or is no TLS after all; or it is time to end
        else:
            task.result()
        self._changed()


def _who(newcomer: Newcomer) -> str:
    with suppress(OSError):
        peer = newcomer.peer or newcomer.socket.getpeername()
        if isinstance(peer, tuple):
            return str(peer[0])
    return "a unix socket"


def _first_byte(accepted: socket.socket) -> bytes | None:
    """Answer the first byte that was sent, b"" if the client has left, None if it is silent."""
    try:
        return accepted.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
