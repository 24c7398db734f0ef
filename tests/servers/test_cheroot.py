"""cheroot on the engine's sockets: serving, and what its environ says."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import EX_SOFTWARE, BadServerOption, BindError
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.sockets.addresses import Address
from tests.helpers import open_descriptors, wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Gate, Logged, Serve

Connect = Callable[..., Client]


def tell(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer the environ."""
    body = json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def leave(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Try to end the interpreter, if asked to."""
    if environ["PATH_INFO"] == "/leave":
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[environ["QUERY_STRING"]]
    return hello(environ, start_response)


def test_a_started_engine_answers(serve: Serve, connect: Connect) -> None:
    """Ready means ready: no retry, no waiting after start."""
    server = serve()

    answer = connect(server).get()

    assert (answer.status, answer.body) == (200, b"hello")
    assert server.running
    assert server.description == f"http://127.0.0.1:{server.addresses[0].port}"
    assert server.bound_addr == ("127.0.0.1", server.addresses[0].port)


def test_several_sockets_share_one_pool(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """One [server] section with three binds is one set of threads."""
    path = tmp_path / "site.sock"
    server = serve(tell, threads=1, binds=["127.0.0.1:0", "[::1]:0", f"unix:{path}"])
    told = [json.loads(connect(server, index).get("/a%2Fb?c").body) for index in range(3)]

    ports = [str(server.addresses[0].port), str(server.addresses[1].port), "80"]
    assert [each["SERVER_PORT"] for each in told] == ports
    assert [each["SERVER_NAME"] for each in told] == ["127.0.0.1", "::1", "localhost"]
    assert [each["REMOTE_ADDR"] for each in told] == ["127.0.0.1", "::1", ""]
    assert {each["REQUEST_URI"] for each in told} == {"/a%2Fb?c"}
    assert {each["wsgi.url_scheme"] for each in told} == {"http"}
    assert not [t for t in threading.enumerate() if t.name == "cheroot main worker 2"]


def test_a_unix_socket_is_described_by_its_path(serve: Serve, tmp_path: Path) -> None:
    """What is logged can be pasted into --bind."""
    path = tmp_path / "site.sock"
    server = serve(binds=[f"unix:{path}"])

    assert server.description == f"unix:{path}"
    assert server.bound_addr == str(path)


def test_a_connection_is_kept_for_many_requests(serve: Serve, connect: Connect) -> None:
    """Neither the eleventh client (cheroot's own limit) nor a busy one loses its connection."""
    server = serve()
    clients = [connect(server) for _ in range(30)]

    for client in clients * 2:
        assert not client.get().closes


def test_requests_sent_together_are_all_answered(serve: Serve, connect: Connect) -> None:
    """What was read ahead is not waited for on the socket."""
    client = connect(serve())
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\n\r\n")

    received = b""
    while data := client.socket.recv(65536):
        received += data
    assert received.count(b"hello") == 3


def test_a_silent_connection_holds_no_thread(serve: Serve, connect: Connect) -> None:
    """Ten idle sockets do not stop a server of ten threads."""
    server = serve(threads=1)
    for _ in range(5):
        connect(server)

    assert connect(server).get().status == 200


def test_a_silent_connection_is_closed_in_time(serve: Serve, connect: Connect) -> None:
    """Fresh or kept, each has the timeout from its last word."""
    server = serve(timeout=0.2)
    fresh, kept = connect(server), connect(server)
    kept.get()
    began = time.monotonic()

    assert fresh.is_closed()
    assert kept.is_closed()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("timeout", [86401.0, 1e7, 1e12, float("inf")])
def test_a_timeout_may_be_longer_than_the_systems_clocks(
    serve: Serve, connect: Connect, timeout: float
) -> None:
    """They count milliseconds in 31 bits: 24 days."""
    server = serve(timeout=timeout)
    client = connect(server)
    assert client.get().status == 200
    assert connect(server).get().status == 200
    assert client.get().status == 200


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b=c", "a\nb", "a\0", "\u20ac"])
def test_a_server_header_that_cannot_be_sent_is_refused(engine: Engine, text: str) -> None:
    """Before anything starts, in one sentence."""
    with pytest.raises(BadServerOption, match="server_header") as caught:
        CherootServer(engine, hello, server_header=text)
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_an_application_cannot_end_the_server(
    serve: Serve, connect: Connect, logged: Logged, how: str
) -> None:
    """sys.exit() in a view is a failed request."""
    server = serve(leave, threads=1)

    assert connect(server).get(f"/leave?{how}").status == 500
    assert connect(server).get().status == 200
    assert "ApplicationLeft" in str(logged)


def test_cheroot_logs_to_the_bus(
    serve: Serve, connect: Connect, logged: Logged, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written behind the log's back."""

    def fail(environ: object, start_response: object) -> Iterable[bytes]:
        raise LookupError("no such shelf")

    assert connect(serve(fail)).get().status == 500

    wait_for(lambda: "no such shelf" in str(logged))
    assert capfd.readouterr() == ("", "")


def test_limits_are_cheroots_own(serve: Serve, connect: Connect) -> None:
    """The options reach the library."""
    server = serve(max_header=512, max_body=10, server_header="shelf")

    assert connect(server).get().headers["server"] == "shelf"
    assert connect(server).get("/" + "x" * 600).status in (413, 414)
    client = connect(server)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
    assert client.answer().status == 413


def test_a_hundred_cycles_leave_nothing(engine: Engine, serve: Serve) -> None:
    """Descriptors, threads and memory are level: nothing is kept per start."""
    server = serve(linger=0.0)
    with Client(server.addresses[0]) as client:
        client.get()
    engine.stop()
    descriptors, threads = open_descriptors(), threading.active_count()
    gc.collect()
    objects = len(gc.get_objects())

    for _ in range(100):
        engine.start()
        with Client(server.addresses[0]) as client:
            assert client.get().status == 200
        engine.stop()

    assert len(open_descriptors()) == len(descriptors)
    assert threading.active_count() == threads
    # An object kept for each cycle would make a hundred at least.
    gc.collect()
    assert len(gc.get_objects()) < objects + 100


def test_a_stopped_server_is_not_kept_by_cheroot(engine: Engine, serve: Serve) -> None:
    """Its table of statistics would hold every server there ever was."""
    import logging

    def rows() -> set[str]:
        return {k for k in getattr(logging, "statistics", {}) if k.startswith("Cheroot")}

    before = rows()
    serve()
    assert rows() <= before


def test_a_closed_connection_is_freed_at_once(serve: Serve) -> None:
    """Without waiting for the collector: a busy site closes thousands."""
    import gc
    import weakref

    server = serve()
    gc.collect()
    gc.disable()
    try:
        with Client(server.addresses[0]) as client:
            client.get()
            [known] = map(weakref.ref, server.httpserver._keeper.connections)
        wait_for(lambda: known() is None)
    finally:
        gc.enable()


def test_the_http_server_is_a_server_like_any_other(engine: Engine) -> None:
    """start, stop and ready are enough to run it."""
    from sitebus.servers import ServerAdapter
    from sitebus.servers._cheroot import HTTPServer
    from sitebus.servers.connections import Door

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        server = HTTPServer(
            [Door(listening, "localhost", "1")],
            hello,
            threads=1,
            timeout=5,
            name="plain",
            server_header="plain",
            tls=None,
            log=engine.log,
        )
        adapter = ServerAdapter(engine, server)
        adapter.start()
        assert server.bind_addr == listening.getsockname()
        with Client(Address.parse(listening.getsockname())) as client:
            assert client.get().status == 200
            adapter.stop()
            assert client.is_closed()


def test_an_idle_stop_takes_no_time(engine: Engine, serve: Serve) -> None:
    """No poll interval and no connection to itself stand between a signal and the end."""
    serve()
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 0.1


def test_a_crash_of_the_serving_thread_ends_the_engine(
    engine: Engine, serve: Serve, logged: Logged
) -> None:
    """A site that cannot accept any more must not look alive; its status says so."""
    server = serve()

    # As if something else in the process had broken the socket: accept() fails for good.
    server.httpserver._keeper.doors[0].socket.shutdown(socket.SHUT_RDWR)

    assert engine.block() == EX_SOFTWARE
    assert "Error in HTTP server on http://127.0.0.1" in str(logged)


def test_a_taken_port_leaves_nothing_half_started(engine: Engine, serve: Serve) -> None:
    """The address that could be had is given back with the one that could not."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError):
            serve(binds=["127.0.0.1:0", f"127.0.0.1:{port}"])

    assert not [t for t in threading.enumerate() if "cheroot" in t.name]
    assert engine.addresses == ()


def test_a_server_out_of_threads_fails_to_start(
    engine: Engine, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads that could be had are ended again."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def run_out(thread: threading.Thread) -> None:
        if "worker" in thread.name and len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", run_out)
    with pytest.raises(RuntimeError, match="can't start"):
        serve()


def test_starting_twice_is_said(engine: Engine, serve: Serve, logged: Logged) -> None:
    """An adapter may be started by hand; doing so again changes nothing."""
    server = serve()
    server.start()
    engine.stop()
    server.stop()

    assert "Already serving on http://127.0.0.1" in str(logged)
    assert "already shut down" in str(logged)


def test_an_adapter_restarts_alone(engine: Engine, serve: Serve, connect: Connect) -> None:
    """restart() is the adapter's own; the engine does not move."""
    server = serve()
    before = server.addresses
    server.restart()

    assert server.addresses == before
    assert connect(server).get().status == 200


def test_an_unsubscribed_server_is_left_alone(engine: Engine) -> None:
    """Every listener that was subscribed is taken back."""
    server = CherootServer(engine, hello, binds=["127.0.0.1:0"])
    server.subscribe()
    server.unsubscribe()

    assert not [channel for channel, listeners in engine.listeners.items() if listeners]


def _switches() -> int:
    """Count how often the server's threads gave the processor away by themselves."""
    total = 0
    for thread in threading.enumerate():
        if thread.name.startswith(("HTTPServer", "cheroot")):
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            total += int(status.split("voluntary_ctxt_switches:")[1].split()[0])
    return total


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="asks Linux's /proc")
def test_an_idle_server_never_wakes(serve: Serve, connect: Connect) -> None:
    """A laptop sleeps, and a thousand idle sites on one machine cost nothing."""
    with Client(serve(timeout=0.1).addresses[0]) as client:
        client.get()
    before = -1
    while before != (before := _switches()):
        threading.Event().wait(0.3)

    threading.Event().wait(1.2)

    assert _switches() == before


def test_a_gate_holds_only_its_own_thread(serve: Serve, connect: Connect, gate: Gate) -> None:
    """Others are served while one request takes its time."""
    server = serve(gate, threads=2)
    slow = connect(server)
    slow.ask("/gate")
    assert gate.entered.wait(5)

    assert connect(server).get().status == 200
    gate.opened.set()
    assert slow.answer().status == 200


def sized(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer as many bytes as the path says; the request's body is read first."""
    environ["wsgi.input"].read()
    size = int(environ["PATH_INFO"][1:])
    start_response("200 OK", [("Content-Length", str(size))])
    return [b"x" * size] if size else []


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, (64 << 10) + 1, 3 << 20])
def test_head_and_body_arrive_whole(serve: Serve, connect: Connect, size: int) -> None:
    """The head waits for the first of the body, and for nothing if there is none."""
    client = connect(serve(sized))
    for _ in range(2):
        answer = client.get(f"/{size}")
        assert (answer.status, len(answer.body)) == (200, size)


def test_a_client_that_waits_for_100_continue_gets_it(serve: Serve, connect: Connect) -> None:
    client = connect(serve(sized))
    client.send(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.socket.recv(1000).startswith(b"HTTP/1.1 100")
    client.send(b"ab")
    assert client.answer().body == b"x"


def test_a_stream_begins_with_its_first_piece(serve: Serve, connect: Connect, gate: Gate) -> None:
    def stream(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        yield b"a"
        gate.opened.wait(10)
        yield b"b"

    client = connect(serve(stream))
    client.ask()
    received = b""
    while not received.endswith(b"\r\n\r\na"):
        received += client.socket.recv(1000)
    gate.opened.set()
    assert client.socket.recv(10) == b"b"


def test_an_applications_own_date_is_kept(serve: Serve, connect: Connect) -> None:
    def dated(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        own = [("date", "Thu, 01 Jan 1970 00:00:00 GMT")] if environ["PATH_INFO"] == "/own" else []
        start_response("200 OK", [("Content-Length", "0"), *own])
        return []

    client = connect(serve(dated))
    assert client.get("/own").headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    age = time.time() - parsedate_to_datetime(client.get().headers["date"]).timestamp()
    assert 0 <= age < 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("header_timeout", -1),
        ("header_timeout", "10s"),
        ("min_rate", "x"),
        ("max_connections", -1),
        ("max_connections", True),
        ("proxy_protocol", ["127.0.0.1:9"]),
        ("server_header", "a\nb"),
    ],
)
def test_a_bad_value_is_refused_when_the_server_is_made(
    engine: Engine, name: str, value: Any
) -> None:
    """And not by whatever it would break while clients are served."""
    with pytest.raises(BadServerOption) as refused:
        CherootServer(engine, hello, binds=["127.0.0.1:0"], **{name: value})
    assert name in str(refused.value)


def test_one_text_is_as_good_as_a_list(engine: Engine) -> None:
    server = CherootServer(
        engine,
        hello,
        binds=["127.0.0.1:0"],
        proxy_protocol="ALL",
        trusted_headers="x-forwarded-for, forwarded",
        trusted_proxies="127.0.0.1, unix",
    )
    assert server.proxied == set(server.binds)
    assert server.trusted_headers == ("x-forwarded-for", "forwarded")
    assert "127.0.0.1" in server.trusted_proxies
