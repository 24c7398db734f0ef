"""waitress on the engine's sockets: what is peculiar to it, and what its clients see of a stop."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import EX_SOFTWARE, BadServerOption, BindError, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers import TLS, find
from sitebus.servers.waitress import RESERVED, WaitressServer
from tests.helpers import open_descriptors, wait_for
from tests.servers.client import Client, hello
from tests.servers.conformance import Load, everything, post, post_chunked
from tests.servers.conftest import Gate, Logged
from tests.servers.waitress_fixtures import Connect, Meanwhile, Serve, serve, stop_begins

#: Found here by pytest.
__all__ = ["serve"]


def tell(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer the environ."""
    body = json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer the body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def leave(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Try to end the interpreter, if asked to."""
    if environ["PATH_INFO"] == "/leave":
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[environ["QUERY_STRING"]]
    return hello(environ, start_response)


# Serving.


def test_waitress_is_found_by_name() -> None:
    """Without any metadata, as from a directory where nothing was installed."""
    assert find("waitress") is WaitressServer


def test_sockets_of_all_kinds_share_one_pool(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """Waitress alone refuses TCP and unix sockets together; each knows its own name."""
    path = tmp_path / "site.sock"
    server = serve(tell, threads=1, binds=["127.0.0.1:0", "[::1]:0", f"unix:{path}"])

    told = [json.loads(connect(server, index).get("/a%2Fb?c").body) for index in range(3)]

    ports = [str(server.addresses[0].port), str(server.addresses[1].port), "80"]
    assert [each["SERVER_PORT"] for each in told] == ports
    assert [each["SERVER_NAME"] for each in told] == ["127.0.0.1", "::1", "localhost"]
    assert [each["REMOTE_ADDR"] for each in told] == ["127.0.0.1", "::1", ""]
    assert {each["REQUEST_URI"] for each in told} == {"/a%2Fb?c"}
    assert {each["SERVER_SOFTWARE"] for each in told} == {"sitebus"}


def test_an_inherited_socket_is_served_on(serve: Serve, connect: Connect) -> None:
    """As systemd hands them down."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # It is the engine's from here on.
        server = serve(binds=[f"fd:{os.dup(listening.fileno())}"])
        assert connect(server).get().body == b"hello"


def test_a_connection_is_kept_for_many_requests(serve: Serve, connect: Connect) -> None:
    """Also when there are more of them than the hundred at which waitress stops by itself."""
    server = serve()
    clients = [connect(server) for _ in range(150)]

    for client in clients * 2:
        assert not client.get().closes


def test_bodies_come_and_go_whole(serve: Serve, connect: Connect) -> None:
    """With a length or in chunks, on one connection, also what waitress keeps in a file."""
    client = connect(serve(echo))
    large = os.urandom(1 << 20)
    client.send(post("/", b"told"))
    assert client.answer().body == b"told"
    client.send(post_chunked("/", b"chu", b"nks"))
    assert client.answer().body == b"chunks"
    client.send(post("/", large))
    assert client.answer().body == large


def test_a_stream_is_sent_as_it_comes(serve: Serve, connect: Connect, gate: Gate) -> None:
    """The first piece is there before the second is made."""

    def stream(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        assert gate.opened.wait(10)
        yield b"last"

    client = connect(serve(stream))
    client.ask()
    received = b""
    while b"first" not in received:
        received += client.socket.recv(4096)
    gate.opened.set()
    assert b"last" in everything(client)


def test_a_file_is_sent_and_closed(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """Through wsgi.file_wrapper, waitress's own."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 300_000)
    opened = []

    def send(environ: Any, start_response: Any) -> Any:
        opened.append(path.open("rb"))
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](opened[-1])

    assert connect(serve(send)).get().body == path.read_bytes()
    wait_for(lambda: opened[0].closed)


@pytest.mark.parametrize("kind", ["told", "chunked", "file", "written"])
def test_head_is_answered_without_a_body(
    serve: Serve, connect: Connect, tmp_path: Path, kind: str
) -> None:
    """Whatever the application makes: a body would be taken for the next answer."""
    path = tmp_path / "file"
    path.write_bytes(b"hello")

    def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
        length = [] if kind == "chunked" else [("Content-Length", "5")]
        write = start_response("200 OK", length)
        if kind == "written":
            write(b"hello")
            return []
        if kind == "file" and "wsgi.file_wrapper" in environ:
            return environ["wsgi.file_wrapper"](path.open("rb"))  # type: ignore[no-any-return]
        return [b"hel", b"lo"]

    client = connect(serve(answer))
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, end, body = everything(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert (end, body) == (b"\r\n\r\n", b"")
    assert (b"Content-Length: 5" in head) == (kind != "chunked")


def test_a_silent_connection_holds_no_thread(serve: Serve, connect: Connect) -> None:
    """Nor does half a request."""
    server = serve(threads=1)
    for _ in range(5):
        connect(server).send(b"GET / HT")

    assert connect(server).get().status == 200


def test_a_silent_connection_is_closed_in_time(serve: Serve, connect: Connect) -> None:
    """Fresh, half a request or kept, each has the timeout from its last word."""
    server = serve(timeout=0.2)
    fresh, half, kept = (connect(server) for _ in range(3))
    kept.get()
    half.send(b"GET / HT")
    began = time.monotonic()

    assert half.answer().status == 408
    assert all(client.is_closed() for client in (fresh, half, kept))
    assert time.monotonic() - began < 2


def test_a_client_that_does_not_read_is_closed_in_time(serve: Serve, connect: Connect) -> None:
    """And its response ended, which would hold a thread for ever."""
    ended = threading.Event()

    def endless(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    server = serve(endless, timeout=0.3, threads=1)
    connect(server).ask()
    assert ended.wait(10)
    wait_for(lambda: not server.httpserver.channels)


def test_a_slow_answer_is_waited_for(serve: Serve, connect: Connect) -> None:
    """The timeout is for clients; applications take the time that they need."""

    def slow(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "9")])
        for piece in (b"one", b"two", b"six"):
            threading.Event().wait(0.3)
            yield piece

    assert connect(serve(slow, timeout=0.1)).get().body == b"onetwosix"


@pytest.mark.parametrize("timeout", [86401.0, 1e12, float("inf")])
def test_a_timeout_may_be_longer_than_the_systems_clocks(
    serve: Serve, connect: Connect, timeout: float
) -> None:
    """They count milliseconds in 31 bits: 24 days."""
    client = connect(serve(timeout=timeout))
    assert client.get().status == 200
    assert client.get().status == 200


@pytest.mark.slow
def test_an_idle_site_does_not_wake(serve: Serve, connect: Connect) -> None:
    """Waitress alone looks around once a second, and so would a laptop's processor."""
    server = serve()
    client = connect(server)
    client.get()
    assert server._thread is not None
    status = Path(f"/proc/self/task/{server._thread.native_id}/status")

    def switches() -> list[str]:
        return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]

    wait_for(lambda: server.httpserver.bell._rung is False)
    threading.Event().wait(0.1)
    before = switches()
    threading.Event().wait(2.2)
    assert switches() == before
    assert client.get().status == 200


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_an_application_cannot_end_the_server(
    serve: Serve, connect: Connect, logged: Logged, how: str
) -> None:
    """sys.exit() in a view is a failed request; waitress alone would leave it unanswered."""
    server = serve(leave, threads=1)

    assert connect(server).get(f"/leave?{how}").status == 500
    assert connect(server).get().status == 200
    assert "ApplicationLeft" in str(logged)


def test_waitress_logs_to_the_bus(
    serve: Serve,
    connect: Connect,
    logged: Logged,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is written behind the log's back, and no client writes lines of its own."""

    def fail(environ: object, start_response: object) -> Iterable[bytes]:
        raise LookupError("no such shelf")

    assert connect(serve(fail)).get("/a%0aforged").status == 500

    wait_for(lambda: "no such shelf" in str(logged))
    assert "Exception while serving /a\\nforged\n" in str(logged)
    assert capfd.readouterr() == ("", "")
    assert not [each for each in caplog.records if each.name.startswith("waitress")]


def test_waiting_requests_are_not_logged(
    serve: Serve, connect: Connect, gate: Gate, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """Waitress alone says for each of them how many there are."""
    caplog.set_level(logging.DEBUG)
    server = serve(gate, threads=1)
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        client.ask("/gate")
    assert gate.entered.wait(5)
    gate.opened.set()
    assert [client.answer().status for client in clients] == [200] * 3
    assert "queue" not in str(logged) + caplog.text


def test_limits_are_kept(serve: Serve, connect: Connect) -> None:
    """Of each kind, with a status of its own."""
    server = serve(max_header=512, max_body=10, server_header="shelf")

    assert connect(server).get().headers["server"] == "shelf"
    assert connect(server).get("/" + "x" * 600).status == 414
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 600 + b"\r\n\r\n")
    assert client.answer().status == 431
    client = connect(server)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
    assert client.answer().status == 413


def test_no_limit_is_none(serve: Serve, connect: Connect) -> None:
    """0 is any length, where waitress would refuse every body."""
    client = connect(serve(echo, max_header=0, max_body=0))
    client.send(post("/" + "x" * 300_000, b"body"))
    assert client.answer().body == b"body"


def test_worker_threads_are_announced(engine: Engine, serve: Serve, connect: Connect) -> None:
    """What is kept per thread is made and thrown away, and none waits for itself."""
    told: list[str] = []
    engine.subscribe("acquire_thread", lambda *_: told.append("acquire"))
    engine.subscribe("release_thread", lambda *_: told.append("release"))
    seen: list[bool] = []

    def look(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(threading.get_ident() in engine.serving_threads)
        return hello(environ, start_response)

    assert connect(serve(look, threads=1)).get().status == 200
    engine.stop()
    assert seen == [True]
    assert told == ["acquire", "release"]
    assert not engine.serving_threads


# Options of waitress's own.


def test_native_options_reach_waitress(serve: Serve, connect: Connect) -> None:
    """As text, as they are written in a file."""
    native = {"url_scheme": "https", "url_prefix": "/shop", "server_name": "shop.example"}
    server = serve(tell, native={**native, "channel_timeout": "30", "expose_tracebacks": "yes"})

    told = json.loads(connect(server).get("/shop/a").body)

    assert (told["wsgi.url_scheme"], told["SCRIPT_NAME"]) == ("https", "/shop")
    assert told["SERVER_NAME"] == "shop.example"
    assert server.native["channel_timeout"] == 30
    assert server.httpserver.adjustments.expose_tracebacks is True


def test_a_native_timeout_wins(serve: Serve, connect: Connect) -> None:
    """Who speaks of the library means it."""
    began = time.monotonic()
    assert connect(serve(native={"channel_timeout": 1})).is_closed()
    assert 0.9 < time.monotonic() - began < 5


def test_a_proxy_is_believed_when_it_is_named(serve: Serve, connect: Connect) -> None:
    """And its headers reach the application in any case, as with the other servers."""
    header = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n"
    client = connect(serve(tell))
    client.send(header)
    told = json.loads(client.answer().body)
    assert (told["wsgi.url_scheme"], told["HTTP_X_FORWARDED_PROTO"]) == ("http", "https")


def test_a_named_proxy_sets_the_scheme(serve: Serve, connect: Connect) -> None:
    """By waitress's own middleware."""
    native = {"trusted_proxy": "127.0.0.1", "trusted_proxy_headers": "x-forwarded-proto"}
    client = connect(serve(tell, native=native))
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert json.loads(client.answer().body)["wsgi.url_scheme"] == "https"


def test_an_unknown_option_is_told_the_nearest(engine: Engine) -> None:
    """Before anything starts."""
    with pytest.raises(UnknownNativeOption, match="did you mean 'channel_timeout'"):
        WaitressServer(engine, hello, native={"chanel_timeout": "30"})


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("channel_timeout", "soon", "a whole number"),
        ("expose_tracebacks", "perhaps", "yes or no"),
        ("trusted_proxy_count", "2", "trusted_proxy"),
        ("trusted_proxy_headers", "x-nonsense", "trusted_proxy"),
        ("threads", "4", "say it with 'threads'"),
        ("listen", "*:80", "say it with 'bind'"),
        ("ident", "me", "say it with 'server_header'"),
        ("connection_limit", "9", "say it with 'max_connections'"),
    ],
)
def test_a_bad_option_is_said_in_one_sentence(
    engine: Engine, option: str, value: str, reason: str
) -> None:
    """With what would work."""
    with pytest.raises(BadServerOption, match=reason) as caught:
        WaitressServer(engine, hello, native={option: value})
    assert f"waitress.{option}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_sitebus_decides_is_waitresss() -> None:
    """A name that waitress gives up must not stay refused for a reason that has gone."""
    from waitress.adjustments import Adjustments

    assert RESERVED.keys() <= Adjustments._param_map.keys()


def test_tls_is_refused(engine: Engine, tmp_path: Path) -> None:
    """Waitress has none: a certificate would be a false promise."""
    with pytest.raises(BadServerOption, match="waitress has no TLS"):
        WaitressServer(engine, hello, tls=TLS(tmp_path / "cert.pem"))


# What goes wrong.


def test_a_taken_port_leaves_nothing_half_started(engine: Engine, serve: Serve) -> None:
    """The address that could be had is given back with the one that could not."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError):
            serve(binds=["127.0.0.1:0", f"127.0.0.1:{port}"])

    assert not [t for t in threading.enumerate() if "waitress" in t.name]
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


def test_a_crash_of_the_loop_ends_the_engine(engine: Engine, serve: Serve, logged: Logged) -> None:
    """A site that cannot accept any more must not look alive; its status says so."""
    server = serve()

    # As if something else in the process had broken the socket.
    server.httpserver.doors[0].socket.shutdown(socket.SHUT_RDWR)

    assert engine.block() == EX_SOFTWARE
    assert "Error in HTTP server on http://127.0.0.1" in str(logged)


def test_without_descriptors_it_pauses_and_goes_on(
    serve: Serve, connect: Connect, logged: Logged
) -> None:
    """Waitress alone logs a traceback as often as the processor can."""
    server = serve()
    kept = connect(server)
    kept.get()
    newcomer = socket.socket()
    newcomer.settimeout(10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 8, limits[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        newcomer.connect(("127.0.0.1", server.addresses[0].port))
        wait_for(lambda: "cannot accept: Too many open files; pausing" in str(logged))
        assert kept.get().status == 200
        threading.Event().wait(0.3)
        assert str(logged).count("pausing") == 1
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with newcomer:
        newcomer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert newcomer.recv(4096).startswith(b"HTTP/1.1 200")


def test_twenty_cycles_leave_nothing(engine: Engine, serve: Serve) -> None:
    """Descriptors and threads are level: nothing is kept per start."""
    server = serve(linger=0.0)
    engine.stop()
    descriptors, threads = open_descriptors(), threading.active_count()

    for _ in range(20):
        engine.start()
        with Client(server.addresses[0]) as client:
            assert client.get().status == 200
        engine.stop()

    assert len(open_descriptors()) == len(descriptors)
    assert threading.active_count() == threads


def test_an_idle_stop_takes_no_time(engine: Engine, serve: Serve) -> None:
    """No interval of a loop stands between a signal and the end."""
    serve()
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 0.1


# A stop, as clients see it.


def test_a_request_in_flight_is_finished(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Its answer says that the connection closes."""
    server = serve(gate)
    client = connect(server)
    client.ask("/gate")
    assert gate.entered.wait(5)

    stop = stop_begins(engine, server, meanwhile)
    assert not stop.done()
    gate.opened.set()

    answer = client.answer()
    assert (answer.status, answer.closes, answer.body) == (200, True, b"hello")
    assert client.is_closed()
    stop.result(5)


def test_a_stream_is_finished(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Its headers were sent before the stop; it ends whole all the same."""

    def stream(environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first "
        gate.entered.set()
        gate.opened.wait(10)
        yield b"last" * 100_000

    server = serve(stream)
    client = connect(server)
    client.ask()
    assert gate.entered.wait(5)

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()

    assert client.answer().body == b"first " + b"last" * 100_000
    assert client.is_closed()
    stop.result(5)


def test_an_idle_connection_is_closed_after_the_linger(
    engine: Engine, serve: Serve, connect: Connect
) -> None:
    """Kept-alive and fresh ones alike; a silent client does not hold the stop."""
    server = serve(linger=0.2)
    kept, fresh = connect(server), connect(server)
    kept.get()
    wait_for(lambda: len(server.httpserver.channels) == 2)

    began = time.monotonic()
    engine.stop()

    assert 0.2 <= time.monotonic() - began < 1.0
    assert kept.is_closed()
    assert fresh.is_closed()


@pytest.mark.parametrize("used_before", [True, False], ids=["kept alive", "fresh"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_request_within_the_linger_is_answered(
    engine: Engine,
    serve: Serve,
    connect: Connect,
    meanwhile: Meanwhile,
    used_before: bool,
    version: str,
) -> None:
    """A client that had not heard of the stop gets its answer, and hears of it, once."""
    server = serve(linger=5.0)
    client = connect(server)
    request = f"GET / HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".encode()
    if used_before:
        client.send(request)
        assert not client.answer().closes
    wait_for(lambda: server.httpserver.channels)

    stop = stop_begins(engine, server, meanwhile)
    client.send(request)
    said = everything(client)

    assert said.startswith(b"HTTP/%b 200 OK" % version.encode())
    assert said.lower().count(b"\r\nconnection: ") == 1
    assert b"\r\nConnection: close\r\n" in said
    stop.result(1)


def test_half_a_request_is_waited_for(
    engine: Engine, serve: Serve, connect: Connect, meanwhile: Meanwhile
) -> None:
    """Longer than the linger: somebody is in the middle of a word."""
    server = serve(linger=0.0)
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: loc")
    wait_for(lambda: [each for each in server.httpserver.channels if each.request])

    stop = stop_begins(engine, server, meanwhile)
    client.send(b"alhost\r\n\r\n")

    assert client.answer().closes
    stop.result(5)


def test_half_a_request_is_given_up_at_the_deadline(
    engine: Engine, serve: Serve, connect: Connect, logged: Logged
) -> None:
    """And holds no thread after it."""
    server = serve(drain_timeout=0.2)
    client = connect(server)
    client.send(b"GET / HT")
    wait_for(lambda: [each for each in server.httpserver.channels if each.request])

    began = time.monotonic()
    engine.stop()

    assert time.monotonic() - began < 0.6
    assert client.is_closed()
    assert "left behind" not in str(logged)


def test_requests_sent_together_are_all_answered(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """Only the last of them says that the connection closes."""
    server = serve(gate)
    client = connect(server)
    client.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert gate.entered.wait(5)

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()

    said = everything(client)
    assert said.count(b"hello") == 3
    assert said.count(b"Connection: close") == 1
    stop.result(5)


def test_requests_queued_for_a_thread_are_answered(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, meanwhile: Meanwhile
) -> None:
    """More of them than threads."""
    server = serve(gate, threads=1)
    first, *others = (connect(server) for _ in range(6))
    first.ask("/gate")
    assert gate.entered.wait(5)
    for client in others:
        client.ask()
    wait_for(lambda: sum(bool(each.requests) for each in server.httpserver.channels) == 6)

    stop = stop_begins(engine, server, meanwhile)
    gate.opened.set()

    assert all(client.answer().closes for client in (first, *others))
    stop.result(5)


def test_a_busy_thread_is_named_and_left_behind(
    engine: Engine, serve: Serve, connect: Connect, gate: Gate, logged: Logged
) -> None:
    """It holds neither the stop nor a later start, and its late answer goes nowhere."""
    server = serve(gate, drain_timeout=0.1, threads=1)
    client = connect(server)
    client.ask("/gate?%0aforged")
    assert gate.entered.wait(5)
    [number] = server.httpserver.busy
    [stuck] = [thread for thread in threading.enumerate() if thread.ident == number]

    engine.stop()

    assert "'waitress main worker 1' is still busy with GET /gate?%0aforged" in str(logged)
    engine.start()
    gate.opened.set()
    assert connect(server).get().status == 200
    wait_for(lambda: not stuck.is_alive())


def test_for_good_lets_in_whom_the_kernel_accepted(engine: Engine, connect: Connect) -> None:
    """Nobody will accept after us: they are answered, and the next ones refused."""
    server = WaitressServer(engine, hello, binds=["127.0.0.1:0"], linger=1.0)
    server.bind()
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.ask()
    server.start()
    server.httpserver.drain(1.0, for_good=True)

    assert [client.answer().status for client in clients] == [200] * 20
    assert server.httpserver.drained.wait(5)
    server.stop()


@pytest.mark.slow
def test_no_request_is_lost_through_ten_restarts(engine: Engine, serve: Serve) -> None:
    """Under clients that connect for each request, and others that keep their connection."""
    server = serve(linger=0.3)
    with Load(server.addresses[0]) as load:
        for _ in range(10):
            wait_for(load.enough(60), 20)
            server.restart()
        wait_for(load.enough(60), 20)
    assert load.failures == []
