"""Fixtures for servers: one on a free port, applications that wait to be told, certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.servers.tls import TLS
from tests.servers.client import Client, hello

Serve = Callable[..., CherootServer]


class Gate:
    """An application that enters, waits for the test, and then answers."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/gate":
            self.entered.set()
            assert self.opened.wait(20)
        return hello(environ, start_response)


class Logged(list[tuple[int, str]]):
    """What was logged, newest last."""

    def __call__(self, message: str, level: int) -> None:
        self.append((level, message))

    def __str__(self) -> str:
        return "\n".join(message for _, message in self)


class Certificate(NamedTuple):
    """The files of a certificate for localhost, and the one to trust it by."""

    certificate: Path
    key: Path
    chain: Path
    root: Path

    @property
    def tls(self) -> TLS:
        return TLS(self.certificate, self.key, self.chain)


@pytest.fixture
def logged(engine: Engine) -> Logged:
    log = Logged()
    engine.subscribe("log", log)
    return log


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def serve(engine: Engine) -> Serve:
    """Subscribe a cheroot server on a free port and start the engine."""

    def start(application: Any = hello, **settings: Any) -> CherootServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        settings.setdefault("linger", 0.05)
        server = CherootServer(engine, application, **settings)
        server.subscribe()
        engine.start()
        return server

    return start


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Connect to a server; closed with the test."""
    clients: list[Client] = []

    def make(server: CherootServer, index: int = 0, **settings: Any) -> Client:
        clients.append(Client(server.addresses[index], **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., Future[Any]]]:
    """Run a call in another thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _signed(folder: Path, name: str, signer: str, extension: str) -> None:
    (folder / f"{name}.ext").write_text(extension)
    key = folder / f"{name}.key"
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    request = folder / f"{name}.csr"
    _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
    by = (
        ("-signkey", key)
        if signer == name
        else (
            "-CA",
            folder / f"{signer}.pem",
            "-CAkey",
            folder / f"{signer}.key",
            "-CAcreateserial",
        )
    )
    _openssl(
        "x509", "-req", "-in", request, *by, "-days", "3",
        "-extfile", folder / f"{name}.ext", "-out", folder / f"{name}.pem",
    )  # fmt: skip


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """Make two certificates for localhost under one intermediate, with the openssl command."""
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("certificates are made with the openssl command")
    folder = tmp_path_factory.mktemp("certificates")
    # Python 3.13 is strict about what RFC 5280 wants to see.
    identifiers = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    authority = f"basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n{identifiers}"
    local = f"subjectAltName=DNS:localhost,IP:127.0.0.1\n{identifiers}"
    _signed(folder, "root", "root", authority)
    _signed(folder, "middle", "root", authority)
    _signed(folder, "old", "middle", local)
    _signed(folder, "new", "middle", local)
    old, new = (
        Certificate(
            folder / f"{name}.pem",
            folder / f"{name}.key",
            folder / "middle.pem",
            folder / "root.pem",
        )
        for name in ("old", "new")
    )
    return old, new


@pytest.fixture
def certificate(certificates: tuple[Certificate, Certificate], tmp_path: Path) -> Certificate:
    """Answer copies of one certificate's files, for tests that spoil them."""
    return Certificate(*(Path(shutil.copy(path, tmp_path)) for path in certificates[0]))
