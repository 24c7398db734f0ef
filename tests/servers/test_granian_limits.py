"""What hostile and slow clients get from granian, which by itself waits for them for ever."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers._granian_head import refusal
from sitebus.servers.granian import GranianServer
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Gate, Logged
from tests.servers.granian_fixtures import Host, host, once

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "once"]

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


class Echo:
    """Answers with the body, as either interface; says what it was asked for and how it failed."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked.append(environ)
        try:
            body = environ["wsgi.input"].read()
        except OSError as error:
            self.errors.append(type(error).__name__)
            raise
        start_response("200 OK", [])
        return [body]

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.asked.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.errors.append("http.disconnect")
                return
            body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=["wsgi", "asgi"])
def app(request: pytest.FixtureRequest, echo: Echo) -> Any:
    return getattr(echo, request.param)


def trickle(client: Client, pause: float = 0.05) -> bytes:
    """Send a byte now and then until there is an answer, and return the rest of what is said."""
    client.socket.settimeout(pause)
    while True:
        try:
            return client.socket.recv(65536)
        except TimeoutError:
            client.send(b"x")


# Requests that could be read in two ways.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_what_two_could_read_in_two_ways_is_refused(
    host: Host, connect: Connect, app: Any, echo: Echo, logged: Logged, head: bytes, status: int
) -> None:
    """With the reason, for the client and in the log; and nothing that follows is read."""
    client = connect(host(app))
    client.send(head + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")

    answer = client.answer()
    assert (answer.status, answer.closes) == (status, True)
    assert not answer.headers["server"]
    assert client.is_closed()
    assert not echo.asked
    [line] = [line for level, line in logged if level == 30]
    assert line.startswith(f"Refused a request from 127.0.0.1: {status} ")
    assert line.endswith(answer.body.decode().strip())


@pytest.mark.parametrize(("version", "status"), [("2", 400), ("1.1", 400), ("1.0", 0), ("1", 0)])
def test_only_http_1_0_may_have_no_host(version: str, status: int) -> None:
    """Of HTTP/2 neither field nor pseudo-field; granian adds an empty one in either case."""
    scope = {"type": "http", "http_version": version, "method": "GET", "raw_path": b"/"}
    found = refusal({**scope, "headers": [(b"host", b"")]})
    assert (found.status if found else 0) == status


def test_refusals_do_not_fill_the_log(host: Host, connect: Connect, logged: Logged) -> None:
    """Ten lines in ten seconds, and at the end how many there were besides."""
    server = host()
    for _ in range(15):
        client = connect(server)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 400

    assert sum(level == 30 for level, _ in logged) == 10
    server.stop()
    assert "... and 5 more: 400 Bad Request" in str(logged)


def test_chunks_that_are_none_are_no_body(
    host: Host, connect: Connect, app: Any, echo: Echo
) -> None:
    """An application would take what came before for all of it."""
    client = connect(host(app))
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n")

    wait_for(lambda: echo.errors)
    assert echo.errors in (["ClientGone"], ["http.disconnect"])


def test_what_an_environ_says_of_a_head(host: Host, connect: Connect, echo: Echo) -> None:
    """Nothing that only looks like something else; and all of what there is."""
    client = connect(host(echo.wsgi))
    client.send(
        b"GET /a%20b%C3%A9?c=%20d HTTP/1.1\r\nHost: a\r\nX_User: root\r\nX-User: me\r\n"
        b"Proxy: evil\r\nX-Name: Andr\xe9\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n"
    )
    assert client.answer().status == 200

    environ = echo.asked[0]
    assert (environ["HTTP_X_USER"], environ.get("HTTP_PROXY")) == ("me", None)
    assert (environ["HTTP_X_NAME"], environ["HTTP_X_TWICE"]) == ("Andr\xe9", "1,2")
    assert environ["PATH_INFO"] == "/a b\xc3\xa9"
    assert environ["REQUEST_URI"] == "/a%20b%C3%A9?c=%20d"
    assert environ["REMOTE_PORT"] == str(client.socket.getsockname()[1])


# Clients that are slow.


def test_a_silent_body_is_given_up(host: Host, connect: Connect, app: Any, echo: Echo) -> None:
    """It would keep a thread for ever, and ten such the site."""
    server = host(app, threads=1, timeout=0.2)
    client = connect(server)
    client.send(HEAD + b"Content-Length: 10\r\n\r\nhalf")

    answer = client.answer()
    assert (answer.status, answer.closes) == (408, True)
    assert client.is_closed()
    assert echo.errors in (["BodyTooSlow"], ["http.disconnect"])
    assert connect(server).get().status == 200


def test_a_body_may_not_trickle(host: Host, connect: Connect, app: Any) -> None:
    """One byte before each timeout would do to keep a thread."""
    client = connect(host(app, timeout=0.3, min_rate=1000))
    client.send(HEAD + b"Content-Length: 1000000\r\n\r\n")

    assert trickle(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_head_may_not_trickle(host: Host, connect: Connect) -> None:
    """Nor be idle for longer: granian has one clock for both."""
    client = connect(host(timeout=30, header_timeout=0.3))
    client.send(b"GET / HTTP/1.1\r\nX: ")

    assert trickle(client)[:12] in (b"", b"HTTP/1.1 408")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_body_that_comes_later_is_waited_for(
    host: Host, connect: Connect, app: Any, threads: int
) -> None:
    """By all threads at once, though it takes a thread of granian's to tell that it came."""
    server = host(app, threads=threads)
    clients = [connect(server) for _ in range(2 * threads)]
    for client in clients:
        client.send(HEAD + b"Content-Length: 10\r\n\r\n")
    for client in clients:
        client.send(b"half ")
    for client in clients:
        client.send(b"whole")

    assert [client.answer().body for client in clients] == [b"half whole"] * len(clients)


def test_who_is_too_many_waits_without_a_thread(host: Host, connect: Connect, gate: Gate) -> None:
    """Applications are in no more threads than they may."""
    inside: list[int] = []
    most: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside.append(1)
        most.append(len(inside))
        gate.opened.wait(10)
        inside.pop()
        return hello(environ, start_response)

    server = host(application, threads=2)
    clients = [connect(server) for _ in range(8)]
    for client in clients:
        client.ask()
    wait_for(lambda: len(inside) == 2)
    gate.opened.set()

    assert [client.answer().body for client in clients] == [b"hello"] * 8
    assert max(most) == 2


def test_who_takes_nothing_is_given_up(host: Host, connect: Connect) -> None:
    """A thread would wait for room for ever."""
    closed = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    client = connect(host(application, timeout=0.3))
    client.ask()
    assert closed.wait(5)


def test_no_more_connections_than_may_be(host: Host, connect: Connect, gate: Gate) -> None:
    """Newcomers wait until one leaves, where all are busy."""
    server = host(gate, max_connections=2)
    here = [connect(server), connect(server)]
    assert [client.get().status for client in here] == [200, 200]
    for client in here:
        client.ask("/gate")
    assert gate.entered.wait(5)
    late = connect(server)
    late.ask()
    late.socket.settimeout(1.0)
    with pytest.raises(TimeoutError):
        late.socket.recv(1)

    late.socket.settimeout(10)
    gate.opened.set()
    assert [client.answer().status for client in (*here, late)] == [200, 200, 200]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows who is silent")
@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
def test_the_one_silent_longest_makes_room(
    host: Host, connect: Connect, echo: Echo, speech: str
) -> None:
    """Else so many who say nothing would keep everybody else out."""
    server = host(getattr(echo, speech), max_connections=3, timeout=60, header_timeout=60)
    here = [connect(server) for _ in range(3)]
    for client in reversed(here):
        began = time.monotonic()
        assert client.get().status == 200
        # Silence is told in milliseconds.
        wait_for(lambda began=began: time.monotonic() - began > 0.02)  # type: ignore[misc]
    assert connect(server).get().status == 200
    assert here[2].is_closed()
    assert here[0].get().status == 200


# TLS.


@pytest.fixture
def trust(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.root)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"])
def test_a_handshake_may_not_take_longer_than_a_head(
    host: Host, connect: Connect, certificate: Certificate, begun: bytes
) -> None:
    """Granian would wait for ten seconds."""
    client = connect(host(tls=certificate.tls, header_timeout=0.3))
    client.send(begun)
    client.socket.settimeout(5)

    assert client.is_closed()


def test_silence_after_a_handshake_ends(
    host: Host, connect: Connect, certificate: Certificate, trust: ssl.SSLContext
) -> None:
    """Granian would wait for ever, to hear whether it is HTTP/2."""
    client = connect(host(tls=certificate.tls, header_timeout=0.3), tls=trust)
    client.socket.settimeout(5)

    assert client.is_closed()


def test_who_waits_for_an_answer_may_be_silent(
    host: Host, connect: Connect, certificate: Certificate, trust: ssl.SSLContext, gate: Gate
) -> None:
    """For as long as the application takes."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        gate.opened.wait(10)
        return hello(environ, start_response)

    server = host(application, tls=certificate.tls, header_timeout=0.2, threads=1)
    clients = [connect(server, tls=trust) for _ in range(2)]
    for client in clients:
        client.ask()
    silent = connect(server, tls=trust)

    assert silent.is_closed()
    gate.opened.set()
    assert [client.answer().status for client in clients] == [200, 200]


@pytest.mark.parametrize("wanted", ["required", "optional"])
def test_clients_may_have_to_show_a_certificate(
    host: Host, certificate: Certificate, trust: ssl.SSLContext, tmp_path: Any, wanted: Any
) -> None:
    """Or may, as with other servers."""
    server = host(tls=certificate.tls._replace(client_ca=certificate.root, client=wanted))
    nobody = ssl.create_default_context(cafile=certificate.root)
    joined = tmp_path / "joined.pem"
    joined.write_bytes(certificate.certificate.read_bytes() + certificate.chain.read_bytes())
    trust.load_cert_chain(joined, certificate.key)

    with Client(server.addresses[0], tls=trust) as client:
        assert client.get().status == 200
    assert answers(server, nobody) is (wanted == "optional")


def answers(server: GranianServer, context: ssl.SSLContext) -> bool:
    try:
        with Client(server.addresses[0], tls=context) as client:
            return client.get().status == 200
    except (ssl.SSLError, ConnectionError):
        return False


# What is said of the server.


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
def test_the_library_is_not_named(host: Host, connect: Connect, speech: str) -> None:
    """Not even where an application fails; an empty name is all that granian lets be said."""

    def failing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise LookupError

    async def failing_async(scope: object, receive: object, send: object) -> None:
        raise LookupError

    client = connect(host(failing if speech == "wsgi" else failing_async))
    answer = client.get()
    assert (answer.status, answer.headers["server"]) == (500, "")
    assert "granian" not in str(answer)


def test_no_socket_is_kept_by_what_an_application_keeps(
    host: Host, connect: Connect, engine: Engine
) -> None:
    """An environ, start_response() and an error with its frames."""
    kept: list[object] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            kept.extend((environ, start_response, error))
            raise
        return hello(environ, start_response)

    client = connect(host(application, timeout=0.2))
    client.send(HEAD + b"Content-Length: 10\r\n\r\nhalf")
    assert client.answer().status == 408
    assert client.is_closed()
    assert len(kept) == 3


def test_a_silent_socket_in_a_family_without_ports(
    host: Host, connect: Connect, echo: Echo, tmp_path: Any
) -> None:
    """Its limits are the same."""
    client = connect(host(echo.wsgi, binds=[f"unix:{tmp_path / 's'}"], timeout=0.2))
    assert client.socket.family == socket.AF_UNIX
    client.send(HEAD + b"Content-Length: 10\r\n\r\nhalf")

    assert client.answer().status == 408
    assert (echo.asked[0]["REMOTE_ADDR"], echo.asked[0]["REMOTE_PORT"]) == ("", "0")
