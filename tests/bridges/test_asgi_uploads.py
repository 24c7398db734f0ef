"""Bodies of requests for ASGI applications under WSGI servers, contexts, and many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import threading
import time
from typing import Any

import pytest

from sitebus.bridges import to_wsgi
from sitebus.bridges.incoming import PIECE, Incoming, available
from sitebus.errors import ClientGone, LoopEnded
from sitebus.loop import LoopThread
from tests.bridges.apps import body, chunked, start
from tests.bridges.hosts import WSGI_HOSTS, under_wsgi
from tests.helpers import wait_for
from tests.wsgi_helpers import environ_of, nothing

# What cheroot could not write to a client that has gone is told by Python 3.13.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*IOBase.__del__:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(params=WSGI_HOSTS)
def kind(request: pytest.FixtureRequest) -> str:
    """A WSGI server."""
    return str(request.param)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer the request's body."""
    pieces = []
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        assert message["body"] or not message["more_body"]
        pieces.append(message["body"])
        more = message["more_body"]
    whole = b"".join(pieces)
    await send(start(("content-length", str(len(whole)))))
    await send(body(whole))


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 500_000])
def test_bodies_arrive_whole(kind: str, size: int) -> None:
    """With a length."""
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with under_wsgi(kind, echo) as host, host.peer() as peer:
        for _ in range(2):
            answer = peer.get("/", "POST", f"Content-Length: {size}\r\n", sent)
            assert (answer.status, answer.body == sent) == (200, True)


@pytest.mark.parametrize("pieces", [[], [b"one"], [b"o", b"n", b"e"], [b"x" * 100_000] * 5])
def test_chunked_bodies_arrive_whole(kind: str, pieces: list[bytes]) -> None:
    """Without one."""
    with under_wsgi(kind, echo) as host:
        head = "Transfer-Encoding: chunked\r\n"
        answer = host.get("/", "POST", head, chunked(*pieces))
        assert (answer.status, answer.body == b"".join(pieces)) == (200, True)


@pytest.mark.parametrize(
    ("head", "first", "rest"),
    [
        ("Content-Length: 10\r\n", b"12345", b"67890"),
        ("Transfer-Encoding: chunked\r\n", chunked(b"12345")[:-5], chunked(b"67890")),
    ],
)
def test_a_piece_arrives_as_it_came(head: str, first: bytes, rest: bytes) -> None:
    """Uploads are worked on while they come; waitress gathers them before it asks anybody."""
    came: list[bytes] = []
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            came.append(message["body"])
            more = message["more_body"]
            go.set()
        await send(start())
        await send(body(b"".join(came)))

    with under_wsgi("cheroot", app) as host, host.peer() as peer:
        peer.ask("/", "POST", head, first)
        assert go.wait(10)
        assert came == [b"12345"]
        peer.send(rest)
        assert peer.answer().body == b"1234567890"


def test_nothing_is_read_that_nobody_asks_for() -> None:
    """The application may have its answer before the client has sent anything."""
    answered = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(("content-length", "2")))
        await send(body(b"no"))
        answered.set()

    with under_wsgi("cheroot", app) as host, host.peer() as peer:
        peer.ask("/", "POST", "Content-Length: 10\r\n")
        assert answered.wait(10)
        peer.send(b"x" * 10)  # cheroot sends nothing before it has read everything
        assert peer.answer().body == b"no"


@pytest.mark.parametrize(
    ("head", "first"),
    [
        ("Content-Length: 10\r\n", b"12345"),
        ("Transfer-Encoding: chunked\r\n", chunked(b"12345")[:-5]),
        ("Transfer-Encoding: chunked\r\n", b"ff\r\n12345"),
    ],
)
def test_an_upload_that_is_broken_off_is_a_disconnect(head: str, first: bytes) -> None:
    """Half a document saved as a whole one is worse than none."""
    heard: list[str] = []
    begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not heard:
            begun.set()
            message = await receive()
            if message["type"] == "http.disconnect" or not message["more_body"]:
                heard.append(message["type"])

    with under_wsgi("cheroot", app) as host:
        with host.peer() as peer:
            peer.ask("/", "POST", head, first)
            assert begun.wait(10)
            peer.leave()
        wait_for(lambda: heard)
    assert heard == ["http.disconnect"]


def test_the_news_of_a_client_that_left_is_told_to_everybody_who_asks() -> None:
    """A task that watches for it would wait for good, and the application for that task."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"] for _ in range(3)])

    loop = LoopThread()
    environ = environ_of(CONTENT_LENGTH="10")
    environ["wsgi.input"] = io.BytesIO(b"12345")
    bridge = to_wsgi(app, lambda: loop.loop)
    asking = threading.Thread(target=_failing, args=(bridge, environ), daemon=True)
    asking.start()
    try:
        wait_for(lambda: len(heard) == 3)
        asking.join(10)
    finally:
        loop.stop()
    assert heard == ["http.request", "http.disconnect", "http.disconnect"]


def _failing(bridge: Any, environ: Any) -> None:
    with contextlib.suppress(ClientGone):
        bridge(environ, nothing)


def test_several_may_receive(kind: str) -> None:
    """Frameworks do, and cancel the one that they no longer want."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        messages = [await receive()]
        while messages[-1]["more_body"]:
            messages.append(await receive())
        leaving = asyncio.ensure_future(receive())
        other = asyncio.ensure_future(receive())
        await send(start())
        await send(body(b"".join(each["body"] for each in messages)))
        assert (await leaving)["type"] == (await other)["type"] == "http.disconnect"

    with under_wsgi(kind, app) as host:
        assert host.get("/", "POST", "Content-Length: 5\r\n", b"12345").body == b"12345"


