"""Talk to one control socket: as much of HTTP as that speaks, and nothing to import for it."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sitebus.errors import NotAllowed, NotRunning, RequestRefused

#: How long an answer may take that nobody asked to wait for; seconds.
PATIENCE = 15.0

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~,")
_GONE = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ENOTSOCK)
_DENIED = (errno.EACCES, errno.EPERM)


def quoted(text: str) -> str:
    """Answer *text* as a part of a target; the library that has this costs milliseconds."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(each) if chr(each) in _PLAIN else f"%{each:02X}" for each in data)


class Event(NamedTuple):
    """One event of a stream."""

    id: str
    name: str
    said: Any


class ConnectionEnded(NotRunning):
    """The site closed the connection before it had answered."""


class Client:
    """Ask the site behind one socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, target: str, wait: float = 0.0) -> Any:
        """Answer what is there; *wait* is how long the site was asked to wait.

        Raises:
            RequestRefused: The site says no.
            NotAllowed: It says no to this user.
            NotRunning: There is no site.
        """
        return self._ask("GET", target, None, wait)

    def post(self, target: str, said: Mapping[str, Any] | None = None, wait: float = 0.0) -> Any:
        """Ask for something to be done, and answer what is said to that; raises as `get` does."""
        return self._ask("POST", target, said, wait)

    def follow(self, target: str, last: str = "", timeout: float | None = None) -> Iterator[Event]:
        """Answer the events of a stream until it ends.

        Raises:
            TimeoutError: None came for *timeout* seconds.
        """
        with self._connect() as sock:
            field = f"Last-Event-ID: {last}\r\n" if last else ""
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: sitebus\r\n{field}\r\n".encode())
            with sock.makefile("rb") as stream:
                status, fields = _head(stream)
                if status != 200:
                    self._check(status, _body(stream, fields))
                sock.settimeout(timeout)
                yield from _events(stream)

    def _ask(self, method: str, target: str, said: Mapping[str, Any] | None, wait: float) -> Any:
        body = b"" if said is None else json.dumps(said).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: sitebus\r\nConnection: close\r\n"
        with self._connect() as sock:
            sock.settimeout(PATIENCE + wait)
            try:
                sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            except BrokenPipeError:
                pass  # it has answered already, and will not read this
            with sock.makefile("rb") as stream:
                try:
                    status, fields = _head(stream)
                    answer = _body(stream, fields)
                except TimeoutError:
                    raise RequestRefused(504, f"the site behind {self.path} is silent") from None
                except OSError:
                    raise ConnectionEnded(f"the site behind {self.path} has ended") from None
        self._check(status, answer)
        return answer

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            if error.errno in _DENIED:
                raise NotAllowed(f"this user may not use the control socket {self.path}") from error
            if error.errno in _GONE:
                raise NotRunning(f"no site answers on {self.path}") from error
            reason = (error.strerror or str(error)).lower()
            raise NotRunning(f"cannot reach {self.path}: {reason}") from error
        return sock

    def _check(self, status: int, answer: Any) -> None:
        if status < 400:
            return
        known = isinstance(answer, dict) and isinstance(answer.get("error"), str)
        sentence = answer["error"] if known else f"the site answers with status {status}"
        if status == 403:
            raise NotAllowed(sentence)
        raise RequestRefused(status, sentence, answer if known else {})


def _head(stream: Any) -> tuple[int, dict[str, str]]:
    words = stream.readline().split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ConnectionResetError("no answer")
    fields = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    return int(words[1]), fields


def _body(stream: Any, fields: Mapping[str, str]) -> Any:
    length = int(fields.get("content-length", 0))
    data = stream.read(length)
    if len(data) < length:
        raise ConnectionResetError("half an answer")
    text = data.decode("utf-8", "replace")
    return json.loads(text) if fields.get("content-type") == "application/json" else text


def _events(stream: Any) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in stream:
        name, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"]))
            fields = {}
