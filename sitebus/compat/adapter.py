"""The adapter of both libraries: it starts and stops any server, and lodges cheroot's.

A server that binds by itself is run as ever. A cheroot server, and so CherryPy's own, lodges with
the engine: it listens on the engine's socket, which a restart keeps, and it does not poll. When it
is stopped its port is free, as with any other server of wspbus, unless the process restarts.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sitebus.errors import BindError
from sitebus.process import Priority
from sitebus.servers import base
from sitebus.servers.base import BindAddr, channel_for, prioritized
from sitebus.sockets import BACKLOG

if TYPE_CHECKING:
    from sitebus.compat._cheroot import Lodger
    from sitebus.sockets import Listener, Sockets

#: CherryPy lets everybody connect to its unix sockets: a proxy runs as somebody else.
EVERYBODY = 0o777


class Timeouts:
    """How long a port may take, in seconds.

    Attributes:
        occupied: Kept for programs that set it; a server tells by itself when it is ready.
        free: How long a stopped server may keep its port.
    """

    occupied: float = 5
    free: float = 1


class ServerAdapter(base.ServerAdapter):
    """Start and stop *httpserver* with the bus; see `sitebus.servers.ServerAdapter`."""

    # On the class, because CherryPy's own adapter never calls our __init__.
    _listener: Listener | None = None
    _bind_failed = False

    @property
    def free_timeout(self) -> float:  # type: ignore[override]
        """`Timeouts.free`, whenever it is set."""
        return Timeouts.free

    def subscribe(self) -> None:
        """Listen on the bus: bind early, start late, stop early."""
        self._listen("start", self.bind, Priority.BIND)
        self._listen("trial", self.load, Priority.BIND)
        super().subscribe()
        self._listen("stop", self.drain, Priority.DRAIN)

    def unsubscribe(self) -> None:
        """Take back `subscribe`; a running server goes on running."""
        self.bus.unsubscribe(channel_for(self.bus, "stop"), self.drain)
        super().unsubscribe()
        self.bus.unsubscribe(channel_for(self.bus, "trial"), self.load)
        self.bus.unsubscribe(channel_for(self.bus, "start"), self.bind)

    @prioritized(Priority.BIND)
    def load(self) -> None:
        """Make the server, with its certificate, while the process may still read that."""
        make = getattr(self, "httpserver_from_self", None)
        if not self.httpserver and callable(make):
            self.httpserver, self.bind_addr = make()

    @prioritized(Priority.BIND)
    def bind(self) -> None:
        """Have the engine listen for a server that lodges with it.

        Raises:
            BindError: The address cannot be had.
        """
        self._bind_failed = True
        self._take_a_place()
        self._bind_failed = False

    def _take_a_place(self) -> None:
        if self.running:
            return
        self.load()
        if _can_lodge(self.httpserver, self.bus) and self._listener not in self._bound:
            self._lodge()

    def _lodge(self) -> None:
        from sitebus.compat._cheroot import Lodging, lodge

        self._listener = _listen(self.bus.sockets, self.bind_addr)
        bus = self.bus
        impatient = functools.partial(getattr, bus, "impatient")
        lodging = Lodging(self._listener, bus.serving_threads, impatient, bus.serving)
        lodge(self.httpserver, lodging)

    @prioritized(Priority.SERVE)
    def start(self) -> None:
        """Start the server and return when it is ready; see `sitebus.servers.ServerAdapter`."""
        if self._bind_failed:
            # One start calls all its listeners, whatever failed before; it was said already.
            self._bind_failed = False
            return
        self._take_a_place()
        if self._lodger is not None and not self.running:
            self._lodger.settled = threading.Event()
        super().start()

    @prioritized(Priority.DRAIN)
    def drain(self) -> None:
        """Accept nothing more, from now on; `stop` waits for the rest."""
        if self.running and self._lodger is not None:
            self._lodger.drain(for_good=not self._stays)

    @prioritized(Priority.SERVER_STOP)
    def stop(self) -> None:
        """Stop the server and return when it has ended; its port is free but for a restart."""
        self.drain()
        try:
            super().stop()
        finally:
            if not self._stays:
                self._give_up_the_socket()

    @property
    def ready(self) -> bool:
        """Whether the server says that it serves."""
        lodger = self._lodger
        return super().ready and (lodger is None or lodger.settled.is_set())

    @property
    def _lodger(self) -> Lodger | None:
        lodger: Lodger | None = self.httpserver if hasattr(self.httpserver, "lodging") else None
        return lodger

    @property
    def _bound(self) -> tuple[Listener, ...]:
        listeners: tuple[Listener, ...] = self.bus.sockets.listeners
        return listeners

    @property
    def _stays(self) -> bool:
        """Whether the socket is for the next image of this process."""
        return bool(getattr(self.bus, "execv", False))

    def _give_up_the_socket(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self.bus.sockets.close(listener)

    def _wait_free(self, address: BindAddr) -> None:
        if self._lodger is None:
            super()._wait_free(address)


def _can_lodge(server: Any, bus: Any) -> bool:
    """Tell whether *server* is one of cheroot's, and the bus has sockets for it."""
    cheroot = sys.modules.get("cheroot.server")
    if cheroot is None or not all(hasattr(bus, each) for each in ("sockets", "serving_threads")):
        return False
    return isinstance(server, cheroot.HTTPServer)


def _listen(sockets: Sockets, address: BindAddr) -> Listener:
    """Listen where a server of CherryPy's would."""
    with suppress(BindError):
        passed = sockets.expand("systemd")
        if len(passed) == 1:
            return sockets.bind(passed[0])
    if not isinstance(address, tuple):
        return sockets.bind(f"unix:{address}", mode=EVERYBODY)
    host, port = address[:2]
    if host == "::" and (both := _listen_on_both(port)) is not None:
        return sockets.bind(f"fd:{both.detach()}")
    return sockets.bind((host, port))


def _listen_on_both(port: int) -> socket.socket | None:
    """Answer a socket for every interface of IPv6 and IPv4, which is what "::" means to CherryPy.

    None if it cannot be had, by reason of another one that was passed to us, perhaps.
    """
    with suppress(OSError, ValueError):
        return socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    return None
