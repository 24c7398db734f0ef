"""What is refused before an application sees it, and how long a client may take."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from sitebus.servers._uvicorn_strict import (
    check_fields,
    check_lines,
    check_together,
    checked,
    is_host,
    parts_of,
)
from sitebus.servers.heads import Refusal
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conftest import Logged
from tests.servers.shop import HELLO, Shop
from tests.servers.uvicorn_fixtures import Host, answer, host, loop_kind, shop

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "loop_kind", "shop"]

POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest) -> dict[str, str]:
    pytest.importorskip(request.param)
    return {"http": request.param}


class Seen:
    """An application that remembers what it was asked."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        await answer(send, HELLO)


# The rules.


@pytest.mark.parametrize(
    "value", [b"", b"a", b"a.example:80", b"[::1]:8080", b"127.0.0.1", b"a%20b", b"x_y"]
)
def test_a_host(value: bytes) -> None:
    assert is_host(value)


@pytest.mark.parametrize(
    "value", [b"a b", b"a/b", b"a@b", b"a:b", b"[::1", b"a%zz", b"\xe9", b"a:1:2", b"a\\b", b"a?b"]
)
def test_no_host(value: bytes) -> None:
    assert not is_host(value)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"content-length", b"+5", 400),
        (b"content-length", b"", 400),
        (b"content-length", b"5,5", 400),
        (b"content-length", b"9" * 19, 400),
        (b"transfer-encoding", b"gzip, chunked", 501),
        (b"transfer-encoding", b"identity", 501),
        (b"host", b"a b", 400),
    ],
)
def test_a_field_that_is_refused(name: bytes, value: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        checked(name, value)
    assert caught.value.status == status


def test_blanks_around_a_value_are_none_of_it() -> None:
    assert checked(b"content-length", b" 5\t") == b"5"


@pytest.mark.parametrize(
    ("version", "names", "status"),
    [
        ("1.1", [], 400),
        ("1.1", [b"host", b"content-length", b"transfer-encoding"], 400),
        ("1.0", [b"transfer-encoding"], 400),
        ("0.9", [b"host"], 505),
        ("2.0", [b"host"], 505),
    ],
)
def test_fields_that_do_not_go_together(version: str, names: list[bytes], status: int) -> None:
    with pytest.raises(Refusal) as caught:
        check_together(version, dict.fromkeys(names, b""))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (b"/a?b", (b"/a?b", None)),
        (b"http://host:80/a?b", (b"/a?b", b"host:80")),
        (b"HTTPS://host?b", (b"/?b", b"host")),
        (b"http://host", (b"/", b"host")),
    ],
)
def test_a_target(target: bytes, found: tuple[bytes, bytes | None]) -> None:
    assert parts_of(b"GET", target) == found


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"CONNECT", b"a:80", 405),
        (b"get", b"/", 400),
        (b"GeT", b"/", 400),
        (b"GET", b"*", 400),
        (b"GET", b"a", 400),
        (b"GET", b"ftp://a/", 400),
        (b"GET", b"http:///a", 400),
        (b"GET", b"http://u@a/", 400),
        (b"GET", b"/a#b", 400),
    ],
)
def test_a_target_that_is_refused(method: bytes, target: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        parts_of(method, target)
    assert caught.value.status == status


@pytest.mark.parametrize("head", [b"a\nb", b"a\rb", b"a\0b", b"a\r\n b", b"a\r\n\tb"])
def test_lines_that_others_read_otherwise(head: bytes) -> None:
    with pytest.raises(Refusal):
        check_lines(head)


def test_a_head_may_end_anywhere() -> None:
    """The rest of it is on its way."""
    check_lines(b"GET / HTTP/1.1\r")
    check_lines(b"GET / HTTP/1.1\r\n")


def test_a_single_field_is_there_once() -> None:
    with pytest.raises(Refusal):
        check_fields([(b"host", b"a"), (b"host", b"a")])
    assert check_fields([(b"x", b"a"), (b"x", b"a")]) == 2 * [(b"x", b"a")]


# The same from outside.

REFUSED = {
    "both": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "no length": POST + b"Content-Length: five\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "no host, a length": b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a strange host": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a folded line": POST + b"X: a\r\n b\r\n\r\n",
    "a bare LF": POST + b"X: a\nY: b\r\n\r\n",
    "a bare CR": POST + b"X: a\rb\r\n\r\n",
    "a NUL": POST + b"X: a\0b\r\n\r\n",
    "a blank in a name": POST + b"X : a\r\n\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a small method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_refused(
    host: Host, parser: dict[str, str], connect: Connect, logged: Logged, name: str, size: int
) -> None:
    """At once, whatever pieces it comes in; the log says whom and why, in one line."""
    seen = Seen()
    client = connect(host(seen, native=parser))
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(REFUSED[name]), size):
        client.send(REFUSED[name][start : start + size])

    told = client.answer()

    assert told.status in (400, 405, 501, 505)
    assert told.closes
    assert len(told.body) < 200
    assert client.is_closed()
    assert not seen.scopes
    lines = [message for level, message in logged if level == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("Refused a request from 127.0.0.1: ")


@pytest.mark.parametrize("extension", [b"a\rb", b"a\0b", b"a\nb"])
def test_a_chunk_that_others_read_otherwise(
    host: Host, parser: dict[str, str], connect: Connect, extension: bytes
) -> None:
    """What follows may be another request for them."""
    client = connect(host(native=parser))
    client.send(
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + extension + b"\r\nhello\r\n0\r\n\r\n"
    )

    assert client.answer().status == 400
    assert client.is_closed()


def test_those_before_it_are_answered(host: Host, parser: dict[str, str], connect: Connect) -> None:
    client = connect(host(native=parser))
    client.send(3 * b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + REFUSED["no host"])
    said = b""
    while more := client.socket.recv(65536):
        said += more

    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.count(HELLO) == 3


@pytest.mark.parametrize("earlier", [1, 3])
def test_a_broken_body_behind_others_costs_none_of_their_answers(
    host: Host, parser: dict[str, str], connect: Connect, shop: Shop, earlier: int
) -> None:
    """It has its own, when its turn comes."""
    client = connect(host(native=parser))
    client.ask("/gate")
    shop.entered.wait()
    broken = POST + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n"
    client.send((earlier - 1) * b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + broken)
    shop.opened.give()
    said = b""
    while more := client.socket.recv(65536):
        said += more

    assert said.count(HELLO) == earlier
    assert said.count(b"HTTP/1.1 200 OK") == earlier
    assert said.count(b"HTTP/1.1 400 Bad Request") == 1
    assert said.lower().count(b"connection: close") == 1


def test_a_url_for_a_target_is_taken_apart(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """As of a request that was meant for a proxy; its host counts."""
    seen = Seen()
    client = connect(host(seen, native=parser))
    client.send(b"GET http://b.example/x%20y?z HTTP/1.1\r\nHost: a\r\n\r\n")

    assert client.answer().status == 200
    (scope,) = seen.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/x y", b"/x%20y", b"z")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"b.example"]


def test_what_comes_behind_a_body_is_no_header(
    host: Host, parser: dict[str, str], connect: Connect
) -> None:
    """It was sent after the checks of those who read the head."""
    seen = Seen()
    client = connect(host(seen, native=parser))
    chunks = b"1\r\nx\r\n0\r\nHost: evil\r\nX-User: root\r\n\r\n"
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)

    assert client.answer().status == 200
    names = [name for name, _ in seen.scopes[0]["headers"]]
    assert names == [b"host", b"transfer-encoding"]
    assert client.get().status == 200


# Time.


@pytest.mark.parametrize("size", [5, 20])
def test_a_slow_head_is_given_up(
    host: Host, loop_kind: str, parser: dict[str, str], connect: Connect, size: int
) -> None:
    """Also of one who sends a little all the time, and also of a second request."""
    client = connect(host(native=parser, header_timeout=0.3, timeout=10.0))
    assert client.get().body == HELLO
    began = time.monotonic()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n"[:size])
    client.socket.settimeout(0.05)
    while time.monotonic() - began < 5:
        try:
            assert client.socket.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            client.send(b"X")
    client.socket.settimeout(5)

    told = client.answer()

    assert (told.status, told.closes) == (408, True)
    assert 0.2 < time.monotonic() - began < 2


def test_a_head_may_take_longer_than_silence(
    host: Host, loop_kind: str, parser: dict[str, str], connect: Connect
) -> None:
    """Where that is allowed, and as long as something comes; who stops is given up."""
    client = connect(host(native=parser, header_timeout=0, timeout=0.4))
    client.socket.settimeout(0.15)
    client.send(b"GET / HTTP/1.1\r\nHost: ")
    for _ in range(8):
        client.send(b"a")
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
    client.socket.settimeout(5)

    assert client.answer().status == 408


def test_a_head_in_time_leaves_no_timer(
    host: Host, loop_kind: str, parser: dict[str, str], connect: Connect
) -> None:
    """The connection is as good as any."""
    server = host(native=parser, header_timeout=0.3, timeout=10.0)
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\n")
    wait_for(lambda: any(each.head_timer for each in server.httpserver._crowd))
    client.send(b"Host: a\r\n\r\n")
    assert client.answer().body == HELLO

    client.socket.settimeout(0.6)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)


