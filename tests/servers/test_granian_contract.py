"""What `sitebus.servers._granian` relies on in granian, asked of granian alone.

When a new granian fails here, read the top of that module, and of the two that it names, and look
at each point again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from granian.cli import cli
from granian.http import HTTP1Settings, HTTP2Settings

from sitebus.servers.granian import RANGES, RESERVED, GranianServer
from tests.helpers import wait_for

rust: Any = import_module("granian._granian")
Serve = Callable[..., tuple[int, Any, threading.Event]]

OPTIONS: dict[str, Any] = {
    "worker_id": 1,
    "ipc": None,
    "threads": 1,
    "blocking_threads": 512,
    "py_threads": 2,
    "py_threads_idle_timeout": 30,
    "backpressure": 100,
    "http_mode": "1",
    "http1_opts": HTTP1Settings(),
    "http2_opts": HTTP2Settings(),
    "static_files": None,
    "ssl_enabled": False,
    "ssl_cert": None,
    "ssl_key": None,
    "ssl_key_password": None,
    "ssl_protocol_min": "tls1.2",
    "ssl_ca": None,
    "ssl_crl": [],
    "ssl_client_verify": False,
    "metrics": (None, None),
}


class Loop:
    def call_soon(self, *_: object) -> None: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve with a worker; ended with the test."""
    signals: list[tuple[Any, threading.Event]] = []

    def start(call: Any, kind: str = "WSGIWorker", **more: Any) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        holder = rust.SocketHolder(listener.detach(), False, 100)
        worker = getattr(rust, kind)(sock=(None, holder), **OPTIONS, **more)
        signal, ended = rust.WorkerSignal(), threading.Event()
        signal.add_cb(ended.set)
        scheduler = rust.CallbackScheduler(Loop(), call, None, None, None)
        scheduler._schedule_fn = call
        worker.serve_mtr(scheduler, Loop(), signal)
        signals.append((signal, ended))
        return port, signal, ended

    yield start
    for signal, ended in signals:
        if not ended.is_set():
            signal.set()
            assert ended.wait(5)


def ask(port: int, request: bytes = b"GET /a%20b?c HTTP/1.1\r\nHost: a\r\n\r\n") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request)
        return client.recv(65536)


def respond(protocol: Any, scope: dict[str, Any]) -> None:
    protocol.response_bytes(200, [("X-Said", "this")], b"hello")


def test_a_worker_calls_with_a_protocol_and_an_environ(serve: Serve) -> None:
    """Of the request alone, in a thread that Python did not make."""
    seen: list[dict[str, Any]] = []

    def call(protocol: Any, scope: dict[str, Any]) -> None:
        seen.append({**scope, "thread": threading.get_ident()})
        respond(protocol, scope)

    port, _, _ = serve(call)
    answer = ask(port)
    body = seen[0].pop("wsgi.input")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\nx-said: this\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    assert body.read(5) == b""
    assert seen[0].pop("thread") != threading.get_ident()
    assert seen[0] == {
        "HTTP_HOST": "a",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c",
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }


def test_an_old_client_is_said_to_speak_http_1(serve: Serve) -> None:
    """With nothing after it, which is no version that anybody writes."""
    seen: list[str] = []

    def call(protocol: Any, scope: dict[str, Any]) -> None:
        seen.append(scope["SERVER_PROTOCOL"])
        respond(protocol, scope)

    ask(serve(call)[0], b"GET / HTTP/1.0\r\n\r\n")
    assert seen == ["HTTP/1"]


