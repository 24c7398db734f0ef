"""A certificate and its key as files: read them, or say in one sentence what is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sitebus.errors import BadCertificate, BadClientAuthority, CannotRead, MayNotRead

if TYPE_CHECKING:
    import ssl


#: Ciphers of TLS 1.2 whose recorded traffic stays secret when the key is lost later.
_SECRET_LATER = ("ECDHE-", "DHE-")


_CERTIFICATE = "(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----"


class TLS(NamedTuple):
    """The files of one certificate.

    Attributes:
        certificate: The certificate, PEM; may hold the chain and the key too.
        key: Its private key, PEM, without a passphrase; the certificate's file if not given.
        chain: The certificates between it and the root, PEM, if they have a file of their own.
        client_ca: The certificates by which those of clients are checked, PEM; clients are not
            asked for any if there is none.
        client: Whether a client must show a certificate, or may. One that is shown and cannot be
            verified ends the connection either way.
    """

    certificate: Path
    key: Path | None = None
    chain: Path | None = None
    client_ca: Path | None = None
    client: Literal["required", "optional"] = "required"

    def shown(self) -> str | None:
        """Answer the certificate that clients are shown, in PEM, without what is beside it."""
        found = re.search(_CERTIFICATE, self.certificate.read_text("ascii", "replace"))
        return f"{found[0]}\n" if found else None

    def context(self, protocols: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
        """Read the files into a context for servers, TLS 1.2 at least.

        Args:
            protocols: What is offered to clients (ALPN), the best first.

        Raises:
            CannotRead: A file is missing.
            MayNotRead: A file is not for this user to read.
            BadCertificate: The files are not what they should be, or do not belong together.
            BadClientAuthority: There is no certificate in the file of `client_ca`.
        """
        import ssl

        key = self.key or self.certificate
        for path in filter(None, (self.certificate, self.key, self.chain, self.client_ca)):
            _check_readable(path)
        context = _context()
        context.set_alpn_protocols(list(protocols))
        passphrase = _Passphrase()
        try:
            _load(context, self.certificate, key, self.chain, passphrase)
        except ssl.SSLError as error:
            reason = _reason(error, passphrase)
            raise BadCertificate(self.certificate, key, reason) from error
        if self.client_ca is not None:
            _load_authority(context, self.client_ca)
            # Whatever else is said, nobody comes in without one.
            optional = self.client == "optional"
            context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        return context


class _Passphrase:
    """Answer OpenSSL, which would ask at the terminal and wait, and remember that it asked."""

    asked = False

    def __call__(self) -> str:
        self.asked = True
        return ""


def _context() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python asks for most of this by itself, today. Compressed secrets can be guessed (CRIME), and
    # to negotiate again costs a server more than a client.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # Of those that the system permits: some Pythons leave it all to OpenSSL, which permits more.
    known = [cipher["name"] for cipher in context.get_ciphers()]
    secret = [name for name in known if name.startswith(_SECRET_LATER) and "-PSK-" not in name]
    if secret:  # else nothing but TLS 1.3 is permitted, whose ciphers are all like this
        context.set_ciphers(":".join(secret))
    return context


def _load_authority(context: ssl.SSLContext, path: Path) -> None:
    import ssl

    reason = "there is no certificate in PEM in it"
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        if error.reason not in (None, "NO_CERTIFICATE_OR_CRL_FOUND"):
            reason = f"OpenSSL says {error.reason}"
        raise BadClientAuthority(path, reason) from error
    if not context.cert_store_stats()["x509"]:
        raise BadClientAuthority(path, reason)


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise MayNotRead(path, "this user may not read it") from error
    except OSError as error:
        raise CannotRead(path, (error.strerror or str(error)).lower()) from error


def _load(
    context: ssl.SSLContext,
    certificate: Path,
    key: Path,
    chain: Path | None,
    passphrase: _Passphrase,
) -> None:
    context.load_cert_chain(certificate, key, passphrase)
    if chain is None:
        return
    import tempfile

    # OpenSSL takes the chain only from the certificate's own file; neither is a secret.
    with tempfile.NamedTemporaryFile(prefix="sitebus-chain-", suffix=".pem") as joined:
        joined.write(certificate.read_bytes() + b"\n" + chain.read_bytes())
        joined.flush()
        context.load_cert_chain(joined.name, key, passphrase)


def _reason(error: ssl.SSLError, passphrase: _Passphrase) -> str:
    if passphrase.asked:
        return "the key has a passphrase; keep it in a file without one that only the site can read"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    if error.reason is None:
        # "PEM lib" is all that OpenSSL has to say about it.
        return "they are not a certificate and a private key in PEM"
    return f"OpenSSL says {error.reason}"
