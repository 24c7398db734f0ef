"""Clients that leave or read slowly, contexts and threads, of WSGI under ASGI."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from sitebus.bridges import Threads, to_asgi, upload
from sitebus.errors import BodyTooSlow, ClientGone
from tests.bridges.apps import PLAIN, Body, answering, scope_of, settled, ticking
from tests.bridges.hosts import under_asgi
from tests.helpers import wait_for

# Clients that leave.


def test_a_client_that_leaves_ends_the_stream(kind: str) -> None:
    """The application would make events for nobody, in a thread that others wait for."""
    go = threading.Event()
    body = Body(ticking(go))
    with under_asgi(kind, answering(lambda: body)) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"tick")
            peer.leave()
        wait_for(lambda: len(body.closed) == 1)
        go.set()


def test_a_client_that_leaves_ends_a_stream_that_waits_for_it(kind: str) -> None:
    """Nobody will ever read what it waits to send."""
    body = Body(b"x" * 65536 for _ in range(100_000))
    with under_asgi(kind, answering(lambda: body)) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"xxx")
            settled(lambda: body.made)
            peer.leave()
        wait_for(lambda: len(body.closed) == 1)
    assert body.made < 1000


def test_a_client_that_leaves_an_unread_upload_behind_is_noticed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody reads is in front of the news."""
    monkeypatch.setattr(upload, "LOOK", 0.05)
    go = threading.Event()
    body = Body(ticking(go))
    with under_asgi(kind, answering(lambda: body)) as host:
        with host.peer() as peer:
            peer.ask("/", "POST", "Content-Length: 10000000\r\n", b"x" * 300_000)
            peer.until(b"tick")
            peer.leave()
        wait_for(lambda: len(body.closed) == 1)
        go.set()


def test_empty_chunks_notice_that_the_client_left(kind: str) -> None:
    """An application that has nothing to say yields nothing, and goes on asking."""
    go = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        while not go.wait(0.01):
            yield b""

    body = Body(chunks())
    with under_asgi(kind, answering(lambda: body)) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"first")
            peer.leave()
        wait_for(lambda: len(body.closed) == 1)
        go.set()


def test_write_tells_that_the_client_left(kind: str) -> None:
    """Whoever writes without end must learn that nobody reads."""
    raised: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        try:
            while True:
                write(b"x" * 10000)
        except OSError as error:
            raised.append(error)
            raise

    with under_asgi(kind, app) as host:
        with host.peer() as peer:
            peer.ask("/")
            peer.until(b"xxx")
            peer.leave()
        wait_for(lambda: raised)
    assert isinstance(raised[0], ClientGone)
    assert str(raised[0]) == "the client left before all of its response was sent"


