"""Requests of which two readers could disagree where they end."""

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
    SHADOW,
    SMUGGLED,
    Entry,
    Expect,
    Row,
    post,
    rows,
    shown,
    utf8,
)

_LENGTH = "RFC 9112 6.3: an invalid Content-Length is 400 and a close"
_LENGTHS = "RFC 9110 8.6: lengths that differ are no length"
_CODING = "RFC 9112 6.1 and 6.3: a coding that is not known, or ends in another than chunked"
_SYNTAX = "RFC 9110 5.6.2: the name of a coding is a token"
_BOTH = "RFC 9112 6.1: refused, or read by its coding alone and closed"

#: One Content-Length before five bytes.
BAD_LENGTHS = (
    "+5", "-5", "-0", "5 5", "5\t5", "5;", "5;q=1", "0x5", "0b101", "5_0", "5.0", "5e0", "", "abc",
    "5, 6", "5 6", "5, abc", "5 chunked", "'5'", '"5"', "(5)5", "5\x0b", "\x0c5", "5\x00", "\x7f5",
    utf8("\u0665"), utf8("\uff15"), "\xb2", "\xa05", "Infinity", "NaN", "None", "0x", "1 000",
    "4294967301", "9223372036854775813", "18446744073709551621",
    "340282366920938463463374607431768211461", "9" * 400,
)  # fmt: skip
#: Two or more of them.
BAD_PAIRS = (
    ("5", "6"), ("6", "5"), ("0", "5"), ("5", "0"), ("5", "abc"), ("", "5"), ("5", ""),
    ("5", "-5"), ("5", "5, 6"), ("5", "5", "6"), ("5", "+5"),
)  # fmt: skip
GOOD_LENGTHS = (("5 ", SERVED), ("\t5\t", SERVED), ("  5", SERVED), ("05", EITHER),
                ("0" * 60 + "5", EITHER), ("5, 5", EITHER), ("5,5,5", EITHER),
                ("5,", EITHER), (",5", EITHER))  # fmt: skip

#: One Transfer-Encoding that a lax reader takes for chunked, or for nothing.
BAD_CODINGS = (
    "xchunked", "chunkedx", "identity", "identity, chunked", "chunked, identity", "gzip, chunked",
    "gzip", "chunked, gzip", "chunked, chunked", "chunked;q=1", "chunked;foo=bar", "chunked ; a",
    '"chunked"', "'chunked'", "chunked\x00", "\x00chunked", "\x0bchunked", "chunked\x0b",
    "\x0cchunked", "\x1fchunked", "chunked\x7f", "chunke d", "chun\x00ked", "chunked chunked",
    "chunked identity", "x, chunked, y", utf8("chun\u212aed"), utf8("\ufeffchunked"), "\xa0chunked",
    "chunked\xa0", "chunked:", "chunked=1", "cow", "chunk", "compress, chunked", "\\chunked",
)  # fmt: skip
BAD_CODING_PAIRS = (
    ("chunked", "chunked"), ("chunked", "identity"), ("identity", "chunked"), ("chunked", "cow"),
    ("cow", "chunked"),
)  # fmt: skip
GOOD_CODINGS = (("CHUNKED", SERVED), ("Chunked", SERVED), ("cHuNkEd", SERVED),
                ("\tchunked", SERVED), (" chunked ", SERVED),
                ("chunked,", EITHER), (", chunked", EITHER))  # fmt: skip

