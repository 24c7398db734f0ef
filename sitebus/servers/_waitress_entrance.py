"""The listening sockets of waitress's, and the PROXY headers before its connections.

What is relied on of waitress is told at the top of `sitebus.servers._waitress`.
"""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from waitress import server, wasyncore

from sitebus.errors import BadProxyHeader
from sitebus.servers import proxy_protocol
from sitebus.servers._waitress_channel import Channel
from sitebus.servers.connections import LAST_ROUND, Door

if TYPE_CHECKING:
    from sitebus.servers._waitress import HTTPServer


class Entrance:
    """A listening socket; comes before one of waitress's server classes."""

    channel_class: type[Channel | Announced] = Channel
    accepting: bool
    active_channels: dict[int, Channel | Announced]
    adj: Any
    del_channel: Callable[[], None]
    socket: Any
    trigger: Any

    def __init__(self, house: HTTPServer, door: Door, *, is_proxied: bool) -> None:
        self.house = house
        self.logger = house.logger
        sock = door.socket
        super().__init__(  # type: ignore[call-arg]
            house.application,
            house.map,
            _sock=sock,
            dispatcher=house.dispatcher,
            adj=house.adjustments,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            bind_socket=False,
        )
        if is_proxied:
            self.channel_class = Announced
        # One bell is enough for all.
        self.trigger.close()
        self.effective_port = door.port
        self.server_name = house.server_name or door.name

    def pull_trigger(self) -> None:
        self.house.bell.ring()

    def readable(self) -> bool:
        """Tell whether to look for newcomers; who has been silent is the house's business."""
        return self.accepting and self.house.welcomes

    def accept(self) -> tuple[Any, Any] | None:
        if not self.house.make_room():
            return None
        try:
            return super().accept()  # type: ignore[misc, no-any-return]
        except OSError as error:
            self.house.refused(error)
            return None

    def let_in_who_waits(self) -> None:
        # Bounded: under load newcomers would never end.
        for _ in range(LAST_ROUND):
            known = len(self.active_channels)
            self.handle_accept()  # type: ignore[attr-defined]
            if len(self.active_channels) == known:
                return

    def shut(self) -> None:
        """Accept nothing more; who is inside stays."""
        if self.accepting:
            self.accepting = False
            self.del_channel()
            self.socket.close()

    def handle_close(self) -> None:
        # So poll says that a listening socket was shut down: nobody will come through it again.
        self.house.refused(OSError(errno.EINVAL, "the listening socket was shut down"))

    def handle_error(self) -> None:
        # One connection was lost; waitress would close the listening socket for it.
        self.logger.error("a connection was lost: %r", sys.exception())


class TCPEntrance(Entrance, server.TcpWSGIServer):  # type: ignore[misc]
    pass


class UnixEntrance(Entrance, server.UnixWSGIServer):  # type: ignore[misc]
    def fix_addr(self, addr: Any) -> tuple[str, str]:
        """Answer what WSGI applications are told of a client without address and port."""
        return "", ""


class Announced(wasyncore.dispatcher):  # type: ignore[misc]
    """A connection that a proxy says something of before its client does; then it is a `Channel`.

    Nothing that is not a PROXY header is answered: who sends it may not speak HTTP at all.
    """

    requests = ()
    total_outbufs_len = 0

    def __init__(self, entrance: Any, sock: Any, addr: Any, adj: Any, map: Any) -> None:
        self.server = entrance
        self.adj = adj
        #: As of a `Channel`.
        self.outbuf_lock = threading.Condition()
        self.last_activity = self._begun = time.time()
        self._reader = proxy_protocol.Reader()
        super().__init__(sock, map=map)
        self.connected = True
        self.addr = addr
        trusted = entrance.house.trusted
        if trusted and addr[0] not in trusted:
            self._complain(f"Refused a connection from {self._who}, who is no trusted proxy")
            self.cut()

    @property
    def is_silent(self) -> bool:
        return not self._reader

    @property
    def _who(self) -> str:
        return str(self.addr[0] or f"a client of {self.server.server_name}")

    def due(self, timeout: float) -> float:
        """Answer when to give it up; who has begun has the time that a request's head has."""
        whole = self.server.house.header_timeout
        due = self.last_activity + timeout
        return min(due, self._begun + whole) if self._reader and whole else due

    def give_up(self) -> None:
        self.cut()

    def cut(self) -> None:
        self.close()

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        now = time.time()
        if not self._reader:
            self._begun = now
        self.last_activity = now
        try:
            found = proxy_protocol.receive(self.socket, self._reader)
        except BadProxyHeader as error:
            self._complain(f"{error} (from {self._who})")
            self.cut()
        except OSError:
            self.cut()  # it has left
        else:
            if isinstance(found, proxy_protocol.Header):
                self._go_on(found.peer)

    def handle_close(self) -> None:
        self.cut()

    def handle_error(self) -> None:
        self.server.logger.error("a connection was lost: %r", sys.exception())
        self.cut()

    def _go_on(self, peer: proxy_protocol.Place | None) -> None:
        sock, addr = self.socket, self.addr
        self.del_channel()
        if peer is not None:
            # As `UnixEntrance.fix_addr` has it, for who came by a path.
            addr = peer if isinstance(peer, tuple) else ("", "")
        Channel(self.server, sock, addr, self.adj, map=self.server.house.map)

    def _complain(self, what: str) -> None:
        self.server.house.complaints.tell("no PROXY header", what)

    def add_channel(self, map: Any = None) -> None:
        super().add_channel(map)
        self.server.active_channels[self._fileno] = self

    def del_channel(self, map: Any = None) -> None:
        self.server.active_channels.pop(self._fileno, None)
        super().del_channel(map)
