"""Run anything that has ``start``, ``stop`` and ``ready`` as a server of the bus.

The contract of ``cherrypy.process.servers.ServerAdapter``: adapters and servers written for it work
here. Sockets, drains and certificates are left to the adapters for particular libraries.

A server of somebody else's is asked through its ``ready`` attribute, never by connecting to it, and
binds by itself; when it has stopped its port is free again.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from sitebus.errors import Interrupted, PortNotFreed, ServerEnded, ServerMissing
from sitebus.process import Priority

if TYPE_CHECKING:
    from sitebus.config.options import Row

Listener = TypeVar("Listener", bound=Callable[..., Any])

#: ``ready`` is a plain attribute: nobody is told when it changes, so it has to be looked at.
#: Often enough not to be felt in a start, seldom enough to leave the server its processor.
GLANCE = 0.005
#: How long a stopped server may keep its thread and its port.
FREE_TIMEOUT = 1.0

BindAddr = tuple[Any, ...] | str | None


class Server(Protocol):
    """What is hosted: ``start`` serves until ``stop``, which returns when all has ended."""

    def start(self) -> object: ...
    def stop(self) -> object: ...


class HostBus(Protocol):
    """What an adapter needs of a bus."""

    def subscribe(self, channel: str, listener: Any, priority: Any) -> Any: ...
    def unsubscribe(self, channel: str, listener: Any) -> None: ...
    def log(self, msg: str, level: int = 20, traceback: Any = False) -> None: ...


def channel_for(bus: HostBus, role: str) -> str:
    """Answer the channel that plays *role* on *bus*; a stranger's bus names them like the roles."""
    machine = getattr(bus, "machine", None)
    return str(machine.channel(role)) if machine is not None else role


def prioritized(priority: float) -> Callable[[Listener], Listener]:
    """Give a listener its default priority, where subclasses and other buses look for it."""

    def give(listener: Listener) -> Listener:
        cast(Any, listener).priority = priority
        return listener

    return give


