"""What applications are told of a client's certificate, of real ones over real handshakes."""

from __future__ import annotations

import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.bridges.environs import environ_of
from sitebus.servers.client_certs import (
    asgi_extension,
    cipher_number,
    client_chain,
    distinguished_name,
    escaped,
    wsgi_environ,
)
from sitebus.servers.tls import TLS
from tests.asgi_helpers import request
from tests.helpers import ROOT
from tests.servers.conftest import Certificate

SUBJECT = r"/C=DE/ST=Bavaria/O=Acme, \"Sons\" \+ Co/OU=one/OU=two/CN=Zoë #1+UID=z1"
SUBJECT += "/emailAddress=z@example.org"


class Person(NamedTuple):
    """A client's certificate with its key, in one file each."""

    certificate: Path
    key: Path
    authority: Path


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Make an authority for clients, and a client of it."""
    folder = tmp_path_factory.mktemp("person")
    authority = Person(folder / "ca.pem", folder / "ca.key", folder / "ca.pem")
    made = Person(folder / "person.pem", folder / "person.key", authority.certificate)
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*kind, "-days", "3", "-subj", "/O=Clients/CN=authority", "-keyout", authority.key,
            "-out", authority.certificate)  # fmt: skip
    names = "subjectAltName=email:z@example.org,DNS:a.example,DNS:b.example,IP:127.0.0.1"
    openssl(*kind, "-days", "3", "-utf8", "-subj", SUBJECT, "-addext", names, "-CA",
            authority.certificate, "-CAkey", authority.key, "-keyout", made.key, "-out",
            made.certificate)  # fmt: skip
    return made


Shake = Callable[..., ssl.SSLObject]


@pytest.fixture
def shake(certificate: Certificate, person: Person) -> Shake:
    """Answer the server's side of a connection of a client with these *settings*."""

    def answer(shows: bool = True, **limits: Any) -> ssl.SSLObject:
        tls = TLS(certificate.certificate, certificate.key, None, person.authority, "optional")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        for name, value in limits.items():
            setattr(client, name, value)
        if shows:
            client.load_cert_chain(person.certificate, person.key)
        return handshake(tls.context(), client)

    return answer


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Connect the two in memory, and answer the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    left = list(sides)
    for side in sides * 10:
        if side in left:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(side)
    assert not left
    return sides[1]


def test_wsgi_is_told_as_apache_tells(shake: Shake, person: Person) -> None:
    """Applications were written for that."""
    environ = wsgi_environ(shake())
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SSL_PROTOCOL"] == "TLSv1.3"
    assert environ["SSL_CIPHER"].startswith("TLS_")
    assert int(environ["SSL_CIPHER_USEKEYSIZE"]) >= 128
    assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert environ["SSL_CLIENT_CERT"].split() == person.certificate.read_text().split()
    assert environ["SSL_CLIENT_M_VERSION"] == "3"
    assert int(environ["SSL_CLIENT_M_SERIAL"], 16) > 0
    assert environ["SSL_CLIENT_V_START"].endswith(" GMT")
    assert environ["SSL_CLIENT_V_END"].endswith(" GMT")
    assert environ["SSL_CLIENT_I_DN"] == "CN=authority,O=Clients"
    assert environ["SSL_CLIENT_I_DN_O"] == "Clients"
    assert all(isinstance(value, str) for value in environ.values())


def test_wsgi_has_each_attribute_of_the_name(shake: Shake) -> None:
    """The second of a kind has a number; text is spelled as WSGI spells all text."""
    environ = wsgi_environ(shake())
    found = {key.removeprefix("SSL_CLIENT_S_DN_"): value for key, value in environ.items()
             if key.startswith("SSL_CLIENT_S_DN_")}  # fmt: skip
    assert found == {
        "C": "DE",
        "ST": "Bavaria",
        "O": 'Acme, "Sons" + Co',
        "OU": "one",
        "OU_1": "two",
        "CN": "Zoë #1".encode().decode("latin-1"),
        "UID": "z1",
        "Email": "z@example.org",
    }
    assert environ["SSL_CLIENT_SAN_Email_0"] == "z@example.org"
    assert environ["SSL_CLIENT_SAN_DNS_0"] == "a.example"
    assert environ["SSL_CLIENT_SAN_DNS_1"] == "b.example"


def test_a_name_is_written_as_its_standard_has_it(shake: Shake) -> None:
    """The last part first, and nothing in it that could be taken for a part of its own."""
    written = (
        "emailAddress=z@example.org,"
        r"CN=Zo\C3\AB #1+UID=z1,OU=two,OU=one,O=Acme\, \"Sons\" \+ Co,ST=Bavaria,C=DE"
    )
    assert wsgi_environ(shake())["SSL_CLIENT_S_DN"] == written
    assert asgi_extension(shake())["client_cert_name"] == written


def test_asgi_is_told_as_its_extension_has_it(shake: Shake, certificate: Certificate) -> None:
    """All that it asks for, in its types."""
    pem = certificate.certificate.read_text()
    told = asgi_extension(shake(), pem)
    assert told["server_cert"] == pem
    assert told["client_cert_chain"] == client_chain(shake())
    assert told["client_cert_error"] is None
    assert told["tls_version"] == 0x0304
    assert told["cipher_suite"] in (0x1301, 0x1302, 0x1303)


