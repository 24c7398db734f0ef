"""Servers that programs for CherryPy bring: cheroot's lodge with the engine."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from sitebus.compat.cherrypy.servers import ServerAdapter
from sitebus.compat.cherrypy.wspbus import Bus
from sitebus.compat.magicbus import ProcessBus
from sitebus.compat.magicbus.plugins.servers import ServerPlugin, check_port, client_host
from sitebus.errors import BindError
from tests.helpers import nothing_left, wait_for


@pytest.fixture
def bus() -> Iterator[Bus]:
    with nothing_left():
        bus = Bus()
        try:
            yield bus
        finally:
            bus.exit()


def hello(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def url_of(adapter: ServerAdapter, path: str = "/") -> str:
    address = adapter.bound_addr
    assert isinstance(address, tuple)
    return f"http://127.0.0.1:{address[1]}{path}"


def adapted(bus: Any, application: Any = hello, host: str = "127.0.0.1") -> ServerAdapter:
    address = (host, 0)
    adapter = ServerAdapter(bus, Server(address, application), address)
    adapter.subscribe()
    return adapter


def test_a_cheroot_server_listens_on_the_engines_socket(bus: Bus) -> None:
    """Which a restart keeps."""
    adapter = adapted(bus)
    bus.start()

    (listener,) = bus.sockets.listeners
    assert adapter.bound_addr == (listener.address.host, listener.address.port)
    assert requests.get(url_of(adapter), timeout=10).text == "hello"
    assert isinstance(adapter.httpserver, Server)


def test_a_stopped_server_has_left_its_port(bus: Bus) -> None:
    """As wspbus promises: another program may have it now."""
    adapter = adapted(bus)
    bus.start()
    port = adapter.httpserver.socket.getsockname()[1]
    bus.stop()

    assert bus.sockets.listeners == ()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_it_starts_again(bus: Bus) -> None:
    """The same server object, on the same address."""
    adapter = adapted(bus)
    for _ in range(3):
        bus.start()
        assert requests.get(url_of(adapter), timeout=10).text == "hello"
        bus.stop()


def test_a_stop_finishes_what_was_asked(bus: Bus) -> None:
    """Whoever has sent a request gets the answer."""
    asked, answer = threading.Event(), threading.Event()

    def slow(environ: Any, start_response: Any) -> Iterable[bytes]:
        asked.set()
        answer.wait(20)
        return hello(environ, start_response)

    adapter = adapted(bus, slow)
    bus.start()
    got: list[str] = []
    url = url_of(adapter)
    client = threading.Thread(target=lambda: got.append(requests.get(url, timeout=20).text))
    client.start()
    assert asked.wait(20)

    stopping = threading.Thread(target=bus.stop)
    stopping.start()
    wait_for(lambda: bus.state is bus.states.STOPPING)
    answer.set()
    client.join(20)
    stopping.join(20)

    assert got == ["hello"]


def test_a_page_may_exit_the_engine(bus: Bus) -> None:
    """It is told that it was done, and the exit does not wait for it for ever."""

    def leave(environ: Any, start_response: Any) -> Iterable[bytes]:
        bus.exit()
        return hello(environ, start_response)

    adapter = adapted(bus, leave)
    bus.start()

    assert requests.get(url_of(adapter), timeout=10).text == "hello"
    wait_for(lambda: bus.ended)


def test_the_picture_of_the_threads_tells_of_its_requests(bus: Bus) -> None:
    """Also after a stop and a start; so a page that hangs is told of as in any other site."""
    seen: list[str] = []

    def page(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.extend(str(each.request) for each in bus.threads() if each.request)
        return hello(environ, start_response)

    adapter = adapted(bus, page)
    for number in range(1, 3):
        bus.start()
        assert requests.get(url_of(adapter, f"/page{number}"), timeout=10).text == "hello"
        assert bus.serving.workers == 10
        bus.stop()
        assert bus.serving.workers == 0
    assert seen == ["GET /page1 for 127.0.0.1", "GET /page2 for 127.0.0.1"]
    assert bus.serving.in_flight() == []


def test_a_keyboard_interrupt_in_a_page_exits_the_engine_in_order(bus: Bus) -> None:
    """As it always has."""

    def interrupted(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise KeyboardInterrupt

    adapter = adapted(bus, interrupted)
    bus.start()
    with pytest.raises(requests.ConnectionError):
        requests.get(url_of(adapter), timeout=10)

    wait_for(lambda: bus.ended)
    assert bus.exit_code == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_two_colons_mean_every_interface_of_both_protocols(bus: Bus) -> None:
    """CherryPy's users reach such a server over IPv4 too."""
    adapter = adapted(bus, host="::")
    bus.start()
    port = adapter.httpserver.socket.getsockname()[1]

    for host in ("127.0.0.1", "[::1]"):
        assert requests.get(f"http://{host}:{port}/", timeout=10).text == "hello"


