"""What goes over the control socket: requests as they were read, and answers as bytes.

Pure. Heads are read by `sitebus.servers.heads`, which takes nothing that could mean two things; a
body has a Content-Length or there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from sitebus.control.peers import Peer, Role
from sitebus.control.rings import Entry, Ring
from sitebus.errors import RequestRefused
from sitebus.servers import heads
from sitebus.servers.heads import Head

MOST_HEAD = 16 * 1024
MOST_BODY = 256 * 1024

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_PHRASES = {
    **heads.PHRASES,
    200: "OK",
    202: "Accepted",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    411: "Length Required",
}


class Request(NamedTuple):
    """One request, whole, and who sent it."""

    head: Head
    body: bytes
    peer: Peer
    role: Role

    @property
    def query(self) -> dict[str, str]:
        """The last value of each name behind the question mark."""
        return dict(parse_qsl(self.head.query, keep_blank_values=True, max_num_fields=20))

    def field(self, name: str) -> str:
        """Answer a field of the header by its name in capitals; empty if it is not there."""
        return self.head.fields.get(f"HTTP_{name}", "")

    @property
    def parts(self) -> tuple[str, ...]:
        """The words of the path."""
        return tuple(unquote(each) for each in self.head.path.split("/")[1:])

    def seconds(self, name: str, most: float) -> float:
        """Answer how long the query says to wait; 0 if it does not.

        Raises:
            RequestRefused: That is no time.
        """
        text = self.query.get(name, "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= most:
            raise RequestRefused(400, f"{name} should be a number of seconds from 0 to {most:g}")
        return seconds

    def said(self, *known: str) -> dict[str, Any]:
        """Answer the body, a JSON object or nothing at all, whose keys are all *known*.

        Raises:
            RequestRefused: It is anything else.
        """
        if not self.body.strip():
            return {}
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            raise RequestRefused(400, "the body is not JSON") from None
        if not isinstance(said, dict):
            raise RequestRefused(400, "the body should be a JSON object")
        for key in said:
            if key not in known:
                names = ", ".join(known) or "nothing"
                raise RequestRefused(400, f"the body may say {names}, and says {key[:60]!r}")
        return said


class Reply(NamedTuple):
    """An answer: JSON, or text if that is what it is."""

    status: int
    said: Any
    fields: tuple[tuple[str, str], ...] = ()

    def encode(self, keeps: bool, with_body: bool = True) -> bytes:
        """Write it; *keeps* says whether the connection stays."""
        if isinstance(self.said, str):
            kind, text = "text/plain; charset=utf-8", self.said
        else:
            kind, text = "application/json", json.dumps(self.said, allow_nan=False) + "\n"
        body = text.encode("utf-8", "backslashreplace")
        lines = [
            f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Unknown')}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            *(f"{name}: {value}" for name, value in self.fields),
            *(() if keeps else ("Connection: close",)),
        ]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        return head + body if with_body else head


def refusal(status: int, sentence: str, more: Mapping[str, Any] | None = None) -> Reply:
    """Answer the reply that says in one sentence why not."""
    return Reply(status, {"error": sentence, **(more or {})})


class Feed(NamedTuple):
    """An answer that goes on: the entries of a ring that are wanted.

    Attributes:
        after: The number of the last entry that the reader has.
        follows: Whether it waits for more than is there.
    """

    ring: Ring
    wanted: tuple[str, ...]
    after: int
    follows: bool

    def takes(self, entry: Entry) -> bool:
        """Tell whether the reader wants it: names, or beginnings of names before a ``*``."""
        return not self.wanted or any(
            entry.name.startswith(each[:-1]) if each.endswith("*") else entry.name == each
            for each in self.wanted
        )

    def encode(self, entry: Entry) -> bytes:
        """Write one event."""
        number = self.ring.identify(entry)
        # The name is a channel's, which may be any text.
        name = "".join(entry.name.splitlines())
        return f"id: {number}\nevent: {name}\ndata: {entry.text}\n\n".encode("utf-8", "replace")


FEED_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\n\r\n"
)


def lost(count: int) -> bytes:
    """Write the event that says how many were lost."""
    return f'event: lost\ndata: {{"count":{count}}}\n\n'.encode()
