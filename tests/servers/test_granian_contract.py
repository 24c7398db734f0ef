"""What `sitebus.servers._granian_crew` relies on in granian, asked of granian alone.

Also what granian does not tell, and so cannot be refused. When a new granian fails here, read the
top of that module, and of the two that it names, and look at each point again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from queue import Empty, SimpleQueue
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
    "websockets_enabled": True,
    "metrics": (None, None),
}


class Loop:
    """Calls at once, in the thread it is in."""

    def call_soon(self, call: Callable[..., object], *args: object, **_: object) -> None:
        call(*args)

    call_soon_threadsafe = call_soon


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve with a worker; ended with the test."""
    signals: list[tuple[Any, threading.Event]] = []

    def start(call: Any, **more: Any) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        holder = rust.SocketHolder(listener.detach(), False, 100)
        worker = rust.ASGIWorker(sock=(None, holder), **{**OPTIONS, **more})
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
        answer = client.recv(65536)
        # Head and body may come one by one.
        while answer.endswith(b"\r\n\r\n") and answer.count(b"\r\n\r\n") == 1:
            answer += client.recv(65536)
        return answer


def respond(watcher: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": list(headers)}
    watcher.proto.send(start)
    watcher.proto.send({"type": "http.response.body", "body": b"hello"})
    watcher.done()


def answer_of(asked: Any, seconds: float = 5) -> Any:
    """Wait in this thread for what granian would have an event loop wait for."""
    answers: SimpleQueue[Any] = SimpleQueue()
    asked.add_done_callback(answers.put, context=None)
    return answers.get(timeout=seconds).result()


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (POST + b"Content-Length: 5\r\n\r\nhello", [b"hello", b""]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n", [b"he", b""]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n", [b"he", None]),
    ],
    ids=["length", "chunks", "no chunks"],
)
def test_a_body_is_told_to_who_waits_in_a_thread(
    serve: Serve, request_: bytes, told: list[bytes | None]
) -> None:
    """To its end, which is another message; and what is none is told from it."""
    seen: list[bytes | None] = []

    def call(watcher: Any) -> None:
        while len(seen) < 2:
            seen.append(answer_of(watcher.proto.receive()).get("body"))
        respond(watcher)

    ask(serve(call)[0], request_)
    assert seen == told


def test_what_is_not_answered_can_be_given_up(serve: Serve) -> None:
    """And is then answered with an error, at once."""
    seen: list[object] = []

    def call(watcher: Any) -> None:
        asked = watcher.proto.receive()
        with suppress(Empty):
            answer_of(asked, 0.05)
        seen.append(asked.cancel())
        respond(watcher)

    ask(serve(call)[0], POST + b"Content-Length: 5\r\n\r\n")
    assert seen == [True]


def test_callbacks_need_a_thread_of_their_own(serve: Serve) -> None:
    """Hence the spare ones: with one thread, who waits in it waits for itself."""
    seen: list[object] = []

    def call(watcher: Any) -> None:
        try:
            seen.append(answer_of(watcher.proto.receive(), 0.2))
        except Empty:
            seen.append("nothing")
        respond(watcher)

    ask(serve(call, py_threads=1)[0], POST + b"Content-Length: 5\r\n\r\nhello")
    assert seen == ["nothing"]


