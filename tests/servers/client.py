"""A client that does exactly what a test says, one byte at a time if need be."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from http.client import HTTPResponse
from typing import Any, NamedTuple, Self

from sitebus.sockets.addresses import Address, native

PATIENCE = 10.0


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Client:
    """One connection to *address*."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = _connect(address)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str = "/") -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answer(self) -> Answer:
        response = HTTPResponse(self.socket)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def get(self, path: str = "/") -> Answer:
        self.ask(path)
        return self.answer()

    def is_closed(self) -> bool:
        """Wait for the server to close, and tell whether it did without another word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(address: Address) -> socket.socket:
    if address.kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect(native(address))
        return sock
    return socket.create_connection((address.host, address.port), timeout=PATIENCE)


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Be the application of tests that need no particular one."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
