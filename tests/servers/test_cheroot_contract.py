"""What sitebus relies on in cheroot, asked of cheroot alone.

When a new cheroot fails here, read the top of `sitebus.servers._cheroot` and look at each point
again.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cheroot import server as cheroot_server
from cheroot import wsgi

from tests.servers.client import hello


@pytest.fixture
def server() -> Iterator[wsgi.Server]:
    server = wsgi.Server(("127.0.0.1", 80), hello, server_name="bare")
    yield server
    logging.statistics.pop(f"Cheroot HTTPServer {id(server)}")  # type: ignore[attr-defined]


class Sent(list[bytes]):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.wfile = self

    write = list.append


class Request(cheroot_server.HTTPRequest):
    """A request whose headers are somebody else's business, as ours are."""

    times = 0

    def send_headers(self) -> None:
        self.times += 1


class Gateway(wsgi.Gateway_10):
    """A gateway with an environ of its own."""

    def get_environ(self) -> Any:
        return {"our": "own"}


@pytest.fixture
def request_(server: wsgi.Server) -> Request:
    return Request(server, Sent())


def test_a_request_is_made_of_a_server_and_a_connection(
    server: wsgi.Server, request_: Request
) -> None:
    assert request_.server is server
    assert isinstance(request_.conn, Sent)
    assert (request_.sent_headers, request_.outheaders, request_.chunked_write) == (
        False,
        [],
        False,
    )


def test_headers_are_sent_once(request_: Request) -> None:
    for _ in range(2):
        request_.ensure_headers_sent()
    assert (request_.times, request_.sent_headers) == (1, True)


def test_a_piece_is_written_with_one_call(request_: Request) -> None:
    """In a chunk if that was decided."""
    request_.write(b"one")
    request_.chunked_write = True
    request_.write(b"two")
    assert request_.conn == [b"one", b"3\r\ntwo\r\n"]


def test_a_gateway_keeps_what_the_application_says(request_: Request) -> None:
    gateway = Gateway(request_)
    assert gateway.env == {"our": "own"}
    assert gateway.remaining_bytes_out is None
    write = gateway.start_response("200 OK", [("Content-Length", "5"), ("A", "\xe9")])
    assert write == gateway.write
    assert gateway.started_response
    assert gateway.remaining_bytes_out == 5
    status: Any = request_.status
    assert status == b"200 OK"
    assert request_.outheaders == [(b"Content-Length", b"5"), (b"A", b"\xe9")]


def test_a_response_begins_once(request_: Request) -> None:
    gateway = Gateway(request_)
    gateway.start_response("200 OK", [])
    with pytest.raises(RuntimeError):
        gateway.start_response("200 OK", [])
    request_.sent_headers = True
    error = LookupError("too late")
    with pytest.raises(LookupError, match="too late"):
        gateway.start_response("500 Oh", [], (LookupError, error, None))


def test_a_replaced_response_keeps_the_headers_of_the_first(request_: Request) -> None:
    """Which is why ours are cleared before."""
    gateway = Gateway(request_)
    gateway.start_response("200 OK", [("A", "b")])
    gateway.start_response("404 No", [("C", "d")], (LookupError, LookupError(), None))
    assert request_.outheaders == [(b"A", b"b"), (b"C", b"d")]


def test_requests_use_no_more_of_a_server_than_we_know() -> None:
    """Whatever they begin to ask of it may be something that we have replaced."""
    source = "".join(
        inspect.getsource(part)
        for part in (
            cheroot_server.HTTPRequest.__init__,
            cheroot_server.HTTPRequest.ensure_headers_sent,
            cheroot_server.HTTPRequest.write,
            wsgi.Gateway.__init__,
            wsgi.Gateway.start_response,
        )
    )
    assert set(re.findall(r"\bserver\.([a-z_]+)", source)) == {"ssl_adapter"}


def test_the_life_of_a_server_is_prepare_serve_stop() -> None:
    source = inspect.getsource(wsgi.Server.start)
    assert "self.prepare()" in source
    assert "self.serve()" in source
    for name in ("stop", "error_log", "clear_stats", "runtime"):
        assert callable(getattr(wsgi.Server, name))


def test_nothing_is_opened_or_started_before_prepare() -> None:
    source = inspect.getsource(cheroot_server.HTTPServer.__init__)
    assert "start(" not in source
    assert "socket.socket" not in source


def test_statistics_are_kept_under_the_id(server: wsgi.Server) -> None:
    key = f"Cheroot HTTPServer {id(server)}"
    assert logging.statistics[key] is server.stats  # type: ignore[attr-defined]
    assert server.stats["Enabled"] is False
