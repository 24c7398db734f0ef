"""What a request may say before its body, for parsers that let through what others read otherwise.

Pure: what a parser has found goes in, and a `Refusal` is raised or it goes out as applications are
to see it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sitebus.servers import heads
from sitebus.servers.heads import MOST_FIELDS, Refusal

#: Visible in a text: neither CR, LF, NUL nor other controls (RFC 9110, section 5.5).
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: In the lines of a head: an end that is none, or a line that continues the one before.
_STRANGE_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0|\r\n[ \t]")
_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
_NUMBER = re.compile(rb"[0-9]{1,18}")

#: Fields that say where a request is meant to go, or where it ends.
WATCHED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
#: Fields of which two would be a choice.
SINGLE = WATCHED - {b"expect"}

_WAITS = b"100-continue"
SPOKEN = "This server speaks HTTP/1.1 and HTTP/1.0."

Fields = list[tuple[bytes, bytes]]


def answer(refusal: Refusal, fields: Fields) -> bytes:
    """Answer the whole answer to who is refused, with *fields* besides its own."""
    body, own = said(refusal)
    others = [each for each in fields if each[0].lower() != b"connection"]
    lines = b"".join(b"%b: %b\r\n" % each for each in [*others, *own, (b"connection", b"close")])
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (refusal.kind.encode("ascii"), lines, body)


def said(refusal: Refusal) -> tuple[bytes, Fields]:
    """Answer what who is refused is told, and the fields that tell of it."""
    body = refusal.why.encode("ascii")
    length = b"%d" % len(body)
    return body, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)]


@lru_cache(maxsize=512)
def is_host(value: bytes) -> bool:
    """Tell whether *value* can be the name or address, and port, of a server."""
    return heads.is_host(value.decode("latin-1"))


def checked(name: bytes, value: bytes) -> bytes:
    """Answer the *value* of one of `WATCHED`, which is good by itself."""
    value = value.strip(b" \t")
    if name == b"host":
        if not is_host(value):
            raise Refusal(400, "The Host is not a name or an address.")
    elif name == b"content-length":
        if not _NUMBER.fullmatch(value):
            raise Refusal(400, "The Content-Length is not a number.")
    elif name == b"transfer-encoding" and value.lower() != b"chunked":
        raise Refusal(501, "The only Transfer-Encoding that this server knows is chunked.")
    return value


def note(seen: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Put one of `WATCHED` to those that were *seen*; two of a name are one list."""
    seen[name] = seen[name] + b", " + value if name in seen else value


def check_together(version: str, seen: dict[bytes, bytes], most_body: int = 0) -> None:
    """Check the fields of `WATCHED` that a request has, and its *version*.

    A body may have *most_body* bytes; 0 is any.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(505, SPOKEN)
    if b"host" not in seen and version == "1.1":
        raise Refusal(400, "The request has no Host.")
    if b"transfer-encoding" in seen:
        if b"content-length" in seen:
            raise Refusal(400, "The request has both a Transfer-Encoding and a Content-Length.")
        if version == "1.0":
            raise Refusal(400, "HTTP/1.0 knows no Transfer-Encoding.")
    if most_body and int(seen.get(b"content-length", b"0")) > most_body:
        raise Refusal(413, "The body of the request is too large.")
    # HTTP/1.0 says it without knowing what it means.
    if version == "1.1" and seen.get(b"expect", _WAITS).lower() != _WAITS:
        raise Refusal(417, "The only expectation that this server knows is 100-continue.")


def too_long(most: int, *, is_past_line: bool) -> Refusal:
    """Answer why a head of more than *most* bytes is refused: its first line has come, or not."""
    if is_past_line:
        return Refusal(431, f"The header is longer than {most} bytes.")
    return Refusal(414, f"The request line is longer than {most} bytes.")


def check_number(fields: Fields) -> None:
    """Check how many *fields* there are: each costs more than the bytes that it is made of."""
    if len(fields) > MOST_FIELDS:
        raise Refusal(431, f"The header has more than {MOST_FIELDS} lines.")


def parts_of(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Answer path and query of a *target*, and the host that it names, if any."""
    if method == b"CONNECT":
        raise Refusal(405, "This server is no proxy.")
    if method != method.upper():
        raise Refusal(400, "The method of the request is not in capitals.")
    host = None
    if target[:1] != b"/" and not (method == b"OPTIONS" and target == b"*"):
        known = _ABSOLUTE.fullmatch(target)
        if known is None:
            raise Refusal(400, "The target of the request is neither a path nor a URL.")
        host = known[1]
        if not is_host(host) or host[:1] == b":":
            raise Refusal(400, "The target of the request has no valid host.")
        target = known[2] if known[2][:1] == b"/" else b"/" + known[2]
    if b"#" in target:
        raise Refusal(400, "The target of the request has a fragment.")
    return target, host


def with_host(fields: Fields, host: bytes) -> Fields:
    """Answer *fields* with the host that a target has named (RFC 9112, section 3.2.2)."""
    return [(b"host", host), *(each for each in fields if each[0] != b"host")]


def check_lines(head: bytes) -> None:
    """Check the ends of the lines of a *head*, as far as it has come."""
    if _STRANGE_LINE.search(head):
        raise Refusal(400, "A line ends in something else than CR and LF, or goes on in the next.")


def check_fields(fields: Fields) -> Fields:
    """Answer *fields*, with names in small letters, as `checked` has them."""
    seen: set[bytes] = set()
    good = []
    for name, value in fields:
        if CONTROL.search(value):
            raise Refusal(400, "A field has a character that no text has.")
        if name in SINGLE:
            check_single(name, seen)
            seen.add(name)
        good.append((name, checked(name, value) if name in WATCHED else value))
    return good


def check_single(name: bytes, seen: set[bytes] | dict[bytes, bytes]) -> None:
    if name in seen:
        raise Refusal(400, "A field that may be there once is there twice.")
