"""Fields of the header: what is none, what is too many, and what passes for another."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.entries import (
    EITHER,
    REFUSED,
    SERVED,
    SHADOW,
    SMUGGLED,
    Entry,
    Expect,
    block,
    get,
    last,
    rows,
    shown,
    utf8,
)

_NAME = "RFC 9110 5.1: the name of a field is a token"
_VALUE = "RFC 9110 5.5: refused, or never shown as it is"
_FOLD = "RFC 9112 5.2: refused, or joined by blanks"
_HOST = "RFC 9112 3.2: a Host that is missing, there twice or invalid is 400"

_CONTROLS = "\x00\x01\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f"
_SEPARATORS = '"(),/;<=>?@[]{}\\'

_FIELDS: tuple[tuple[str, Expect, str], ...] = (
    ("no colon", REFUSED, "RFC 9112 5"),
    ("NoColon", REFUSED, "RFC 9112 5"),
    (": value", REFUSED, _NAME),
    (":", REFUSED, _NAME),
    (" : value", EITHER, _FOLD),
    ("X : y", REFUSED, "RFC 9112 5.1: a blank before the colon is 400"),
    ("X\t: y", REFUSED, "RFC 9112 5.1: a blank before the colon is 400"),
    ("X y: z", REFUSED, _NAME),
    ("X\xe9: y", REFUSED, _NAME),
    (utf8("Xé: y"), REFUSED, _NAME),
    ("\xff: y", REFUSED, _NAME),
    ("X:", SERVED, "RFC 9110 5.5: a value may be empty"),
    ("X:y", SERVED, "RFC 9112 5"),
    ("X: \t y \t ", SERVED, "RFC 9112 5.1"),
    ("X: a\tb", SERVED, "RFC 9110 5.5: a tab is a blank"),
    ("X: \xe9", SERVED, "RFC 9110 5.5: obs-text"),
    (utf8("X: é\u202e"), SERVED, "RFC 9110 5.5: obs-text"),
    ("X: y: z", SERVED, "RFC 9110 5.5"),
    ("!#$%&'*+-.^`|~1: y", SERVED, "RFC 9110 5.6.2: a token, if an odd one"),
    ("X: a\r\n b", EITHER, _FOLD),
    ("X: a\r\n\tb", EITHER, _FOLD),
    ("X: a\r\n b\r\n c", EITHER, _FOLD),
    ("X:\r\n b", EITHER, _FOLD),
    ("X: a\r\n \r\n b", EITHER, _FOLD),
    ("X: a\nY: b", EITHER, "RFC 9112 2.2: a bare LF may end a line"),
    ("X: a\rb", EITHER, "RFC 9112 2.2: a bare CR is invalid, or a blank"),
    ("X: a\r", EITHER, "RFC 9112 2.2: a bare CR is invalid, or a blank"),
    ("X: \ra", EITHER, "RFC 9112 2.2: a bare CR is invalid, or a blank"),
    ("X: a\n\rY: b", EITHER, "RFC 9112 2.2"),
    ("\rX: a", REFUSED, _NAME),
    ("X\r: a", REFUSED, _NAME),
    ("X\n: a", REFUSED, "RFC 9112 5: two lines, neither of them a field"),
    ("GET / HTTP/1.1", REFUSED, "RFC 9112 5"),
    ("HTTP/1.1 200 OK", REFUSED, "RFC 9112 5"),
)
_SPOOFS = (
    "X_Forwarded_For", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Real_IP", "X_Forwarded_User",
    "Remote_User", "X-Auth_User", "Content_Type", "Accept_Language", "If_Match", "User_Agent",
)  # fmt: skip


def fields() -> Iterator[Entry]:
    """Write lines that are no fields, or might be two."""
    yield from rows(
        "field", ((shown(line), last(line), expect, why) for line, expect, why in _FIELDS)
    )
    for control in _CONTROLS:
        at = shown(control)
        yield from rows(f"control {at}", [
            ("in a name", last(f"X{control}Y: z"), REFUSED, _NAME),
            ("before a name", last(f"{control}X: z"), REFUSED, _NAME),
            ("after a name", last(f"X{control}: z"), REFUSED, _NAME),
            ("in a value", last(f"X: y{control}z"), EITHER, _VALUE),
            ("at a value's end", last(f"X: y{control}"), EITHER, _VALUE),
        ])  # fmt: skip
    yield from rows("separator in a name", (
        (character, last(f"X{character}Y: z"), REFUSED, _NAME) for character in _SEPARATORS
    ))  # fmt: skip
    first = "RFC 9112 2.2: refused, or dropped"
    for blank in (" ", "\t"):
        raw = block("GET /@/x HTTP/1.1", f"{blank}X-Lead: {SHADOW}", "Host: a", "Connection: close")
        yield Entry(f"blank {blank!r} before the first field", (raw,), EITHER, first,
                    hidden=SHADOW.encode())  # fmt: skip
    for name in _SPOOFS:
        why = "with an underscore it is another field than with a dash"
        yield Entry(f"shadow {name}", (last(f"{name}: {SHADOW}"),), EITHER, why,
                    hidden=SHADOW.encode())  # fmt: skip


def amounts() -> Iterator[Entry]:
    """Send more than a head may hold, and as much as it may."""
    bomb = "longer than a head may be: 431"
    yield from rows("header", [
        ("one field of 100 kB", last("X: " + "y" * 100_000), REFUSED, bomb),
        ("a name of 100 kB", last("X" * 100_000 + ": y"), REFUSED, bomb),
        ("a name of 10 kB", last("X" * 10_000 + ": y"), EITHER, "RFC 9110 5.4"),
        ("ten thousand fields", last(*["X: y"] * 10_000), REFUSED, bomb),
        ("ten thousand names", last(*(f"X{n}: y" for n in range(10_000))), REFUSED, bomb),
        ("five hundred fields", last(*["X: y"] * 500), EITHER, "RFC 9110 5.4"),
        ("fifty fields", last(*(f"X{n}: y" for n in range(50))), SERVED, "an ordinary browser"),
        ("one field of 6 kB", last("Cookie: a=" + "y" * 6000), SERVED, "an ordinary login"),
        ("folds without end", last("X: y" + "\r\n y" * 20_000), REFUSED, bomb),
        ("no end", get()[:-2] + b"X: y\r\n" * 20_000, REFUSED, bomb),
        ("a line without an end", get()[:-2] + b"X" * 200_000, REFUSED, bomb),
        ("blanks without an end", get()[:-2] + b"X:" + b" " * 200_000, REFUSED, bomb),
        ("names that collide", last(*(f"X-{'aA'[n % 2]}: {n}" for n in range(50))), SERVED,
         "RFC 9110 5.3"),
    ])  # fmt: skip


_BAD_HOSTS = (
    "a b", "a/b", "a@b", "a?b", "a#b", "http://localhost", "localhost/", "[::1", "::1]", "[zz]",
    "[]", "a:b", "a:80:80", "a:-1", "a:+1", "a: 80", "a\tb", "a\0", "\x01a", "a\x7f", "<a>", '"a"',
    "a\\b", "a^b", "a|b", "a`b", "{a}", "\xe9", utf8("é.example"), utf8("localhost:\uff18\uff10"),
    "localhost\\@evil", "user@localhost", "localhost:80@evil", "a%", "%zz",
)  # fmt: skip
_GOOD_HOSTS = (
    "LOCALHOST", "localhost:80", "localhost:", "127.0.0.1:8080", "[::1]", "[::1]:80",
    "xn--9ca.example", "localhost.", "a_b.example",
)  # fmt: skip


def hosts() -> Iterator[Entry]:
    """Be unclear whom is asked."""
    line = "GET /@/x HTTP/1.1"
    old = "GET /@/x HTTP/1.0"
    yield from rows("Host", (
        (shown(host), block(line, f"Host: {host}", "Connection: close"), REFUSED, _HOST)
        for host in _BAD_HOSTS
    ))  # fmt: skip
    yield from rows("good Host", (
        (host, block(line, f"Host: {host}", "Connection: close"), SERVED, "RFC 9110 7.2")
        for host in _GOOD_HOSTS
    ))  # fmt: skip
    yield from rows("Host", [
        ("missing", block(line), REFUSED, _HOST),
        ("missing, with others", block(line, "X-Forwarded-Host: a", "Accept: */*"), REFUSED, _HOST),
        ("missing, with HTTP/1.0", block(old), SERVED, "RFC 9112 3.2"),
        ("empty", block(line, "Host:", "Connection: close"), EITHER, "RFC 9112 3.2: it may be"),
        ("the same twice", block(line, "Host: a", "Host: a"), REFUSED, _HOST),
        ("two that differ", block(line, "Host: a", "Host: b"), REFUSED, _HOST),
        ("in two spellings", block(line, "host: a", "HOST: b"), REFUSED, _HOST),
        ("twice, one empty", block(line, "Host:", "Host: b"), REFUSED, _HOST),
        ("twice, far apart", block(line, "Host: a", *["X: y"] * 40, "Host: b"), REFUSED, _HOST),
        ("two, with HTTP/1.0", block(old, "Host: a", "Host: b"), EITHER, "one of them at most"),
        ("two, the target decides", block("GET http://a/@/x HTTP/1.1", "Host: a", "Host: b"),
         REFUSED, _HOST),
        ("none, the target decides", block("GET http://a/@/x HTTP/1.1"), REFUSED, _HOST),
        ("a blank before the colon", block(line, "Host : a"), REFUSED, "RFC 9112 5.1"),
        ("folded", block(line, "Host: a\r\n b", "Connection: close"), EITHER, _FOLD),
        ("folded at once", block(line, "Host:\r\n a", "Connection: close"), EITHER, _FOLD),
        ("of 10 kB", block(line, "Host: " + "a" * 10_000, "Connection: close"), EITHER, _HOST),
        ("in a field with an underscore", block(line, "_Host: a"), REFUSED, _HOST),
    ])  # fmt: skip


def connections() -> Iterator[Entry]:
    """Have wishes about the connection, and a second request where none may be read."""
    close = "RFC 9112 9.6: nothing is served after a close"
    for text in ("close", "Close", "CLOSE", "keep-alive, close", "close, keep-alive", "x,close",
                 "close ,x", ",close,", "\tclose"):  # fmt: skip
        yield Entry(f"Connection: {shown(text)}", (get(f"Connection: {text}") + SMUGGLED,), SERVED,
                    close)  # fmt: skip
    two = get("Connection: keep-alive") + get("Connection: x") + SMUGGLED.replace(b"GET", b"G<T")
    yield Entry("two Connections", (get("Connection: x", "Connection: close") + SMUGGLED,), SERVED,
                close)  # fmt: skip
    yield Entry("Connection kept, then refused", (two,), SERVED, "RFC 9112 9.3", requests=2)
    for text in ("Content-Length", "Host", "Transfer-Encoding", "Connection", "close, Cookie", "",
                 "upgrade", "@", "close;x", "timeout=5", "x" * 5000):  # fmt: skip
        raw = get(f"Connection: {text}", "Cookie: a=b")
        yield Entry(f"Connection: {shown(text)}.", (raw,), EITHER, "RFC 9110 7.6.1")
    old = get(version="1.0") + SMUGGLED
    yield Entry("HTTP/1.0 without Connection", (old,), SERVED, "RFC 9112 9.3: closes")
    ages = get("Connection: keep-alive", "Keep-Alive: timeout=999999, max=999999")
    yield Entry("Keep-Alive for ever", (ages,), SERVED, "how long it stays is the server's to say")
