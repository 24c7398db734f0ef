"""What is particular to the server of the standard library: what was added to it."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sitebus.errors import BadServerOption, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers.tls import TLS
from sitebus.servers.wsgiref import WsgirefServer
from tests.helpers import environment, wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Logged

Connect = Callable[..., Client]
Host = Callable[..., WsgirefServer]


@pytest.fixture
def host(engine: Engine) -> Host:
    """Start wsgiref on a free port."""

    def start(application: Any = hello, **settings: Any) -> WsgirefServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        server = WsgirefServer(engine, application, **settings)
        server.subscribe()
        engine.start()
        return server

    return start


def everything(client: Client) -> bytes:
    received = b""
    while data := client.socket.recv(65536):
        received += data
    return received


PRELOADED = """\
import sys

from sitebus.process import Engine
from sitebus.servers import Faces
from sitebus.servers.wsgiref import WsgirefServer

faces = Faces(print, lambda: print, lambda: "asgi")
WsgirefServer(Engine(), faces).preload()
print(*sorted(name for name in sys.modules if name.startswith("sitebus.")))
"""


def test_who_forks_has_imported_what_is_between_it_and_its_applications() -> None:
    """Each worker would import it again, and have it to itself."""
    command = [sys.executable, "-c", PRELOADED]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert {
        "sitebus.servers._wsgiref",
        "sitebus.mounts.asgi",
        "sitebus.bridges.asgi_under_wsgi",
    } <= set(run.stdout.split())


def test_no_application_sees_the_processs_environment(
    host: Host, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wsgiref would have it, which copies it into each request's."""
    monkeypatch.setenv("DATABASE_PASSWORD", "open sesame")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [repr(sorted(environ)).encode()]

    names = connect(host(application)).get().body
    assert b"PASSWORD" not in names
    assert b"'PATH'" not in names
    assert b"'REQUEST_URI'" in names


def test_every_answer_is_the_last_of_its_connection(host: Host, connect: Connect) -> None:
    """And says so, in HTTP/1.1, so that no client waits for more or takes it for broken."""
    client = connect(host(server_header="shelf"))
    client.ask()
    answer = everything(client)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert b"\r\nServer: shelf\r\n" in answer
    assert b"\r\nConnection: close\r\n\r\nhello" in answer


def test_a_body_ends_where_it_ends(host: Host, connect: Connect) -> None:
    """To read it without a size waits for nothing more; two are not confused."""

    def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        body = environ["wsgi.input"]
        return [body.readline(), b"|", body.read(), body.read()]

    server = host(echo)
    for head, body in (
        (b"Content-Length: 8", b"one\ntwo!NEXT"),
        (
            b"Transfer-Encoding: chunked",
            b"2\r\non\r\n3;x=y\r\ne\nt\r\n3\r\nwo!\r\n0\r\nA: b\r\n\r\n",
        ),
    ):
        client = connect(server)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
        assert everything(client).endswith(b"\r\n\r\none\n|two!")


@pytest.mark.parametrize("head", [b"DELETE /all HTTP/1.1\r\nHost: a\r\n", b"GET / HT", b"\r\n"])
def test_half_a_head_is_no_request(
    host: Host, connect: Connect, logged: Logged, head: bytes
) -> None:
    """What was cut off may have said who asks, or how long the body is."""
    reached: list[object] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        reached.append(environ)
        return hello(environ, start_response)

    client = connect(host(application))
    client.send(head)
    client.socket.shutdown(socket.SHUT_WR)

    assert everything(client) == b""
    assert not reached
    assert "rror" not in str(logged)


