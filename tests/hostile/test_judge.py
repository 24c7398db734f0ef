"""The judge itself: what a lax server does is noticed, so that a green corpus means something."""

from __future__ import annotations

import pytest

from tests.hostile.answers import read_answers
from tests.hostile.conversation import Outcome
from tests.hostile.entries import BROKEN, MARK, REFUSED, SERVED, Entry, Expect, unique
from tests.hostile.judge import judge, too_much
from tests.hostile.recorder import Record

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


def seen(*fields: tuple[str, str], path: str = "/x", body: bytes | None = b"") -> Record:
    return Record("", "GET", path, "", "1.1", [("host", "a"), *fields], body)


def judged(
    expect: Expect, received: bytes, *records: Record, closed: bool = True, requests: int = 1
) -> list[str]:
    entry = Entry("it", (b"GET",), expect, "", requests=requests)
    return judge(entry, Outcome("", received, closed, 9.0), records, threads=True, single=False)


def test_what_is_right_is_found_right() -> None:
    """Else every server would fail."""
    assert judged(SERVED, OK, seen()) == []
    assert judged(SERVED, OK + OK + BAD, seen(), seen(), requests=2) == []
    assert judged(REFUSED, BAD) == []
    assert judged(REFUSED, b"") == []
    assert judged(BROKEN, b"", seen(body=None)) == []


@pytest.mark.parametrize(
    ("expect", "received", "records"),
    [
        (REFUSED, OK, []),
        (REFUSED, BAD, [seen()]),
        (REFUSED, b"hello", []),
        (BROKEN, b"", [seen()]),
        (BROKEN, OK, [seen(body=None)]),
        (SERVED, b"", []),
        (SERVED, BAD, []),
        (SERVED, OK + OK, [seen()]),
        (SERVED, OK, [seen(), seen()]),
        (SERVED, OK, [seen(path=MARK)]),
        (SERVED, OK, [seen(("content-length", "1"), body=b"xy")]),
        (SERVED, OK, [seen(("content-length", "+0"))]),
        (SERVED, OK, [seen(("content-length", "0"), ("transfer-encoding", "chunked"))]),
        (SERVED, OK, [seen(("transfer-encoding", "cow"))]),
        (SERVED, OK, [seen(("host", "b"))]),
        (SERVED, OK, [seen(("x y", "z"))]),
        (SERVED, OK, [seen(("x", "y\rz"))]),
        (SERVED, OK, [seen(path="http://a/x")]),
    ],
)
def test_what_is_wrong_is_found_wrong(
    expect: Expect, received: bytes, records: list[Record]
) -> None:
    """A request too many, one that is served and should not be, one with two meanings."""
    assert judged(expect, received, *records)


def test_a_connection_that_stays_open_is_wrong() -> None:
    """Its time is over."""
    assert judged(REFUSED, BAD, closed=False) == ["still open after 9.0 s"]


@pytest.mark.parametrize(
    "received",
    [
        b"<html>",
        OK[:-1],
        OK + b"x",
        b"HTTP/1.1 200 OK\r\n\r\nbody without an end",
        b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 40\r\n\r\nTraceback (most recent call last):......",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_answers_are_read_strictly(received: bytes) -> None:
    """A proxy may take them for something else than the browser does."""
    assert read_answers(received, closed=False).wrong


def test_what_is_logged_is_counted() -> None:
    """Addresses make no two kinds of one; errors are none of a client's."""
    quiet = [(30, f"refused 127.0.0.{n}: no Host") for n in range(11)]
    assert too_much(quiet, 1.0) == []
    assert too_much([*quiet, (30, "refused 127.1.2.3: no Host")], 1.0)
    assert too_much([(40, "failed")], 1.0)
    assert too_much([(30, "one\nTraceback (most recent call last):\ntwo")], 1.0)


def test_names_are_unique() -> None:
    """A failure is told by its name."""
    entry = Entry("it", (b"",), REFUSED, "")
    with pytest.raises(ValueError, match="it"):
        unique({"a": [entry], "b": [entry]})
