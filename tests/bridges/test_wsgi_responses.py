"""What a WSGI application says, as clients of an ASGI server get it."""

from __future__ import annotations

import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.bridges.apps import PLAIN, Body, answering, settled
from tests.bridges.hosts import Host, under_asgi
from tests.helpers import wait_for


def test_the_first_byte_is_out_at_once(kind: str) -> None:
    """Events would otherwise arrive with the next ones."""
    go = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        assert go.wait(10)
        yield b"second"

    with under_asgi(kind, answering(chunks)) as host, host.peer() as peer:
        peer.ask("/")
        assert b"second" not in peer.until(b"first")
        go.set()
        peer.until(b"second")


def test_the_iterable_is_closed_once_and_in_its_thread(kind: str) -> None:
    """Connections of databases belong to threads."""
    bodies: list[Body] = []

    def make() -> Body:
        bodies.append(Body([b"a", b"", b"b"]))
        return bodies[-1]

    with under_asgi(kind, answering(make)) as host:
        assert host.get("/").body == b"ab"
        assert host.get("/").body == b"ab"
        wait_for(lambda: all(body.closed for body in bodies))
    assert [len(body.closed) for body in bodies] == [1, 1]
    assert bodies[0].closed[0].startswith("bridge ")


@pytest.mark.parametrize("where", ["call", "after start", "first chunk", "exit", "no start"])
def test_a_failure_before_the_body_is_a_500(
    kind: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The status said before is not true any more."""
    bodies: list[Body] = []

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/well":
            start_response("200 OK", PLAIN)
            return [b"well"]
        if where == "no start":
            return [b"body"]
        if where == "exit":
            raise SystemExit(3)
        if where == "call":
            raise ValueError(where)
        start_response("200 OK", PLAIN)
        if where == "after start":
            raise ValueError(where)
        bodies.append(Body([b""], ValueError(where)))
        return bodies[-1]

    with under_asgi(kind, app) as host:
        assert host.get("/").status == 500
        assert host.get("/well").body == b"well"
        if bodies:
            wait_for(lambda: len(bodies[0].closed) == 1)


def test_a_failure_in_the_body_breaks_the_response_off(kind: str) -> None:
    """No client may take half a page for a whole one."""
    bodies: list[Body] = []

    def make() -> Body:
        bodies.append(Body([b"half"], ValueError()))
        return bodies[-1]

    for headers in (PLAIN, [*PLAIN, ("Content-Length", "8")]):
        with under_asgi(kind, answering(make, headers=headers)) as host:
            with host.peer() as peer, pytest.raises((http.client.IncompleteRead, OSError)):
                peer.get("/")
            with host.peer() as peer:
                peer.ask("/")
                assert b"half" in peer.rest()
                assert not peer.received.endswith(b"0\r\n\r\n")
            wait_for(lambda: all(body.closed for body in bodies))
    assert [len(body.closed) for body in bodies] == [1] * 4


def test_exc_info_replaces_what_was_said(kind: str) -> None:
    """As long as nothing is out, an application may think better of it."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Try Later", [("X-Second", "2")], sys.exc_info())
        return [b"later"]

    with under_asgi(kind, app) as host:
        answer = host.get("/")
    assert (answer.status, answer.body) == (503, b"later")
    assert (answer.header("x-first"), answer.header("x-second")) == (None, "2")


def test_exc_info_is_raised_once_the_body_is_out(kind: str) -> None:
    """The application learns that it is too late."""
    caught: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"out"
        try:
            raise KeyError("mine")
        except KeyError:
            try:
                start_response("500 No", PLAIN, sys.exc_info())
            except KeyError as error:
                caught.append(error)
                raise

    with under_asgi(kind, app) as host, host.peer() as peer:
        peer.ask("/")
        assert b"out" in peer.rest()
    assert str(caught[0]) == "'mine'"


@pytest.mark.parametrize("again", ["a second start", "late start", "late write"])
def test_a_call_that_may_not_be_is_refused(kind: str, again: str) -> None:
    """On a kept-alive connection it would land in somebody else's response."""
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append((start_response, start_response("200 OK", PLAIN)))
        if again == "a second start":
            start_response("200 OK", PLAIN)
        return [b"done"]

    with under_asgi(kind, app) as host:
        assert host.get("/").status == (500 if again == "a second start" else 200)
        with pytest.raises(RuntimeError, match="complete"):
            kept[0][0]("200 OK", PLAIN) if again == "late start" else kept[0][1](b"late")


def test_write_sends_at_once_and_in_order(kind: str) -> None:
    """Old applications stream by it."""
    go = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        write(b"one ")
        assert go.wait(10)
        write(b"two ")
        return [b"three"]

    with under_asgi(kind, app) as host, host.peer() as peer:
        peer.ask("/")
        peer.until(b"one ")
        go.set()
        peer.until(b"three")
        assert host.get("/").body == b"one two three"


def test_no_body_at_all_is_a_response(kind: str) -> None:
    """Empty pages are pages."""
    empty: list[Callable[[], Any]] = [
        list, tuple, lambda: iter([]), lambda: [b""], lambda: iter([b"", b""])
    ]  # fmt: skip

    def app(environ: Any, start_response: Any) -> Any:
        make = empty[int(environ["PATH_INFO"][1:])]
        return answering(make, environ["QUERY_STRING"])(environ, start_response)

    with under_asgi(kind, app) as host, host.peer() as peer:
        for number in range(len(empty)):
            for status in (200, 204):
                answer = peer.get(f"/{number}?{status}")
                assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize("status", ["200", "200 ", "299 Unheard Of"])
