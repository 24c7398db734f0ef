"""Read the head of a request, and refuse whatever two servers could read in two ways.

Pure: bytes in, a `Head` or a `Refusal` out. RFC 9112 lets a server be lenient in places; this one
is not, since what it takes for one request the proxy before it may have taken for two.
What is refused and what is dropped is told beside each rule below.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

#: Lines in one head: each costs more than the bytes it is made of.
MOST_FIELDS = 200
#: Digits of a length. Any more would be more than all the disks there are.
_MOST_DIGITS = 18
#: Longer names are not remembered: who made them up chose how much memory that takes.
_LONGEST_KNOWN = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#: Visible characters and blanks; neither CR, LF, NUL nor other controls (RFC 9110, section 5.5).
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
#: Methods in capitals only, as all that exist are; the rest of RFC 9112, section 3, to the letter.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD = rb"%b:%b" % (_TOKEN, _TEXT)
_FIELDS = re.compile(rb"%b(?:\r\n%b)*" % (_FIELD, _FIELD))
#: One line behind the last chunk.
TRAILER = re.compile(rb"%b\r\n" % _FIELD)
_TOKENS = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_TOKEN, _TOKEN))
_HOST = re.compile(
    r"(?:\[[0-9A-Fa-fv:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)(.*)")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_QUOTED_SLASH = re.compile(rb"%2f", re.IGNORECASE)

#: Fields of which two would be a choice.
_SINGLE = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"})

PHRASES = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


def is_host(text: str) -> bool:
    """Tell whether *text* can be the name or address, and port, of a server, or none at all."""
    return _HOST.fullmatch(text) is not None


class Refusal(Exception):
    """A request that gets an answer and no application.

    Args:
        status: The status of the answer.
        why: One sentence, for the client and for the log; nothing that a client wrote.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why

    @property
    def kind(self) -> str:
        """The status with its phrase."""
        return f"{self.status} {PHRASES[self.status]}"


