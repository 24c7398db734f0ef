"""Bodies that are too short, too long, or wait to be asked for; and many requests in a row."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.entries import (
    BROKEN,
    CHUNKED,
    EITHER,
    HELLO,
    IN_CHUNKS,
    REFUSED,
    SERVED,
    SMUGGLED,
    Entry,
    Expect,
    Moment,
    Row,
    block,
    get,
    last,
    post,
    rows,
    shown,
    sized,
)

#: What the sites under test take at most, in bytes.
MOST = 1 << 20

_EXPECT = "RFC 9110 10.1.1"


def bodies() -> Iterator[Entry]:
    """Send other bodies than said."""
    short = "RFC 9112 8: incomplete"
    for name, raw in (
        ("nothing of it", post("Content-Length: 10")),
        ("half of it", post("Content-Length: 10", body=HELLO)),
        ("all but a byte", post("Content-Length: 6", body=HELLO)),
        ("a large part", post("Content-Length: 200000", body=b"x" * 100_000)),
        ("no last chunk", post(CHUNKED, body=b"5\r\nhello\r\n")),
        ("half a chunk", post(CHUNKED, body=b"5\r\nhel")),
        ("half a size", post(CHUNKED, body=b"5")),
        ("no end of trailers", post(CHUNKED, body=b"5\r\nhello\r\n0\r\nX: y\r\n")),
        ("no last CRLF", post(CHUNKED, body=b"5\r\nhello\r\n0\r\n")),
    ):
        yield Entry(f"short: {name}, then silence", (raw,), BROKEN, short, requests=0)
        yield Entry(
            f"short: {name}, then an end", (raw, Moment.HALF_CLOSE), BROKEN, short, requests=0
        )
        yield Entry(f"short: {name}, then a reset", (raw, Moment.RESET), BROKEN, short, requests=0)
    large = "more than max_body: 413"
    yield from rows("large", [
        ("as much as may be", sized(b"x" * MOST, "Connection: close"), SERVED, "max_body"),
        ("one byte more", sized(b"x" * (MOST + 1)), REFUSED, large),
        ("only said", post(f"Content-Length: {MOST * 1000}"), REFUSED, large),
        ("said and begun", post(f"Content-Length: {MOST * 9}", body=b"x" * 9999), REFUSED, large),
        ("said, and to be asked for", post(f"Content-Length: {MOST * 9}", "Expect: 100-continue"),
         REFUSED, large),
    ])  # fmt: skip
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    yield from rows("large", [
        ("in chunks", post(CHUNKED, body=chunk * 40 + b"0\r\n\r\n"), BROKEN, large),
        ("in chunks without end", post(CHUNKED, body=chunk * 60), BROKEN, large),
    ], requests=0)  # fmt: skip
    yield from rows("body", _odd())
    two = sized(HELLO) + last()
    yield Entry(
        "body: and another request", (two,), SERVED, "RFC 9112 9.3.2", requests=2, body=HELLO
    )
    yield Entry("body: none, and another request", (post() + last(),), EITHER,
                "RFC 9112 6.3: no length is no body; or 411", requests=2)  # fmt: skip


def _odd() -> list[Row]:
    refused = "RFC 9112 3: what comes after a body is another request, and this is none"
    return [
        ("and garbage", sized(HELLO) + b"\0garbage\r\n\r\n" + SMUGGLED, SERVED, refused),
        ("and one byte", sized(HELLO) + b"X", SERVED, refused),
        ("and CRLF", sized(HELLO) + b"\r\n", SERVED, "RFC 9112 2.2"),
        ("of a GET", get("Content-Length: 5", "Connection: close") + HELLO, SERVED,
         "RFC 9110 9.3.1"),
        ("of a GET in chunks", get(CHUNKED, "Connection: close") + IN_CHUNKS, SERVED,
         "RFC 9110 9.3.1"),
        ("of a GET, not said", get() + b"garbage\r\n\r\n" + SMUGGLED, SERVED, refused),
        ("of a POST, not said", post(body=b"garbage\r\n\r\n" + SMUGGLED), EITHER, refused),
        ("of an OPTIONS *", block("OPTIONS * HTTP/1.1", "Host: a", "Content-Length: 5",
         "Connection: close") + HELLO, EITHER, "RFC 9110 9.3.7"),
        ("of a TRACE", block("TRACE /@/x HTTP/1.1", "Host: a", "Content-Length: 5",
         "Connection: close") + HELLO, EITHER, "RFC 9110 9.3.8: a client must not"),
        ("of a DELETE", block("DELETE /@/x HTTP/1.1", "Host: a", "Content-Length: 5",
         "Connection: close") + HELLO, SERVED, "RFC 9110 9.3.5"),
        ("of every byte", sized(bytes(range(256)) * 40, "Connection: close"), SERVED, "RFC 9110 8"),
        ("that is a request", sized(SMUGGLED, "Connection: close"), SERVED, "RFC 9112 6.2"),
        ("that is a request in chunks", post(CHUNKED, "Connection: close",
         body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), SERVED, "RFC 9112 7.1"),
        ("with an odd type", sized(HELLO, "Content-Type: ;;;=\"", "Connection: close"), SERVED,
         "an application's own business"),
        ("with two types", sized(HELLO, "Content-Type: a/b", "Content-Type: c/d"), EITHER,
         "RFC 9110 5.3"),
        ("said to be zipped", sized(HELLO, "Content-Encoding: gzip", "Connection: close"), SERVED,
         "RFC 9110 8.4: an application's own business"),
    ]  # fmt: skip


def expectations() -> Iterator[Entry]:
    """Ask whether a body is wanted, in good ways and bad ones."""
    asks = "Expect: 100-continue"
    close = "Connection: close"
    head = post("Content-Length: 5", asks, close)
    chunked = post(CHUNKED, asks, close)
    for name, steps, expect in (
        ("waits", (head, Moment.AWAIT, HELLO), SERVED),
        ("waits, in chunks", (chunked, Moment.AWAIT, IN_CHUNKS), SERVED),
        ("does not wait", (head + HELLO,), SERVED),
        ("does not wait, in chunks", (chunked + IN_CHUNKS,), SERVED),
        ("sends half and waits", (head + b"he", Moment.AWAIT, b"llo"), SERVED),
        ("in capitals", (post("Content-Length: 5", "EXPECT: 100-CONTINUE", close, body=HELLO),),
         SERVED),
        ("with HTTP/1.0", (post("Content-Length: 5", asks, close, body=HELLO, version="1.0"),),
         SERVED),
    ):  # fmt: skip
        yield Entry(f"Expect: {name}", steps, expect, _EXPECT, body=HELLO)
    yield Entry(
        "Expect: no body", (post("Content-Length: 0", asks, close),), SERVED, _EXPECT, body=b""
    )
    yield Entry("Expect: of a GET", (last(asks),), SERVED, _EXPECT, body=b"")
    for name, raw in (("length", head), ("chunks", chunked)):
        yield Entry(f"Expect: never sends, {name}", (raw,), BROKEN, _EXPECT, requests=0)
        yield Entry(f"Expect: leaves, {name}", (raw, Moment.AWAIT, Moment.CLOSE), BROKEN, _EXPECT,
                    requests=0)  # fmt: skip
        yield Entry(f"Expect: sends a request instead, {name}", (raw, Moment.AWAIT, SMUGGLED[:4]),
                    BROKEN, _EXPECT, requests=0)  # fmt: skip
    may = f"{_EXPECT}: others may be answered with 417"
    for value in (
        "200-ok",
        "100-continue, x",
        "x",
        "",
        "100",
        "100-continue;q=1",
        "100-continue\0",
    ):
        raw = post("Content-Length: 5", f"Expect: {value}", close, body=HELLO)
        yield Entry(f"Expect: {shown(value)}.", (raw,), EITHER, may, body=HELLO)
    raw = post("Content-Length: 5", asks, "Expect: x", close, body=HELLO)
    yield Entry("Expect: two", (raw,), EITHER, may, body=HELLO)


#: What ends a row of good requests.
_STOPS = (
    ("no target", b"GET\r\n\r\n"),
    ("a version of its own", b"GET / HTTP/7.7\r\nHost: a\r\n\r\n"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    ("a blank before a colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
    ("lengths that differ", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
     b"Content-Length: 2\r\n\r\nabc"),
    ("an unknown coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\nabc"),
    ("a NUL", b"\0"),
    ("bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    ("a long line", b"GET /" + b"a" * 70_000),
    ("a head cut short", b"GET / HTTP/1.1\r\nHos"),
)  # fmt: skip


def pipelines() -> Iterator[Entry]:
    """Send many requests at once, some of them bad."""
    row = "RFC 9112 9.3.2: in their order"

    def entry(name: str, raw: bytes, requests: int, expect: Expect = SERVED) -> Entry:
        return Entry(f"pipeline: {name}", (raw,), expect, row, requests=requests)

    yield entry("a hundred", get() * 99 + last(), 100)
    yield entry("a hundred bodies", sized(HELLO) * 99 + sized(HELLO, "Connection: close"), 100)
    yield entry("fifty in chunks", post(CHUNKED, body=IN_CHUNKS) * 49 + last(), 50)
    yield entry(
        "of every kind", (get() + sized(HELLO) + post(CHUNKED, body=IN_CHUNKS)) * 10 + last(), 31
    )
    yield entry("with empty lines between", (get() + b"\r\n") * 10 + last(), 11, EITHER)
    yield entry("with two empty lines between", (get() + b"\r\n\r\n") * 3 + last(), 4, EITHER)
    yield entry("that ends in its middle", get() * 5 + last() + SMUGGLED * 5, 6)
    yield entry("of HTTP/1.0 that stay", get("Connection: keep-alive", version="1.0") * 5
                + get(version="1.0") + SMUGGLED, 6, EITHER)  # fmt: skip
    yield entry("of HTTP/1.0 that do not", get(version="1.0") + SMUGGLED * 3, 1)
    yield entry("that changes its version", get() + get(version="1.0") + SMUGGLED, 2)
    yield entry("and a half", get() * 3 + get()[:20], 3)
    yield entry("and an end", get() * 3, 3)
    for name, stop in _STOPS:
        yield entry(f"ten, {name}, more", get() * 10 + stop + b"\r\n\r\n" + SMUGGLED * 3, 10)
    yield entry("fifty, an error, fifty", get() * 50 + b"\x01\r\n\r\n" + SMUGGLED * 50, 50)
    yield Entry("pipeline: ten, an end", (get() * 10, Moment.HALF_CLOSE), EITHER, row, requests=10)
    yield Entry("pipeline: ten, gone", (get() * 10, Moment.CLOSE), EITHER, row, requests=10)
    yield Entry("pipeline: ten, a reset", (get() * 10, Moment.RESET), EITHER, row, requests=10)
