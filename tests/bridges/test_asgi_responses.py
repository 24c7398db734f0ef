"""What an ASGI application says, as clients of a WSGI server get it."""

from __future__ import annotations

import asyncio
import http.client
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sitebus.bridges import to_wsgi
from sitebus.errors import ClientGone, LeftByException, WouldDeadlock
from sitebus.loop import LoopThread
from tests.bridges.apps import body, settled, start
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


def saying(*messages: Any) -> Callable[..., Any]:
    """Answer an application that sends *messages*, and raises those that are errors."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/well":
            await send(start(("content-length", "4")))
            await send(body(b"well"))
            return
        for message in messages:
            if isinstance(message, BaseException):
                raise message
            await send(message)

    return app


def test_the_first_byte_is_out_at_once(kind: str) -> None:
    """Events would otherwise arrive with the next ones."""
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"first", more=True))
        await asyncio.to_thread(go.wait, 10)
        await send(body(b"second"))

    with under_wsgi(kind, app) as host, host.peer() as peer:
        peer.ask("/")
        assert b"second" not in peer.until(b"first")
        go.set()
        peer.until(b"second")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([start(), body(b"")], b""),
        ([start(), body(b"", more=True), body(b"")], b""),
        ([start(), body(b"one")], b"one"),
        ([start(), body(b"one", more=True), body(b"")], b"one"),
        ([start(), body(b"one ", more=True), body(b"", more=True), body(b"two")], b"one two"),
        ([start(), {"type": "http.response.body"}], b""),
        ([start(), body(bytearray(b"a"), more=True), body(memoryview(b" view"))], b"a view"),
        ([start(("content-length", "6")), body(b"abc", more=True), body(b"def")], b"abcdef"),
        ([{"type": "http.response.start", "status": 200}, body(b"bare")], b"bare"),
    ],
)  # fmt: skip
def test_bodies_arrive_whole(kind: str, messages: list[Any], expected: bytes) -> None:
    """In however many pieces they were sent."""
    with under_wsgi(kind, saying(*messages)) as host:
        for _ in range(2):
            answer = host.get("/")
            assert (answer.status, answer.body) == (200, expected)


@pytest.mark.parametrize("status", [200, 204, 299, 304, 404, 599, http.HTTPStatus.CREATED])
def test_any_status_is_one(kind: str, status: int) -> None:
    """With a reason, which WSGI servers insist on."""
    with under_wsgi(kind, saying(start(status=status), body(b""))) as host:
        answer = host.get("/")
    assert answer.status == status
    assert answer.reason == {299: "Unknown", 599: "Unknown"}.get(
        status, http.client.responses.get(status)
    )


def test_headers_arrive_as_they_were(kind: str) -> None:
    """Latin-1 is what headers are made of; cookies come in several."""
    headers = [("x-latin", "caf\xe9"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    app = saying(start(*headers, ("connection", "close"), ("transfer-encoding", "odd")), body(b"x"))
    with under_wsgi(kind, app) as host:
        answer = host.get("/")
    assert answer.header("x-latin") == "caf\xe9"
    assert [value for name, value in answer.headers if name.lower() == "set-cookie"] == [
        "a=1",
        "b=2",
    ]
    assert answer.header("transfer-encoding") != "odd"


@pytest.mark.parametrize(
    "messages",
    [
        [ValueError("no")],
        [start(), ValueError("no")],
        [start(), body(b"", more=True), ValueError("no")],
        [SystemExit(3)],
        [start(), KeyboardInterrupt()],
        [asyncio.CancelledError()],
        [],
        [start()],
        [body(b"x")],
        [start(), start()],
        [{"type": "http.response.start"}],
        [start(status=100)],
        [start(("x", "a\r\ny: b"))],
        [start(("x y", "a"))],
        [start(("content-length", "many")), body(b"")],
        [start(("content-length", "4"), ("content-length", "3")), body(b"abc")],
        [{"type": "http.response.start", "status": 200, "headers": [("x", "y")]}],
        [{"type": "http.response.start", "status": 200, "headers": [b"x"]}],
        [{"type": "http.response.trailers"}],
        [{"status": 200}],
        [start(), body("text")],  # type: ignore[arg-type]
        [start(("content-length", "5")), body(b"abc")],
        [start(("content-length", "1")), body(b"abc")],
        [start(("content-length", "1")), body(b"abc", more=True), body(b"")],
    ],
)
def test_a_failure_before_the_body_is_a_500(kind: str, messages: list[Any]) -> None:
    """The status said before is not true any more; the loop goes on."""
    with under_wsgi(kind, saying(*messages)) as host:
        assert host.get("/").status == 500
        assert host.get("/well").body == b"well"


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"half", more=True), ValueError("no")],
        [start(("content-length", "8")), body(b"half", more=True), ValueError("no")],
        [start(), body(b"half", more=True), SystemExit(3)],
        [start(), body(b"half", more=True)],
        [start(), body(b"half", more=True), start()],
        [start(("content-length", "8")), body(b"half", more=True), body(b"")],
        [start(("content-length", "8")), body(b"half", more=True), body(b"too much")],
    ],
)
def test_a_failure_in_the_body_breaks_the_response_off(kind: str, messages: list[Any]) -> None:
    """No client may take half a page for a whole one."""
    with under_wsgi(kind, saying(*messages)) as host:
        with host.peer() as peer:
            peer.ask("/")
            everything = peer.rest()
            assert b"half" in everything
            assert not everything.endswith(b"0\r\n\r\n")
            assert b"content-length: 8" in everything.lower() or b"chunked" in everything.lower()
        assert host.get("/well").body == b"well"


@pytest.mark.parametrize("messages", [
    [start(("content-length", "4")), body(b"body")],
    [start(("content-length", "4")), body(b"bo", more=True), body(b"dy")],
])  # fmt: skip
def test_nothing_follows_a_head(kind: str, messages: list[Any]) -> None:
    """The client would take a body for its next response."""
    with under_wsgi(kind, saying(*messages)) as host, host.peer() as peer:
        answer = peer.get("/", "HEAD")
        assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", "4")
        assert peer.get("/").body == b"body"


@pytest.mark.parametrize("status", [204, 304])
def test_nothing_follows_a_status_without_a_body(kind: str, status: int) -> None:
    """The same."""
    app = saying(start(status=status), body(b"bo", more=True), body(b"dy"))
    with under_wsgi(kind, app) as host, host.peer() as peer:
        for path in ("/", "/well") if kind == "cheroot" else ("/",):
            answer = peer.get(path)
            assert answer.body == (b"" if path == "/" else b"well")


@pytest.mark.parametrize("status", [204, 304])
def test_no_length_is_told_of_a_body_that_there_cannot_be(kind: str, status: int) -> None:
    """There are servers and proxies that wait for it."""
    app = saying(start(("content-length", "4"), status=status), body(b"body"))
    with under_wsgi(kind, app) as host:
        answer = host.get("/")
    assert (answer.status, answer.body) == (status, b"")
    assert answer.header("content-length") in (None, "0")


def test_a_head_of_an_endless_stream_ends(kind: str) -> None:
    """The client waits for nothing, and the thread neither."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"tick", more=True))
        except OSError as error:
            raised.append(error)

    with under_wsgi(kind, app, threads=1) as host:
        for _ in range(2):
            assert host.get("/", "HEAD").status == 200
        wait_for(lambda: len(raised) == 2)