def test_both_ways_at_once() -> None:
    """Some protocols answer each message as it comes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"hello ", more=True))
        while (message := await receive())["more_body"]:
            await send(body(message["body"].upper(), more=True))
        await send(body(b"bye"))

    with under_wsgi("cheroot", app) as host, host.peer() as peer:
        peer.ask("/", "POST", "Transfer-Encoding: chunked\r\n")
        peer.until(b"hello ")
        for line in (b"one\n", b"two\n"):
            peer.send(chunked(line)[:-5])
            peer.until(line.upper())
        peer.send(b"0\r\n\r\n")
        peer.until(b"bye")


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_context_variables_never_leak(kind: str) -> None:
    """Who is logged in must not be somebody else's answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen = [VARIABLE.get()]
        VARIABLE.set("application")
        await receive()
        seen.append(VARIABLE.get())
        await send(start())
        await send(body(" ".join(seen).encode()))

    def wsgi(environ: Any, start_response: Any) -> Any:
        VARIABLE.set("the thread's")  # as middleware does that forgets to reset it
        return bridge(environ, start_response)

    loop = LoopThread()
    bridge = to_wsgi(app, lambda: loop.loop)
    try:
        for _ in range(3):
            environ = environ_of(CONTENT_LENGTH="3")
            environ["wsgi.input"] = io.BytesIO(b"abc")
            said = contextvars.copy_context().run(wsgi, environ, nothing)
            assert list(said) == [b"unset application"]
    finally:
        loop.stop()
    with under_wsgi(kind, app, threads=1) as host, host.peer() as peer:
        for _ in range(3):
            assert peer.get("/").body == b"unset application"


@pytest.mark.slow
def test_twenty_requests_of_a_fifth_of_a_second_take_two_fifths(kind: str) -> None:
    """They wait for each other in the server's threads and nowhere else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await send(start(("content-length", "1")))
        await send(body(b"x"))

    with under_wsgi(kind, app, threads=10) as host:
        peers = [host.peer() for _ in range(20)]
        begun = time.monotonic()
        for peer in peers:
            peer.ask("/")
        for peer in peers:
            assert peer.answer().status == 200
            peer.socket.close()
        assert 0.39 < time.monotonic() - begun < 0.6


# Without a server.


def test_a_loop_that_has_ended_is_said_so() -> None:
    """The thread must not wait for it."""
    loop = LoopThread()
    stopped = loop.loop
    loop.stop(for_good=True)
    for ended in (lambda: loop.loop, lambda: stopped):
        bridge = to_wsgi(echo, ended)
        with pytest.raises((LoopEnded, RuntimeError)):
            bridge(environ_of(), nothing)
        assert bridge.running == 0


def test_a_server_that_refuses_the_headers_ends_the_task() -> None:
    """Nobody will take what follows."""
    ended: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x" * 1000, more=True))
        except OSError as error:
            ended.append(error)

    def refuse(*_: object) -> Any:
        raise ValueError("refused")

    loop = LoopThread()
    bridge = to_wsgi(app, lambda: loop.loop)
    try:
        with pytest.raises(ValueError, match="refused"):
            bridge(environ_of(), refuse)
        assert bridge.wait_idle(10)
    finally:
        loop.stop()
    assert len(ended) == 1


def test_a_body_that_nobody_closes_ends_the_task() -> None:
    """Some servers drop what they iterate when the client leaves."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        while True:
            await send(body(b"x" * 100_000, more=True))

    loop = LoopThread()
    bridge = to_wsgi(app, lambda: loop.loop)
    try:
        said: Any = iter(bridge(environ_of(), nothing))
        assert next(said) == b"x" * 100_000
        del said
        assert bridge.wait_idle(10)
    finally:
        loop.stop()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, []),
        ({"CONTENT_LENGTH": ""}, []),
        ({"CONTENT_LENGTH": "0"}, []),
        ({"CONTENT_LENGTH": "3"}, [(b"abc", False)]),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, []),
        (
            {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
            [(b"abcdef", True), (b"", False)],
        ),
        (
            {"SERVER_PROTOCOL": "HTTP/2.0", "wsgi.input_terminated": True},
            [(b"abcdef", True), (b"", False)],
        ),
    ],
)  # fmt: skip
def test_how_long_a_body_is(extra: dict[str, Any], expected: list[tuple[bytes, bool]]) -> None:
    """Reading beyond its end would wait for the next request."""
    environ = environ_of(**extra)
    environ["wsgi.input"] = io.BytesIO(b"abcdef")
    incoming = Incoming(environ)
    found = []
    while not incoming.ended:
        message = incoming.read()
        found.append((message["body"], message["more_body"]))
    assert found == expected


def test_any_stream_will_do() -> None:
    """PEP 3333 asks for no more than ``read``."""

    class Plain:
        def read(self, size: int) -> bytes:
            return b"x" * size

    assert available(Plain(), 3) == b"xxx"


def test_requests_leave_nothing_for_the_collector() -> None:
    """Cycles would make it stop the process in the middle of other requests."""
    import gc

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError

    loop = LoopThread()
    try:
        for app in (echo, failing):
            bridge = to_wsgi(app, lambda: loop.loop)
            gc.collect()
            gc.disable()
            for _ in range(50):
                try:
                    list(bridge(environ_of(), nothing))
                except KeyError:
                    assert app is failing
            assert bridge.wait_idle(10)
            assert gc.collect() < 50
    finally:
        gc.enable()
        loop.stop()
