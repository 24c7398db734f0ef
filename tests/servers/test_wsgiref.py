"""What is particular to the server of the standard library: what was added to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sitebus.errors import BadServerOption, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers.tls import TLS
from sitebus.servers.wsgiref import WsgirefServer
from tests.helpers import wait_for
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


@pytest.mark.parametrize(
    "lines", [b"Content-Length: -1", b"Content-Length: 1\r\nTransfer-Encoding: chunked"]
)
def test_a_body_whose_end_is_unclear_is_refused(host: Host, connect: Connect, lines: bytes) -> None:
    """A proxy before us may see another end, and so another request behind it."""
    client = connect(host())
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")

    assert client.answer().status == 400


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
