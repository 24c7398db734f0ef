"""What an entry of the corpus is: bytes and moments, what is expected of them, and why.

``/@`` in a step stands for where an application is mounted; the entry is then sent to each of them.
Whatever contains `SMUGGLED` hides a second request where no server may look for one.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace


class Expect(enum.Enum):
    """What may become of an entry."""

    #: It reaches no application; the answer is 4xx or 5xx, or the connection closes.
    REFUSED = "refused"
    #: An application may see its head, never its body's end; no 2xx.
    BROKEN = "broken"
    #: So many requests get a 2xx, and nothing after them reaches an application.
    SERVED = "served"
    #: Both are right, as long as what an application sees can be read in one way only.
    EITHER = "either"


class Moment(enum.Enum):
    """Something a client does besides sending."""

    #: Waits until something was received, or for a moment.
    AWAIT = "await"
    #: Says that it will send no more.
    HALF_CLOSE = "half-close"
    #: Leaves.
    CLOSE = "close"
    #: Leaves with a reset.
    RESET = "reset"


@dataclass(frozen=True)
class Drip:
    """Bytes sent one by one, ten in a second, for as long as the connection is open."""

    data: bytes


Step = bytes | Moment | Drip


@dataclass(frozen=True)
class Entry:
    """One conversation of a client that is broken or means harm.

    Attributes:
        name: Unique.
        steps: What the client does.
        expect: What may become of it.
        why: The section that says so, or what it is about.
        requests: How many requests applications may see whole; exactly so many if it is served.
        body: Of the first request, if an application sees it whole.
        place: The only application that may see it; ``None`` is any.
        hidden: What may be in no field that an application sees, unless its name has an underscore.
        tls: Goes to the port for HTTPS, as it is.
        switches: 101 or frames of HTTP/2 are an answer too.
        only_threads: A server may wait for ever, unless a thread does.
    """

    name: str
    steps: tuple[Step, ...]
    expect: Expect
    why: str
    requests: int = 1
    body: bytes | None = None
    place: str | None = None
    hidden: bytes = b""
    tls: bool = False
    switches: bool = False
    only_threads: bool = False

    @property
    def raw(self) -> bytes:
        """All that is sent."""
        parts = (step.data if isinstance(step, Drip) else step for step in self.steps)
        return b"".join(part for part in parts if isinstance(part, bytes))

    @property
    def leaves(self) -> bool:
        """Whether the client goes before it could read an answer."""
        return Moment.CLOSE in self.steps or Moment.RESET in self.steps

    @property
    def is_mounted(self) -> bool:
        return MOUNTED in self.raw

    def at(self, place: str) -> Entry:
        """Answer the entry for the application at *place*."""
        steps = tuple(_placed(step, place.encode()) for step in self.steps)
        return replace(self, name=f"{self.name} at {place or '/'}", steps=steps, place=place)


def _placed(step: Step, place: bytes) -> Step:
    if isinstance(step, Drip):
        return Drip(step.data.replace(MOUNTED, place))
    return step.replace(MOUNTED, place) if isinstance(step, bytes) else step


MOUNTED = b"/@"

REFUSED, BROKEN = Expect.REFUSED, Expect.BROKEN
SERVED, EITHER = Expect.SERVED, Expect.EITHER

#: The path that no application may ever be asked for.
MARK = "/smuggled"
SMUGGLED = f"GET {MARK} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
#: What nobody but its sender may take for a field of another name.
SHADOW = "evil-shadow"

CHUNKED = "Transfer-Encoding: chunked"
HELLO = b"hello"
IN_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def block(line: str, *fields: str) -> bytes:
    """Answer a head; its lines may hold what they should not (one byte for each character)."""
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def get(*fields: str, target: str = "/@/x", version: str = "1.1", host: str = "localhost") -> bytes:
    """Answer a GET whose connection may stay."""
    return block(f"GET {target} HTTP/{version}", f"Host: {host}", *fields)


def last(*fields: str, target: str = "/@/x", version: str = "1.1") -> bytes:
    """Answer a GET that says that it is the last."""
    return get("Connection: close", *fields, target=target, version=version)


def post(*fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Answer a POST; how long its body is must be said in *fields*."""
    return block(f"POST /@/x HTTP/{version}", "Host: localhost", *fields) + body


def sized(body: bytes, *fields: str) -> bytes:
    """Answer a POST with the length of its body."""
    return post(f"Content-Length: {len(body)}", *fields, body=body)


def utf8(text: str) -> str:
    """Answer *text* as `block` wants it, one character for each byte of its UTF-8."""
    return text.encode().decode("latin-1")


#: A row of a table: a name, what to send, what may become of it, and why.
Row = tuple[str, bytes, Expect, str]


def rows(prefix: str, table: Iterable[Row], **settings: object) -> Iterator[Entry]:
    """Make entries that send what they have at once."""
    for name, raw, expect, why in table:
        yield Entry(f"{prefix}: {name}", (raw,), expect, why, **settings)  # type: ignore[arg-type]


def shown(text: str) -> str:
    """Answer *text* so that it can be part of a name."""
    short = text if len(text) < 40 else f"{text[:30]}... ({len(text)})"
    return re.sub(r"[^ -~]", lambda found: f"\\x{ord(found[0]):02x}", short)


def unique(entries: Mapping[str, Iterable[Entry]]) -> dict[str, tuple[Entry, ...]]:
    """Answer *entries* by category, after a look at their names.

    Raises:
        ValueError: Two have the same.
    """
    listed = {category: tuple(found) for category, found in entries.items()}
    names = [entry.name for found in listed.values() for entry in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"these names are there twice: {sorted(twice)}")
    return listed