def test_the_version_and_suite_of_tls_1_2_are_known(shake: Shake) -> None:
    """They have numbers of their own."""
    connected = shake(maximum_version=ssl.TLSVersion.TLSv1_2)
    told = asgi_extension(connected)
    assert told["tls_version"] == 0x0303
    assert told["cipher_suite"] in (0xC02B, 0xC02C, 0xCCA9)
    assert wsgi_environ(connected)["SSL_PROTOCOL"] == "TLSv1.2"
    assert cipher_number(connected.context, "no such suite") is None


def test_a_client_that_shows_nothing_has_nothing_told(shake: Shake) -> None:
    """Whoever looks for a name finds none, rather than an empty one."""
    environ = wsgi_environ(shake(shows=False))
    assert environ["SSL_CLIENT_VERIFY"] == "NONE"
    assert not [key for key in environ if key.startswith(("SSL_CLIENT_S", "SSL_CLIENT_C"))]
    told = asgi_extension(shake(shows=False))
    assert told["client_cert_chain"] == []
    assert told["client_cert_name"] is None


def test_what_a_client_sends_with_its_certificate_is_told_where_python_tells(
    certificate: Certificate, person: Person, tmp_path: Path
) -> None:
    """It may lead to an authority that only the application knows."""
    chain = tmp_path / "chain.pem"
    chain.write_bytes(person.certificate.read_bytes() + person.authority.read_bytes())
    server = TLS(certificate.certificate, certificate.key, None, person.authority).context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(chain, person.key)
    sent = [path.read_text() for path in (person.certificate, person.authority)]
    if sys.version_info < (3, 13):
        del sent[1]
    connected = handshake(server, client)
    assert client_chain(connected) == sent
    environ = wsgi_environ(connected)
    assert environ.get("SSL_CLIENT_CERT_CHAIN_0", sent[-1]) == sent[-1]
    assert ("SSL_CLIENT_CERT_CHAIN_0" in environ) is (len(sent) == 2)


def test_the_bridge_makes_the_one_of_the_other(shake: Shake) -> None:
    """A WSGI application behind an ASGI server is told the same."""
    connected = shake()
    scope = request(scheme="https", extensions={"tls": asgi_extension(connected)})
    bridged, direct = environ_of(scope), wsgi_environ(connected)
    told = {key for key in direct if key.startswith("SSL_")}
    assert {"SSL_CLIENT_S_DN_CN", "SSL_CLIENT_I_DN", "SSL_CLIENT_M_SERIAL"} < told
    for key in {*told, "HTTPS"}:
        assert bridged[key] == direct[key]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("", ""),
        (" a ", r"\ a\ "),
        (" ", r"\ "),
        ("  ", r"\ \ "),
        ("#a#", r"\#a#"),
        ("a,b+c;d", r"a\,b\+c\;d"),
        ("<\"\\>", r"\<\"\\\>"),
        ("a\nb\0", r"a\0Ab\00"),
        ("é", r"\C3\A9"),
        ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_what_is_special_is_escaped(value: str, written: str) -> None:
    """By section 2.4 of RFC 4514."""
    assert escaped(value) == written


def unescaped(text: str) -> str:
    """Read a value as RFC 4514 says that it is read."""
    out, rest = bytearray(), text
    while rest:
        if rest[0] != "\\":
            out += rest[0].encode()
            rest = rest[1:]
        elif rest[1] in '",+;<>\\ #=':
            out += rest[1].encode()
            rest = rest[2:]
        else:
            out.append(int(rest[1:3], 16))
            rest = rest[3:]
    return out.decode("utf-8", "surrogatepass")


@settings(deadline=None)  # the machine may be busy
@given(st.text())
def test_a_value_is_read_as_it_was_written(value: str) -> None:
    """So two that differ are never written alike, and each is one line of ASCII."""
    written = escaped(value)
    assert written.isascii()
    assert written.isprintable()
    assert unescaped(written) == value
    assert not written.startswith((" ", "#"))
    assert not written.endswith(" ") or written.endswith("\\ ")


@settings(deadline=None)  # the machine may be busy
@given(st.text(min_size=1, max_size=300))
def test_a_value_without_a_name_is_written_in_ber(value: str) -> None:
    """Type, length, value; the length in as many bytes as it takes."""
    value = value.encode("utf-8", "replace").decode() * 3
    data = bytes.fromhex(distinguished_name([[("1.2.3", value)]]).removeprefix("1.2.3=#"))
    if data[1] < 128:
        start, size = 2, data[1]
    else:
        start = 2 + (data[1] & 0x7F)
        size = int.from_bytes(data[2:start], "big")
    assert data[0] == 0x0C
    assert data[start:] == value.encode()
    assert len(data) == start + size


def test_the_commands_of_the_page_make_a_client_that_is_let_in(
    certificate: Certificate, tmp_path: Path
) -> None:
    """Somebody will paste them."""
    page = (ROOT / "docs" / "howto" / "tls.rst").read_text()
    commands = [line for line in page.splitlines() if line.startswith("    openssl ")]
    for command in commands:
        subprocess.run(shlex.split(command), check=True, capture_output=True, cwd=tmp_path)
    authority = tmp_path / "clients.pem"
    server = TLS(certificate.certificate, certificate.key, None, authority).context()
    client = ssl.create_default_context(cafile=certificate.root)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(tmp_path / "till-7.pem", tmp_path / "till-7.key")
    environ = wsgi_environ(handshake(server, client))
    assert environ["SSL_CLIENT_S_DN"] == "CN=till-7,O=Shop"