def test_a_body_is_read_by_size(serve: Serve) -> None:
    """Exactly; at its end there is less, and then nothing."""
    seen: list[bytes] = []

    def call(protocol: Any, scope: dict[str, Any]) -> None:
        body = scope["wsgi.input"]
        seen.extend(body.read(size) for size in (2, 1 << 62, 1))
        respond(protocol, scope)

    ask(serve(call)[0], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    assert seen == [b"he", b"llo", b""]


def test_a_response_in_pieces_returns_when_the_last_is_taken(serve: Serve) -> None:
    """What it is given needs no more than ``__next__`` and ``close``."""
    over = threading.Event()

    def call(protocol: Any, scope: dict[str, Any]) -> None:
        protocol.response_iter(200, [], (piece for piece in (b"one", b"two")))
        over.set()

    assert b"one" in ask(serve(call)[0])
    assert over.wait(5)


def test_a_signal_closes_who_is_idle_and_waits_for_the_rest(serve: Serve) -> None:
    """The rest is answered and closed as well; then the callback is called."""
    entered, opened = threading.Event(), threading.Event()

    def call(protocol: Any, scope: dict[str, Any]) -> None:
        if scope["PATH_INFO"] == "/slow":
            entered.set()
            opened.wait(5)
        respond(protocol, scope)

    port, signal, ended = serve(call)
    address = ("127.0.0.1", port)
    with socket.create_connection(address, 5) as idle, socket.create_connection(address, 5) as slow:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(4096)
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(5)
        signal.set()

        assert idle.recv(1) == b""
        assert not ended.is_set()
        opened.set()
        assert slow.recv(4096).endswith(b"hello")
        assert slow.recv(1) == b""
        assert ended.wait(5)


class Watched:
    """What an ASGI worker schedules, kept to be looked at; it is answered from here."""

    def __init__(self) -> None:
        self.watchers: list[Any] = []

    def __call__(self, watcher: Any) -> None:
        self.watchers.append(watcher)
        watcher.proto.send({"type": "http.response.start", "status": 200, "headers": []})
        watcher.proto.send({"type": "http.response.body", "body": b"hello"})
        watcher.done()


def test_an_asgi_worker_schedules_watchers(serve: Serve) -> None:
    """With a scope in which ports are texts, and a protocol that takes messages."""
    watched = Watched()
    port, _, _ = serve(watched, "ASGIWorker", websockets_enabled=True)

    assert ask(port).endswith(b"hello")
    wait_for(lambda: watched.watchers)
    scope = watched.watchers[0].scope
    assert (scope["type"], scope["http_version"], scope["raw_path"]) == ("http", "1.1", b"/a%20b")
    assert scope["server"] == ("127.0.0.1", str(port))
    assert scope["client"][1].isdecimal()
    assert "root_path" not in scope
    assert callable(watched.watchers[0].taskref)
    watched.watchers.clear()


def test_a_watcher_that_is_done_without_a_response_answers_500(serve: Serve) -> None:
    """So nobody waits for ever."""
    assert ask(serve(lambda watcher: watcher.done(), "ASGIWorker")[0])[:12] == b"HTTP/1.1 500"


def test_every_option_of_the_command_line_is_taken_or_refused() -> None:
    """A new one must be looked at: by default it would be taken, and mean nothing."""
    taken = {
        "backpressure", "blocking_threads_idle_timeout", "http", "http1_buffer_size",
        "http1_header_read_timeout", "http1_keep_alive", "http1_pipeline_flush",
        "http2_adaptive_window", "http2_initial_connection_window_size",
        "http2_initial_stream_window_size", "http2_keep_alive_interval", "http2_keep_alive_timeout",
        "http2_max_concurrent_streams", "http2_max_frame_size", "http2_max_headers_size",
        "http2_max_send_buffer_size", "runtime_blocking_threads", "runtime_threads", "ssl_ca",
        "ssl_client_verify", "ssl_crl", "ssl_protocol_min", "websockets",
    }  # fmt: skip
    known = {param.name for param in cli.params}

    assert known - {"version"} == taken | RESERVED.keys()
    assert taken >= RANGES.keys()
    assert {f"http2_{name}" for name in vars(HTTP2Settings())} == {
        name for name in taken if name.startswith("http2_")
    }


def test_the_versions_of_tls_are_what_the_worker_knows() -> None:
    """It ends the process at any other."""
    for text in ("tls1.2", "tls1.3"):
        assert str(GranianServer.checked({"ssl_protocol_min": text})["ssl_protocol_min"]) == text
