"""Look at what an application says of its response, which granian takes as it is said.

granian sends as much of a body as it gets, whatever the Content-Length before it says, and keeps
the connection: the client would take what comes next for the rest of the body, or the rest of the
body for what comes next. And it ends the whole process where a header has too many lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from sitebus.errors import BadMessage

Headers = Sequence[tuple[bytes, bytes]]

#: So many lines may a header have; granian's memory ends at some twenty thousand.
MOST_LINES = 10_000

_NAME = b"content-length"
#: A response with one of these has no body, whatever its header says.
_BODILESS = frozenset({204, 304})


def length_of(headers: Headers, status: int, method: str) -> int | None:
    """Answer how long the body of a response must be; None if nothing says so.

    Args:
        headers: Of the response.
        status: Of the response.
        method: Of the request.

    Raises:
        BadMessage: What says so is no length, or there are too many lines.
    """
    found = None
    for name, value in headers:
        if len(name) == 14 and name.lower() == _NAME:
            # Nearly all are like this.
            length = int(value) if len(value) < 18 and value.isdigit() else _number(value)
            if found is not None and found != length:
                raise BadMessage("a second Content-Length", "there may be one")
            found = length
    if len(headers) > MOST_LINES:
        check_count(headers)
    return None if method == "HEAD" or status in _BODILESS or status < 200 else found


def check_count(headers: Headers) -> None:
    """Raise if there are more lines than granian can take."""
    if len(headers) > MOST_LINES:
        raise BadMessage(
            f"a header of {len(headers)} lines", f"it may have {MOST_LINES} lines at most"
        )


def left_after(left: int, piece: int, *, is_last: bool) -> int:
    """Answer how much more of a body there must be after a *piece* of so many bytes.

    Raises:
        BadMessage: The piece is longer than that, or it is the last one and shorter.
    """
    after = left - piece
    if after < 0:
        raise too_long(-after)
    if is_last and after:
        raise BadMessage(
            f"a body that is {after} bytes shorter than its Content-Length", "it must be as long"
        )
    return after


def too_long(more: int) -> BadMessage:
    """Answer what is wrong with a body that has so many bytes more than it should."""
    return BadMessage(
        f"a body that is {more} bytes longer than its Content-Length", "it must be as long"
    )


def _number(value: bytes) -> int:
    text = value.strip(b" \t")
    if not text.isdigit() or len(text) > 18:
        raise BadMessage(f"the Content-Length {value!r}", "it must be a number")
    return int(text)
