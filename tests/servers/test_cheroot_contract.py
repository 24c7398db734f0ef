"""What `sitebus.servers._cheroot` relies on in cheroot, asked of cheroot alone.

When a new cheroot fails here, read the top of that module and look at each point again.
"""

from __future__ import annotations

import inspect
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from cheroot import server as cheroot_server
from cheroot import wsgi
from cheroot.makefile import MakeFile
from cheroot.ssl import Adapter

from tests.servers.client import hello


class Bare(wsgi.Server):
    """cheroot's server, never prepared; it keeps connections as long as it is told."""

    keeps = True

    @property
    def can_add_keepalive_connection(self) -> bool:
        return self.keeps


@pytest.fixture
def server() -> Iterator[Bare]:
    server = Bare(("127.0.0.1", 80), hello, server_name="bare")
    server.software = "bare"
    yield server
    logging.statistics.pop(f"Cheroot HTTPServer {id(server)}")  # type: ignore[attr-defined]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def converse(server: Bare, pair: tuple[socket.socket, socket.socket], said: bytes) -> Any:
    ours, theirs = pair
    connection = cheroot_server.HTTPConnection(server, ours, MakeFile)
    theirs.sendall(said)
    return connection


def test_a_connection_serves_one_request_and_tells_whether_it_stays(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection = converse(server, pair, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.communicate() is True
    assert not connection.rfile.has_data()
    assert b"Connection: close" not in pair[1].recv(65536)


def test_what_was_read_ahead_is_known(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection = converse(server, pair, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    connection.communicate()
    assert connection.rfile.has_data()


def test_the_server_is_asked_just_before_the_headers_go_out(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    def decide_late(environ: Any, start_response: Any) -> Any:
        server.keeps = False
        return hello(environ, start_response)

    server.wsgi_app = decide_late
    connection = converse(server, pair, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.communicate() is False
    assert b"\r\nConnection: close\r\n" in pair[1].recv(65536)


def test_the_caches_of_a_connection_are_its_own(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection = converse(server, pair, b"")
    assert {"resolve_peer_creds", "get_peer_creds"} <= vars(connection).keys()
    del connection.resolve_peer_creds, connection.get_peer_creds
    assert callable(connection.get_peer_creds)


def test_an_environ_is_new_and_takes_ssl_env(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    seen: list[dict[str, Any]] = []

    def look(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ)
        return hello(environ, start_response)

    server.wsgi_app = look
    connection = converse(server, pair, b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    connection.ssl_env = {"HTTPS": "on"}
    connection.remote_addr, connection.remote_port = "192.0.2.1", 99
    connection.communicate()
    connection.communicate()

    first, second = seen
    assert first is not second
    assert first["HTTPS"] == "on"
    assert (first["REMOTE_ADDR"], first["REMOTE_PORT"]) == ("192.0.2.1", "99")
    assert (first["SERVER_NAME"], first["SERVER_PORT"]) == ("bare", "80")
    assert first["REQUEST_URI"] == "/a?b"


def test_a_tls_adapter_is_asked_for_nothing_but_its_being_there(
    server: Bare, pair: tuple[socket.socket, socket.socket]
) -> None:
    schemes: list[str] = []

    def look(environ: dict[str, Any], start_response: Any) -> Any:
        schemes.append(environ["wsgi.url_scheme"])
        return hello(environ, start_response)

    server.wsgi_app = look
    server.ssl_adapter = object()
    converse(server, pair, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").communicate()
    assert schemes == ["https"]


def test_requests_use_no_more_of_a_server_than_we_know() -> None:
    """Whatever they begin to ask of it may be something that we have replaced."""
    source = "".join(
        inspect.getsource(part)
        for part in (
            cheroot_server.HTTPRequest,
            cheroot_server.HTTPConnection,
            wsgi.Gateway,
            wsgi.Gateway_10,
        )
    )
    assert set(re.findall(r"\bserver\.([a-z_]+)", source)) == {
        "bind_addr",
        "can_add_keepalive_connection",
        "error_log",
        "gateway",
        "max_request_body_size",
        "max_request_header_size",
        "peercreds_enabled",
        "peercreds_resolve_enabled",
        "protocol",
        "server_name",
        "software",
        "ssl_adapter",
        "stats",
        "timeout",
        "wsgi_app",
    } | _in_docstrings(source)


def _in_docstrings(source: str) -> set[str]:
    """Names of classes, as docstrings spell them."""
    return set(re.findall(r"cheroot\.server\.([a-z_]+)", source))


def test_the_life_of_a_server_is_prepare_serve_stop() -> None:
    source = inspect.getsource(wsgi.Server.start)
    assert "self.prepare()" in source
    assert "self.serve()" in source
    for name in ("stop", "put_conn", "error_log", "clear_stats", "runtime"):
        assert callable(getattr(wsgi.Server, name))
    assert isinstance(wsgi.Server.can_add_keepalive_connection, property)


def test_nothing_is_opened_or_started_before_prepare() -> None:
    source = inspect.getsource(cheroot_server.HTTPServer.__init__)
    assert "start(" not in source
    assert "socket.socket" not in source


def test_statistics_are_kept_under_the_id(server: Bare) -> None:
    key = f"Cheroot HTTPServer {id(server)}"
    assert logging.statistics[key] is server.stats  # type: ignore[attr-defined]
    assert server.stats["Enabled"] is False


def test_a_tls_adapter_has_four_parts() -> None:
    assert Adapter.__abstractmethods__ == {"__init__", "bind", "wrap", "get_environ", "makefile"}
