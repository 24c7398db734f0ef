"""A certificate for granian, which takes files, and ends the process when it cannot use them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from sitebus.errors import BadCertificate, CannotRead
from sitebus.servers.tls import TLS

#: As long may it take to try a certificate, in a process of its own; seconds.
PATIENCE = 30.0

#: What that process runs: a worker on a socket of its own that nobody knows, for a moment.
_TRIAL = """
import json, socket, sys
from granian._granian import CallbackScheduler, SocketHolder, WorkerSignal, WSGIWorker
class Loop:
    def call_soon(self): pass
sock = socket.create_server(("127.0.0.1", 0))
worker = WSGIWorker(worker_id=1, sock=(None, SocketHolder(sock.detach(), False, 1)), ipc=None,
                    **json.loads(sys.argv[1]))
worker.serve_mtr(CallbackScheduler(Loop(), print, None, None, None), Loop(), WorkerSignal())
print("usable", flush=True)
"""


class Certificate(NamedTuple):
    """A certificate with its chain, and its key, in PEM; and by what those of clients are checked.

    Clients are not asked for any if that is empty.
    """

    certificate: bytes
    key: bytes
    authority: bytes = b""


def read(tls: TLS, extra: Mapping[str, Any]) -> Certificate:
    """Read the files of *tls* as granian can use them.

    Args:
        tls: Files that OpenSSL is content with.
        extra: What else the worker takes that has to do with it.

    Raises:
        BadCertificate: granian is not content with them.
        CannotRead: One of them is gone.
    """
    key = tls.key or tls.certificate
    try:
        parts = [path.read_bytes() for path in (tls.certificate, tls.chain) if path is not None]
        authority = tls.client_ca.read_bytes() if tls.client_ca is not None else b""
        found = Certificate(b"\n".join(parts), key.read_bytes(), authority)
    except OSError as error:  # they were there a moment ago
        reason = (error.strerror or str(error)).lower()
        raise CannotRead(error.filename or tls.certificate, reason) from error
    reason = _refusal(found, extra)
    if reason:
        raise BadCertificate(tls.certificate, key, reason)
    return found


def as_options(certificate: Certificate | None, files: ExitStack) -> dict[str, Any]:
    """Answer what a worker takes by name; the files are there until *files* is closed."""
    if certificate is None:
        return {"ssl_enabled": False, "ssl_cert": None, "ssl_key": None, "ssl_ca": None}
    return {
        "ssl_enabled": True,
        "ssl_cert": _as_file(certificate.certificate, files),
        "ssl_key": _as_file(certificate.key, files),
        "ssl_ca": _as_file(certificate.authority, files) if certificate.authority else None,
    }


def _as_file(content: bytes, files: ExitStack) -> str:
    """Answer the path of a file that only this process and its children can read."""
    file = files.enter_context(
        tempfile.NamedTemporaryFile(prefix="sitebus-", suffix=".pem")  # noqa: SIM115 - closed there
    )
    file.write(content)
    file.flush()
    return file.name


def _refusal(certificate: Certificate, extra: Mapping[str, Any]) -> str:
    """Answer why granian would not use it; empty if it would."""
    import json

    with ExitStack() as files:
        options = json.dumps({**extra, **as_options(certificate, files)})
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _TRIAL, options],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                env={**os.environ, "RUST_BACKTRACE": "0"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"granian has not taken it in {PATIENCE:.0f} seconds"
    if "usable" in done.stdout:
        return ""
    lines = [line for line in done.stderr.splitlines() if " value: " in line or "Error" in line]
    said = lines[0].partition(" value: ")[2] if lines else f"exit status {done.returncode}"
    return f"OpenSSL would, but granian says {said or lines[0]}"
