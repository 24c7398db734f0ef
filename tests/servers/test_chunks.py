"""Bodies in chunks: what is in them, where they end, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.errors import BadChunks, BodyTooLarge
from sitebus.servers.chunks import LONGEST_LINE, MOST_EXTRAS, Chunks

GOOD = b'5\r\nhello\r\n6;a=b;c="d\\"e"\r\n world\r\n0\r\nX: y\r\n\r\n'


@given(st.lists(st.integers(0, len(GOOD)), max_size=10))
def test_a_body_is_the_same_in_any_pieces(cuts: list[int]) -> None:
    """The network cuts where it likes."""
    edges = [0, *sorted(cuts), len(GOOD)]
    chunks = Chunks()
    body = b"".join(chunks.feed(GOOD[a:b]) for a, b in itertools.pairwise(edges))
    assert body == b"hello world"
    assert chunks.is_done
    assert chunks.rest == b""


def test_what_comes_behind_is_left() -> None:
    """It is the next request."""
    chunks = Chunks()
    assert chunks.feed(b"1\r\na\r\n0\r\n\r\nGET /") == b"a"
    assert (chunks.is_done, chunks.rest) == (True, b"GET /")


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"5\nhello\n0\n\n",
        b"g\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-1\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;a\0b\r\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"1234567890123456\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"1" * LONGEST_LINE,
        b"0\r\nX: " + b"y" * MOST_EXTRAS,
    ],
)
def test_what_is_not_quite_in_chunks_is_refused(body: bytes) -> None:
    """Two servers might read it in two ways."""
    with pytest.raises(BadChunks):
        Chunks().feed(body)


def test_a_body_may_be_too_large_before_it_is_there() -> None:
    """What is said is enough."""
    chunks = Chunks(10)
    assert chunks.feed(b"a\r\n0123456789\r\n") == b"0123456789"
    with pytest.raises(BodyTooLarge):
        chunks.feed(b"1\r\n")


def test_extensions_and_trailers_are_counted_together() -> None:
    """Each may be short."""
    with pytest.raises(BadChunks, match="more about its chunks"):
        Chunks().feed((b"1;" + b"a" * 1000 + b"\r\nx\r\n") * (MOST_EXTRAS // 1000 + 1))
    with pytest.raises(BadChunks, match="more about its chunks"):
        Chunks().feed(b"0\r\n" + b"X: y\r\n" * MOST_EXTRAS)
