"""ServerAdapter hosts servers it knows nothing about, and adapters that know nothing of it."""

from __future__ import annotations

import socket
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sitebus.errors import EX_SOFTWARE, Interrupted, PortNotFreed, ServerEnded, ServerMissing
from sitebus.machine import State
from sitebus.process import Engine, ProcessBus
from sitebus.servers import ServerAdapter
from sitebus.sockets.addresses import Address
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Logged


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class ThreadingServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Wsgiref:
    """The standard library's server, as somebody might wrap it for CherryPy."""

    ready = False

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.socket: socket.socket | None = None

    def start(self) -> None:
        self.server = ThreadingServer(self.address, Quiet)
        self.server.set_app(hello)
        self.socket = self.server.socket
        self.ready = True
        self.server.serve_forever(poll_interval=0.01)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.socket = None
        self.ready = False


class Scripted:
    """A server that does what a test wants of it."""

    def __init__(self, *, ready: bool = False) -> None:
        self.ready = ready
        self.ready_in_start = False
        self.error: BaseException | None = None
        self.returns = False
        self.ends = threading.Event()
        self.stopped = 0

    def start(self) -> None:
        self.ready = self.ready or self.ready_in_start
        if not self.returns:
            self.ends.wait(20)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopped += 1
        self.ready = False
        self.ends.set()


class ForeignBus:
    """A bus of somebody else's: it has channels named like wspbus's, and nothing more."""

    def __init__(self) -> None:
        self.listeners: list[tuple[float, str, Any]] = []
        self.logged: list[str] = []
        self.exited = threading.Event()

    def subscribe(self, channel: str, listener: Any, priority: float = 50) -> None:
        self.listeners.append((priority, channel, listener))

    def unsubscribe(self, channel: str, listener: Any) -> None:
        self.listeners = [row for row in self.listeners if row[1:] != (channel, listener)]

    def log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        self.logged.append(msg)

    def exit(self) -> None:
        self.exited.set()


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.ends.set()


@pytest.fixture
def threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: not set(threading.enumerate()) - before)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def adapt(engine: Engine, server: object, bind_addr: Any = None) -> ServerAdapter:
    adapter = ServerAdapter(engine, server, bind_addr)
    adapter.subscribe()
    return adapter


def ask(adapter: ServerAdapter) -> int:
    assert isinstance(adapter.bound_addr, tuple)
    with Client(Address.parse(adapter.bound_addr)) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        return client.answer().status


@pytest.mark.parametrize("port", [0, None], ids=["any port", "a given port"])
def test_a_server_that_binds_by_itself(engine: Engine, logged: Logged, port: int | None) -> None:
    """Ready when start returns, port free when stop returns, as wspbus has it."""
    address = ("127.0.0.1", free_port() if port is None else port)
    adapter = adapt(engine, Wsgiref(address), address)

    engine.start()
    assert ask(adapter) == 200
    assert adapter.running
    bound = adapter.bound_addr
    engine.stop()

    assert not adapter.running
    with socket.create_server(bound):
        pass
    assert f"Serving on http://127.0.0.1:{bound[1]}" in str(logged)
    assert "shut down" in str(logged)


def test_an_adapter_restarts_alone(engine: Engine) -> None:
    """restart() needs no bus."""
    address = ("127.0.0.1", free_port())
    adapter = adapt(engine, Wsgiref(address), address)
    adapter.start()
    adapter.restart()

    assert ask(adapter) == 200
    adapter.stop()


def test_a_server_that_raises_makes_start_raise(engine: Engine, server: Scripted) -> None:
    """The very exception, so that a caller can tell what to do."""
    server.error = OSError(98, "address already in use")
    server.returns = True
    adapter = adapt(engine, server)

    with pytest.raises(OSError, match="address already in use") as caught:
        engine.start()

    assert caught.value is server.error is adapter.interrupt
    assert not adapter.running


def test_a_server_that_returns_makes_start_raise(engine: Engine, server: Scripted) -> None:
    """In wspbus, start() would wait for it for ever."""
    server.returns = True
    adapt(engine, server)

    with pytest.raises(ServerEnded, match=r"ended before it was ready; its start\(\) must"):
        engine.start()


def test_a_server_that_serves_in_threads_of_its_own(engine: Engine, server: Scripted) -> None:
    """Its start() may return, so long as it is ready."""
    server.returns = server.ready_in_start = True
    adapter = adapt(engine, server)
    engine.start()
    assert adapter.running
    engine.stop()

    assert server.stopped == 1


def test_a_server_that_never_gets_ready_can_be_given_up(
    engine: Engine, server: Scripted, meanwhile: Callable[..., Future[Any]]
) -> None:
    """An interrupt gets out; what was started is stopped again."""
    adapt(engine, server)
    start = meanwhile(engine.start)
    wait_for(lambda: engine.state is State.STARTING)

    engine.hurry()

    with pytest.raises(Interrupted, match="to be ready was cut short"):
        start.result(5)
    assert server.stopped == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("out of paper"), SystemExit(3), None], ids=["error", "exit", "return"]
)
def test_a_server_that_ends_by_itself_ends_the_engine(
    engine: Engine, server: Scripted, logged: Logged, error: BaseException | None
) -> None:
    """With a status that says so."""
    server.ready = True
    server.error = error
    adapt(engine, server)
    engine.start()

    server.ready = False
    server.ends.set()

    assert engine.block() == (3 if isinstance(error, SystemExit) else EX_SOFTWARE)
    assert "Error in HTTP server on unknown interface" in str(logged)