def test_a_status_needs_no_reason(kind: str, status: str) -> None:
    """The number is all that clients read."""
    with under_asgi(kind, answering(lambda: [b"x"], status)) as host:
        assert host.get("/").status == int(status[:3])


def test_headers_arrive_as_they_were(kind: str) -> None:
    """Latin-1 is what headers are made of; cookies come in several."""
    headers = [
        ("X-Latin", "caf\xe9"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("X-Tab", "a\tb"),
    ]
    with under_asgi(kind, answering(lambda: [b"x"], headers=headers)) as host:
        answer = host.get("/")
    assert answer.header("x-latin") == "caf\xe9"
    assert answer.header("x-tab") == "a\tb"
    cookies = [value for name, value in answer.headers if name.lower() == "set-cookie"]
    assert cookies == ["a=1; Path=/", "b=2"]


BAD: list[tuple[Any, Any]] = [
    ("200 OK", [("X", "a\r\nY: b")]),
    ("200 OK", [("X\n", "a")]),
    ("200 OK", [("X", 1)]),
    ("200 OK", [["X", "a"]]),
    ("200 OK", [("X", "\u20ac")]),
    ("200 OK", [("", "a")]),
    ("200 OK", [("Content-Length", "many")]),
    ("200 OK", [("Content-Length", "-1")]),
    ("200 OK", [("Content-Length", "+1")]),
    ("200 OK", [("Content-Length", "2"), ("Content-Length", "1")]),
    (200, []),
    ("abc", []),
    ("2000 OK", []),
    ("100 Continue", []),
]


@pytest.mark.parametrize(("status", "headers"), BAD)
def test_a_head_that_cannot_be_sent_is_a_500(status: Any, headers: Any) -> None:
    """A line's end in a header would begin another, or the body."""
    app = answering(lambda: [b"x"], status, headers)
    with under_asgi("uvicorn", app) as host, host.peer() as peer:
        assert peer.get("/").status == 500


@pytest.mark.parametrize("body", [None, "text", b"bytes", ["text"], iter(["text"]), 5])
def test_a_body_that_is_none_is_a_500(body: Any) -> None:
    """There is nothing that could be sent."""
    with under_asgi("uvicorn", answering(lambda: body)) as host:
        assert host.get("/").status == 500


@pytest.mark.parametrize("make", [lambda: [b"body"], lambda: iter([b"", b"bo", b"dy"])])
def test_nothing_follows_a_head(kind: str, make: Callable[[], Any]) -> None:
    """The client would take a body for its next response."""

    def app(environ: Any, start_response: Any) -> Any:
        status = environ["QUERY_STRING"].replace("+", " ")
        start_response(status, [*PLAIN, ("Content-Length", "4")])
        return make()

    asked = [("HEAD", "200+OK"), ("GET", "204+No+Content"), ("GET", "304+Not+Modified")]
    with under_asgi(kind, app) as host:
        for method, status in asked:
            with host.peer() as peer:
                answer = peer.get(f"/?{status}", method)
                assert (answer.status, answer.body) == (int(status[:3]), b"")
                assert peer.get("/?200+OK").body == b"body"
                if method == "HEAD":
                    assert answer.header("content-length") == "4"


def test_a_list_of_the_wrong_length_is_a_500(kind: str) -> None:
    """Nothing is out yet, so nobody need be cut off."""
    for promised in ("3", "5"):
        headers = [("Content-Length", promised)]
        with under_asgi(kind, answering(lambda: [b"body"], headers=headers)) as host:
            assert host.get("/").status == 500


def test_a_stream_of_the_wrong_length_is_broken_off(kind: str) -> None:
    """What is too much would be taken for the next response, too little waited for."""
    for promised, chunks in (("6", [b"bod", b"y"]), ("2", [b"b", b"ody"])):
        headers = [("Content-Length", promised)]
        app = answering(lambda chunks=chunks: iter(chunks), headers=headers)  # type: ignore[misc]
        broken = pytest.raises((http.client.IncompleteRead, OSError))
        with under_asgi(kind, app) as host, host.peer() as peer, broken:
            peer.get("/")


def test_a_failing_close_costs_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The response is complete by then; only the log may know."""

    class Unclosable(Body):
        def close(self) -> None:
            raise SystemExit("closing")

    with under_asgi(kind, answering(lambda: Unclosable([b"x"]))) as host, host.peer() as peer:
        for _ in range(3):
            assert peer.get("/").body == b"x"
        wait_for(lambda: len(caplog.records) == 3, what=f"{caplog.records}")
    assert {record.name for record in caplog.records} == {"sitebus.bridges"}


def test_a_slow_client_slows_the_application(kind: str) -> None:
    """Memory would fill up otherwise."""
    body = Body(b"x" * 65536 for _ in range(1000))
    with under_asgi(kind, answering(lambda: body)) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"xxx")
            made = settled(lambda: body.made)
            assert made < 300, "the whole body was made while nobody read"
        wait_for(lambda: body.closed)


def test_hosts_are_what_they_say(kind: str) -> None:
    """A bridge that was never crossed would pass everything."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return [environ["asgi.scope"]["type"].encode()]

    with under_asgi(kind, app) as host:
        assert isinstance(host, Host)
        assert host.get("/").body == b"http"