def test_a_body_that_does_not_come_is_given_up(
    host: Host, loop_kind: str, parser: dict[str, str], connect: Connect
) -> None:
    """Its application would wait for ever."""
    client = connect(host(native=parser, timeout=0.4))
    client.send(POST + b"Content-Length: 5\r\n\r\n123")

    assert client.answer().status == 408


def test_a_slow_body_is_waited_for(
    host: Host, loop_kind: str, parser: dict[str, str], connect: Connect
) -> None:
    """Whoever goes on may take its time."""
    client = connect(host(native=parser, timeout=0.6))
    client.send(POST + b"Content-Length: 6\r\n\r\n")
    client.socket.settimeout(0.3)
    for _ in range(5):
        client.send(b"x")
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
    client.send(b"x")
    client.socket.settimeout(5)

    assert client.answer().body == 6 * b"x"


def test_who_was_not_asked_for_a_body_is_not_late(
    host: Host, loop_kind: str, parser: dict[str, str], shop: Shop, connect: Connect
) -> None:
    """It waits for a word of the application's."""
    client = connect(host(native=parser, timeout=0.2))
    client.send(
        b"POST /gate HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    shop.entered.wait()
    client.socket.settimeout(0.6)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    shop.opened.give()
    client.socket.settimeout(5)

    assert client.answer().body == HELLO


def test_who_does_not_read_the_answer_is_given_up(
    host: Host, loop_kind: str, parser: dict[str, str], shop: Shop, connect: Connect
) -> None:
    server = host(native=parser, timeout=0.4)
    client = connect(server)
    client.ask("/endless")

    shop.left.wait()

    wait_for(lambda: not server.httpserver._crowd)