def test_a_server_that_keeps_its_port_is_reported(engine: Engine, server: Scripted) -> None:
    """A stop that did not free the port did not stop."""
    server.ready = True
    with socket.create_server(("127.0.0.1", 0)) as kept:
        address = kept.getsockname()
        adapter = ServerAdapter(engine, server, address)
        adapter.free_timeout = 0.05
        adapter.start()
        with pytest.raises(PortNotFreed, match=f"127.0.0.1:{address[1]} was stopped but"):
            adapter.stop()


def test_a_port_of_systemds_may_be_kept(
    engine: Engine, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under socket activation it is not the server's to free."""
    server.ready = True
    monkeypatch.setenv("LISTEN_PID", "1")
    with socket.create_server(("127.0.0.1", 0)) as kept:
        adapter = ServerAdapter(engine, server, kept.getsockname())
        adapter.start()
        adapter.stop()


def test_an_adapter_without_a_server(engine: Engine) -> None:
    """It is a ValueError, as in wspbus."""
    adapt(engine, None)
    with pytest.raises(ServerMissing, match="set its httpserver first") as caught:
        engine.start()
    assert isinstance(caught.value, ValueError)


def test_an_adapter_that_never_called_our_init(engine: Engine, server: Scripted) -> None:
    """CherryPy's own does not, and makes bind_addr a property."""
    server.ready = True

    class Late(ServerAdapter):
        def __init__(self) -> None:
            self.bus = engine
            self.port = 8080

        @property
        def bind_addr(self) -> tuple[str, int]:
            return ("127.0.0.1", self.port)

        def start(self) -> None:
            self.httpserver = self.httpserver or server
            super().start()

    adapter = Late()
    adapter.subscribe()
    assert adapter.description == "http://127.0.0.1:8080"
    engine.start()
    assert adapter.running
    engine.stop()
    assert server.stopped == 1


def test_commands_that_change_nothing_are_logged(
    engine: Engine, server: Scripted, logged: Logged
) -> None:
    """As in wspbus."""
    server.ready = True
    adapter = adapt(engine, server, "/run/site.sock")
    adapter.start()
    adapter.start()
    adapter.stop()
    adapter.stop()

    assert "Already serving on socket file: /run/site.sock" in str(logged)
    assert "already shut down" in str(logged)
    assert server.stopped == 1


@pytest.mark.parametrize(
    ("bind_addr", "secure", "described"),
    [
        (None, False, "unknown interface (dynamic?)"),
        (("127.0.0.1", 80), False, "http://127.0.0.1"),
        (("127.0.0.1", 80), True, "https://127.0.0.1:80"),
        (("example.org", 443), True, "https://example.org"),
        (("::1", 8080), False, "http://[::1]:8080"),
        ("/run/site.sock", False, "socket file: /run/site.sock"),
    ],
)
def test_a_description(engine: Engine, bind_addr: Any, secure: bool, described: str) -> None:
    """The usual ports go without saying."""
    server = Scripted()
    server.ssl_adapter = secure  # type: ignore[attr-defined]
    assert ServerAdapter(engine, server, bind_addr).description == described


def test_a_strangers_bus(server: Scripted, threads_end: None) -> None:
    """The channels are wspbus's, and a crash makes it exit."""
    bus = ForeignBus()
    server.ready = True
    adapter = ServerAdapter(bus, server)
    adapter.subscribe()
    assert [row[:2] for row in bus.listeners] == [(75, "start"), (25, "stop")]
    adapter.start()

    server.error = RuntimeError("out of paper")
    server.ends.set()

    assert bus.exited.wait(5)
    adapter.stop()
    adapter.unsubscribe()
    assert bus.listeners == []
    assert any("out of paper" in line for line in bus.logged)


def test_a_bus_with_other_names() -> None:
    """The bus called magicbus calls the channels START and STOP."""
    bus = ProcessBus()
    adapter = ServerAdapter(bus, Scripted())
    adapter.subscribe()
    assert adapter.start in bus.listeners["START"]
    assert adapter.stop in bus.listeners["STOP"]
    adapter.unsubscribe()
    assert adapter.start not in bus.listeners["START"]


def test_a_subclass_may_choose_its_priority(engine: Engine, server: Scripted) -> None:
    """``start.priority`` is where wspbus looks, and where it is found."""
    assert ServerAdapter.start.priority == 75  # type: ignore[attr-defined]
    assert ServerAdapter.stop.priority == 25  # type: ignore[attr-defined]

    class Late(ServerAdapter):
        def start(self) -> None:
            super().start()

        start.priority = 90  # type: ignore[attr-defined]

    adapter = Late(engine, server)
    adapter.subscribe()
    [row] = [row for row in engine.describe().channels["start"] if "Late" in row.name]
    assert row.priority == 90
