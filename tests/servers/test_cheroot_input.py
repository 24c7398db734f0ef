"""What applications read of a request's body on cheroot, in every way that PEP 3333 has."""

from __future__ import annotations

import io
from typing import Any

import pytest
from cheroot.server import ChunkedRFile, KnownLengthRFile
from hypothesis import given
from hypothesis import strategies as st

from sitebus.errors import ClientGone
from sitebus.servers._cheroot_input import ChunkedInput, Input

BODIES = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"x" * 40]), max_size=30).map(
    b"".join
)
CUTS = st.lists(st.integers(1, 30), max_size=20)
READS = st.lists(
    st.tuples(
        st.sampled_from(["read", "readline", "readlines"]),
        st.one_of(st.none(), st.integers(-1, 50)),
    ),
    max_size=12,
)


def known(body: bytes, rest: bytes = b"GET /next") -> Input:
    return Input(KnownLengthRFile(io.BytesIO(body + rest), len(body)))


def chunked(body: bytes, cuts: list[int], rest: bytes = b"GET /next") -> ChunkedInput:
    wire = b""
    left = body
    for cut in cuts:
        piece, left = left[:cut], left[cut:]
        if piece:
            wire += b"%x\r\n%s\r\n" % (len(piece), piece)
    if left:
        wire += b"%x\r\n%s\r\n" % (len(left), left)
    return ChunkedInput(ChunkedRFile(io.BytesIO(wire + b"0\r\n" + rest), 0))


def same(found: Any, body: bytes, reads: list[tuple[str, int | None]]) -> None:
    """Fail unless *found* answers as a file with *body* does."""
    expected = io.BytesIO(body)
    for method, size in reads:
        if method == "readlines" and size is None:
            size = -1
        assert getattr(found, method)(size) == getattr(expected, method)(size), (method, size)
    assert list(found) == list(expected)
    assert found.read() == b""
    assert found.readline() == b""
    assert found.readlines() == []


@given(body=BODIES, reads=READS)
def test_a_body_of_known_length_is_a_file(body: bytes, reads: list[tuple[str, int | None]]) -> None:
    """Which ends where the body does, and not where the connection's next request does."""
    same(known(body), body, reads)


@given(body=BODIES, cuts=CUTS, reads=READS)
def test_a_body_in_chunks_is_a_file(
    body: bytes, cuts: list[int], reads: list[tuple[str, int | None]]
) -> None:
    """However it was cut."""
    same(chunked(body, cuts), body, reads)


class Trickle(io.RawIOBase):
    """A connection that has said so much, and is silent then."""

    def __init__(self, said: bytes) -> None:
        self.said = io.BytesIO(said)

    def read(self, size: int = -1) -> bytes:
        data = self.said.read(size)
        assert len(data) == size, "this would wait for the client"
        return data

    def readline(self, size: int | None = -1) -> bytes:
        data = self.said.readline(size)
        assert data.endswith(b"\n") or len(data) == size, "this would wait for the client"
        return data


def test_a_line_is_there_before_the_rest_of_the_body() -> None:
    """Or a conversation line by line would wait for its end."""
    stream = Trickle(b"one\ntw")
    assert Input(KnownLengthRFile(stream, 100)).readline() == b"one\n"
    stream = Trickle(b"6\r\none\ntw\r\n")
    body = ChunkedInput(ChunkedRFile(stream, 0))
    assert body.readline() == b"one\n"
    assert body.read(2) == b"tw"


def exhaust(body: Input, method: str) -> None:
    for _ in range(3):
        list(getattr(body, method)())


@pytest.mark.parametrize("method", ["read", "readline", "readlines", "__iter__"])
def test_a_client_that_leaves_is_no_end(method: str) -> None:
    """A short body would be taken for a whole one."""
    short = Input(KnownLengthRFile(io.BytesIO(b"one\ntwo"), 100))
    broken = ChunkedInput(ChunkedRFile(io.BytesIO(b"4\r\none\n\r\n7\r\ntw"), 0))
    for body in (short, broken):
        with pytest.raises(ClientGone):
            exhaust(body, method)
