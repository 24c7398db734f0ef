"""How bytes come: in any pieces, slowly, never, or from clients that leave."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.hostile.entries import (
    BROKEN,
    CHUNKED,
    EITHER,
    HELLO,
    REFUSED,
    SERVED,
    Drip,
    Entry,
    Expect,
    Moment,
    get,
    last,
    post,
    sized,
)

_ANY = "RFC 9112 2.1: a message is a sequence of bytes, whatever the packets"
_CHUNKED = post(
    CHUNKED, "Connection: close", body=b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: z\r\n\r\n"
)
_SIZED = sized(HELLO, "Connection: close")
#: Between what is of different sorts, there are boundaries.
_SORTS = re.compile(rb"[A-Za-z-]+|[0-9]+|.", re.DOTALL)


def boundaries(raw: bytes) -> list[int]:
    """Answer where a message could be cut between two things that a parser looks at."""
    return [found.end() for found in _SORTS.finditer(raw)][:-1]


def pieces() -> Iterator[Entry]:
    """Cut good and bad requests everywhere."""
    for name, raw in (("length", _SIZED), ("chunks", _CHUNKED)):
        # Marks of mounts are filled in later, so that none may be cut.
        raw = raw.replace(b"/@", b"")
        for cut in boundaries(raw):
            two = (raw[:cut], raw[cut:])
            yield Entry(f"cut: {name} at {cut}", two, SERVED, _ANY, body=HELLO)
        for size in (1, 2, 3, 7):
            yield Entry(f"cut: {name} by {size}", _cut(raw, size), SERVED, _ANY, body=HELLO)
    for name, raw, expect in (
        (
            "lengths that differ",
            post("Content-Length: 5", "Content-Length: 6", body=HELLO),
            REFUSED,
        ),
        ("a blank before a colon", last("X : y"), REFUSED),
        ("a NUL in a name", last("X\0Y: z"), REFUSED),
        ("a bad size", post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), BROKEN),
        ("no CRLF after a chunk", post(CHUNKED, body=b"5\r\nhello0\r\n\r\n"), BROKEN),
        ("no version", b"GET /\r\n\r\n", REFUSED),
        ("an unknown coding", post("Transfer-Encoding: cow", body=HELLO), REFUSED),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n", REFUSED),
    ):
        steps = _cut(raw.replace(b"/@", b""), 1)
        number = 0 if expect is BROKEN else 1
        yield Entry(f"by one byte: {name}", steps, expect, _ANY, requests=number)
    row = (get() * 10 + last()).replace(b"/@", b"")
    yield Entry("cut: a pipeline by 13", _cut(row, 13), SERVED, _ANY, requests=11)


def _cut(raw: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(raw[start : start + size] for start in range(0, len(raw), size))


#: Where a client may stop, and whether what it sent is a whole request.
_STAGES = (
    ("before a byte", b"", False),
    ("after an empty line", b"\r\n", False),
    ("in the method", b"GE", False),
    ("in the target", b"GET /x", False),
    ("in the version", b"GET /x HTTP/1.", False),
    ("after the line", b"GET /x HTTP/1.1\r\n", False),
    ("in a name", b"GET /x HTTP/1.1\r\nHo", False),
    ("in a value", b"GET /x HTTP/1.1\r\nHost: loc", False),
    ("after CR", b"GET /x HTTP/1.1\r\nHost: localhost\r", False),
    ("after a field", b"GET /x HTTP/1.1\r\nHost: localhost\r\n", False),
    ("in the empty line", b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r", False),
    ("after a request", get(), True),
    ("after a last request", last(), True),
    ("after a head", post("Content-Length: 5"), False),
    ("in a body", post("Content-Length: 5", body=b"he"), False),
    ("after a body", sized(HELLO), True),
    ("in a large body", post("Content-Length: 500000", body=b"x" * 250_000), False),
    ("in a size", post(CHUNKED, body=b"5"), False),
    ("after a size", post(CHUNKED, body=b"5\r\n"), False),
    ("in a chunk", post(CHUNKED, body=b"5\r\nhe"), False),
    ("after a chunk", post(CHUNKED, body=b"5\r\nhello\r\n"), False),
    ("in a trailer", post(CHUNKED, body=b"5\r\nhello\r\n0\r\nX-T"), False),
    ("after chunks", post(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), True),
    ("in a second request", get() + b"GET /smug", True),
)


def departures() -> Iterator[Entry]:
    """Leave, at each stage and in each way; or say nothing more."""
    for stage, raw, whole in _STAGES:
        for moment in (Moment.HALF_CLOSE, Moment.CLOSE, Moment.RESET):
            expect: Expect = EITHER if whole else BROKEN
            yield Entry(f"{moment.value} {stage}", (raw, moment), expect, "gone in its middle",
                        requests=int(whole))  # fmt: skip
        silent = SERVED if whole else BROKEN
        yield Entry(f"silence {stage}", (raw,), silent, "closed after timeout or header_timeout",
                    requests=int(whole))  # fmt: skip


def drips() -> Iterator[Entry]:
    """Send so slowly that there is always something new, and never enough."""
    head = "header_timeout counts from the first byte"
    rate = "a body that is slower than min_rate is given up where a thread waits for it"
    fields = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
    for name, raw, drip in (
        ("a request line", b"", b"GET /" + b"x" * 200),
        ("header", fields, b"X-A: b\r\n" * 30),
        ("one value", fields + b"X-A: ", b"b" * 200),
        ("empty lines", b"", b"\r\n" * 100),
        ("the end of a head", fields, b"X-A: b\r\n" * 30 + b"\r\n"),
        ("a second request", get(), b"GET /" + b"x" * 200),
    ):
        number = int(name == "a second request")
        expect = SERVED if number else REFUSED
        yield Entry(f"drip: {name}", (raw, Drip(drip)), expect, head, requests=number)
    for name, raw in (
        ("a body", post("Content-Length: 9999")),
        ("a chunk", post(CHUNKED, body=b"270f\r\n")),
        ("a size", post(CHUNKED, body=b"5;")),
        ("a trailer", post(CHUNKED, body=b"5\r\nhello\r\n0\r\nX-T: ")),
    ):
        yield Entry(f"drip: {name}", (raw, Drip(b"x" * 200)), BROKEN, rate, requests=0,
                    only_threads=True)  # fmt: skip
