"""Tell an application about TLS, and about the certificate that its client has shown.

For WSGI as Apache's mod_ssl names it (https://httpd.apache.org/docs/2.4/mod/mod_ssl.html#envvars),
for ASGI as its TLS extension does (https://asgi.readthedocs.io/en/latest/specs/tls.html).
Both are made once for a connection, of an `ssl.SSLSocket` or `ssl.SSLObject` after its handshake.

Names are written as RFC 4514 has them, in ASCII: what is special there, and every byte that is not
printable ASCII, is escaped, so that no name can be mistaken for another, or for two lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from sitebus.asgi import ASGIApplication, Receive, Scope, Send

#: Where a bridge finds in the extension what WSGI has besides.
ENVIRON = "sitebus.environ"

#: TLS versions as they are numbered on the wire.
VERSIONS = {"SSLv3": 0x0300, "TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303,
            "TLSv1.3": 0x0304}  # fmt: skip

#: The attributes of names: short, as RFC 4514 or else OpenSSL has them.
_SHORT = {
    "businessCategory": "businessCategory",
    "commonName": "CN",
    "countryName": "C",
    "distinguishedName": "distinguishedName",
    "dnQualifier": "dnQualifier",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "generationQualifier": "generationQualifier",
    "givenName": "GN",
    "initials": "initials",
    "jurisdictionCountryName": "jurisdictionC",
    "jurisdictionLocalityName": "jurisdictionL",
    "jurisdictionStateOrProvinceName": "jurisdictionST",
    "localityName": "L",
    "name": "name",
    "organizationIdentifier": "organizationIdentifier",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "postalCode": "postalCode",
    "pseudonym": "pseudonym",
    "serialNumber": "serialNumber",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "surname": "SN",
    "title": "title",
    "userId": "UID",
}

#: The attributes of which mod_ssl makes a variable each, and what it calls them there.
_SUFFIXES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "Email",
    "givenName": "G",
    "initials": "I",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "surname": "S",
    "title": "T",
    "userId": "UID",
}

_OID = re.compile(r"[0-9]+(\.[0-9]+)+")
_SPECIAL = re.compile(r'[",+;<>\\]')

Name = Sequence[Sequence[tuple[str, str]]]


def wsgi_environ(connected: ssl.SSLSocket | ssl.SSLObject) -> dict[str, str]:
    """Answer what a WSGI environ has besides: the scheme, ``HTTPS``, and ``SSL_*``."""
    cipher, protocol, bits = connected.cipher() or ("", "", 0)
    environ = {
        "wsgi.url_scheme": "https",
        "HTTPS": "on",
        "SSL_PROTOCOL": protocol,
        "SSL_CIPHER": cipher,
        "SSL_CIPHER_USEKEYSIZE": str(bits),
        "SSL_CLIENT_VERIFY": "NONE",
    }
    told: Mapping[str, Any] = connected.getpeercert() or {}
    if told:
        environ.update(_client(told))
        chain = client_chain(connected)
        environ["SSL_CLIENT_CERT"] = chain[0]
        for number, certificate in enumerate(chain[1:]):
            environ[f"SSL_CLIENT_CERT_CHAIN_{number}"] = certificate
    return environ


def asgi_extension(
    connected: ssl.SSLSocket | ssl.SSLObject, server_cert: str | None = None
) -> dict[str, Any]:
    """Answer what goes into a scope as ``extensions["tls"]``; what WSGI knows is `ENVIRON` in it.

    Args:
        connected: The client's connection.
        server_cert: The certificate that the server has shown, in PEM.
    """
    told: Mapping[str, Any] = connected.getpeercert() or {}
    name, protocol, _ = connected.cipher() or ("", "", 0)
    environ = wsgi_environ(connected)
    return {
        "server_cert": server_cert,
        "client_cert_chain": client_chain(connected) if told else [],
        "client_cert_name": distinguished_name(told["subject"]) if told else None,
        # Whoever shows one that is not verified is not connected.
        "client_cert_error": None,
        "tls_version": VERSIONS.get(connected.version() or protocol),
        "cipher_suite": cipher_number(connected.context, name),
        ENVIRON: {key: value for key, value in environ.items() if key.startswith("SSL_")},
    }


def telling(app: ASGIApplication, server_cert: Callable[[], str | None]) -> ASGIApplication:
    """Answer *app*, which finds `asgi_extension` in its scopes.

    For libraries whose ``receive`` is a method of what has a ``transport``. It is made once for
    each connection.
    """

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        secure = None if transport is None else transport.get_extra_info("ssl_object")
        if secure is not None:
            known = getattr(secure, "extension", None)
            if known is None:
                known = secure.extension = asgi_extension(secure, server_cert())
            scope = {**scope, "extensions": {**(scope.get("extensions") or {}), "tls": known}}
        await app(scope, receive, send)

    return told


def client_chain(connected: ssl.SSLSocket | ssl.SSLObject) -> list[str]:
    """Answer the client's certificate in PEM, and those it sent with it where Python tells."""
    import ssl

    get_chain = getattr(connected, "get_unverified_chain", list)  # from Python 3.13 on
    own = connected.getpeercert(binary_form=True)
    sent: list[bytes | None] = get_chain()
    # A resumed session knows the certificate alone.
    return [ssl.DER_cert_to_PEM_cert(each) for each in sent or [own] if each]