def test_what_an_environ_says_of_a_request(host: Host, connect: Connect) -> None:
    """Nothing that the client did not say, nor what only looks like something else."""
    names = ("CONTENT_TYPE", "HTTP_X_USER", "HTTP_PROXY", "HTTP_HOST", "PATH_INFO", "REQUEST_URI")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [repr([environ.get(name) for name in names]).encode()]

    client = connect(host(application))
    client.send(b"GET http://shop/a%20b?c HTTP/1.1\r\nHost: a\r\n")
    client.send(b"X-User: me\r\nX_User: root\r\nProxy: evil\r\n\r\n")

    wanted = [None, "me", None, "shop", "/a b", "http://shop/a%20b?c"]
    assert client.answer().body == repr(wanted).encode()


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_connection_that_the_application_lost_is_its_error(
    host: Host, connect: Connect, logged: Logged, error: type[OSError]
) -> None:
    """To a database, say; wsgiref would take it for the client's, and answer nothing."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise error("the database has gone")

    assert connect(host(application)).get().status == 500
    assert "the database has gone" in str(logged)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", [[], [b""]])
def test_a_response_without_a_body_has_no_length(
    host: Host, connect: Connect, status: str, body: list[bytes]
) -> None:
    """A 204 may not have one, and that of a 304 would be taken for the page's."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, [])
        return body

    assert "content-length" not in connect(host(application)).get().headers


@pytest.mark.parametrize(
    ("status", "value"), [("200 OK\r\nB: c", "a"), ("200 OK", "a\r\nB: c")], ids=["status", "value"]
)
def test_no_header_can_be_smuggled_into_a_response(
    host: Host, connect: Connect, logged: Logged, status: str, value: str
) -> None:
    """By whoever has a say in the text of one."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, [("X", value)])
        return [b"x"]

    answer = connect(host(application)).get()
    assert (answer.status, "b" in answer.headers) == (500, False)
    assert "control character" in str(logged)


def test_half_a_body_is_an_error(host: Host, connect: Connect, logged: Logged) -> None:
    """And nobody's news: clients leave."""
    errors: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(str(error))
            raise
        return hello(environ, start_response)

    client = connect(host(application))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    client.socket.shutdown(socket.SHUT_WR)

    wait_for(lambda: errors)
    assert errors == ["the client left before all of its request was read"]
    assert everything(client) == b""
    assert "rror" not in str(logged)


def test_half_a_response_resets_its_connection(
    host: Host, connect: Connect, logged: Logged
) -> None:
    """Without a length nothing else tells the client that the rest is missing."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise LookupError("the other half")

    client = connect(host(application))
    client.ask("/a?b%0A")
    with pytest.raises(ConnectionResetError):
        everything(client)

    wait_for(lambda: "the other half" in str(logged))
    assert "Unhandled error while serving GET /a?b%0A: LookupError" in str(logged)


def test_half_a_response_to_an_unread_request_resets_it_too(host: Host, connect: Connect) -> None:
    """Nobody may take it for a whole one, because the rest of the request is waited for."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise LookupError("the other half")

    client = connect(host(application))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        everything(client)


def test_a_body_that_nobody_reads_does_not_cost_the_answer(host: Host, connect: Connect) -> None:
    """Closing on it would reset the connection."""
    client = connect(host())
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)

    assert everything(client).endswith(b"\r\n\r\nhello")


def test_it_has_neither_tls_nor_options(engine: Engine, certificate: Certificate) -> None:
    """And says so before it serves."""
    with pytest.raises(BadServerOption, match="wsgiref has no TLS"):
        WsgirefServer(engine, hello, tls=TLS(certificate.certificate))
    with pytest.raises(UnknownNativeOption, match="'wsgiref' takes none"):
        WsgirefServer(engine, hello, native={"speed": "fast"})


