"""Other protocols than HTTP/1.1, asked for politely or not."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.hostile.entries import (
    BROKEN,
    CHUNKED,
    EITHER,
    REFUSED,
    SMUGGLED,
    Entry,
    Moment,
    block,
    get,
    last,
    post,
    rows,
    utf8,
)

_H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
_SETTINGS = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_SOCKET = ("Connection: Upgrade", "Upgrade: websocket")
_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
_V13 = "Sec-WebSocket-Version: 13"

#: Headers of a handshake, of which something is wrong.
_HANDSHAKES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("good", (*_SOCKET, _KEY, _V13)),
    ("no key", (*_SOCKET, _V13)),
    ("a short key", (*_SOCKET, "Sec-WebSocket-Key: abc", _V13)),
    ("a key that is none", (*_SOCKET, "Sec-WebSocket-Key: \xff\xfe", _V13)),
    ("two keys", (*_SOCKET, _KEY, _KEY, _V13)),
    ("no version", (*_SOCKET, _KEY)),
    ("version 0", (*_SOCKET, _KEY, "Sec-WebSocket-Version: 0")),
    ("version x", (*_SOCKET, _KEY, "Sec-WebSocket-Version: x")),
    ("version 99999999999999999999", (*_SOCKET, _KEY, f"Sec-WebSocket-Version: {'9' * 20}")),
    ("no Connection", ("Upgrade: websocket", _KEY, _V13)),
    ("no Upgrade", ("Connection: Upgrade", _KEY, _V13)),
    ("two Upgrades", (*_SOCKET, "Upgrade: h2c", _KEY, _V13)),
    ("a list of Upgrades", ("Connection: Upgrade", "Upgrade: websocket, h2c", _KEY, _V13)),
    ("a length", (*_SOCKET, _KEY, _V13, "Content-Length: 0")),
    ("bad extensions", (*_SOCKET, _KEY, _V13, "Sec-WebSocket-Extensions: permessage-deflate; ;=;")),
    ("too many bits", (*_SOCKET, _KEY, _V13,
     "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99")),
    ("a bad protocol", (*_SOCKET, _KEY, _V13, "Sec-WebSocket-Protocol: a b, ,\xff")),
)  # fmt: skip
_UPGRADES = (
    "TLS/1.0",
    "HTTP/2.0",
    "h2",
    "IRC/6.9",
    "websocket\x0b",
    "\0",
    "",
    "x" * 5000,
    "h2c, h2c",
)


def upgrades() -> Iterator[Entry]:
    """Ask to go on in another protocol."""
    mine = "RFC 9110 7.8: may be ignored"
    h2c = "RFC 9113 3.1: h2c is no more, and may be ignored"
    for name, raw in (
        ("good", get(*_H2C, _SETTINGS) + _PREFACE + _EMPTY_SETTINGS),
        ("no settings", get("Connection: Upgrade", "Upgrade: h2c")),
        ("settings that are none", get(*_H2C, "HTTP2-Settings: !!!")),
        ("half a setting", get(*_H2C, "HTTP2-Settings: AAM")),
        ("settings twice", get(*_H2C, _SETTINGS, _SETTINGS)),
        ("not in Connection", get("Upgrade: h2c", _SETTINGS)),
        ("with a body", post(*_H2C, _SETTINGS, "Content-Length: 5", body=b"hello")),
        ("with chunks", post(*_H2C, _SETTINGS, CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n")),
        ("with HTTP/1.0", get(*_H2C, _SETTINGS, version="1.0")),
        ("and a request in the clear", get(*_H2C, _SETTINGS, "Connection: close") + SMUGGLED),
    ):
        yield Entry(f"h2c: {name}", (raw,), EITHER, h2c, switches=True)
    for name, fields in _HANDSHAKES:
        h2c_too = any("h2c" in field for field in fields)
        yield Entry(
            f"WebSocket: {name}", (get(*fields),), EITHER, "RFC 6455 4.2.1", switches=h2c_too
        )
    for name, raw in (
        ("a POST", post(*_SOCKET, _KEY, _V13, "Content-Length: 5", body=b"hello")),
        ("HTTP/1.0", get(*_SOCKET, _KEY, _V13, version="1.0")),
        ("chunks", post(*_SOCKET, _KEY, _V13, CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n")),
        ("frames at once", get(*_SOCKET, _KEY, _V13) + b"\x81\x85abcd" + b"hello"),
        ("garbage at once", get(*_SOCKET, _KEY, _V13) + b"\xff" * 1000),
    ):
        yield Entry(f"WebSocket: {name}", (raw,), EITHER, "RFC 6455 4.2.1")
    for text in _UPGRADES:
        raw = get("Connection: Upgrade", f"Upgrade: {text}")
        yield Entry(f"Upgrade: {text!r:.20}", (raw,), EITHER, mine)
    frames = "RFC 9113 3.4: HTTP/2 where it is spoken, nonsense where not"
    for name, raw in (
        ("alone", _PREFACE),
        ("half", _PREFACE[:18]),
        ("and settings", _PREFACE + _EMPTY_SETTINGS),
        ("and nonsense", _PREFACE + b"\xff" * 100),
        ("and a request", _PREFACE + SMUGGLED),
        ("and settings without end", _PREFACE + _EMPTY_SETTINGS * 2000),
        ("and pings", _PREFACE + _EMPTY_SETTINGS + b"\0\0\x08\6\0\0\0\0\0abcdefgh" * 2000),
        ("and resets", _PREFACE + _EMPTY_SETTINGS + _resets(500)),
        ("and a head without end", _PREFACE + _EMPTY_SETTINGS + _continuations(500)),
        ("and a frame too large", _PREFACE + _EMPTY_SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1"),
        ("after a request", get() + _PREFACE + _EMPTY_SETTINGS),
    ):
        requests = 0 if name == "alone" else 500
        yield Entry(f"HTTP/2: {name}", (raw,), EITHER, frames, requests=requests, switches=True)


def _resets(number: int) -> bytes:
    """Open streams and take each back at once (CVE-2023-44487)."""
    # GET / over http, with an authority: indexed fields of HPACK and one literal.
    head = b"\x82\x86\x84\x41\x01a"
    return b"".join(
        b"\0\0%c\1\5" % len(head) + stream + head + b"\0\0\4\3\0" + stream + b"\0\0\0\x08"
        for stream in ((2 * n + 1).to_bytes(4, "big") for n in range(number))
    )


def _continuations(number: int) -> bytes:
    """Begin a head that never ends (CVE-2024-27316 and others)."""
    field = b"\x00\x01x\x7f\x81\x07" + b"y" * 200
    start = b"\0\0\3\1\0\0\0\0\1\x82\x86\x84"
    return start + (b"\0\0%c\x09\0\0\0\0\1" % len(field) + field) * number


_HELLO = bytes.fromhex(
    "16030100 75 01000071 0303" + "11" * 32 + "00 0008 1301 1302 c02b c02f 01 00 0040"
    "0000000e000c0000096c6f63616c686f7374 000a00040002001d 000b00020100"
    "000d0008000604030804 0401 002b0003020304 0033 0002 0000 ff01 0001 00"
)
_TALK = (
    ("a ClientHello", _HELLO),
    ("half a ClientHello", _HELLO[:40]),
    ("a ClientHello of SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x07" * 40),
    ("a heartbeat", b"\x18\x03\x02\x00\x03\x01\x40\x00"),
    ("an alert", b"\x15\x03\x01\x00\x02\x02\x28"),
    ("a record of 64 kB", b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
    ("SMTP", b"EHLO localhost\r\nMAIL FROM:<a@b>\r\n"),
    ("FTP", b"USER anonymous\r\n"),
    ("Redis", b"*1\r\n$4\r\nPING\r\n"),
    ("memcached", b"stats\r\n"),
    ("PROXY 1", b"PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n"),
    ("PROXY 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\1\x0a\0\0\2\x04\xd2\0P"),
    ("MQTT", b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0"),
    ("AMQP", b"AMQP\0\0\x09\1"),
    ("SMB", b"\0\0\0\x54\xffSMBr" + b"\0" * 80),
    ("RDP", b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0"),
    ("SOCKS 4", b"\4\1\0P\x7f\0\0\1\0"),
    ("SOCKS 5", b"\5\1\0"),
    ("Postgres", b"\0\0\0\x08\4\xd2\x16\x2f"),
    ("FastCGI", b"\1\1\0\1\0\x08\0\0\0\1\0\0\0\0\0\0"),
    ("AJP", b"\x12\x34\0\1\x0a"),
    ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\3"),
    ("XML", b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>\r\n\r\n'),
    ("UTF-16", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".encode("utf-16")),
    ("EBCDIC", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".encode("cp500")),
    ("a byte order mark", utf8("\ufeff").encode("latin-1") + last()),
    ("empty lines alone", b"\r\n" * 1000),
    ("LF alone", b"\n" * 5000),
    ("blanks alone", b" " * 100_000),
    ("NUL alone", b"\0" * 100_000),
    ("0xff alone", b"\xff" * 100_000),
    ("A alone", b"A" * 100_000),
    ("every byte", bytes(range(256)) * 10),
    ("a format", b"%s%n%x" * 100 + b"\r\n\r\n"),
    ("escapes", b"\x1b]0;owned\x07\x1b[2J\r\n\r\n"),
)  # fmt: skip


def foreign() -> Iterator[Entry]:
    """Speak something else on a plain port."""
    why = "no request of HTTP/1.1: refused, or closed"
    yield from rows("foreign", ((name, raw, REFUSED, why) for name, raw in _TALK))
    for name, raw in _TALK[:1] + _TALK[11:13]:
        yield Entry(f"foreign: {name}, then a request", (raw + SMUGGLED,), REFUSED, why)
    for seed in range(20):
        dice = random.Random(seed)
        raw = dice.randbytes(dice.choice((1, 10, 100, 1000, 20_000)))
        yield Entry(f"foreign: random {seed}", (raw,), REFUSED, why)
    for seed in range(20):
        name = f"foreign: a request with random bytes in it {seed}"
        yield Entry(name, (_spoilt(seed),), EITHER, "whatever is served can be read in one way")


def _spoilt(seed: int) -> bytes:
    dice = random.Random(seed)
    raw = bytearray(post("Content-Length: 5", "Connection: close", "X-A: b", body=b"hello"))
    for _ in range(dice.randint(1, 4)):
        # Not in the place of the mount, which is only filled in later.
        raw[dice.randrange(10, len(raw))] = dice.randrange(256)
    return bytes(raw)


def on_tls() -> Iterator[Entry]:
    """Speak something else on a port for HTTPS."""
    why = "no handshake: an answer in the clear at most, and a close"
    for name, raw in (("a request", last()), ("a POST", post("Content-Length: 5", body=b"hello")),
                      ("a request cut short", b"GET / HT"), *_TALK[1:],
                      ("nothing", b"")):  # fmt: skip
        # For some libraries a plain request has to be complete before they say what is wrong.
        yield Entry(
            f"on TLS: {name}", (raw.replace(b"/@", b""),), BROKEN, why, requests=0, tls=True
        )
    for seed in range(10):
        raw = b"\x16\x03\x01\x01\x00" + random.Random(seed).randbytes(256)
        yield Entry(f"on TLS: a random record {seed}", (raw,), REFUSED, why, tls=True)
    for moment in (Moment.HALF_CLOSE, Moment.CLOSE, Moment.RESET):
        for name, raw in (
            ("a ClientHello", _HELLO),
            ("half of one", _HELLO[:30]),
            ("nothing", b""),
        ):
            yield Entry(
                f"on TLS: {name}, then {moment.value}", (raw, moment), REFUSED, why, tls=True
            )
    raw = block("OPTIONS * HTTP/1.1", "Host: a", "Upgrade: TLS/1.2", "Connection: Upgrade")
    yield Entry("on TLS: a plain upgrade", (raw,), BROKEN, why, requests=0, tls=True)
