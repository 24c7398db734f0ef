"""Headers of responses, from text to bytes and back.

Most headers are sent with every response; what has been looked at once is looked up afterwards.
A line's end in a header would begin another one, or the body: whoever gets a text of theirs into
one could write the rest of the response, and not every server looks for that.

What only concerns one connection is the server's business (PEP 3333), and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sitebus.errors import BadMessage

Encoded = tuple[bytes, bytes]
Decoded = tuple[str, str]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade",
})  # fmt: skip

#: Headers seen to be well formed. Not the values of cookies, which are secrets, nor long ones.
_ENCODED: dict[Decoded, Encoded | None] = {}
_DECODED: dict[Encoded, Decoded | None] = {}
_MOST = 2000
_LONGEST = 300


def encoded(headers: Iterable[Decoded]) -> list[Encoded]:
    """Answer WSGI's *headers* as ASGI has them.

    Raises:
        TypeError: One is not a pair of str.
        ValueError: One cannot be sent in one line.
    """
    found = []
    for header in headers:
        try:
            pair = _ENCODED[header]
        except (KeyError, TypeError):
            pair = _encode(header)
        if pair is not None:
            found.append(pair)
    return found


def _encode(header: object) -> Encoded | None:
    if not (isinstance(header, tuple) and len(header) == 2):
        raise TypeError(f"a header is not a pair: {header!r:.80}")
    name, value = header
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError(f"a header is not a pair of str: {header!r:.80}")
    try:
        pair = name.encode("ascii").lower(), value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"a header has a character that cannot be sent: {header!a:.80}") from None
    flaw = _flaw(*pair)
    if flaw:
        raise ValueError(f"{flaw}: {header!r:.80}")
    kept = None if pair[0] in _HOP_BY_HOP else pair
    if len(_ENCODED) < _MOST and _may_be_kept(*pair):
        _ENCODED[name, value] = kept
    return kept


def decoded(headers: Iterable[Iterable[object]]) -> list[Decoded]:
    """Answer ASGI's *headers* as WSGI has them.

    Raises:
        BadMessage: One is not a pair of bytes, or cannot be sent in one line.
    """
    found = []
    for header in headers:
        try:
            pair = _DECODED[header]  # type: ignore[index]
        except (KeyError, TypeError):
            pair = _decode(header)
        if pair is not None:
            found.append(pair)
    return found


def _decode(header: Iterable[object]) -> Decoded | None:
    name, value = _pair(header)
    lower = name.lower()
    flaw = _flaw(lower, value)
    if flaw:
        raise BadMessage(f"the header {name!r:.80}: {value!r:.80}", flaw)
    kept = None if lower in _HOP_BY_HOP else (name.decode("latin-1"), value.decode("latin-1"))
    if len(_DECODED) < _MOST and _may_be_kept(lower, value):
        _DECODED[name, value] = kept
    return kept


def _pair(header: Iterable[object]) -> Encoded:
    try:
        name, value = header
    except (TypeError, ValueError):
        raise BadMessage(f"the header {header!r:.80}", "a header is a name and a value") from None
    if not (isinstance(name, bytes) and isinstance(value, bytes)):
        raise BadMessage(f"the header {name!r:.80}: {value!r:.80}", "names and values are bytes")
    return name, value


def told_length(told: int, value: str) -> int:
    """Answer the length that a Content-Length of *value* tells, after one of *told*, or of -1.

    Raises:
        ValueError: It is no number, or not the same: whoever is in front of us might go by either.
    """
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"a Content-Length is a number of bytes: {value!r:.80}")
    if told not in (-1, int(value)):
        raise ValueError(f"a Content-Length of {value!r:.80}, and before it one of {told}")
    return int(value)


def _flaw(name: bytes, value: bytes) -> str:
    if not _NAME.fullmatch(name):
        return "that is not the name of a header"
    return "a header has a control character" if _BAD_VALUE.search(value) else ""


def _may_be_kept(name: bytes, value: bytes) -> bool:
    return len(value) < _LONGEST and name != b"set-cookie"