def test_applications_are_told_whether_threads_run_them(host: Host, connect: Connect) -> None:
    """With one thread, what is not safe for several is."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [repr((environ["wsgi.multithread"], environ["wsgi.multiprocess"])).encode()]

    assert connect(host(application, threads=1)).get().body == b"(False, False)"


# Clients that are slow, or too many.


def trickle(client: Client, pause: float = 0.05) -> bytes:
    """Send a byte now and then until there is an answer, and return the rest of what is said."""
    client.socket.settimeout(pause)
    while True:
        try:
            return client.socket.recv(65536)
        except TimeoutError:
            client.send(b"x")


def read_body(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    return hello(environ, start_response)


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_may_not_trickle(host: Host, connect: Connect, logged: Logged, begun: bytes) -> None:
    """It keeps a thread, and ten such the site."""
    server = host(threads=1, timeout=30, header_timeout=0.3)
    client = connect(server)
    client.send(begun)

    assert trickle(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert connect(server).get().status == 200
    assert "Refused a request from 127.0.0.1: 408 Request Timeout" in str(logged)


def test_a_silent_body_is_given_up(host: Host, connect: Connect, logged: Logged) -> None:
    """The application is told, and its thread is free for others."""
    server = host(read_body, threads=1, timeout=0.2)
    client = connect(server)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")

    assert (client.answer().status, connect(server).get().status) == (408, 200)
    assert "rror" not in str(logged)


def test_a_body_may_not_trickle(host: Host, connect: Connect) -> None:
    """One byte before each timeout would do to keep a thread."""
    client = connect(host(read_body, timeout=0.3, min_rate=1000))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")

    assert trickle(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_body_that_comes_fast_enough_may_take_longer_than_a_timeout(
    host: Host, connect: Connect
) -> None:
    """Only silence and slowness are given up."""
    client = connect(host(read_body, timeout=0.3, min_rate=10))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
    client.socket.settimeout(0.05)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.send(b"four")

    client.socket.settimeout(5)
    assert client.answer().status == 200


def test_an_error_page_about_a_body_is_the_servers(host: Host, connect: Connect) -> None:
    """Frameworks make a page of their own of it, and call it an error of theirs."""

    def framework(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return read_body(environ, start_response)
        except OSError:
            start_response("500 Oops", [])
            return [b"oops"]

    client = connect(host(framework, timeout=0.2))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    assert client.answer().status == 408


def test_no_more_connections_than_may_be(host: Host, connect: Connect) -> None:
    """Who has been silent longest makes room."""
    server = host(max_connections=2)
    first, second = connect(server), connect(server)
    wait_for(lambda: len(server.httpserver._keeper.idle) == 2)

    assert connect(server).get().status == 200
    assert first.is_closed()
    assert second.get().status == 200


def test_no_server_header_unless_it_is_wanted(host: Host, connect: Connect) -> None:
    """Neither from applications nor from refusals."""
    server = host()
    refused = connect(server)
    refused.send(b"GET / HTTP/1.1\r\n\r\n")
    answers = [connect(server).get(), refused.answer()]
    assert [answer.status for answer in answers] == [200, 400]
    assert not any("server" in answer.headers for answer in answers)
    assert answers[1].body == b"The request has no Host.\r\n"


# Behind a proxy that says for whom it connects.


def whoami(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['REMOTE_PORT']}".encode()]


V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H4B4BHH", 12, 203, 0, 113, 7, 127, 0, 0, 1, 4321, 80)
)  # fmt: skip


@pytest.mark.parametrize("header", [b"PROXY TCP4 203.0.113.7 127.0.0.1 4321 80\r\n", V2])
def test_a_proxy_says_for_whom_it_connects(host: Host, connect: Connect, header: bytes) -> None:
    """In both versions, in any number of pieces."""
    server = host(whoami, proxy_protocol="all", trusted_proxies=["127.0.0.1"])
    client = connect(server)
    for byte in header:
        client.send(bytes([byte]))

    assert client.get().body == b"203.0.113.7 4321"


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PROXY TCP4 a b c d\r\n", b"PROXY"]
)
def test_who_says_nothing_of_the_sort_is_told_nothing(
    host: Host, connect: Connect, logged: Logged, said: bytes
) -> None:
    """Who connects directly could say of itself what it liked."""
    client = connect(host(whoami, proxy_protocol="all", header_timeout=0.2))
    client.send(said)

    assert client.is_closed()
    wait_for(lambda: "Refused a connection from 127.0.0.1: " in str(logged))