# What crosses.

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_context_variables_come_in_and_never_out(kind: str) -> None:
    """Who is logged in must not be somebody else's answer."""
    outside: list[str] = []

    def wrap(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            token = VARIABLE.set("middleware") if scope.get("path") == "/in" else None
            await inner(scope, receive, send)
            outside.append(VARIABLE.get())
            if token is not None:
                VARIABLE.reset(token)

        return middleware

    def app(environ: Any, start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        assert len(environ["wsgi.input"].read(length)) == length
        seen = VARIABLE.get()
        VARIABLE.set("application")
        start_response("200 OK", PLAIN)

        def chunks() -> Iterator[bytes]:
            yield VARIABLE.get().encode() + b" "
            VARIABLE.set("iterable")
            yield seen.encode()

        return chunks()

    large = b"x" * 300_000
    with under_asgi(kind, app, wrap=wrap, most=1) as host, host.peer() as peer:
        # In this order: what middleware sets, asyncio itself may let into later requests.
        for path, sent, expected in [
            ("/out", large, b"application unset"),
            ("/out", b"", b"application unset"),
            ("/in", b"", b"application middleware"),
            ("/in", large, b"application middleware"),
        ]:
            headers = f"Content-Length: {len(sent)}\r\n" if sent else ""
            answer = peer.get(path, "POST" if sent else "GET", headers, sent)
            assert answer.body == expected
    assert set(outside) <= {"middleware", "unset"}


# Threads.


def test_requests_are_answered_side_by_side(kind: str) -> None:
    """Twenty that take 0.2 s each take 0.4 s in ten threads."""
    started = threading.Barrier(10)

    def app(environ: Any, start_response: Any) -> Any:
        started.wait(10)  # passes only if ten are inside at a time
        start_response("200 OK", PLAIN)
        return [b"x"]

    with under_asgi(kind, app, most=10) as host:
        answers: list[int] = []
        clients = [
            threading.Thread(target=lambda: answers.append(host.get("/").status)) for _ in range(20)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(10)
        assert answers == [200] * 20
        assert host.threads is not None
        assert host.threads.alive == 10


@pytest.mark.slow
def test_twenty_requests_of_a_fifth_of_a_second_take_two_fifths() -> None:
    """As they do under a server that has threads of its own."""

    def app(environ: Any, start_response: Any) -> Any:
        threading.Event().wait(0.2)
        start_response("200 OK", PLAIN)
        return [b"x"]

    with under_asgi("uvicorn", app, most=10) as host:
        peers = [host.peer() for _ in range(20)]
        begun = time.monotonic()
        for peer in peers:
            peer.ask("/")
        for peer in peers:
            assert peer.answer().status == 200
            peer.socket.close()
        assert 0.39 < time.monotonic() - begun < 0.6


def test_a_stop_lets_what_runs_finish(kind: str) -> None:
    """A drain that ended earlier would cut responses off."""
    inside, go = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        inside.set()
        assert go.wait(10)
        start_response("200 OK", PLAIN)
        return [b"done"]

    with under_asgi(kind, app) as host, host.peer() as peer:
        assert host.threads is not None
        peer.ask("/")
        assert inside.wait(10)
        assert not host.threads.stop(0.01)
        go.set()
        assert host.threads.stop(10)
        assert host.threads.alive == 0
        assert peer.answer().body == b"done"
        assert peer.get("/").body == b"done", "it can be used again"


def waits(threads: Threads, number: int) -> bool:
    return threads.waiting == number


def test_who_leaves_while_all_threads_are_busy_is_not_answered(kind: str) -> None:
    """And who stays is, with whatever was sent."""
    go = threading.Event()
    called: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        called.append(environ["PATH_INFO"])
        assert go.wait(10)
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read() or b"none"]

    with under_asgi(kind, app, most=1) as host, host.peer() as busy, host.peer() as stays:
        busy.ask("/busy")
        wait_for(lambda: called)
        threads = host.threads
        assert threads is not None
        stays.ask("/stays", "POST", "Content-Length: 4\r\n", b"form")
        wait_for(lambda: threads.waiting == 1)
        idle = host.tasks()
        for number in range(2, 5):
            with host.peer() as leaving:
                leaving.ask("/left")
                wait_for(partial(waits, threads, number))
                leaving.leave()
        wait_for(lambda: host.tasks() <= idle, what="tasks to end")
        go.set()
        assert busy.answer().body == b"none"
        assert stays.answer().body == b"form"
        wait_for(lambda: threads.waiting == 0)
    assert called == ["/busy", "/stays"]


@pytest.mark.parametrize("patient", [True, False])
def test_a_body_that_is_too_slow_holds_no_thread(patient: bool) -> None:
    """One byte before each wait is over would hold it as long as the client likes."""
    threads = Threads(1)
    failures: list[BaseException] = []

    def reads(environ: Any, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            failures.append(error)
            raise
        raise AssertionError("never read")

    app = to_asgi(reads, threads, patience=0.2, min_rate=0.0 if patient else 1e9)
    sent: list[Any] = []

    async def talk() -> None:
        drips = 0

        async def receive() -> Any:
            nonlocal drips
            drips += 1
            # With the rate, all of it must come within the patience; else any piece within it.
            await asyncio.sleep(60 if patient and drips == 4 else 0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        upload = scope_of(headers=[(b"content-length", b"99")])
        await asyncio.wait_for(app(upload, receive, send), 10)

    asyncio.run(talk())
    assert [type(error) for error in failures] == [BodyTooSlow]
    assert [message.get("status") for message in sent] == [408, None]
    assert (b"connection", b"close") in sent[0]["headers"]
    assert threads.stop(5)
