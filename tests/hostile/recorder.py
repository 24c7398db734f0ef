"""Applications that write down what a server tells them, whatever a client wrote.

Each client comes from an address of its own, by which a request is found again.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[^\s,/?#@\\]*")
_BODY = b"noted\n"


@dataclass
class Record:
    """One request, as an application saw it.

    Attributes:
        place: Where the application is mounted.
        fields: Names in lower case and their values; WSGI's names have dashes again.
        target: What is left of the target, escapes and all.
        body: All of it, once it is whole.
    """

    place: str
    method: str
    path: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes | None = None

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known == name]

    def ambiguities(self) -> list[str]:
        """Answer what another reader could take for something else."""
        found = [*self._bad_fields(), *self._bad_lengths()]
        if not _TOKEN.fullmatch(self.method):
            found.append(f"method {self.method!r}")
        if self.version not in ("1.0", "1.1", "2"):
            found.append(f"version {self.version!r}")
        if not self.path.startswith("/") and self.path not in ("", "*"):
            found.append(f"path {self.path!r:.60}")
        if _CONTROL.search(self.target):
            found.append(f"control character in target {self.target!r:.60}")
        return found

    def _bad_fields(self) -> list[str]:
        found = [f"name {name!r:.60}" for name, _ in self.fields if not _TOKEN.fullmatch(name)]
        found += [
            f"control character in {name}: {value!r:.60}"
            for name, value in self.fields
            if _CONTROL.search(value)
        ]
        hosts = self.values("host")
        if len(hosts) > 1 or (not hosts and self.version == "1.1"):
            found.append(f"Hosts {hosts}")
        return found + [f"Host {host!r:.60}" for host in hosts if not _HOST.fullmatch(host)]

    def _bad_lengths(self) -> list[str]:
        lengths, codings = self.values("content-length"), self.values("transfer-encoding")
        found = []
        if len(lengths) > 1 or not all(re.fullmatch("[0-9]+", text) for text in lengths):
            found.append(f"Content-Lengths {lengths!r:.60}")
        if codings and lengths:
            found.append(f"Content-Length {lengths} and Transfer-Encoding {codings}")
        if any(text.strip().lower() != "chunked" for text in codings) or len(codings) > 1:
            found.append(f"Transfer-Encoding {codings!r:.60}")
        if lengths and self.body is not None and len(self.body) != int(lengths[0]):
            found.append(f"{len(self.body)} bytes of {lengths[0]}")
        return found


class Recorder:
    """Makes the applications, and keeps what they write down."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting = 0
        self._records: defaultdict[str, list[Record]] = defaultdict(list)

    @property
    def inside(self) -> int:
        """How many requests are in an application."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many threads wait at the gate."""
        return self._waiting

    def of(self, peer: str) -> list[Record]:
        """Answer what a client made applications see."""
        with self._lock:
            return list(self._records.get(peer, ()))

    def _enter(self, peer: str, record: Record) -> None:
        with self._lock:
            self._inside += 1
            self._records[peer].append(record)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def wsgi(self, place: str) -> Any:
        """Answer a WSGI application; ``/gate`` keeps a thread until it is opened."""

        def noting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            record = _of_environ(place, environ)
            self._enter(environ["REMOTE_ADDR"], record)
            try:
                record.body = environ["wsgi.input"].read()
                if record.path == "/gate":
                    self._wait()
            finally:
                self._leave()
            start_response("200 OK", [("Content-Length", str(len(_BODY)))])
            return [b"" if record.method == "HEAD" else _BODY]

        return noting

    def _wait(self) -> None:
        with self._lock:
            self._waiting += 1
        self.opened.wait(10)
        with self._lock:
            self._waiting -= 1

    def asgi(self, place: str) -> Any:
        """Answer an ASGI application, which takes no WebSocket."""

        async def noting(scope: Message, receive: Receive, send: Send) -> None:
            record = _of_scope(place, scope)
            # None of a client that had left before it was looked at.
            self._enter(scope["client"][0] if scope["client"] else "", record)
            try:
                if scope["type"] == "websocket":
                    record.body = b""
                    await send({"type": "websocket.close"})
                    return
                record.body = await _body(receive)
                if record.body is None:
                    return
            finally:
                self._leave()
            length = (b"content-length", b"%d" % len(_BODY))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": _BODY})

        return noting


async def _body(receive: Receive) -> bytes | None:
    """Answer the body; None if the client left in the middle of it."""
    pieces = []
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        pieces.append(event.get("body", b""))
        more = event.get("more_body", False)
    return b"".join(pieces)


def _of_environ(place: str, environ: dict[str, Any]) -> Record:
    fields = [
        (name[5:].replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    # A server may say that there is none by saying nothing.
    fields += [
        (name.replace("_", "-").lower(), environ[name])
        for name in ("CONTENT_LENGTH", "CONTENT_TYPE")
        if environ.get(name)
    ]
    return Record(
        place,
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"],
        environ.get("QUERY_STRING", ""),
        environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        fields,
    )


def _of_scope(place: str, scope: Message) -> Record:
    raw = scope.get("raw_path") or b""
    return Record(
        place,
        scope.get("method", "GET"),
        scope["path"],
        (raw + b"?" + scope["query_string"]).decode("latin-1"),
        scope["http_version"],
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
    )
