"""Request lines: methods, targets, versions, and the paths in them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.entries import (
    EITHER,
    REFUSED,
    SERVED,
    Entry,
    Expect,
    block,
    last,
    rows,
    shown,
    utf8,
)

_LINE = "RFC 9112 3: a method, a target and a version, with one blank between them"
_VERSION = "RFC 9112 2.3: HTTP/ in capitals, a digit, a dot and a digit; or not a version we speak"
_TARGET = "RFC 9112 3.2: a target has one of four forms"
_LENIENT = "RFC 9112 3: may be read by its words"

_LINES: tuple[tuple[str, Expect, str], ...] = (
    ("GET", REFUSED, _LINE),
    ("GET ", REFUSED, _LINE),
    ("GET /@/x", REFUSED, "HTTP/0.9, with a header"),
    ("GET /@/x ", REFUSED, _LINE),
    ("/@/x HTTP/1.1", REFUSED, _LINE),
    ("GET HTTP/1.1", REFUSED, _LINE),
    ("GET/@/x HTTP/1.1", REFUSED, _LINE),
    ("GET /@/xHTTP/1.1", REFUSED, _LINE),
    ("GET  /@/x HTTP/1.1", EITHER, _LENIENT),
    ("GET /@/x  HTTP/1.1", EITHER, _LENIENT),
    ("GET\t/@/x HTTP/1.1", EITHER, _LENIENT),
    ("GET /@/x\tHTTP/1.1", EITHER, _LENIENT),
    ("GET\x0b/@/x HTTP/1.1", EITHER, _LENIENT),
    (" GET /@/x HTTP/1.1", EITHER, _LENIENT),
    ("GET /@/x HTTP/1.1 ", EITHER, _LENIENT),
    ("GET /@/x y HTTP/1.1", REFUSED, "RFC 9112 3.2: no blanks in a target"),
    ("GET /@/x HTTP/1.1 HTTP/1.1", REFUSED, _LINE),
    ("GET /@/x HTTP/1.0 HTTP/1.1", REFUSED, _LINE),
    ("GET /@/x\0 HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/\x01 HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/\x1b[2J HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/\x7f HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/x?\x08 HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/\r HTTP/1.1", REFUSED, _TARGET),
    ("GET /@/x\rX: y HTTP/1.1", REFUSED, _TARGET),
    (": HTTP/1.1", REFUSED, _LINE),
    ("\0", REFUSED, _LINE),
    ("x" * 100, REFUSED, _LINE),
    ("Host: localhost", REFUSED, _LINE),
    ("HTTP/1.1 200 OK", REFUSED, "an answer is no request"),
    ("HTTP/1.1 /@/x GET", REFUSED, _LINE),
)
_METHODS: tuple[tuple[str, Expect, str], ...] = (
    ("get", EITHER, "RFC 9110 9.1: another method, as methods have their case"),
    ("Get", EITHER, "RFC 9110 9.1"),
    ("BREW", EITHER, "RFC 9110 9.1: unknown"),
    ("!#$%&'*+-.^_`|~", EITHER, "RFC 9110 9.1: a token, if an odd one"),
    ("M" * 100, EITHER, "RFC 9112 3: may be 501"),
    ("M" * 40_000, REFUSED, "RFC 9112 3: longer than a head may be"),
    ("TRACE", EITHER, "RFC 9110 9.3.8"),
    ("PURGE", EITHER, "a method of caches"),
    ("G(T", REFUSED, "RFC 9110 5.6.2: no token"),
    ("GET:", REFUSED, "RFC 9110 5.6.2: no token"),
    ("G/T", REFUSED, "RFC 9110 5.6.2: no token"),
    ("G,T", REFUSED, "RFC 9110 5.6.2: no token"),
    ("<GET>", REFUSED, "RFC 9110 5.6.2: no token"),
    ('"GET"', REFUSED, "RFC 9110 5.6.2: no token"),
    ("GE\0T", REFUSED, "RFC 9110 5.6.2: no token"),
    ("G\x01T", REFUSED, "RFC 9110 5.6.2: no token"),
    ("G\xc9T", REFUSED, "RFC 9110 5.6.2: no token"),
    (utf8("\ufeffGET"), REFUSED, "a byte order mark"),
    (utf8("\uff27\uff25\uff34"), REFUSED, "letters that only look so"),
    ("\xffGET", REFUSED, "RFC 9110 5.6.2: no token"),
)
_VERSIONS = (
    "HTTP/0.9", "HTTP/2.0", "HTTP/2", "HTTP/3", "HTTP/9.9", "http/1.1", "Http/1.1", "HTTP/1",
    "HTTP", "HTTP/", "HTTP/1.", "HTTP/.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.01", "HTTP/11.1",
    "HTTP/1.1.1",
    "HTTP/1,1", "HTTP/-1.1", "HTTP/+1.1", "HTTP/1.-1", "HTTP/11", "HTTP/1.x", "HTTP/A.1",
    "HTTP/1.1\0", "HTTP/1.1x", "HTTP/1.1\x0b", "HTTP /1.1", "HTTP/ 1.1", "HTTP/1. 1", "HTTPS/1.1",
    "HTTQ/1.1", "ICY/1.1", "RTSP/1.0", "SIP/2.0", utf8("HTTP/1.\uff11"), "HTTP\\1.1",
    "HTTP/4294967297.1", "XHTTP/1.1", "HTTP//1.1",
)  # fmt: skip
_TARGETS: tuple[tuple[str, Expect, str], ...] = (
    ("*", REFUSED, "RFC 9112 3.2.4: for OPTIONS alone"),
    ("localhost:80", REFUSED, "RFC 9112 3.2.3: for CONNECT alone"),
    ("localhost", REFUSED, _TARGET),
    ("x", REFUSED, _TARGET),
    ("?x", REFUSED, _TARGET),
    ("#x", REFUSED, _TARGET),
    ("\\x", REFUSED, _TARGET),
    ("@/x", REFUSED, _TARGET),
    ("..", REFUSED, _TARGET),
    ("%2fx", REFUSED, _TARGET),
    ("http:///x", REFUSED, "RFC 9110 4.2.1: an empty host"),
    ("http:/x", REFUSED, "RFC 9110 4.2.1: no host"),
    ("http:x", REFUSED, "RFC 9110 4.2.1: no host"),
    ("http://[::1/x", REFUSED, "RFC 3986 3.2.2: half a bracket"),
    ("http://local host/x", REFUSED, _TARGET),
    ("http://localhost:x/x", REFUSED, "RFC 3986 3.2.3: a port is a number"),
    ("://localhost/x", REFUSED, _TARGET),
    ("//localhost/x", EITHER, "a path with an empty segment"),
    ("http://localhost/@/x", SERVED, "RFC 9112 3.2.2: must be taken"),
    ("http://localhost/@/x?q", SERVED, "RFC 9112 3.2.2: must be taken"),
    ("HTTP://LOCALHOST/@/x", EITHER, "RFC 9112 3.2.2: a scheme has no case"),
    ("http://localhost", EITHER, "RFC 9112 3.2.2: an empty path"),
    ("http://localhost?q", EITHER, "RFC 9112 3.2.2: an empty path"),
    ("https://localhost/@/x", EITHER, "RFC 9112 3.2.2: another scheme"),
    ("ftp://localhost/@/x", EITHER, "RFC 9112 3.2.2: another scheme"),
    ("http://user:secret@localhost/@/x", EITHER, "RFC 9110 4.2.4"),
    ("/@/x#fragment", EITHER, "RFC 9112 3.2.1: a fragment is never sent"),
    ("javascript:alert(1)", REFUSED, _TARGET),
    ("file:///etc/passwd", EITHER, "RFC 9112 3.2.2: another scheme"),
)


def request_lines() -> Iterator[Entry]:
    """Get the first line wrong."""
    more = ("Host: localhost", "Connection: close")
    yield from rows("line", (
        (shown(line), block(line, *more), expect, why) for line, expect, why in _LINES
    ))  # fmt: skip
    yield from rows("method", (
        (shown(method), block(f"{method} /@/x HTTP/1.1", *more), expect, why)
        for method, expect, why in _METHODS
    ))  # fmt: skip
    yield from rows("version", (
        (shown(version), block(f"GET /@/x {version}", *more), REFUSED, _VERSION)
        for version in _VERSIONS
    ))  # fmt: skip
    yield from rows("target", (
        (shown(target), last(target=target), expect, why) for target, expect, why in _TARGETS
    ))  # fmt: skip
    yield from rows("first line", [
        ("HTTP/1.2", block("GET /@/x HTTP/1.2", *more), EITHER, "RFC 9110 2.5: read as HTTP/1.1"),
        ("HTTP/0.9, the whole of it", b"GET /@/x\r\n", REFUSED, "RFC 9112 2.3"),
        ("OPTIONS *", block("OPTIONS * HTTP/1.1", *more), EITHER, "RFC 9112 3.2.4"),
        ("OPTIONS **", block("OPTIONS ** HTTP/1.1", *more), REFUSED, "RFC 9112 3.2.4"),
        ("OPTIONS *x", block("OPTIONS *x HTTP/1.1", *more), REFUSED, "RFC 9112 3.2.4"),
        ("CONNECT", block("CONNECT localhost:80 HTTP/1.1", *more), REFUSED,
         "RFC 9110 9.3.6: a 2xx would be a tunnel"),
        ("CONNECT to a path", block("CONNECT /@/x HTTP/1.1", *more), REFUSED, "RFC 9112 3.2.3"),
        ("an empty line before", b"\r\n" + last(), EITHER, "RFC 9112 2.2: should be ignored"),
        ("a hundred empty lines before", b"\r\n" * 100 + last(), EITHER, "RFC 9112 2.2"),
        ("a bare LF before", b"\n" + last(), EITHER, "RFC 9112 2.2"),
        ("a blank before", b" \r\n" + last(), EITHER, "RFC 9112 3"),
        ("a NUL before", b"\0" + last(), REFUSED, _LINE),
        ("bare LF everywhere", last().replace(b"\r", b""), EITHER, "RFC 9112 2.2"),
        ("bare CR everywhere", last().replace(b"\n", b""), REFUSED, "RFC 9112 2.2"),
        ("LF CR everywhere", last().replace(b"\r\n", b"\n\r"), REFUSED, "RFC 9112 2.2"),
        ("CR CR LF everywhere", last().replace(b"\r\n", b"\r\r\n"), REFUSED, "RFC 9112 2.2"),
        ("a bare LF at its end", last().replace(b"\r\n", b"\n", 1), EITHER, "RFC 9112 2.2"),
        ("a bare CR at its end", last().replace(b"\r\n", b"\r", 1), REFUSED, "RFC 9112 2.2"),
    ])  # fmt: skip
    pri = b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n"
    yield Entry("first line: PRI", (pri,), REFUSED, "RFC 9113 3.4, with another end", switches=True)
    other = block("GET http://localhost/@/x HTTP/1.1", "Host: ignored.example", "Connection: close")
    why = "RFC 9112 3.2.2: what the target says counts, the field must be ignored"
    yield Entry("target: another host", (other,), EITHER, why, hidden=b"ignored.example")


#: Paths, all of which may be served: what counts is that one application sees them, as they are.
_PATHS = (
    "/@/../x", "/@/./x", "/@/..", "/@/.", "/@/../../../../etc/passwd", "/@/..%2fx", "/@/%2e%2e/x",
    "/@/%2e%2e%2fx", "/@/%2E%2E/x", "/@/.%2e/x", "/@/..%5cx", "/@/..\\x", "/@/..\\..\\win.ini",
    "/@/%c0%ae%c0%ae/x", "/@/..%c0%afx", "/@/..%e0%80%afx", "/@/..%f0%80%80%afx", "/@/..%c1%9cx",
    "/@/%252e%252e%252fx", "/@/%25252e%25252e/x", "/@/%u002e%u002e/x", "/@/..;/x", "/@/..%00/x",
    "/@/..%0d/x", "/@/%00", "/@/x%00.png", "/@/%0a", "/@/%0d%0aX-Injected:%20y", "/@/%7f", "/@/%1b",
    "/@/%", "/@/%%", "/@/%z", "/@/%1", "/@/%gg", "/@/%-1", "/@/% 1".replace(" ", "+"), "/@/%0x41",
    "/@/a+b", "/@/a%20b", "/@/b%2fc", "/@//x", "/@///x", "/@/x//", "/@/;a=b/x", "/@/x;jsessionid=1",
    "/@/x;/..;/y", "/@/*", "/@/x?", "/@/x??", "/@/x?a%00", "/@/x?a=%zz", "/@/x?a=%0d%0ab:c",
    "/@/x?/../y", "/@/'", '/@/"', "/@/<script>", "/@/[x]", "/@/{x}", "/@/a|b", "/@/~x", "/@/a^b",
    "/@/`x`", "/@/$(x)", "/@/${jndi:ldap://x/y}", "/@/C:/x", "/@/con", "/@/.env", "/@/.git/config",
    "/@/%ff", "/@/%fe%ff", "/@/%c3", "/@/%c3%28", "/@/%ed%a0%80", "/@/%f5%80%80%80", "/@/%ef%bb%bf",
    "/@/%e2%80%ae", "/@/%ef%bc%8e%ef%bc%8e/x", "/@/\xe9", utf8("/@/é"), utf8("/@/\ufeff"),
    "/@/\xff", "/@/" + "a" * 8000, "/@" + "/b" * 2000, "/@" + "/.." * 1000, "/@/x?" + "a" * 8000,
    "/@/x?" + "a=b&" * 2000, "/@/" + "%41" * 2500,
)  # fmt: skip
#: Paths that seem to leave one application for another, and who sees them.
_CROSSING = (
    ("/w/../a/x", "/w"), ("/a/../w/x", "/a"), ("/w/./../a/x", "/w"), ("/w/%2e%2e/a/x", "/w"),
    ("/w//a/x", "/w"), ("/%77/x", "/w"), ("//w/x", ""), ("/./w/x", ""), ("/x/../w/x", ""),
    ("/W/x", ""), ("/w;x/y", ""), ("/w%00/x", ""), ("/ww/x", ""), ("/w?/../a", "/w"),
    ("/%2577/x", ""), ("/w\\..\\a", ""), ("/w%20/x", ""), ("/.w/x", ""),
)  # fmt: skip


def paths() -> Iterator[Entry]:
    """Ask for what is not there to be asked for."""
    why = "RFC 3986 2 and 3.3: refused, or one application's own business"
    yield from rows("path", ((shown(path), last(target=path), EITHER, why) for path in _PATHS))
    for path, place in _CROSSING:
        name, only = f"path across mounts: {path}", "one party decides what a path means"
        yield Entry(name, (last(target=path),), EITHER, only, place=place)
    longest = "longer than a head may be: 414 or 431"
    yield from rows("path", [
        ("too long", last(target="/@/" + "a" * 100_000), REFUSED, longest),
        ("too long a query", last(target="/@/x?" + "a" * 100_000), REFUSED, longest),
        ("too many segments", last(target="/@" + "/a" * 50_000), REFUSED, longest),
    ])  # fmt: skip
