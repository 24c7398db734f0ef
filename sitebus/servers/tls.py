"""A certificate and its key as files: read them, or say in one sentence what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sitebus.errors import BadCertificate, CannotRead, MayNotRead

if TYPE_CHECKING:
    import ssl


class TLS(NamedTuple):
    """The files of one certificate.

    Attributes:
        certificate: The certificate, PEM; may hold the chain and the key too.
        key: Its private key, PEM, without a passphrase; the certificate's file if not given.
        chain: The certificates between it and the root, PEM, if they have a file of their own.
    """

    certificate: Path
    key: Path | None = None
    chain: Path | None = None

    def context(self, protocols: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
        """Read the files into a context for servers, TLS 1.2 at least.

        Args:
            protocols: What is offered to clients (ALPN), the best first.

        Raises:
            CannotRead: A file is missing.
            MayNotRead: A file is not for this user to read.
            BadCertificate: The files are not what they should be, or do not belong together.
        """
        import ssl

        key = self.key or self.certificate
        for path in filter(None, (self.certificate, self.key, self.chain)):
            _check_readable(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(protocols))
        passphrase = _Passphrase()
        try:
            _load(context, self.certificate, key, self.chain, passphrase)
        except ssl.SSLError as error:
            reason = _reason(error, passphrase)
            raise BadCertificate(self.certificate, key, reason) from error
        return context


class _Passphrase:
    """Answer OpenSSL, which would ask at the terminal and wait, and remember that it asked."""

    asked = False

    def __call__(self) -> str:
        self.asked = True
        return ""


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
