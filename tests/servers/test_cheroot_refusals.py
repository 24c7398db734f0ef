"""What cheroot refuses before an application sees it, and what it makes of half a conversation."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sitebus.mounts import Site
from sitebus.process import Engine
from sitebus.servers._cheroot_connection import MOST_BLANK
from sitebus.servers._cheroot_request import LEFT_AT_MOST
from sitebus.servers.complaints import MOST
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Logged, Serve

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"


class Counted:
    """An application that counts its calls, and reads the body if the path says so."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.calls += 1
        if environ["PATH_INFO"] == "/read":
            environ["wsgi.input"].read()
        return hello(environ, start_response)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def end_of(client: Client) -> bytes:
    """Answer what comes until the server closes."""
    received = b""
    while data := client.socket.recv(65536):
        received += data
    return received


BAD = {
    b"GET /\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\nHost: a\n\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n": 400,
    b"GET / HTTP/3.0\r\nHost: a\r\n\r\n": 505,
    b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 5000): 414,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 5000): 431,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n": 413,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n": 417,
    b"\r\n" * (MOST_BLANK + 1) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": 400,
}


@pytest.mark.parametrize(("request_", "status"), BAD.items(), ids=range(len(BAD)))
def test_what_is_refused_never_comes_to_the_application(
    serve: Serve,
    connect: Connect,
    counted: Counted,
    logged: Logged,
    request_: bytes,
    status: int,
) -> None:
    """Its client is told in a sentence, and so is the log."""
    client = connect(serve(counted, max_header=4096, max_body=1000))
    client.send(request_)

    answer = client.answer()

    assert (answer.status, answer.closes) == (status, True)
    assert answer.headers["content-type"] == "text/plain"
    assert 10 < len(answer.body) < 200
    assert answer.body.endswith(b".\r\n")
    assert counted.calls == 0
    [line] = [message for level, message in logged if level >= 30]
    assert line.startswith(f"Refused a request from 127.0.0.1: {status} ")
    assert client.is_closed()


def test_a_head_request_is_refused_without_a_body(serve: Serve, connect: Connect) -> None:
    client = connect(serve())
    client.send(b"HEAD / HTTP/1.1\r\n\r\n")
    assert end_of(client).endswith(b"\r\n\r\n")


def test_refusals_do_not_fill_the_log(engine: Engine, serve: Serve, logged: Logged) -> None:
    """What is left out is counted."""
    server = serve()
    for _ in range(MOST + 200):
        with Client(server.addresses[0]) as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.answer().status == 400
    engine.stop()
    told = [message for level, message in logged if level == 30]
    assert len(told) == MOST + 1
    assert told[-1] == "... and 200 more: 400 Bad Request"


def test_empty_lines_between_requests_are_no_offence(serve: Serve, connect: Connect) -> None:
    """Some clients end a body with one, and say nothing more for a while (RFC 9112, 2.2)."""
    server = serve(header_timeout=0.2)
    client = connect(server)
    client.send(b"\r\nPOST / %bContent-Length: 1\r\n\r\nx\r\n" % HEAD)
    assert client.answer().status == 200
    client.socket.settimeout(0.6)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    client.socket.settimeout(5)
    assert client.get().status == 200


def test_a_refusal_reaches_who_is_still_sending(serve: Serve, connect: Connect) -> None:
    """To close on what is unread would reset the connection, and lose it."""
    client = connect(serve(max_body=1000))
    client.send(b"POST / %bContent-Length: 3000000\r\n\r\n" % HEAD)
    client.send(b"x" * 3_000_000)
    assert client.answer().status == 413
    assert client.is_closed()