def test_a_piece_waits_for_room(serve: Serve) -> None:
    """When the client takes nothing; the first ones do not."""
    over: SimpleQueue[int] = SimpleQueue()

    def call(watcher: Any) -> None:
        watcher.proto.send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": b"x" * 100_000, "more_body": True}
        sent = 0
        try:
            while True:
                wait = watcher.proto.send(piece)
                if hasattr(wait, "add_done_callback"):
                    answer_of(wait, 0.2)
                sent += 1
        except Empty:
            over.put(sent)
        watcher.done()

    with socket.create_connection(("127.0.0.1", serve(call)[0]), 5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert 2 < over.get(timeout=5) < 1000


def test_a_response_that_breaks_off_breaks_its_connection(serve: Serve) -> None:
    """It does not look whole."""

    def call(watcher: Any) -> None:
        watcher.proto.send({"type": "http.response.start", "status": 200, "headers": []})
        watcher.proto.send({"type": "http.response.body", "body": b"half", "more_body": True})
        watcher.done()

    with socket.create_connection(("127.0.0.1", serve(call)[0]), 5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while data := client.recv(65536):
            received += data
    assert received.endswith(b"4\r\nhalf\r\n")


@pytest.mark.parametrize("named", [b"shelf", b""])
def test_a_server_header_replaces_its_own(serve: Serve, named: bytes) -> None:
    """An empty one stays empty: there is no way to have none."""
    answer = ask(serve(lambda watcher: respond(watcher, [(b"server", named)]))[0])
    assert b"\r\nserver: " + named + b"\r\n" in answer
    assert b"granian" not in answer


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://b/x", b"/x", b"a"),
        (b"http://a:x/x", b"/x", b"a"),
        (b"://a/x", b"/x", b"a"),
        (b"/x#y", b"/x", b"a"),
    ],
)
def test_what_it_does_not_tell_of_a_target(
    serve: Serve, target: bytes, path: bytes, host: bytes
) -> None:
    """The host in a target, which counts more than the field, and what follows a ``#``."""
    watched = Watched()
    ask(serve(watched)[0], b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)

    wait_for(lambda: watched.watchers)
    scope = watched.watchers[0].scope
    assert (scope["raw_path"], scope["headers"]) == (path, [(b"host", host)])
    watched.watchers.clear()


def test_what_it_does_not_tell_of_a_host(serve: Serve) -> None:
    """That there is none: an empty one is added, or the target's."""
    watched = Watched()
    port, _, _ = serve(watched)
    ask(port, b"GET / HTTP/1.1\r\n\r\n")
    ask(port, b"GET http://b/ HTTP/1.1\r\n\r\n")

    wait_for(lambda: len(watched.watchers) == 2)
    said = [watcher.scope["headers"] for watcher in watched.watchers]
    assert said == [[(b"host", b"")], [(b"host", b"b")]]
    watched.watchers.clear()


def test_it_takes_a_nul_in_what_is_said_of_a_chunk(serve: Serve) -> None:
    """Which HTTP does not allow; nobody is told."""
    seen: list[bytes] = []

    def call(watcher: Any) -> None:
        seen.append(answer_of(watcher.proto.receive())["body"])
        respond(watcher)

    chunks = b"Transfer-Encoding: chunked\r\n\r\n2;a\0b\r\nhe\r\n0\r\n\r\n"
    ask(serve(call)[0], POST + chunks)
    assert seen == [b"he"]


def test_a_signal_closes_who_is_idle_and_waits_for_the_rest(serve: Serve) -> None:
    """The rest is answered and closed as well; then the callback is called."""
    entered, opened = threading.Event(), threading.Event()

    def call(watcher: Any) -> None:
        if watcher.scope["path"] == "/slow":
            entered.set()
            opened.wait(5)
        respond(watcher)

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
        respond(watcher)


def test_an_asgi_worker_schedules_watchers(serve: Serve) -> None:
    """With a scope in which ports are texts, and a protocol that takes messages."""
    watched = Watched()
    port, _, _ = serve(watched)

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
    assert ask(serve(lambda watcher: watcher.done())[0])[:12] == b"HTTP/1.1 500"


def test_every_option_of_the_command_line_is_taken_or_refused() -> None:
    """A new one must be looked at: by default it would be taken, and mean nothing."""
    taken = {
        "backpressure", "blocking_threads_idle_timeout", "http", "http1_buffer_size",
        "http1_header_read_timeout", "http1_keep_alive", "http1_pipeline_flush",
        "http2_adaptive_window", "http2_initial_connection_window_size",
        "http2_initial_stream_window_size", "http2_keep_alive_interval", "http2_keep_alive_timeout",
        "http2_max_concurrent_streams", "http2_max_frame_size", "http2_max_headers_size",
        "http2_max_send_buffer_size", "runtime_blocking_threads", "runtime_threads", "ssl_crl",
        "ssl_protocol_min", "websockets",
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
