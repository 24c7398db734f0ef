"""Every public name of ``magicbus.plugins.servers``."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Callable

from sitebus.compat.adapter import ServerAdapter
from sitebus.compat.flup import FlupCGIServer, FlupFCGIServer, FlupSCGIServer
from sitebus.servers.base import channel_for
from sitebus.sockets.addresses import EVERYWHERE

__all__ = [
    "FlupCGIServer",
    "FlupFCGIServer",
    "FlupSCGIServer",
    "ServerPlugin",
    "check_port",
    "client_host",
    "free_port_timeout",
    "occupied_port_timeout",
    "wait_for_free_port",
    "wait_for_occupied_port",
]

#: Seconds from one look at a port to the next.
free_port_timeout = 0.1
occupied_port_timeout = 0.25

#: How often a port is looked at.
LOOKS = 50


class ServerPlugin(ServerAdapter):
    """Start and stop *httpserver* with the bus; see `sitebus.servers.ServerAdapter`."""

    def START(self) -> None:  # noqa: N802 - the channel's name
        """Start the server and return when it is ready."""
        self.start()

    START.priority = 75  # type: ignore[attr-defined]

    def STOP(self) -> None:  # noqa: N802 - the channel's name
        """Stop the server and return when it has ended and its port is free."""
        self.stop()

    STOP.priority = 25  # type: ignore[attr-defined]

    @property
    def interface(self) -> str:
        """Where it was told to listen, for people."""
        if self.bind_addr is None:
            return "unknown interface (dynamic?)"
        if isinstance(self.bind_addr, tuple):
            return "{}:{}".format(*self.bind_addr)
        return f"socket file: {self.bind_addr}"

    def _listen(self, role: str, listener: Callable[[], None], default: float) -> None:
        super()._listen(role, self._named(role, listener), default)

    def unsubscribe(self) -> None:
        """Take back `subscribe`; a running server goes on running."""
        super().unsubscribe()
        for role in ("start", "stop"):
            channel = channel_for(self.bus, role)
            self.bus.unsubscribe(channel, getattr(self, channel, None))

    def _named(self, role: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Whoever overrides START is heard."""
        if listener not in (self.start, self.stop):
            return listener
        named: Callable[[], None] = getattr(self, channel_for(self.bus, role), listener)
        return named


def client_host(server_host: str) -> str:
    """Answer where a client on this machine finds who listens on *server_host*."""
    plain = "::" if server_host in ("::0", "::0.0.0.0") else server_host
    return EVERYWHERE.get(plain, server_host)


def check_port(host: str, port: int, timeout: float = 1.0) -> None:
    """Return if nobody answers on *port*.

    Raises:
        OSError: Somebody does.
        ValueError: *host* is empty.
    """
    if _answers(host, port, timeout):
        raise OSError(f"port {port} is in use on {host!r}")


def wait_for_free_port(host: str, port: int, timeout: float | None = None) -> None:
    """Return when nobody answers on *port* any more.

    Raises:
        OSError: Somebody still did at the end.
        ValueError: *host* is empty.
    """
    pause = free_port_timeout if timeout is None else timeout
    if not _comes_to_be(False, host, port, pause):
        raise OSError(f"port {port} is not free on {host!r}")


def wait_for_occupied_port(host: str, port: int, timeout: float | None = None) -> None:
    """Return when somebody answers on *port*.

    Raises:
        OSError: Nobody did in time.
        ValueError: *host* is empty.
    """
    pause = occupied_port_timeout if timeout is None else timeout
    if _comes_to_be(True, host, port, pause):
        return
    if host == client_host(host):
        raise OSError(f"port {port} is not bound on {host!r}")
    # Without a loopback interface nobody can tell.
    warnings.warn(f"Unable to verify that the server is bound on {port!r}", stacklevel=2)


def _comes_to_be(wanted: bool, host: str, port: int, pause: float) -> bool:
    for _ in range(LOOKS):
        began = time.monotonic()
        if _answers(host, port, pause) is wanted:
            return True
        threading.Event().wait(max(0.0, began + pause - time.monotonic()))
    return False


def _answers(host: str, port: int, timeout: float) -> bool:
    if not host:
        raise ValueError("a host is needed; use 127.0.0.1 or 0.0.0.0")
    try:
        with socket.create_connection((client_host(host), int(port)), timeout):
            return True
    except OSError:
        return False
