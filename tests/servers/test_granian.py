"""What is particular to granian: its defects, cured; its options; its certificates."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import (
    EX_SOFTWARE,
    UnknownRelease,
)
from sitebus.machine import State
from sitebus.process import Engine
from sitebus.servers import _granian_ear
from sitebus.servers._granian_crew import Worker
from tests.helpers import PATIENCE, Child, open_descriptors, wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Logged
from tests.servers.granian_fixtures import Host, host, once

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]

#: Found here by pytest.
__all__ = ["host", "once"]


def said(text: object) -> Callable[..., Iterable[bytes]]:
    """Answer an application that answers with *text*, of a request's environ."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [str(text(environ) if callable(text) else text).encode()]

    return application


# WSGI as PEP 3333 has it.


def test_no_application_sees_the_processs_environment(
    host: Host, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords are kept in it, and frameworks print a request's environ when they fail."""
    monkeypatch.setenv("DATABASE_PASSWORD", "open sesame")
    server = host(said(sorted))

    names = connect(server).get().body.decode()
    assert "PASSWORD" not in names
    assert "'PATH'" not in names
    assert "'PATH_INFO'" in names


def test_what_an_environ_says(host: Host, connect: Connect) -> None:
    """The versions as they are written, and of the server only what is true."""
    wanted = ("SERVER_PROTOCOL", "SERVER_NAME", "SERVER_SOFTWARE", "wsgi.multithread", "HTTPS")
    server = host(said(lambda environ: [environ.get(name) for name in wanted]), threads=1)

    assert connect(server).get().body == b"['HTTP/1.1', '127.0.0.1', 'sitebus', False, None]"
    client = connect(server)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.answer().body.startswith(b"['HTTP/1.0'")


def test_on_a_unix_socket_no_name_is_empty(host: Host, connect: Connect, tmp_path: Path) -> None:
    """PEP 3333 wants something in both."""
    told = said(lambda environ: (environ["SERVER_NAME"], environ["SERVER_PORT"]))
    server = host(told, binds=[f"unix:{tmp_path / 's'}"])

    assert connect(server).get().body == b"('localhost', '80')"


def test_an_application_may_write(host: Host, connect: Connect) -> None:
    """The old way, before what it returns."""

    def application(environ: object, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"one ")
        write(b"two ")
        return [b"three"]

    assert connect(host(application)).get().body == b"one two three"


def test_a_generator_may_begin_when_it_is_asked_for_the_first_piece(
    host: Host, connect: Connect
) -> None:
    """That is when its start_response() is called; empty pieces send nothing yet."""

    def application(environ: object, start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("404 Not Found", [("X-Said", "late")])
        yield b"none here"

    answer = connect(host(application)).get()
    assert (answer.status, answer.headers["x-said"], answer.body) == (404, "late", b"none here")


def test_a_response_is_closed_however_it_ends(host: Host, connect: Connect) -> None:
    """Empty, whole, or with an error."""
    closed: list[str] = []

    class Answering:
        def __init__(self, path: str) -> None:
            self.path = path

        def __iter__(self) -> Iterator[bytes]:
            if self.path != "/empty":
                yield b"first"
            if self.path == "/broken":
                raise LookupError("page 2")

        def close(self) -> None:
            closed.append(self.path)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Answering(environ["PATH_INFO"])

    server = host(application)
    assert connect(server).get("/empty").body == b""
    assert connect(server).get("/whole").body == b"first"
    with pytest.raises(IncompleteRead):
        connect(server).get("/broken")
    wait_for(lambda: closed == ["/empty", "/whole", "/broken"])


def test_an_error_page_may_replace_a_response_that_nobody_has_seen(
    host: Host, connect: Connect
) -> None:
    """With exc_info; without, a second response is an error."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError
        except LookupError as error:
            info = (LookupError, error, error.__traceback__)
            start_response("503 Later", [], info if environ["PATH_INFO"] == "/" else None)
        return [b"sorry"]

    server = host(application)
    assert (connect(server).get().status, connect(server).get("/twice").status) == (503, 500)


@pytest.mark.parametrize("status", ["42 Answer", "0", "none at all", ""])
def test_a_status_that_is_none_costs_one_response(
    host: Host, connect: Connect, logged: Logged, status: str
) -> None:
    """Granian would end the whole process."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, [])
        return [b"?"]

    server = host(application)
    assert connect(server).get("/a%0Ab").status == 500
    assert connect(server).get().status == 500
    assert "Unhandled error while serving GET /a%0Ab: " in str(logged)


def test_sys_exit_costs_one_response(host: Host, connect: Connect, engine: Engine) -> None:
    """An application cannot end its server."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise SystemExit(3)

    server = host(application)
    assert [connect(server).get().status for _ in range(3)] == [500] * 3
    assert engine.state is State.STARTED


def test_bytes_of_a_header_go_out_as_they_are(host: Host, connect: Connect) -> None:
    """WSGI has them as latin-1 texts, granian takes texts in UTF-8."""
    name = "caf\u00e9.txt".encode()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("X-Name", name.decode("latin-1"))])
        return [b""]

    client = connect(host(application))
    client.ask()
    assert b"x-name: " + name in client.socket.recv(4096)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunks"]
)
def test_a_body_is_read_as_it_comes(host: Host, connect: Connect, head: bytes) -> None:
    """Who asks for five bytes does not wait for a thousand."""
    read: list[bytes] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        read.append(environ["wsgi.input"].read(5))
        return hello(environ, start_response)

    client = connect(host(application))
    body = b"hello" if b"Length" in head else b"5\r\nhello\r\n"
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
    wait_for(lambda: read)

    assert read == [b"hello"]


def test_a_body_that_breaks_off_is_an_error(host: Host, connect: Connect, logged: Logged) -> None:
    """It would be taken for a whole one."""
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
    client.close()

    wait_for(lambda: errors)
    assert errors == ["the client left before all of its request was read"]
    assert "rror" not in str(logged)


def test_lines_of_a_body(host: Host, connect: Connect) -> None:
    """Of any length, and as many as are asked for."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        body = environ["wsgi.input"]
        parts = [body.readline(2), body.readline(), body.read(1), body.readlines(1)]
        parts += [body.readlines(), body.read(), body.readline()]
        return [repr(parts).encode()]

    client = connect(host(application))
    long = b"y" * 20_000
    body = b"first\nxsecond\nthird\n" + long + b"\nlast"
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert (
        client.answer().body
        == repr(
            [b"fi", b"rst\n", b"x", [b"second\n"], [b"third\n", long + b"\n", b"last"], b"", b""]
        ).encode()
    )


def test_its_threads_are_announced_and_leave_nothing(
    host: Host, connect: Connect, engine: Engine
) -> None:
    """Python has not made them; what stands for them in ``threading`` goes with them."""
    told: list[str] = []
    engine.subscribe("acquire_thread", lambda: told.append("acquire"))
    engine.subscribe("release_thread", lambda: told.append("release"))
    inside: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside.append(threading.get_ident() in engine.serving_threads)
        start_response("200 OK", [])
        return [threading.current_thread().name.encode()]

    server = host(application)
    client = connect(server)
    assert [client.get().body[:5] for _ in range(5)] == [b"Dummy"] * 5
    assert inside == [True] * 5
    engine.stop()

    wait_for(lambda: told.count("release") == told.count("acquire") > 0)
    assert engine.serving_threads == set()
    wait_for(lambda: "Dummy" not in str(threading.enumerate()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is prepared")
def test_who_finds_the_door_that_is_for_nobody_is_not_served(
    host: Host, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open for some milliseconds, without the certificates or modes of those of the site."""
    served: list[str] = []
    replies: list[bytes] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        served.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    def end(worker: Worker, really: Callable[[Worker], None] = Worker.end) -> None:
        if not replies:
            place = worker._door.socket.getsockname()
            with socket.create_connection(place, PATIENCE) as burglar:
                burglar.sendall(b"GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n")
                replies.append(burglar.recv(1000))
        really(worker)

    monkeypatch.setattr(_granian_ear.Ear, "heard", threading.Event())
    monkeypatch.setattr(Worker, "end", end)
    server = host(application)

    assert connect(server).get("/public").status == 200
    assert served == ["/public"]
    assert b"200" not in replies[0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is prepared")
def test_a_host_without_loopback_is_served_all_the_same(
    host: Host, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is prepared is for bad times."""

    def refuse(family: int) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "cannot assign requested address")

    monkeypatch.setattr(_granian_ear.Ear, "heard", threading.Event())
    monkeypatch.setattr(_granian_ear, "dead_listener", refuse)
    assert connect(host(hello)).get().status == 200


def test_two_sockets_share_the_threads(host: Host, connect: Connect) -> None:
    """``threads = 1`` is for applications that must not be called twice at a time."""
    inside = 0
    most = 0

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.02)
        inside -= 1
        return hello(environ, start_response)

    server = host(application, binds=["127.0.0.1:0", "127.0.0.1:0"], threads=1)
    clients = [connect(server, index) for index in (0, 1) * 4]
    for client in clients:
        client.ask()

    assert [client.answer().status for client in clients] == [200] * 8
    assert most == 1


# ASGI.


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Say what is asked for by path."""
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
        return
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] == "/status":
        await send({"type": "http.response.start", "status": 42, "headers": headers})
    elif scope["path"] == "/leave":
        raise SystemExit(3)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/half":
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise LookupError("the other half")
    told = scope["http_version"], scope["server"][1].__class__, scope["client"][1].__class__
    await send({"type": "http.response.body", "body": repr(told).encode()})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close", "code": 4000})
        return
    subprotocol = "a\r\nb" if scope["path"] == "/protocol" else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"][::-1]})


def test_an_asgi_scope_has_numbers_for_ports(host: Host, connect: Connect) -> None:
    """As the specification has them, and the versions of HTTP."""
    client = connect(host(asgi))
    assert client.get().body == b"('1.1', <class 'int'>, <class 'int'>)"
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.answer().body.startswith(b"('1.0'")


@pytest.mark.parametrize("path", ["/status", "/leave"])
def test_an_asgi_application_that_errs_costs_one_response(
    host: Host, connect: Connect, logged: Logged, path: str
) -> None:
    """Neither a wrong status nor an exit ends the process, or its loop."""
    server = host(asgi)
    assert connect(server).get(path).status == 500
    assert connect(server).get().status == 200
    assert f"Unhandled error while serving GET {path}: " in str(logged)


def test_half_a_response_does_not_look_whole(host: Host, connect: Connect) -> None:
    """The client sees that it broke off."""
    client = connect(host(asgi))
    client.ask("/half")
    with pytest.raises(IncompleteRead):
        client.answer()


def test_a_websocket_answers(host: Host, engine: Engine) -> None:
    """And a subprotocol that cannot be sent costs one connection, not the process."""
    from websockets.exceptions import InvalidHandshake
    from websockets.sync.client import connect as open_websocket

    url = f"ws://127.0.0.1:{host(asgi).addresses[0].port}"
    for path in ("/refuse", "/protocol"):
        with pytest.raises(InvalidHandshake):
            open_websocket(url + path)
    with open_websocket(url) as opened:
        opened.send("abc")
        assert opened.recv(5) == "cba"
    assert engine.state is State.STARTED


def test_an_application_that_waits_when_it_is_stopped_is_cancelled(
    host: Host, connect: Connect, engine: Engine, logged: Logged
) -> None:
    """At the deadline; what it does then is its own, and nothing of it is left."""
    import asyncio

    entered, cancelled = threading.Event(), threading.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    server = host(waits, drain_timeout=0.1)
    connect(server).ask("/slow")
    assert entered.wait(5)
    engine.stop()

    assert cancelled.wait(5)
    assert "still busy with GET /slow" in str(logged)


# Ends.


@pytest.mark.parametrize("application", [hello, asgi], ids=["wsgi", "asgi"])
def test_a_stop_right_after_the_start(engine: Engine, host: Host, application: Any) -> None:
    """Granian's threads may not even have looked at their socket."""
    host(application, linger=0.0)
    before = len(open_descriptors())
    for _ in range(20):
        engine.stop()
        engine.start()
    wait_for(lambda: len(open_descriptors()) <= before)


def test_a_kept_connection_may_be_used_after_a_stream(
    host: Host, connect: Connect, engine: Engine, meanwhile: Meanwhile
) -> None:
    """Its head was sent before the stop and could not say that the connection closes."""
    entered, opened = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/stream":
            yield from hello(environ, start_response)
            return
        start_response("200 OK", [])
        yield b"first "
        entered.set()
        opened.wait(10)
        yield b"last"

    server = host(application, linger=0.5)
    client = connect(server)
    client.ask("/stream")
    assert entered.wait(5)
    stop = meanwhile(engine.stop)
    wait_for(lambda: server.httpserver.draining)
    began = time.monotonic()
    # Longer than the linger.
    wait_for(lambda: time.monotonic() - began > 0.8)
    opened.set()

    assert client.answer().body == b"first last"
    answer = client.get()
    assert (answer.body, answer.closes) == (b"hello", True)
    stop.result(5)


BROKEN = """
import socket
from sitebus.process import Engine
from sitebus.servers.granian import GranianServer
engine = Engine()
engine.subscribe("log", lambda message, level: level >= 40 and print(message))
server = GranianServer(engine, lambda *_: [], binds=["127.0.0.1:0"])
server.subscribe()
engine.start()
server._listeners[0].socket.shutdown(socket.SHUT_RDWR)
raise SystemExit(engine.block())
"""


def test_a_socket_that_was_broken_ends_the_process() -> None:
    """In a process of its own: granian's thread tries again and again, until the process ends."""
    with Child([sys.executable, "-c", BROKEN]) as child:
        assert child.wait() == EX_SOFTWARE
        assert "Error in HTTP server on http://127.0.0.1:" in child.output


def test_an_unknown_release_is_one_sentence(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its insides change between releases, and a traceback would not say what to do."""
    from sitebus.servers import _granian_crew

    def changed(**options: object) -> None:
        raise TypeError("ASGIWorker.__new__() got an unexpected keyword argument 'ipc'")

    monkeypatch.setattr(_granian_crew.rust, "ASGIWorker", changed)
    with pytest.raises(UnknownRelease, match=r"unexpected keyword.*pip install 'granian>="):
        host()