def cipher_number(context: ssl.SSLContext, name: str) -> int | None:
    """Answer the number of the cipher suite that OpenSSL calls *name*."""
    return _numbers().get(name) or _numbers_of(context).get(name)


@lru_cache(1)
def _numbers() -> dict[str, int]:
    import ssl

    return _numbers_of(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def _numbers_of(context: ssl.SSLContext) -> dict[str, int]:
    return {each["name"]: each["id"] & 0xFFFF for each in context.get_ciphers()}


def distinguished_name(name: Name) -> str:
    """Answer *name*, as `ssl.SSLSocket.getpeercert` has it, as RFC 4514 writes it: last part first.

    Attributes without a name of their own are written by their number, with the value in BER.
    """
    return ",".join("+".join(_attribute(*pair) for pair in part) for part in reversed(name))


def _attribute(kind: str, value: str) -> str:
    if _OID.fullmatch(kind):
        return f"{kind}=#{_ber(value).hex().upper()}"
    return f"{_SHORT.get(kind) or kind.replace(' ', '')}={escaped(value)}"


def _ber(value: str) -> bytes:
    """Answer *value* as a UTF8String."""
    data = value.encode()
    size = len(data)
    if size < 128:
        return b"\x0c" + bytes([size]) + data
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return b"\x0c" + bytes([0x80 | len(length)]) + length + data


def escaped(value: str) -> str:
    """Answer *value* as it stands in a name (RFC 4514, section 2.4), in printable ASCII."""
    text = _SPECIAL.sub(lambda match: f"\\{match[0]}", value)
    if text[:1] in (" ", "#"):
        text = f"\\{text}"
    if text.endswith(" ") and text != "\\ ":
        text = f"{text[:-1]}\\ "
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else _hex(c) for c in text)


def _hex(character: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _client(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "SSL_CLIENT_VERIFY", "SUCCESS"
    yield "SSL_CLIENT_M_VERSION", str(told["version"])
    yield "SSL_CLIENT_M_SERIAL", told["serialNumber"]
    yield "SSL_CLIENT_V_START", told["notBefore"]
    yield "SSL_CLIENT_V_END", told["notAfter"]
    for letter, which in (("S", "subject"), ("I", "issuer")):
        key = f"SSL_CLIENT_{letter}_DN"
        yield key, distinguished_name(told[which])
        pairs = [pair for part in told[which] for pair in part]
        yield from _numbered(key, [(_SUFFIXES.get(kind, ""), value) for kind, value in pairs])
    names = told.get("subjectAltName", ())
    for kind, suffix in (("email", "Email"), ("DNS", "DNS")):
        found = [value for known, value in names if known == kind]
        yield from ((f"SSL_CLIENT_SAN_{suffix}_{n}", _wire(v)) for n, v in enumerate(found))


def _numbered(key: str, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Answer a variable for each attribute; the second of a kind has _1 at its end, and so on."""
    seen: dict[str, int] = {}
    for suffix, value in pairs:
        if suffix:
            count = seen[suffix] = seen.get(suffix, -1) + 1
            yield f"{key}_{suffix}{f'_{count}' if count else ''}", _wire(value)


def _wire(text: str) -> str:
    """Answer *text* as WSGI spells it: each byte of its UTF-8 as one character."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")
