"""HTTPS: certificates are checked before anything is bound, and can change while serving."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import (
    EX_CONFIG,
    EX_NOINPUT,
    EX_NOPERM,
    BadClientAuthority,
    CannotRead,
    SitebusError,
)
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.servers.tls import TLS
from tests.helpers import wait_for
from tests.servers.client import Client
from tests.servers.conftest import Certificate, Gate, Logged, Serve
from tests.wsgi_helpers import as_nobody, shared_folder

Connect = Callable[..., Client]
Certificates = tuple[Certificate, Certificate]


def tell(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer the environ."""
    body = json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def trust(certificates: Certificates) -> ssl.SSLContext:
    """Trust the root only: the intermediate has to come from the server."""
    return ssl.create_default_context(cafile=certificates[0].root)


def name_of(client: Client) -> str:
    assert isinstance(client.socket, ssl.SSLSocket)
    subject: Any = (client.socket.getpeercert() or {})["subject"]
    return str(dict(subject[0])["commonName"])


def test_https_is_served_with_the_whole_chain(
    serve: Serve, connect: Connect, certificate: Certificate, trust: ssl.SSLContext
) -> None:
    """A client that knows only the root is content."""
    server = serve(tell, tls=certificate.tls)
    client = connect(server, tls=trust)
    told = json.loads(client.get().body)

    assert told["wsgi.url_scheme"] == "https"
    assert told["HTTPS"] == "on"
    assert told["SSL_PROTOCOL"].startswith("TLS")
    assert told["SERVER_PORT"] == str(server.addresses[0].port)
    assert server.description.startswith("https://127.0.0.1:")
    assert not client.get().closes


def test_a_combined_file_will_do(
    serve: Serve, connect: Connect, certificate: Certificate, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    """Certificate, chain and key in one, as some tools write them."""
    files = (certificate.certificate, certificate.chain, certificate.key)
    combined = tmp_path / "combined.pem"
    combined.write_text("".join(path.read_text() for path in files))
    assert connect(serve(tls=TLS(combined)), tls=trust).get().status == 200


def test_old_protocols_are_refused(
    serve: Serve, certificate: Certificate, trust: ssl.SSLContext
) -> None:
    """TLS 1.2 is the least."""
    server = serve(tls=certificate.tls)
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        trust.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        trust.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), socket.create_connection(server.bound_addr) as raw:  # type: ignore[arg-type]
        trust.wrap_socket(raw, server_hostname="localhost")


def test_plain_http_on_a_tls_port_is_told_so(
    serve: Serve, connect: Connect, certificate: Certificate
) -> None:
    """Rather than a closed connection."""
    answer = connect(serve(tls=certificate.tls)).get()
    assert answer.status == 400
    assert b"HTTPS" in answer.body


def test_a_mute_client_delays_nobody(
    serve: Serve, connect: Connect, certificate: Certificate, trust: ssl.SSLContext
) -> None:
    """Neither before its handshake nor in the middle of it."""
    server = serve(tls=certificate.tls, threads=2)
    connect(server)
    half = connect(server)
    half.send(b"\x16\x03\x01\x02\x00\x01")
    assert connect(server, tls=trust).get().status == 200


def test_large_pipelined_requests_are_not_forgotten(
    serve: Serve, connect: Connect, certificate: Certificate, trust: ssl.SSLContext
) -> None:
    """What OpenSSL has decrypted already does not make the socket readable."""
    client = connect(serve(tls=certificate.tls, timeout=3), tls=trust)
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000 + b"\r\n\r\n"
    client.send(request * 4 + b"GET / HTTP/1.0\r\n\r\n")
    received = b""
    while data := client.socket.recv(65536):
        received += data
    assert received.count(b"hello") == 5


def test_a_drain_answers_within_tls(
    engine: Engine,
    serve: Serve,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    gate: Gate,
    meanwhile: Callable[..., Future[Any]],
) -> None:
    """Those in flight and those in their linger."""
    server = serve(gate, tls=certificate.tls, linger=5)
    slow, kept = connect(server, tls=trust), connect(server, tls=trust)
    kept.get()
    slow.ask("/gate")
    assert gate.entered.wait(5)
    stop = meanwhile(engine.stop)
    wait_for(lambda: not server.httpserver.can_add_keepalive_connection)
    gate.opened.set()

    assert kept.get().closes
    assert slow.answer().closes
    stop.result(5)


def test_graceful_rereads_the_certificate(
    engine: Engine,
    serve: Serve,
    connect: Connect,
    certificate: Certificate,
    certificates: Certificates,
    trust: ssl.SSLContext,
) -> None:
    """New connections get the new one; old ones go on."""
    server = serve(tls=certificate.tls)
    before = connect(server, tls=trust)
    certificate.certificate.write_bytes(certificates[1].certificate.read_bytes())
    certificate.key.write_bytes(certificates[1].key.read_bytes())

    engine.graceful()

    after = connect(server, tls=trust)
    assert (name_of(before), name_of(after)) == ("old", "new")
    assert before.get().status == after.get().status == 200