@pytest.mark.parametrize("mounted", [False, True])
def test_too_many_chunks_are_too_large(
    serve: Serve, connect: Connect, counted: Counted, mounted: bool
) -> None:
    """Whatever becomes of the error in the application and around it."""
    application: Any = counted
    if mounted:
        site = Site()
        site.mount(counted, "/")
        application = site.wsgi
    client = connect(serve(application, max_body=10))
    client.send(b"POST /read %bTransfer-Encoding: chunked\r\n\r\n" % HEAD)
    client.send(b"b\r\n01234567890\r\n0\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.closes) == (413, True)


@pytest.mark.parametrize("said", [b"z\r\n", b"2\r\nabc\r\n", b"1\r\na\r\n0\r\n bad\r\n\r\n"])
def test_bad_chunks_are_a_bad_request(
    serve: Serve, connect: Connect, counted: Counted, said: bytes
) -> None:
    client = connect(serve(counted))
    client.send(b"POST /read %bTransfer-Encoding: chunked\r\n\r\n" % HEAD + said)
    answer = client.answer()
    assert (answer.status, answer.closes) == (400, True)


# What is left of a request.


def test_a_body_in_chunks_that_is_left_is_no_request(
    serve: Serve, connect: Connect, counted: Counted
) -> None:
    """It was taken for the next one."""
    inner = b"GET /smuggled %b\r\n" % HEAD
    client = connect(serve(counted))
    client.send(b"POST / %bTransfer-Encoding: chunked\r\n\r\n" % HEAD)
    client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner))
    assert not client.answer().closes
    assert client.get().status == 200
    assert counted.calls == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_large_body_that_is_left_ends_the_connection(
    serve: Serve, connect: Connect, counted: Counted, chunked: bool
) -> None:
    """It would have to be read to the end before the next request."""
    size = 10 * LEFT_AT_MOST
    client = connect(serve(counted))
    how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    client.send(b"POST / %b%b\r\n\r\n" % (HEAD, how))
    client.send((b"%x\r\n" % size if chunked else b"") + b"x" * size)
    assert client.answer().status == 200
    assert client.is_closed()
    assert counted.calls == 1


def test_nobody_is_told_to_send_what_nobody_wants(
    serve: Serve, connect: Connect, counted: Counted
) -> None:
    """Who asks first need not send a body in vain."""
    client = connect(serve(counted))
    client.send(b"POST / %bExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" % HEAD)
    received = end_of(client)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in received


# What an application gets wrong.


def answering(headers: list[tuple[str, str]], *pieces: bytes) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return iter(pieces)

    return application


def test_a_response_that_is_too_short_ends_the_connection(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """The client would take the next one for the rest of it."""
    client = connect(serve(answering([("Content-Length", "5")], b"abc")))
    client.ask()
    assert end_of(client).endswith(b"\r\n\r\nabc")
    assert "promised a Content-Length of 5 and gave 3 bytes" in str(logged)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\nb", "a\rb", "a\0b"])
def test_a_header_cannot_become_two(
    serve: Serve, connect: Connect, logged: Logged, value: str
) -> None:
    answer = connect(serve(answering([("X-Said", value)], b"abc"))).get()
    assert answer.status == 500
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("coding", ["chunked", "identity", "Chunked, gzip"])
def test_the_coding_of_a_transfer_is_not_the_applications(
    serve: Serve, connect: Connect, coding: str
) -> None:
    """Told twice it is refused by clients, and read in two ways by proxies."""
    client = connect(serve(answering([("transfer-Encoding", coding)], b"abc")))
    answer = client.get()
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"abc")
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = end_of(client).partition(b"\r\n\r\n")
    assert b"ncoding" not in head
    assert body == b"abc"


def test_an_application_may_end_the_connection_but_not_keep_it(
    serve: Serve, connect: Connect
) -> None:
    """A body that nobody asked for may be on its way, or the next request, and nobody can tell."""
    headers = [("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=5"), ("Content-Length", "0")]
    client = connect(serve(answering(headers)))
    first = client.get()
    assert not first.headers.keys() & {"connection", "keep-alive"}
    client.send(b"POST / %bContent-Length: 20\r\nExpect: 100-continue\r\n\r\n" % HEAD)
    assert client.answer().closes
    assert client.is_closed()


def test_an_application_that_ends_the_connection_says_so(serve: Serve, connect: Connect) -> None:
    headers = [("connection", "X-Said, Close"), ("Content-Length", "0")]
    client = connect(serve(answering(headers)))
    assert client.get().closes
    assert client.is_closed()


def test_without_content_there_is_no_length(serve: Serve, connect: Connect) -> None:
    """RFC 9110, section 8.6: a client that counts would wait for it."""

    def nothing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(environ["QUERY_STRING"] + " Said", [("Content-Length", "3")])
        return [b"abc"]

    client = connect(serve(nothing))
    assert "content-length" not in client.get("/?204").headers
    assert client.get("/?304").headers["content-length"] == "3"
    assert client.get("/?200").body == b"abc"


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError, ConnectionResetError, BrokenPipeError, TimeoutError]
)
def test_a_failed_connection_of_the_application_is_an_error(
    serve: Serve, connect: Connect, logged: Logged, error: type[OSError]
) -> None:
    """To its database, say: nothing that its client did, and nothing to be silent about."""

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise error("the database")

    answer = connect(serve(broken)).get()
    assert (answer.status, answer.closes) == (500, True)
    assert error.__name__ in str(logged)


