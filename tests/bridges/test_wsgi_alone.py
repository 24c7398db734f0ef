"""WSGI under ASGI, message by message."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from sitebus.bridges import Threads, to_asgi
from sitebus.errors import BadMessage, LeftByException, WrongLength
from tests.bridges.apps import PLAIN, Body, answering, ask, scope_of, ticking
from tests.helpers import wait_for


def test_lifespan_is_agreed_to(threads: Threads) -> None:
    """Servers that insist on it can serve WSGI too."""
    bridge = to_asgi(answering(lambda: [b""]), threads)
    asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said = ask(bridge, {"type": "lifespan"}, *asked)
    assert [each["type"] for each in said] == [
        "lifespan.startup.complete", "lifespan.shutdown.complete"
    ]  # fmt: skip


def test_a_websocket_is_refused(threads: Threads) -> None:
    """WSGI has none; the client gets a 403."""
    bridge = to_asgi(answering(lambda: [b""]), threads)
    said = ask(bridge, {"type": "websocket"}, {"type": "websocket.connect"})
    assert [each["type"] for each in said] == ["websocket.close"]


def test_another_scope_is_an_error(threads: Threads) -> None:
    """The specification asks for one."""
    with pytest.raises(BadMessage, match="a scope of type 'mail'"):
        ask(to_asgi(answering(lambda: [b""]), threads), {"type": "mail"})


def test_one_chunk_is_one_message(threads: Threads) -> None:
    """Frameworks that wrap their list in something else pay no second hop."""
    for make in (lambda: [b"x"], lambda: [b"", b"x"], lambda: (b"x",)):
        said = ask(to_asgi(answering(make), threads), scope_of())
        assert [each["type"] for each in said] == ["http.response.start", "http.response.body"]
        assert said[1] == {"type": "http.response.body", "body": b"x", "more_body": False}


def test_a_failure_is_the_callers(threads: Threads) -> None:
    """Who wraps the bridge decides what becomes of it."""
    error = ValueError("mine")

    def app(environ: Any, start_response: Any) -> Any:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        ask(to_asgi(app, threads), scope_of())
    assert caught.value is error


def test_the_end_of_the_interpreter_is_no_answer(threads: Threads) -> None:
    """Raised on a loop, it would stop the server."""

    def app(environ: Any, start_response: Any) -> Any:
        raise SystemExit(3)

    with pytest.raises(LeftByException, match=r"raised SystemExit\(3\) where a response") as caught:
        ask(to_asgi(app, threads), scope_of())
    assert isinstance(caught.value.__cause__, SystemExit)


def test_a_wrong_length_is_explained(threads: Threads) -> None:
    """The author learns by how much."""
    app = answering(lambda: [b"abc"], headers=[("Content-Length", "5")])
    with pytest.raises(WrongLength, match="promised a Content-Length of 5 and gave 3 bytes"):
        ask(to_asgi(app, threads), scope_of())


def test_what_only_concerns_a_connection_is_left_out(threads: Threads) -> None:
    """It is the server's business, and HTTP/2 forbids it."""
    headers = [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X-Kept", "1")]
    said = ask(to_asgi(answering(lambda: [b"x"], headers=headers), threads), scope_of())
    assert said[0]["headers"] == [(b"x-kept", b"1")]


def test_a_cancelled_request_lets_its_thread_go(threads: Threads) -> None:
    """Servers cancel what takes too long to stop."""
    import asyncio

    go = threading.Event()
    body = Body(ticking(go))
    bridge = to_asgi(answering(lambda: body), threads)

    async def main() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        sent = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent.set()

        task = asyncio.ensure_future(bridge(scope_of(), receive, send))
        await sent.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    wait_for(lambda: len(body.closed) == 1)
    go.set()


@pytest.mark.parametrize("sent", [b"", b"form"])
def test_who_leaves_before_there_is_a_thread_costs_none(sent: bytes) -> None:
    """Clients that lose patience come again: a site that is late would never catch up."""
    import asyncio

    go, called = threading.Event(), []
    threads = Threads(1)

    def app(environ: Any, start_response: Any) -> Any:
        called.append(environ["PATH_INFO"])
        assert go.wait(10)
        start_response("200 OK", PLAIN)
        return [b"x"]

    bridge = to_asgi(app, threads)

    async def main() -> None:
        async def send(message: Any) -> None:
            pass

        first = asyncio.ensure_future(bridge(scope_of(path="/first"), stay, send))
        await asyncio.to_thread(wait_for, lambda: called)
        headers = [(b"content-length", b"%d" % len(sent))]
        left = leaving(sent)
        await asyncio.wait_for(bridge(scope_of(path="/second", headers=headers), left, send), 5)
        go.set()
        await first

    asyncio.run(main())
    assert threads.stop(10)
    assert called == ["/first"]


async def stay() -> dict[str, Any]:
    """Be a client that waits."""
    import asyncio

    await asyncio.Event().wait()
    raise AssertionError


def leaving(sent: bytes) -> Any:
    """Be a client that sends something, and goes."""
    messages = [{"type": "http.request", "body": sent}] if sent else []

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def test_a_server_that_says_so_ends_the_stream(threads: Threads) -> None:
    """From version 2.4 of the specification, ``send`` raises when the client has left."""
    import asyncio

    body = Body(iter([b"a"] * 1000))
    bridge = to_asgi(answering(lambda: body), threads)

    async def main() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise OSError

        await bridge(scope_of(), receive, send)

    asyncio.run(main())
    wait_for(lambda: len(body.closed) == 1)


def test_errors_go_where_standard_error_is(
    threads: Threads, capsys: pytest.CaptureFixture[str]
) -> None:
    """Applications write their warnings there."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.errors"].write("a warning\n")
        start_response("200 OK", PLAIN)
        return []

    ask(to_asgi(app, threads), scope_of())
    assert capsys.readouterr().err == "a warning\n"


def test_requests_leave_nothing_for_the_collector(threads: Threads) -> None:
    """Cycles would make it stop the process in the middle of other requests."""

    def failing(environ: Any, start_response: Any) -> Any:
        raise ValueError

    apps = [answering(lambda: [b"x"]), answering(lambda: iter([b"x", b"y"])), failing]
    for app in apps:
        bridge = to_asgi(app, threads)
        before = _garbage(bridge, 0)
        assert _garbage(bridge, 50) - before < 50


def _garbage(bridge: Any, requests: int) -> int:
    import asyncio
    import gc

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        pass

    async def main() -> int:
        gc.collect()
        gc.disable()
        try:
            for _ in range(requests):
                with contextlib.suppress(ValueError):
                    await bridge(scope_of(), receive, send)
            return gc.collect()
        finally:
            gc.enable()

    return asyncio.run(main())