#: Lines that make a coding visible to one reader only; the body is five bytes by its length.
_HIDDEN_CODINGS: tuple[tuple[str, Expect, str], ...] = (
    ("Transfer-Encoding : chunked", REFUSED, "RFC 9112 5.1: a blank before the colon is 400"),
    ("Transfer-Encoding\t: chunked", REFUSED, "RFC 9112 5.1: a blank before the colon is 400"),
    ("Transfer-Encoding\x0b: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("Transfer-Encoding\x00: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("Transfer\x00-Encoding: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("Transfer Encoding: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("\x0bTransfer-Encoding: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("\xa0Transfer-Encoding: chunked", REFUSED, "RFC 9110 5.1: a name is a token"),
    (utf8("Transfer\u2010Encoding: chunked"), REFUSED, "RFC 9110 5.1: a name is a token"),
    ("Transfer-Encoding chunked", REFUSED, "RFC 9112 5: a field has a colon"),
    ("Transfer_Encoding: chunked", EITHER, "with an underscore it is another field"),
    ("X-Transfer-Encoding: chunked", SERVED, "another field"),
    ("TE: chunked", SERVED, "another field (RFC 9110 10.1.4)"),
    ("X: y\r\n Transfer-Encoding: chunked", EITHER, "RFC 9112 5.2: refused, or part of X"),
    ("X: y\r\n\tTransfer-Encoding: chunked", EITHER, "RFC 9112 5.2: refused, or part of X"),
    ("X: y\rTransfer-Encoding: chunked", EITHER, "RFC 9112 2.2: refused, or a blank"),
    ("X: y\r\rTransfer-Encoding: chunked", EITHER, "RFC 9112 2.2: refused, or blanks"),
    ("X: y\0Transfer-Encoding: chunked", EITHER, "RFC 9110 5.5: refused, or a blank"),
    ("Content_Length: 99", EITHER, "with an underscore it is another field"),
    ("Content-Length : 99", REFUSED, "RFC 9112 5.1: a blank before the colon is 400"),
    ("Content-Length\x00: 99", REFUSED, "RFC 9110 5.1: a name is a token"),
    ("X: y\rContent-Length: 99", EITHER, "RFC 9112 2.2: refused, or a blank"),
)


def lengths() -> Iterator[Entry]:
    """Lie about how long the body is."""
    more = HELLO + SMUGGLED
    yield from rows("Content-Length", (
        (shown(text) or "empty", post(f"Content-Length: {text}", body=more), REFUSED, _LENGTH)
        for text in BAD_LENGTHS
    ))  # fmt: skip
    yield from rows("Content-Lengths", (
        (" and ".join(pair), post(*_each("Content-Length", pair), body=more), REFUSED, _LENGTHS)
        for pair in BAD_PAIRS
    ))  # fmt: skip
    closing = "Connection: close"
    yield from rows("good Content-Length", (
        (shown(text), post(f"Content-Length: {text}", closing, body=HELLO), expect,
         "RFC 9110 8.6: digits, or a list of the same")
        for text, expect in GOOD_LENGTHS
    ), body=HELLO)  # fmt: skip
    same: list[Row] = [
        ("the same twice", post(*_each("Content-Length", "55"), body=HELLO), EITHER, _LENGTHS),
        ("the same thrice", post(*_each("Content-Length", "555"), body=HELLO), EITHER, _LENGTHS),
        ("other digits", post(*_each("Content-Length", ("5", "05")), body=HELLO), EITHER, _LENGTHS),
    ]  # fmt: skip
    yield from rows("Content-Lengths", same, body=HELLO)
    mixed = post("content-length: 5", "CONTENT-LENGTH: 51", body=more)
    yield from rows("Content-Lengths", [("in two spellings", mixed, REFUSED, _LENGTHS)])


def _each(name: str, values: tuple[str, ...] | str) -> list[str]:
    return [f"{name}: {value}" for value in values]


def codings() -> Iterator[Entry]:
    """Send a Transfer-Encoding that not everybody reads the same way."""
    hidden = IN_CHUNKS + SMUGGLED
    length = f"Content-Length: {len(hidden)}"
    for how, fields in (("alone", []), ("with a length", [length])):
        yield from rows(f"Transfer-Encoding {how}", (
            (shown(text), post(f"Transfer-Encoding: {text}", *fields, body=hidden), REFUSED,
             _SYNTAX if "chunked" in text.lower() else _CODING)
            for text in BAD_CODINGS
        ))  # fmt: skip
    yield from rows("Transfer-Encodings", (
        (" and ".join(pair), post(*_each("Transfer-Encoding", pair), body=hidden), REFUSED, _CODING)
        for pair in BAD_CODING_PAIRS
    ))  # fmt: skip
    yield from rows("good Transfer-Encoding", (
        (shown(text), post(f"Transfer-Encoding: {text}", "Connection: close", body=IN_CHUNKS),
         expect, "RFC 9112 7: case is no matter, nor are blanks")
        for text, expect in GOOD_CODINGS
    ), body=HELLO)  # fmt: skip
    yield from rows("five bytes and", (
        (shown(line), post("Content-Length: 5", line, "Connection: close", body=HELLO), expect, why)
        for line, expect, why in _HIDDEN_CODINGS
    ), body=HELLO)  # fmt: skip


def _both(first: str, second: str, body: bytes, version: str = "1.1") -> bytes:
    return post(first, second, body=body, version=version)


def both() -> Iterator[Entry]:
    """Say a length and a coding: CL.TE, TE.CL and their kin."""
    whole = len(IN_CHUNKS)
    table: list[Row] = [
        ("CL.TE, an end and more", _both("Content-Length: 30", CHUNKED, b"0\r\n\r\n" + SMUGGLED),
         EITHER, _BOTH),
        ("CL.TE, the length of all", _both(f"Content-Length: {whole + len(SMUGGLED)}", CHUNKED,
         IN_CHUNKS + SMUGGLED), EITHER, _BOTH),
        ("TE.CL, a short length", _both(CHUNKED, "Content-Length: 4", b"5c\r\n" + SMUGGLED.ljust(92)
         + b"\r\n0\r\n\r\n"), EITHER, _BOTH),
        ("TE.CL, no length", _both(CHUNKED, "Content-Length: 0", IN_CHUNKS + SMUGGLED), EITHER,
         _BOTH),
        ("CL.TE, the same end", _both(f"Content-Length: {whole}", CHUNKED, IN_CHUNKS + SMUGGLED),
         EITHER, _BOTH),
        ("TE.CL, a bad length", _both(CHUNKED, "Content-Length: x", IN_CHUNKS + SMUGGLED), EITHER,
         _BOTH),
        ("CL.TE, lengths that differ", post("Content-Length: 1", CHUNKED, "Content-Length: 2",
         body=IN_CHUNKS + SMUGGLED), EITHER, _BOTH),
        ("an empty coding and a length", _both("Content-Length: 5", "Transfer-Encoding:",
         HELLO), EITHER, "RFC 9110 5.6.1: a list may be empty"),
        ("a folded coding", _both("Content-Length: 5", "Transfer-Encoding:\r\n chunked",
         IN_CHUNKS + SMUGGLED), EITHER, "RFC 9112 5.2 and 6.1"),
        ("a coding after a bare LF", _both("Content-Length: 5", "X: y\nTransfer-Encoding: chunked",
         IN_CHUNKS + SMUGGLED), EITHER, "RFC 9112 2.2 and 6.1"),
    ]  # fmt: skip
    yield from rows("both", table)
    old: list[Row] = [
        ("coding", post(CHUNKED, body=IN_CHUNKS + SMUGGLED, version="1.0"), EITHER,
         "RFC 9112 6.1: faulty framing, closed after it at the latest"),
        ("coding that stays", post(CHUNKED, "Connection: keep-alive", body=IN_CHUNKS + SMUGGLED,
         version="1.0"), EITHER, "RFC 9112 6.1: closed after it at the latest"),
        ("both", post("Content-Length: 5", CHUNKED, "Connection: keep-alive",
         body=IN_CHUNKS + SMUGGLED, version="1.0"), EITHER, "RFC 9112 6.1"),
    ]  # fmt: skip
    yield from rows("HTTP/1.0 with a", old)


#: What stands where the size of a chunk of five bytes should.
_BAD_SIZES = (
    "-5", "+5", "0x5", "0X5", "5_0", " 5", "\t5", "", "g", "5g", "5.0", "5h", "5,5", "5 5", "5\x00",
    "\x005", "5\x0b", "5\x0c", "5\x7f", "5\xa0", utf8("\uff15"), utf8("\u0665"), "5\r", "5\n",
    "\n5", "0x",
    "-0", "FFFFFFFFFFFFFFFF", "10000000000000005", "8000000000000005", "100000005",
    "F" * 100, "7FFFFFFFFFFFFFFF", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFB", "five", "$5", "5:",
    "5;a\nb", "5;\nx", "5;a\rb", "5;a\x00b",
)  # fmt: skip
_SIZES = (
    ("5;ext", SERVED), ("5;ext=value", SERVED), ('5;ext="quoted"', SERVED), ("5;a;b;c=d", SERVED),
    ("05", SERVED), ("00000005", SERVED), ("5 ", EITHER), ("5\t", EITHER), ("5 ;ext", EITHER),
    ("5; ext", EITHER), ("5;", EITHER), ("5;=", EITHER), ('5;a="\\""', EITHER),
    ('5;a="open', EITHER), ("0" * 40 + "5", EITHER), ("5;" + "a" * 3000, EITHER),
)  # fmt: skip
_CHUNK = "RFC 9112 7.1"


def chunks() -> Iterator[Entry]:
    """Break the rules of chunks."""
    end = b"\r\nhello\r\n0\r\n\r\n"
    yield from rows("chunk size", (
        (shown(size) or "empty", _chunked(size.encode("latin-1") + end + SMUGGLED), BROKEN,
         f"{_CHUNK}: 1*HEXDIG, and extensions of tokens")
        for size in _BAD_SIZES
    ), requests=0)  # fmt: skip
    yield from rows("good chunk size", (
        (shown(size), _chunked(size.encode() + end, "Connection: close"), expect, _CHUNK)
        for size, expect in _SIZES
    ), body=HELLO)  # fmt: skip
    yield from rows("chunks", (
        (name, _chunked(body), BROKEN, f"{_CHUNK}: chunk-data CRLF") for name, body in _BAD_CHUNKS
    ), requests=0)  # fmt: skip
    yield from rows("many chunks", (
        (name, _chunked(body, "Connection: close"), expect, _CHUNK)
        for name, body, expect in _MANY_CHUNKS
    ))  # fmt: skip
    yield from rows("trailer", (
        (shown(line), _chunked(f"5\r\nhello\r\n0\r\n{line}\r\n\r\n".encode("latin-1"),
         "Connection: close"), expect, why)
        for line, expect, why in _TRAILERS
    ), body=HELLO, hidden=SHADOW.encode())  # fmt: skip


def _chunked(body: bytes, *fields: str) -> bytes:
    return post(CHUNKED, *fields, body=body)


_REST = b"0\r\n\r\n" + SMUGGLED
_BAD_CHUNKS = (
    ("no CRLF after the data", b"5\r\nhello" + _REST),
    ("more data than said", b"5\r\nhello!\r\n" + _REST),
    ("less data than said", b"6\r\nhello\r\n" + _REST),
    ("LF after the data", b"5\r\nhello\n" + _REST),
    ("CR after the data", b"5\r\nhello\r" + _REST),
    ("other bytes after the data", b"5\r\nhelloXX" + _REST),
    ("LF CR after the data", b"5\r\nhello\n\r" + _REST),
    ("an empty line between chunks", b"5\r\nhello\r\n\r\n" + _REST),
    ("a last chunk of -0", b"5\r\nhello\r\n-0\r\n\r\n" + SMUGGLED),
    ("a last chunk of 0x0", b"5\r\nhello\r\n0x0\r\n\r\n" + SMUGGLED),
    ("LF after every line", b"5\nhello\n0\n\n" + SMUGGLED),
    ("a size larger than any body", b"FFFFFF\r\n" + b"x" * 5000),
    ("not chunks at all", SMUGGLED),
    ("a size without an end", b"5" * 70_000),
    ("an extension larger than any body", b"5;" + b"x" * 0x200000 + b"\r\nhello\r\n0\r\n\r\n"),
    ("a body larger than may be", b"180000\r\n" + b"x" * 0x180000 + b"\r\n0\r\n\r\n"),
)
_MANY_CHUNKS = (
    ("five hundred", b"1\r\nx\r\n" * 500 + b"0\r\n\r\n", SERVED),
    ("with extensions", (b"1;" + b"e" * 500 + b"\r\nx\r\n") * 400 + b"0\r\n\r\n", EITHER),
    ("with trailers", b"1\r\nx\r\n0\r\n" + b"X-T: y\r\n" * 5000 + b"\r\n", EITHER),
    ("and a long trailer", b"1\r\nx\r\n0\r\nX-T: " + b"y" * 200_000 + b"\r\n\r\n", EITHER),
    ("and a last one of many zeros", b"1\r\nx\r\n" + b"0" * 12 + b"\r\n\r\n", SERVED),
    ("and a last one with an extension", b"1\r\nx\r\n0;a=b\r\n\r\n", SERVED),
)
_MERGE = "RFC 9110 6.5.1: never merged into the header"
_TRAILERS = (
    ("X-Checksum: 1", SERVED, "RFC 9112 7.1.2"),
    (f"Host: {SHADOW}", EITHER, _MERGE),
    ("Content-Length: 99", EITHER, _MERGE),
    ("Transfer-Encoding: gzip", EITHER, _MERGE),
    (f"X-Forwarded-For: {SHADOW}", EITHER, _MERGE),
    (f"Authorization: {SHADOW}", EITHER, _MERGE),
    ("no colon", EITHER, "RFC 9112 7.1.2: the body is whole, its trailer is not"),
    ("X : y", EITHER, "RFC 9112 5.1"),
    ("X: a\0b", EITHER, "RFC 9110 5.5"),
    ("GET /smuggled HTTP/1.1", EITHER, "a request where a trailer should be"),
)