class Head(NamedTuple):
    """What a request says before its body.

    Attributes:
        method: In capitals.
        target: As it was asked for.
        path: Unquoted, but for slashes, which stay ``%2F``.
        query: As it was written.
        version: ``HTTP/1.0`` or ``HTTP/1.1``.
        fields: The header by names of CGI; what was sent more than once is joined.
        length: Of the body; None if it comes in chunks.
        keeps: Whether the client would like the connection to stay.
        waits: Whether it waits to be told to send the body.
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    fields: dict[str, str]
    length: int | None
    keeps: bool
    waits: bool


def find_end(data: bytes, most: int, start: int = 0) -> int:
    """Answer where the empty line at the end of a head begins; -1 if it is not there yet.

    Args:
        data: What was received, from the first byte of the head on.
        most: How long a head may be; 0 is any.
        start: What is before this was looked at already.

    Raises:
        Refusal: It is too long, or has an end of line that is none.
    """
    end = data.find(b"\r\n\r\n", max(0, start - 3))
    if end < 0:
        # No empty line will ever come where lines end in something else.
        if _BARE.search(data, max(0, start - 1)):
            raise _strange_lines()
        if most and len(data) > most:
            raise _too_long(data, most)
    elif most and end + 4 > most:
        raise _too_long(data, most)
    return end


def _too_long(data: bytes, most: int) -> Refusal:
    if data.find(b"\r\n", 0, most) < 0:
        return Refusal(414, f"The request line is longer than {most} bytes.")
    return Refusal(431, f"The header is longer than {most} bytes.")


def _strange_lines() -> Refusal:
    return Refusal(400, "A line ends in something else than CR and LF, or has a NUL.")


def read(block: bytes, most_body: int = 0) -> Head:
    """Read *block*: a whole head, without the empty line at its end.

    Args:
        block: The bytes.
        most_body: The longest body that is taken; 0 is any.

    Raises:
        Refusal: It is not to be served.
    """
    line, _, rest = block.partition(b"\r\n")
    known = _REQUEST_LINE.fullmatch(line)
    if known is None:
        raise _bad_line(line)
    method, target, major, minor = known.groups()
    if major != b"1" or minor > b"1":
        raise Refusal(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    fields = _fields(rest) if rest else {}
    path, query, authority = _parts(method, target)
    is_new = minor == b"1"
    _check_host(fields, is_new)
    if authority is not None:
        # What the target says counts, whatever the field says (RFC 9112, section 3.2.2).
        fields["HTTP_HOST"] = authority
    asked = fields.get("HTTP_CONNECTION")
    return Head(
        method.decode("ascii"),
        target.decode("ascii"),
        path,
        query,
        "HTTP/1.1" if is_new else "HTTP/1.0",
        fields,
        _length(fields, is_new, most_body),
        is_new if asked is None else _keeps(asked, is_new),
        is_new and "HTTP_EXPECT" in fields and _waits(fields["HTTP_EXPECT"]),
    )


def _bad_line(line: bytes) -> Refusal:
    if _BARE.search(line + b"\r\n"):
        return _strange_lines()
    return Refusal(400, "The request line is not a method, a target and a version.")


def _fields(rest: bytes) -> dict[str, str]:
    if _FIELDS.fullmatch(rest) is None:
        raise _bad_fields(rest)
    lines = rest.split(b"\r\n")
    if len(lines) > MOST_FIELDS:
        raise Refusal(431, f"The header has more than {MOST_FIELDS} lines.")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        key = _cgi_name(name) if len(name) <= _LONGEST_KNOWN else _cgi_name.__wrapped__(name)
        text = value.strip(b" \t").decode("latin-1")
        if key in fields:
            if key in _SINGLE:
                raise Refusal(400, "A field that may be there once is there twice.")
            text = f"{fields[key]}{'; ' if key == 'HTTP_COOKIE' else ', '}{text}"
        if key:
            fields[key] = text
    return fields


def _bad_fields(rest: bytes) -> Refusal:
    if _BARE.search(rest + b"\r\n"):
        return _strange_lines()
    if any(line[:1] in (b" ", b"\t") for line in rest.split(b"\r\n")):
        return Refusal(400, "A line of the header continues the one before.")
    return Refusal(400, "A line of the header is not a name, a colon and a value.")


@lru_cache(maxsize=512)
def _cgi_name(name: bytes) -> str:
    """Answer what applications know a field by; nothing if they are not to see it."""
    # With an underscore it would pass for the field with a dash, which a proxy may have checked.
    # Libraries take HTTP_PROXY for the setting of that name, and clients could set it.
    if b"_" in name or name.lower() == b"proxy":
        return ""
    key = name.decode("ascii").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _parts(method: bytes, target: bytes) -> tuple[str, str, str | None]:
    authority = None
    if method == b"CONNECT":
        raise Refusal(405, "This server is no proxy.")
    if target[:1] != b"/":
        if method == b"OPTIONS" and target == b"*":
            return "/*", "", None
        known = _ABSOLUTE.fullmatch(target)
        if known is None:
            raise Refusal(400, "The target of the request is neither a path nor a URL.")
        authority = known[1].decode("ascii")
        # Without a name it is no URL (RFC 9110, section 4.2.1).
        if authority[:1] == ":" or not is_host(authority):
            raise Refusal(400, "The target of the request has no valid host.")
        target = known[2] if known[2][:1] == b"/" else b"/" + known[2]
    if b"#" in target:
        raise Refusal(400, "The target of the request has a fragment.")
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = b"%2F".join(map(unquote_to_bytes, _QUOTED_SLASH.split(path)))
    return path.decode("latin-1"), query.decode("ascii"), authority


def _check_host(fields: dict[str, str], is_new: bool) -> None:
    host = fields.get("HTTP_HOST")
    if host is None:
        if is_new:
            raise Refusal(400, "The request has no Host.")
    elif not is_host(host):
        raise Refusal(400, "The Host is not a name or an address.")


def _length(fields: dict[str, str], is_new: bool, most: int) -> int | None:
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    said = fields.get("CONTENT_LENGTH")
    if coding is not None:
        _check_coding(coding, said, is_new)
        return None
    if said is None:
        return 0
    if not (said.isascii() and said.isdigit()):
        raise Refusal(400, "The Content-Length is not a number.")
    if len(said) > _MOST_DIGITS or (most and int(said) > most):
        raise Refusal(413, "The body of the request is too large.")
    return int(said)


def _check_coding(coding: str, said: str | None, is_new: bool) -> None:
    if said is not None:
        raise Refusal(400, "The request has both a Transfer-Encoding and a Content-Length.")
    if not is_new:
        raise Refusal(400, "HTTP/1.0 knows no Transfer-Encoding.")
    if coding.lower() == "chunked":
        return
    if not _TOKENS.fullmatch(coding.encode("latin-1")):
        raise Refusal(400, "The Transfer-Encoding is not a list of names.")
    if {each.strip().lower() for each in coding.split(",")} == {"chunked"}:
        raise Refusal(400, "The Transfer-Encoding says chunked more than once.")
    raise Refusal(501, "The only Transfer-Encoding that this server knows is chunked.")


def _keeps(asked: str, is_new: bool) -> bool:
    options = {option.strip(" \t") for option in asked.lower().split(",")}
    return "close" not in options and (is_new or "keep-alive" in options)


def _waits(expected: str) -> bool:
    if expected.lower() != "100-continue":
        raise Refusal(417, "The only expectation that this server knows is 100-continue.")
    return True