def test_a_slow_client_slows_the_application() -> None:
    """Memory would fill up otherwise; waitress keeps what it is given in a file instead."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(start())
        for _ in range(1000):
            await send(body(b"x" * 65536, more=True))
            sent += 1
        await send(body(b"end"))

    with under_wsgi("cheroot", app) as host, host.peer() as peer:
        peer.ask("/")
        peer.until(b"xxx")
        assert settled(lambda: sent) < 300, "nobody had read it"
        total = len(peer.received)
        while not peer.received.endswith(b"0\r\n\r\n"):
            came = peer.socket.recv(1 << 20)
            total += len(came)
            peer.received = peer.received[-10:] + came
        assert total > 1000 * 65536


def test_work_after_the_response_holds_up_nobody(kind: str) -> None:
    """The next request of the connection is answered while it goes on."""
    go = threading.Event()
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(("content-length", "2")))
        await send(body(b"ok"))
        if scope["path"] == "/work":
            await asyncio.to_thread(go.wait, 10)
            done.append((await receive())["type"])

    with under_wsgi(kind, app, threads=1) as host:
        assert host.bridge is not None
        with host.peer() as peer:
            assert peer.get("/work").body == b"ok"
            assert peer.get("/").body == b"ok"
        assert not host.bridge.wait_idle(0)
        assert host.bridge.running == 1
        assert done == []
        go.set()
        assert host.bridge.wait_idle(10)
    assert done == ["http.disconnect"]


def test_failing_after_the_response_is_only_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has its answer."""
    app = saying(start(("content-length", "2")), body(b"ok"), ValueError("too late"))
    with under_wsgi(kind, app) as host, host.peer() as peer:
        assert peer.get("/").body == b"ok"
        assert peer.get("/").body == b"ok"
    told = [each for each in caplog.records if each.name == "sitebus.bridges"]
    assert len(told) == 2
    assert told[0].levelno == logging.ERROR
    assert "too late" in str(told[0].exc_info)