def test_a_bad_new_certificate_changes_nothing(
    engine: Engine,
    serve: Serve,
    connect: Connect,
    certificate: Certificate,
    trust: ssl.SSLContext,
    logged: Logged,
) -> None:
    """Half a deployment does not take the site down; nor does a stop and start on it."""
    server = serve(tls=certificate.tls)
    certificate.certificate.write_text("")

    engine.graceful()
    assert connect(server, tls=trust).get().status == 200
    engine.stop()
    engine.start()
    assert connect(server, tls=trust).get().status == 200
    assert "they are not a certificate and a private key in PEM" in str(logged)
    assert "keeping the certificate that was read before" in str(logged)


def remove(files: Certificate) -> None:
    files.certificate.unlink()


def make_directory(files: Certificate) -> None:
    files.chain.unlink()
    files.chain.mkdir()


def empty(files: Certificate) -> None:
    files.key.write_text("-----BEGIN RUBBISH-----\n")


def swap(files: Certificate) -> None:
    os.replace(files.root.with_name("other.key"), files.key)


def lock(files: Certificate) -> None:
    os.replace(files.root.with_name("locked.key"), files.key)


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (remove, EX_NOINPUT, "cannot read .*old.pem: no such file or directory"),
        (make_directory, EX_NOINPUT, "cannot read .*middle.pem: is a directory"),
        (empty, EX_CONFIG, "cannot use certificate .* and key .*: they are not a certificate and"),
        (swap, EX_CONFIG, "the key does not belong to the certificate"),
        (lock, EX_CONFIG, "the key has a passphrase"),
    ],
)
def test_a_bad_certificate_is_one_sentence_and_nothing_started(
    engine: Engine,
    certificate: Certificate,
    certificates: Certificates,
    spoil: Callable[[Certificate], None],
    status: int,
    said: str,
) -> None:
    """With the status of its kind; no socket was bound for it."""
    _make_other_keys(certificate, certificates)
    spoil(certificate)
    server = CherootServer(engine, tell, binds=["127.0.0.1:0"], tls=certificate.tls)
    server.subscribe()

    with pytest.raises(SitebusError, match=said) as caught:
        engine.start()

    assert caught.value.status == status
    assert "\n" not in str(caught.value)
    assert engine.addresses == ()


def test_a_key_that_may_not_be_read_is_one_sentence(certificate: Certificate) -> None:
    """Privileges were dropped too early, or the file has the wrong owner."""
    with shared_folder() as folder:
        for path in (certificate.certificate, certificate.key, certificate.chain):
            (folder / path.name).write_bytes(path.read_bytes())
        told = as_nobody(
            f"""
            from pathlib import Path
            from sitebus.errors import SitebusError
            from sitebus.process import Engine
            from sitebus.servers.cheroot import CherootServer
            from sitebus.servers.tls import TLS

            os.chdir({str(folder)!r})

            def start():
                engine = Engine()
                tls = TLS(Path({certificate.certificate.name!r}), Path({certificate.key.name!r}))
                CherootServer(engine, None, binds=["127.0.0.1:0"], tls=tls).subscribe()
                try:
                    engine.start()
                except SitebusError as error:
                    print(error.status, error)
                print(len(engine.addresses))
                engine.exit()

            start()
            os.chmod({certificate.key.name!r}, 0)
            become_nobody()
            start()
            """
        )
    assert told.splitlines() == [
        "1", f"{EX_NOPERM} cannot read {certificate.key.name}: this user may not read it", "0"
    ]  # fmt: skip


# Clients that show certificates.


@pytest.fixture
def person(certificate: Certificate, trust: ssl.SSLContext) -> ssl.SSLContext:
    """Show a certificate; by its root that of the server is known, too."""
    trust.load_cert_chain(_joined(certificate), certificate.key)
    return trust


@pytest.fixture
def asking(certificate: Certificate) -> TLS:
    """Ask clients for a certificate of the same authority as the server's."""
    return certificate.tls._replace(client_ca=certificate.root)


def refused(server: CherootServer, context: ssl.SSLContext) -> bool:
    """Tell whether the server ends the handshake, which TLS 1.3 clients see a little later."""
    try:
        with Client(server.addresses[0], tls=context) as client:
            client.ask()
            return client.socket.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_may_be_required_of_clients(
    serve: Serve,
    connect: Connect,
    asking: TLS,
    certificate: Certificate,
    person: ssl.SSLContext,
    version: ssl.TLSVersion,
) -> None:
    """Nobody else gets as far as a request."""
    server = serve(tls=asking)
    nobody = ssl.create_default_context(cafile=certificate.root)
    nobody.minimum_version = nobody.maximum_version = version
    person.minimum_version = person.maximum_version = version
    assert connect(server, tls=person).get().status == 200
    assert refused(server, nobody)
    assert connect(server, tls=person).get().status == 200