@pytest.mark.parametrize("mounted", [False, True])
def test_who_leaves_in_the_middle_of_a_body_is_not_told_of(
    serve: Serve, connect: Connect, logged: Logged, mounted: bool
) -> None:
    """Whatever an application makes of it: clients could fill the log with tracebacks."""

    def wrapping(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raise ValueError("no form") from error
        return hello(environ, start_response)

    site = Site()
    site.mount(wrapping, "/")
    server = serve(site.wsgi if mounted else wrapping)
    client = connect(server)
    client.send(b"POST / %bContent-Length: 20\r\n\r\nhalf" % HEAD)
    client.socket.shutdown(1)
    end_of(client)
    wait_for(lambda: not server.httpserver._keeper.connections)
    assert not [message for level, message in logged if level >= 30]


def test_a_head_request_gets_no_body(serve: Serve, connect: Connect) -> None:
    """Whatever the application gives."""
    client = connect(serve(answering([("Content-Length", "3")], b"abc")))
    client.send(b"HEAD / %b\r\n" % HEAD)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    first, _, second = end_of(client).partition(b"\r\n\r\n")
    assert b"Content-Length: 3" in first
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_error_before_the_first_piece_is_an_error(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """The status was decided, but not sent."""

    def failing(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        raise LookupError("no such shelf")
        yield b"hello"

    answer = connect(serve(failing)).get()
    assert (answer.status, answer.closes) == (500, True)
    assert b"shelf" not in answer.body
    assert "no such shelf" in str(logged)


def test_a_replaced_response_has_only_its_own_headers(serve: Serve, connect: Connect) -> None:
    """What was there before is gone (PEP 3333)."""
    import sys

    def mended(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "100"), ("X-Old", "1")])
        try:
            raise LookupError
        except LookupError:
            start_response("404 Not Found", [("Content-Length", "2")], sys.exc_info())
        return [b"no"]

    answer = connect(serve(mended)).get()
    assert (answer.status, answer.body) == (404, b"no")
    assert "x-old" not in answer.headers


def test_no_server_header_is_sent_if_there_is_none(serve: Serve, connect: Connect) -> None:
    assert "server" not in connect(serve(server_header="")).get().headers


# In front of HTTP.

PROXY = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"


def from_where(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}".encode()]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("cut", [0, 1, len(PROXY) - 1])
def test_a_proxy_says_for_whom_it_connects(
    serve: Serve, connect: Connect, certificate: Certificate, secure: bool, cut: int
) -> None:
    """Once, before anything else, in whatever pieces."""
    server = serve(from_where, proxy_protocol="all", tls=certificate.tls if secure else None)
    client = connect(server)
    if cut:
        client.send(PROXY[:cut])
        wait_for(lambda: server.httpserver._keeper.midway)
    client.send(PROXY[cut:])
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.socket = context.wrap_socket(client.socket)
    for _ in range(2):
        assert client.get().body == b"192.0.2.7:56324"


def test_who_says_nothing_of_a_proxy_is_not_served(
    serve: Serve, connect: Connect, counted: Counted, logged: Logged
) -> None:
    """Or anybody could say who he is; and so for one that does not say it to its end."""
    server = serve(counted, proxy_protocol="all", header_timeout=0.2)
    direct, slow = connect(server), connect(server)
    direct.ask()
    slow.send(PROXY[:20])
    assert direct.is_closed()
    assert slow.is_closed()
    assert counted.calls == 0
    assert "(from 127.0.0.1)" in str(logged)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:cheroot.sock"])
def test_a_stranger_may_not_speak_as_a_proxy(
    serve: Serve,
    connect: Connect,
    logged: Logged,
    bind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If proxies are named, only they connect there."""
    monkeypatch.chdir(tmp_path)
    server = serve(counted, binds=[bind], proxy_protocol="all", trusted_proxies=["192.0.2.0/24"])
    client = connect(server)
    assert client.is_closed()
    wait_for(lambda: "who is no trusted proxy" in str(logged))


def test_a_trusted_proxy_may(serve: Serve, connect: Connect) -> None:
    server = serve(from_where, proxy_protocol="all", trusted_proxies=["127.0.0.0/8"])
    client = connect(server)
    client.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n")
    assert b"203.0.113.7" in client.get().body