@pytest.mark.parametrize("sends", [b"x" * 65536, b"tick"])
def test_a_client_that_leaves_ends_the_stream(kind: str, sends: bytes) -> None:
    """Whether or not the application waits for it."""
    raised: list[BaseException] = []
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(sends, more=True))
                await asyncio.sleep(0.001)
        except OSError as error:
            raised.append(error)
            received.append((await receive())["type"])
            received.append((await receive())["type"])
            raise

    with under_wsgi(kind, app) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(sends[:4])
            peer.leave()
        wait_for(lambda: len(received) == 2)
    assert isinstance(raised[0], ClientGone)
    assert received[-1] == "http.disconnect"


def test_who_waits_for_the_client_to_leave_is_told(kind: str) -> None:
    """Frameworks wait for it beside the stream."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive()) == {"type": "http.request", "body": b"", "more_body": False}

        async def stream() -> None:
            await send(start())
            while True:
                await send(body(b"tick", more=True))
                await asyncio.sleep(0.001)

        streaming = asyncio.ensure_future(stream())
        heard.append((await receive())["type"])
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)

    with under_wsgi(kind, app) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"tick")
            peer.leave()
        wait_for(lambda: heard)
    assert heard == ["http.disconnect"]


def test_a_task_that_does_not_notice_is_cancelled(kind: str) -> None:
    """It would wait for ever, and so would every other that was left in this way."""
    go = threading.Event()
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(scope["path"])
                raise

        async def stream() -> None:
            await send(start())
            while not go.is_set():
                await send(body(b"tick", more=True))
                await asyncio.sleep(0.001)

        streaming = asyncio.ensure_future(stream())
        try:
            await waits()
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)

    with under_wsgi(kind, app) as host:
        for number in range(4):
            with host.peer() as peer:
                peer.ask(f"/{number}")
                peer.until(b"tick")
                peer.leave()
        wait_for(lambda: len(ended) == 4)
    assert sorted(ended) == ["/0", "/1", "/2", "/3"]


def test_a_stop_cancels_what_does_not_end() -> None:
    """A drain has a deadline."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/work":
            await send(start(("content-length", "2")))
            await send(body(b"ok"))
        await asyncio.Event().wait()

    with under_wsgi("cheroot", app) as host, host.peer() as waiting:
        assert host.bridge is not None
        assert host.get("/work").body == b"ok"
        waiting.ask("/waits")
        wait_for(lambda: host.bridge is not None and host.bridge.running == 2)
        assert not host.bridge.stop(0.05)
        assert waiting.answer().status == 500
        assert host.bridge.wait_idle(10)


def test_a_call_on_the_loop_itself_is_refused() -> None:
    """It would wait for itself, and every other request with it."""

    async def called() -> None:
        bridge(environ_of(), nothing)

    loop = LoopThread()
    bridge = to_wsgi(saying(start(), body(b"x")), lambda: loop.loop)
    try:
        with pytest.raises(WouldDeadlock, match=r"asyncio\.to_thread"):
            loop.submit(called()).result(10)
        assert bridge.wait_idle(10)
        assert list(bridge(environ_of(), nothing)) == [b"x"]
    finally:
        loop.stop()


def test_a_request_that_is_cancelled_before_it_begins_is_over() -> None:
    """Its thread would wait for good, and so would whoever waits for all to end."""
    held, go = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        go.wait(10)

    failed: list[BaseException] = []

    def ask() -> None:
        try:
            bridge(environ_of(), nothing)
        except LeftByException as error:
            failed.append(error)

    loop = LoopThread()
    bridge = to_wsgi(saying(start(), body(b"x")), lambda: loop.loop)
    asking = threading.Thread(target=ask, daemon=True)
    try:
        loop.submit(hold())
        assert held.wait(10)
        asking.start()
        wait_for(lambda: bridge.running == 1)
        assert not bridge.stop(0)
        go.set()
        assert bridge.wait_idle(5)
        asking.join(10)
        assert len(failed) == 1
    finally:
        go.set()
        loop.stop()


def test_a_request_that_begins_as_the_loop_ends_is_over() -> None:
    """A host's threads may go on asking while the engine ends."""
    failed: list[BaseException] = []
    begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    def ask() -> None:
        try:
            bridge(environ_of(), nothing)
        except LeftByException as error:
            failed.append(error)

    async def end_late() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asking.start()  # after the look at what runs
            await asyncio.to_thread(begun.wait, 10)
            raise

    loop = LoopThread()
    bridge = to_wsgi(app, lambda: made)
    made = loop.loop
    asking = threading.Thread(target=ask, daemon=True)
    loop.submit(end_late())
    loop.stop()
    asking.join(10)
    assert len(failed) == 1
    assert bridge.wait_idle(5)