def test_everybody_may_connect_to_a_unix_socket(bus: Bus, tmp_path: Path) -> None:
    """The proxy before it runs as another user."""
    path = tmp_path / "socket"
    ServerAdapter(bus, Server(str(path), hello), str(path)).subscribe()
    bus.start()

    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"hello")


def test_a_server_with_a_certificate_speaks_https(bus: Bus, tmp_path: Path) -> None:
    """Its own TLS adapter goes on working, on a kept-alive connection too."""
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("the certificate is made with the openssl command")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate}"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", *made.split(), *name], check=True, capture_output=True)
    adapter = adapted(bus)
    adapter.httpserver.ssl_adapter = BuiltinSSLAdapter(str(certificate), str(key))
    bus.start()
    port = adapter.httpserver.socket.getsockname()[1]

    assert adapter.description == f"https://127.0.0.1:{port}"
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(f"https://localhost:{port}/", verify=str(certificate), timeout=10)
            assert answer.text == "hello"


def test_an_address_in_use_is_refused_before_the_server_starts(bus: Bus) -> None:
    """The error is the engine's, which says who has it and what would work."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        ServerAdapter(bus, Server(address, hello), address).subscribe()

        with pytest.raises(BindError, match="in use"):
            bus.start()


def test_an_adapter_need_not_call_our_init(bus: Bus) -> None:
    """CherryPy's own does not, and its address is a property."""

    class Adapter(ServerAdapter):
        def __init__(self) -> None:
            self.bus = bus
            self.httpserver = None
            self.made = 0

        def httpserver_from_self(self) -> tuple[Server, tuple[str, int]]:
            self.made += 1
            return Server(("127.0.0.1", 0), hello), ("127.0.0.1", 0)

    adapter = Adapter()
    adapter.subscribe()
    bus.start()

    assert requests.get(url_of(adapter), timeout=10).text == "hello"
    assert adapter.made == 1


def test_a_silent_connection_holds_no_thread_and_is_closed_in_time(bus: Bus) -> None:
    """A stop need not wait for it either."""
    adapter = adapted(bus)
    adapter.httpserver.timeout = 0.1
    bus.start()
    with socket.create_connection(adapter.httpserver.socket.getsockname()) as client:
        client.settimeout(10)
        assert client.recv(1) == b""


def test_subclasses_for_magicbus_override_start_in_capitals() -> None:
    """And the server runs with a bus of magicbus."""
    heard: list[str] = []

    class Plugin(ServerPlugin):
        def START(self) -> None:  # noqa: N802
            heard.append("START")
            super().START()

    with nothing_left():
        bus = ProcessBus()
        address = ("127.0.0.1", 0)
        plugin = Plugin(bus, Server(address, hello), address)
        plugin.subscribe()
        bus.transition("RUN")
        assert plugin.interface == "127.0.0.1:0"
        assert requests.get(url_of(plugin), timeout=10).text == "hello"
        bus.transition("EXITED")

    assert heard == ["START"]


def test_ports_are_looked_at_where_a_client_would() -> None:
    """Every interface is also this machine's own."""
    assert client_host("0.0.0.0") == "127.0.0.1"
    assert client_host("::0") == "::1"
    assert client_host("192.0.2.1") == "192.0.2.1"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            check_port("0.0.0.0", port)
    check_port("127.0.0.1", port)
