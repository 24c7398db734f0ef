"""Where every server listens, how it ends by itself, and what it does over TLS."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import EX_SOFTWARE, EX_UNAVAILABLE, BadServerOption, BindError
from sitebus.process import Engine
from tests.helpers import nothing_left
from tests.servers.client import Client
from tests.servers.conformance import (
    KINDS,
    Host,
    Kind,
    ask_http2,
    engine,
    host,
    kind,
    only,
    post,
    shop,
)
from tests.servers.conftest import Certificate, Logged
from tests.servers.shop import HELLO, Shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]


#: Found here by pytest.
__all__ = ["engine", "host", "kind", "shop"]


@pytest.fixture
def trust(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.root)


def test_a_request_right_after_the_start_is_answered(host: Host, connect: Connect) -> None:
    """Ready means ready: no retry, no waiting."""
    server = host()

    answer = connect(server).get()

    assert (answer.status, answer.body) == (200, HELLO)
    assert server.running


def test_port_0_is_a_port(host: Host) -> None:
    """Whoever asked for any port must be told which."""
    server = host()
    port = server.addresses[0].port

    assert port
    assert server.description == f"http://127.0.0.1:{port}"
    assert server.bound_addr == ("127.0.0.1", port)


def test_several_sockets_of_all_sorts(host: Host, connect: Connect, tmp_path: Path) -> None:
    """One server may be reached over IPv4, IPv6 and a unix socket, and each leads to the site."""
    server = host(binds=["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path / 's'}"])

    told = [json.loads(connect(server, index).get("/told").body) for index in range(3)]

    assert [each["client"] or None for each in told] == ["127.0.0.1", "::1", None]
    assert [each["port"] for each in told[:2]] == [each.port for each in server.addresses[:2]]
    assert {each["scheme"] for each in told} == {"http"}


def test_an_inherited_descriptor(host: Host, connect: Connect) -> None:
    """A supervisor, or systemd, may have made the socket; its maker keeps it too."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as made:
        server = host(binds=[f"fd:{os.dup(made.fileno())}"])

        assert server.addresses[0].port == made.getsockname()[1]
        assert connect(server).get().status == 200


def test_an_address_in_use_is_one_sentence(
    engine: Engine, kind: Kind, shop: Shop, connect: Connect
) -> None:
    """And the other socket, which was free, is free again."""
    with socket.create_server(("127.0.0.1", 0)) as taken, nothing_left():
        port = taken.getsockname()[1]
        server = kind.make(
            engine, shop.face(kind.speech), binds=["127.0.0.1:0", f"127.0.0.1:{port}"]
        )
        server.subscribe()
        with pytest.raises(BindError) as caught:
            engine.start()

        assert str(caught.value).startswith(f"cannot listen on 127.0.0.1:{port}: address already")
        assert caught.value.status == EX_UNAVAILABLE
        assert engine.addresses == ()
        assert not server.running


def test_a_server_that_ends_by_itself_ends_the_engine(
    engine: Engine, kind: Kind, shop: Shop, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that serves nobody must not look alive; its status and its log say why."""
    server = kind.make(engine, shop.face(kind.speech))
    make = server.make

    def doomed() -> Any:
        hosted = make()
        start = hosted.start

        def fail() -> None:
            start()
            raise RuntimeError("out of paper")

        monkeypatch.setattr(hosted, "start", fail)
        return hosted

    monkeypatch.setattr(server, "make", doomed)
    server.subscribe()
    engine.start()

    server.httpserver.finish(0.5)

    assert status_soon(engine) == EX_SOFTWARE
    assert "out of paper" in str(logged)


# What granian holds of a broken socket is held until the process ends: test_granian.py has a child.
@only(kind for kind in KINDS if kind.server != "granian")
def test_a_server_that_can_accept_no_more_ends_the_engine(
    engine: Engine, host: Host, logged: Logged
) -> None:
    """As if something else in the process had broken its socket: accept() fails for good."""
    server = host()

    server._listeners[0].socket.shutdown(socket.SHUT_RDWR)

    assert status_soon(engine) == EX_SOFTWARE
    assert f"Error in HTTP server on {server.description}" in str(logged)


def status_soon(engine: Engine) -> int:
    """Be the main loop until the engine has ended, or for as long as it may take."""
    given_up = threading.Timer(5, engine.interrupt)
    given_up.daemon = True  # block() would wait for it
    given_up.start()
    try:
        return engine.block()
    finally:
        given_up.cancel()
        given_up.join()


# TLS and HTTP/2.


@only(kind for kind in KINDS if kind.can("tls"))
def test_tls(host: Host, connect: Connect, certificate: Certificate, trust: ssl.SSLContext) -> None:
    """The client is content with the certificate, the application knows that it is asked safely."""
    server = host(tls=certificate.tls)
    client = connect(server, tls=trust)
    assert json.loads(client.get("/told").body)["scheme"] == "https"
    assert server.description.startswith("https://127.0.0.1:")
    body = os.urandom(1 << 20)
    client.send(post("/echo", body))
    assert client.answer().body == body


@only(kind for kind in KINDS if kind.can("tls"))
def test_a_graceful_reads_the_certificate_again(
    engine: Engine,
    host: Host,
    connect: Connect,
    certificate: Certificate,
    certificates: tuple[Certificate, Certificate],
    trust: ssl.SSLContext,
) -> None:
    """A renewed one is in use without anybody being disconnected."""
    server = host(tls=certificate.tls)
    before = connect(server, tls=trust)
    assert before.get().status == 200
    certificate.certificate.write_bytes(certificates[1].certificate.read_bytes())
    certificate.key.write_bytes(certificates[1].key.read_bytes())

    engine.graceful()

    after = connect(server, tls=trust)
    assert isinstance(after.socket, ssl.SSLSocket)
    told: Any = after.socket.getpeercert()
    assert told["subject"] == ((("commonName", "new"),),)
    assert after.get().status == before.get().status == 200


@only(kind for kind in KINDS if not kind.can("tls"))
def test_a_server_without_tls_says_so(
    engine: Engine, kind: Kind, shop: Shop, certificate: Certificate
) -> None:
    """Before it serves in the clear what was to be encrypted."""
    with pytest.raises(BadServerOption, match=f"tls_cert.*{kind.adapter.library} has no TLS"):
        kind.make(engine, shop.face(kind.speech), tls=certificate.tls)


@only(kind for kind in KINDS if kind.can("http2"))
def test_http_2(host: Host, certificate: Certificate, trust: ssl.SSLContext) -> None:
    """A client that offers it gets it; over TLS, as browsers want it."""
    server = host(tls=certificate.tls)
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with Client(server.addresses[0], trust) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "h2"
        assert ask_http2(client.socket) == (200, HELLO)
