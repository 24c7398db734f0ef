"""Granian's own options, and its certificates, which it cannot change by itself."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import BadCertificate, BadServerOption, CannotRead, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers import _granian_tls
from sitebus.servers.granian import GranianServer
from sitebus.servers.tls import TLS
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate, Logged
from tests.servers.granian_fixtures import Host, host, once

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["host", "once"]


# Options.


def test_options_of_granian(host: Host, connect: Connect) -> None:
    """By the names of its command line, read as it reads them."""
    server = host(native={"http1_buffer_size": "8192", "http1_keep_alive": "no", "http": "1"})

    assert server.native == {"http1_buffer_size": 8192, "http1_keep_alive": False, "http": "1"}
    assert connect(server).get().closes
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n")
    assert client.answer().status == 431


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("http1_buffer_size", "100", "100 is not in the range x>=8192"),
        ("http2_max_frame_size", "2000", "it must be from 16384 to 16777215"),
        ("http", "3", "'3' is not one of"),
        ("backpressure", "many", "'many' is not a valid integer range"),
        ("workers", "4", "one worker for each socket"),
        ("blocking_threads", "4", "say it with 'threads'"),
        ("ssl_keyfile", "key.pem", "say it with 'tls_cert' and 'tls_key'"),
    ],
)
def test_an_option_that_cannot_be(engine: Engine, name: str, value: str, message: str) -> None:
    """Some would end the process with the first connection."""
    with pytest.raises(BadServerOption) as caught:
        GranianServer(engine, hello, native={name: value})

    assert str(caught.value).startswith(f"server option granian.{name} cannot be '{value}': ")
    assert message in str(caught.value)


def test_an_option_that_is_none(engine: Engine) -> None:
    """With the nearest that is."""
    with pytest.raises(UnknownNativeOption, match="did you mean 'http1_buffer_size'"):
        GranianServer(engine, hello, native={"http1_bufer_size": "8192"})


def test_http_2_in_the_clear_if_it_is_asked_for(host: Host) -> None:
    """For proxies that speak it to what is behind them."""
    from tests.servers.conformance import ask_http2

    server = host(native={"http": "auto"})
    with Client(server.addresses[0]) as client:
        assert ask_http2(client.socket) == (200, b"hello")


# Certificates.


def subject(client: Client) -> str:
    assert isinstance(client.socket, ssl.SSLSocket)
    told: Any = client.socket.getpeercert()
    return str(told["subject"][0][0][1])


def renewed(certificate: Certificate, other: Certificate) -> None:
    certificate.certificate.write_bytes(other.certificate.read_bytes())
    certificate.key.write_bytes(other.key.read_bytes())


def test_who_is_connected_when_the_certificate_changes_goes_on(
    host: Host,
    connect: Connect,
    engine: Engine,
    certificate: Certificate,
    certificates: tuple[Certificate, Certificate],
) -> None:
    """With what it has; it hears that the connection closes, when it asks the next time."""
    trust = ssl.create_default_context(cafile=certificate.root)
    server = host(tls=certificate.tls)
    old = connect(server, tls=trust)
    old.get()
    for which in (1, 0, 1):
        renewed(certificate, certificates[which])
        engine.graceful()
        assert subject(connect(server, tls=trust)) == ("old", "new")[which]
    assert old.get().closes
    assert not connect(server, tls=trust).get().closes


def test_a_certificate_that_granian_cannot_use_is_refused(
    host: Host, certificate: Certificate
) -> None:
    """Granian would end the process; OpenSSL is content with this one."""
    make_certificate(certificate)
    with pytest.raises(BadCertificate, match=r"OpenSSL would, but granian says .*key"):
        host(tls=TLS(certificate.certificate, certificate.key))


def test_a_new_certificate_that_granian_cannot_use_changes_nothing(
    host: Host, connect: Connect, engine: Engine, certificate: Certificate, logged: Logged
) -> None:
    """It is logged, and whoever connects gets the old one."""
    trust = ssl.create_default_context(cafile=certificate.root)
    server = host(tls=certificate.tls)
    make_certificate(certificate)
    for _ in range(2):
        engine.graceful()
        assert subject(connect(server, tls=trust)) == "old"

    assert "keeping the certificate that was read before" in str(logged)


def test_a_certificate_that_granian_does_not_take_in_time_changes_nothing(
    host: Host,
    connect: Connect,
    engine: Engine,
    certificate: Certificate,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that is very busy; a graceful would fail, and the next one hold it for good."""
    trust = ssl.create_default_context(cafile=certificate.root)
    server = host(tls=certificate.tls)
    monkeypatch.setattr(_granian_tls, "PATIENCE", 0.0)
    engine.graceful()

    assert subject(connect(server, tls=trust)) == "old"
    assert "granian has not taken it in 0 seconds; keeping the certificate" in str(logged)


def test_a_file_that_is_gone_when_it_is_read_is_told(tmp_path: Path) -> None:
    """OpenSSL may have seen it a moment ago."""
    with pytest.raises(CannotRead, match=r"cannot read .*/a\.pem: no such file"):
        _granian_tls.read(TLS(tmp_path / "a.pem"), {})


def make_certificate(certificate: Certificate) -> None:
    """Write a key of a curve that granian has not."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1",
         "-nodes", "-subj", "/CN=odd", "-keyout", certificate.key, "-out", certificate.certificate],
        check=True, capture_output=True,
    )  # fmt: skip


def test_no_file_of_a_key_is_left(
    host: Host, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Granian wants files; they are there for as long as it reads them, for nobody else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    host(tls=certificate.tls)
    assert os.listdir(folder) == []