class ServerAdapter:
    """Start and stop *httpserver* with the bus, in a thread of its own.

    Args:
        bus: The bus.
        httpserver: What to run; may be set later, or made by a subclass.
        bind_addr: Where it listens, ``(host, port)`` or the path of a unix socket, for messages
            and to see that the port is free after a stop.

    Attributes:
        running: True from a complete start to the next stop.
        interrupt: What ended the server's thread, if an exception did.
    """

    # On the class, because adapters exist that never call our __init__.
    httpserver: Any = None
    bind_addr: Any = None
    interrupt: BaseException | None = None
    running: bool = False
    _thread: threading.Thread | None = None
    _ended: threading.Event

    #: The settings it has beyond those of every server.
    OPTIONS: ClassVar[tuple[Row, ...]] = ()
    #: The module that must be importable for this adapter.
    requires: ClassVar[str] = ""
    free_timeout: float = FREE_TIMEOUT

    def __init__(self, bus: Any, httpserver: Any = None, bind_addr: Any = None) -> None:
        self.bus = bus
        self.httpserver = httpserver
        self.bind_addr = bind_addr
        self.interrupt = None
        self.running = False

    def subscribe(self) -> None:
        """Listen on the bus: start late, stop early."""
        self._listen("start", self.start, Priority.SERVE)
        self._listen("stop", self.stop, Priority.SERVER_STOP)

    def unsubscribe(self) -> None:
        """Take back `subscribe`; a running server goes on running."""
        self.bus.unsubscribe(channel_for(self.bus, "start"), self.start)
        self.bus.unsubscribe(channel_for(self.bus, "stop"), self.stop)

    def _listen(self, role: str, listener: Callable[[], None], default: float) -> None:
        priority = getattr(listener, "priority", default)
        self.bus.subscribe(channel_for(self.bus, role), listener, priority)

    @prioritized(Priority.SERVE)
    def start(self) -> None:
        """Start the server and return when it is ready.

        Raises:
            ServerMissing: There is no server to start.
            ServerEnded: Its ``start`` returned and it is not ready.
            Interrupted: The bus became impatient before it was ready.
            BaseException: Whatever its ``start`` raised.
        """
        if self.running:
            self.bus.log(f"Already serving on {self.description}")
            return
        if not self.httpserver:
            raise ServerMissing(type(self).__name__)
        self.interrupt = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.name = f"HTTPServer {self._thread.name}"
        self._thread.start()
        self.wait()
        self.running = True
        # It may have died while nobody thought it was running; see _run.
        self._raise_interrupt()
        self.bus.log(f"Serving on {self.description}")

    def wait(self) -> None:
        """Return when the server is ready; raise what ended it, if it ended before that."""
        while not self.ready:
            if self._ended.wait(GLANCE):
                self._raise_interrupt()
                if not self.ready:
                    raise ServerEnded(self._name, "before it was ready")
            elif getattr(self.bus, "impatient", False):
                raise Interrupted(f"{self._name} to be ready")

    @property
    def ready(self) -> bool:
        """Whether the server says that it serves."""
        return bool(getattr(self.httpserver, "ready", False))

    @property
    def description(self) -> str:
        """Where this server is bound, for people."""
        address = self.bound_addr
        if address is None:
            return "unknown interface (dynamic?)"
        if not isinstance(address, tuple):
            return f"socket file: {address}"
        host, port = address
        scheme, usual = ("https", 443) if self._is_secure else ("http", 80)
        shown = f"[{host}]" if ":" in str(host) else host
        return f"{scheme}://{shown}" + (f":{port}" if port != usual else "")

    @property
    def bound_addr(self) -> BindAddr:
        """``bind_addr``, with the port that was really got where 0 was asked for."""
        if not isinstance(self.bind_addr, tuple):
            return cast(BindAddr, self.bind_addr)
        host, port = self.bind_addr[:2]
        listening = getattr(self.httpserver, "socket", None)
        if port == 0 and listening:
            port = listening.getsockname()[1]
        return host, port

    @prioritized(Priority.SERVER_STOP)
    def stop(self) -> None:
        """Stop the server and return when it has ended and its port is free.

        Raises:
            PortNotFreed: It still listens.
        """
        if not self.running and not self._is_alive:
            self.bus.log(f"HTTP Server {self.httpserver} already shut down")
            return
        address = self.bound_addr
        # Its thread may end from here on without being missed.
        self.running = False
        self.httpserver.stop()
        if self._thread is not None:
            self._thread.join(self.free_timeout)
        self._wait_free(address)
        self.bus.log(f"HTTP Server {self.httpserver} shut down")

    def restart(self) -> None:
        """Stop and start this server alone."""
        self.stop()
        self.start()

    @property
    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def _is_secure(self) -> bool:
        return bool(getattr(self.httpserver, "ssl_adapter", None))

    @property
    def _name(self) -> str:
        return f"HTTP server on {self.description}"

    def _run(self) -> None:
        try:
            self.httpserver.start()
        except BaseException as error:  # noqa: BLE001 - a stranger's server: kept for start() or the bus
            self.interrupt = error
        # In this order: start() sets `running` and then looks whether we have ended, we say that
        # we have ended and then look at `running`, so that one of the two sees the other.
        self._ended.set()
        if self.running:
            self._report_end()

    def _report_end(self) -> None:
        """End the bus because of a server that nobody stopped."""
        if self.interrupt is None:
            if self.ready:
                return  # it serves in threads of its own
            self.interrupt = ServerEnded(self._name, "though nobody stopped it")
        self.bus.log(f"Error in {self._name}: {self.interrupt!r}", level=40)
        abort = getattr(self.bus, "abort", None)
        if abort is not None:
            abort(self.interrupt)
        else:
            self.bus.exit()

    def _raise_interrupt(self) -> None:
        if self._ended.is_set() and self.interrupt is not None:
            self.running = False
            raise self.interrupt

    def _wait_free(self, address: BindAddr) -> None:
        # Under socket activation somebody else keeps the port on purpose.
        if not isinstance(address, tuple) or os.environ.get("LISTEN_PID"):
            return
        deadline = time.monotonic() + self.free_timeout
        while not _is_free(address):
            if time.monotonic() > deadline or getattr(self.bus, "impatient", False):
                raise PortNotFreed(*address)
            # A stranger's close() comes when it comes; the kernel has nothing to wait for.
            self._ended.wait(GLANCE)
            time.sleep(GLANCE)


def _is_free(address: tuple[Any, ...]) -> bool:
    """Tell whether nobody listens on *address*, without connecting to it."""
    host, port = address[:2]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Old connections that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            import errno

            # Any other reason (a privileged port, an address that went away) says nothing.
            return error.errno != errno.EADDRINUSE
    return True