def test_a_certificate_may_be_optional(
    serve: Serve,
    connect: Connect,
    asking: TLS,
    certificate: Certificate,
    certificates: Certificates,
    person: ssl.SSLContext,
) -> None:
    """A site may have pages for everybody; but one that is shown has to be good."""
    server = serve(tls=asking._replace(client="optional"))
    nobody = ssl.create_default_context(cafile=certificate.root)
    stranger = ssl.create_default_context(cafile=certificate.root)
    stranger.load_cert_chain(*_stranger(certificate.root.parent))
    assert connect(server, tls=nobody).get().status == 200
    assert connect(server, tls=person).get().status == 200
    assert refused(server, stranger)


def test_graceful_rereads_by_whom_clients_are_checked(
    engine: Engine, serve: Serve, connect: Connect, asking: TLS, person: ssl.SSLContext
) -> None:
    """Whose authority was taken off the list stays out from now on."""
    server = serve(tls=asking)
    before = connect(server, tls=person)
    assert before.get().status == 200
    assert asking.client_ca is not None
    asking.client_ca.write_bytes(_stranger(asking.client_ca.parent)[0].read_bytes())

    engine.graceful()

    assert refused(server, person)
    assert before.get().status == 200


@pytest.mark.parametrize(
    ("content", "error", "status", "said"),
    [
        (None, CannotRead, EX_NOINPUT, "cannot read .*ca.pem: no such file"),
        (b"", BadClientAuthority, EX_CONFIG, "by .*ca.pem: there is no certificate in PEM in it"),
        (b"\x30\x82", BadClientAuthority, EX_CONFIG, "there is no certificate in PEM in it"),
        (b"key", BadClientAuthority, EX_CONFIG, "there is no certificate in PEM in it"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            BadClientAuthority,
            EX_CONFIG,
            "cannot check client certificates by .*ca.pem: ",
        ),
    ],
)
def test_a_bad_authority_is_one_sentence(
    certificate: Certificate,
    tmp_path: Path,
    content: bytes | None,
    error: type[SitebusError],
    status: int,
    said: str,
) -> None:
    """Rather than a site that lets nobody in."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(certificate.key.read_bytes() if content == b"key" else content)
    with pytest.raises(error, match=said) as caught:
        certificate.tls._replace(client_ca=path).context()
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_a_list_of_what_was_revoked_is_no_authority(
    certificate: Certificate, tmp_path: Path
) -> None:
    """OpenSSL takes it for one, and would let nobody in."""
    (tmp_path / "index").touch()
    settings = (
        "default_ca = here",
        "[here]",
        f"database = {tmp_path / 'index'}",
        "default_md = sha256",
    )
    (tmp_path / "ca.conf").write_text("[ca]\n" + "\n".join((*settings, "default_crl_days = 3\n")))
    by = (
        "-config",
        tmp_path / "ca.conf",
        "-cert",
        certificate.certificate,
        "-keyfile",
        certificate.key,
    )
    made = tmp_path / "revoked.pem"
    subprocess.run(["openssl", "ca", "-gencrl", *by, "-out", made], check=True, capture_output=True)
    with pytest.raises(BadClientAuthority, match="there is no certificate in PEM in it"):
        certificate.tls._replace(client_ca=made).context()


def test_the_weaknesses_that_options_close_are_closed(certificate: Certificate) -> None:
    """Whatever the Python, and whatever the OpenSSL it was built with."""
    context = certificate.tls.context()
    for option in (
        ssl.OP_NO_COMPRESSION,
        ssl.OP_NO_RENEGOTIATION,
        ssl.OP_CIPHER_SERVER_PREFERENCE,
    ):
        assert context.options & option
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    # Who steals the key cannot read what was recorded before.
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-")) for name in names)


def test_a_client_cannot_negotiate_again(serve: Serve, certificate: Certificate) -> None:
    """It costs a server more than it costs a client."""
    port = serve(tls=certificate.tls).addresses[0].port
    done = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}"],
        input=b"R\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"RENEGOTIATING" in done.stderr
    assert b"no renegotiation" in done.stderr
    assert b"Compression: NONE" in done.stdout


def _joined(files: Certificate) -> Path:
    path = files.root.with_name("person.pem")
    path.write_bytes(files.certificate.read_bytes() + files.chain.read_bytes())
    return path


def _stranger(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that nobody has signed."""
    made = folder / "stranger.pem", folder / "stranger.key"
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-days", "3", "-subj", "/CN=stranger", "-keyout", made[1], "-out", made[0])
    subprocess.run(["openssl", *kind, *names], check=True, capture_output=True)
    return made


def _make_other_keys(files: Certificate, certificates: Certificates) -> None:
    folder = files.root.parent
    (folder / "other.key").write_bytes(certificates[1].key.read_bytes())
    command = ("openssl", "ec", "-aes256", "-passout", "pass:secret")
    subprocess.run(
        [*command, "-in", files.key, "-out", folder / "locked.key"], check=True, capture_output=True
    )
