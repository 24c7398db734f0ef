"""What applications read of a request's body on cheroot, in every way that PEP 3333 has."""

from __future__ import annotations

import io
import socket
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.errors import BadChunks, BodyTooLarge, BodyTooSlow, ClientGone
from sitebus.servers._cheroot_input import LONGEST_LINE, MOST_EXTRAS, ChunkedInput, Input
from sitebus.servers._cheroot_stream import Reader

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


class Said:
    """A connection whose client said something, and is silent or has left then."""

    def __init__(self, said: bytes, *, leaves: bool = True, piece: int = 7) -> None:
        self._said = io.BytesIO(said)
        self._leaves = leaves
        self._piece = piece

    def recv(self, size: int) -> bytes:
        data = self._said.read(min(size, self._piece))
        assert data or self._leaves, "this would wait for the client"
        return data


def reader(said: bytes, **more: Any) -> Reader:
    return Reader(Said(said, **more), timeout=5)


def known(body: bytes, rest: bytes = b"GET /next") -> Input:
    return Input(reader(body + rest), len(body))


def chunked(body: bytes, cuts: list[int], rest: bytes = b"GET /next") -> ChunkedInput:
    wire = b""
    left = body
    for cut in cuts:
        piece, left = left[:cut], left[cut:]
        if piece:
            wire += b"%x\r\n%s\r\n" % (len(piece), piece)
    if left:
        wire += b"%x\r\n%s\r\n" % (len(left), left)
    return ChunkedInput(reader(wire + b"0\r\n\r\n" + rest))


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


def test_a_line_is_there_before_the_rest_of_the_body() -> None:
    """Or a conversation line by line would wait for its end."""
    assert Input(reader(b"one\ntw", leaves=False), 100).readline() == b"one\n"
    body = ChunkedInput(reader(b"6\r\none\ntw\r\n", leaves=False))
    assert body.readline() == b"one\n"
    assert body.read(2) == b"tw"


def exhaust(body: Input, method: str) -> None:
    for _ in range(3):
        list(getattr(body, method)())


READING = pytest.mark.parametrize("method", ["read", "readline", "readlines", "__iter__"])


@READING
def test_a_client_that_leaves_is_no_end(method: str) -> None:
    """A short body would be taken for a whole one."""
    short = Input(reader(b"one\ntwo"), 100)
    broken = ChunkedInput(reader(b"4\r\none\n\r\n7\r\ntw"))
    for body in (short, broken):
        with pytest.raises(ClientGone):
            exhaust(body, method)
        assert isinstance(body.failure, ClientGone)
        with pytest.raises(ClientGone):
            body.read()


CHUNK = b"4\r\nabcd\r\n"


@READING
@pytest.mark.parametrize(
    "said",
    [
        b"+4\r\nabcd\r\n0\r\n\r\n",
        b"0x4\r\nabcd\r\n0\r\n\r\n",
        b"-4\r\nabcd\r\n0\r\n\r\n",
        b"4_0\r\nabcd\r\n0\r\n\r\n",
        b" 4\r\nabcd\r\n0\r\n\r\n",
        b"4 \r\nabcd\r\n0\r\n\r\n",
        b"4\nabcd\r\n0\r\n\r\n",
        b"\r\nabcd\r\n0\r\n\r\n",
        b"four\r\nabcd\r\n0\r\n\r\n",
        b"4;\r\nabcd\r\n0\r\n\r\n",
        b"4;a=\r\nabcd\r\n0\r\n\r\n",
        b"4;a\rb\r\nabcd\r\n0\r\n\r\n",
        b"4;a\nabcd\r\n0\r\n\r\n",
        b"4;" + b"a" * LONGEST_LINE + b"\r\nabcd\r\n0\r\n\r\n",
        b"f" * 16 + b"\r\nabcd\r\n0\r\n\r\n",
        b"4\r\nabcdef\r\n0\r\n\r\n",
        b"4\r\nabcd\n0\r\n\r\n",
        CHUNK + b"0\r\nno trailer\r\n\r\n",
        CHUNK + b"0\r\na: b\n\r\n",
        CHUNK + b"0\r\n a: b\r\n\r\n",
        CHUNK + b"0\r\nGET / HTTP/1.1\r\n\r\n",
        CHUNK + b"0\r\n" + b"a: b\r\n" * (MOST_EXTRAS // 6 + 1) + b"\r\n",
        CHUNK + b"0\r\na: " + b"b" * MOST_EXTRAS + b"\r\n\r\n",
        b"".join(b"1;%b\r\nx\r\n" % (b"a" * 900) for _ in range(20)) + b"0\r\n\r\n",
    ],
)
def test_what_are_no_chunks_is_refused(said: bytes, method: str) -> None:
    """Two servers would see different ends of it."""
    body = ChunkedInput(reader(said + b"GET / HTTP/1.1\r\n\r\n", leaves=False, piece=10000))
    with pytest.raises(BadChunks, match="cannot be read"):
        exhaust(body, method)


def test_chunks_may_have_extensions_and_trailers() -> None:
    """Which nobody wants."""
    said = b'4;a;b=c ; d="e\\"f"\r\nabcd\r\n0;g\r\nX-Sum: 5\r\nh:\r\n\r\nGET'
    file = reader(said)
    body = ChunkedInput(file)
    assert body.read() == b"abcd"
    assert body.is_read
    assert file.read(3) == b"GET"


@pytest.mark.parametrize("said", [CHUNK * 3, CHUNK + b"fffffffffffffff\r\n"])
def test_chunks_are_counted_before_they_are_read(said: bytes) -> None:
    body = ChunkedInput(reader(said, leaves=False), most=10)
    with pytest.raises(BodyTooLarge):
        body.read()
    assert isinstance(body.failure, BodyTooLarge)


def test_what_is_left_is_read_up_to_a_point() -> None:
    """A connection with too much left on it is not worth keeping."""
    for body in (known(b"x" * 100), chunked(b"x" * 100, [10, 10])):
        body.read(15)
        assert not body.discard(40)
        assert body.discard(100)
        assert body.is_read


def test_who_waits_to_be_asked_is_asked_once() -> None:
    asked: list[bool] = []
    body = Input(reader(b"abcd"), 4, lambda: asked.append(True))
    assert asked == []
    assert body.read(2) + body.read() == b"abcd"
    assert asked == [True]


def test_a_body_comes_at_least_so_fast() -> None:
    """A byte now and then would hold a thread for ever; what the application takes is its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        file = Reader(ours, timeout=0.1, minimum=100)
        body = Input(file, 1000)
        file.begin_body()
        theirs.sendall(b"x" * 30)
        assert body.read(30) == b"x" * 30
        began = time.monotonic()
        with pytest.raises(BodyTooSlow, match="after 30 bytes"):
            body.read(1)
        assert 0.05 < time.monotonic() - began < 1

        over = threading.Event()
        slow = threading.Thread(target=_drip, args=(theirs, over))
        file, began = Reader(ours, timeout=0.3, minimum=100), time.monotonic()
        body = Input(file, 1000)
        slow.start()
        with pytest.raises(BodyTooSlow):
            body.read()
        assert 0.3 <= time.monotonic() - began < 2
        over.set()
        slow.join()


def _drip(sock: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.05):
        sock.sendall(b"x")
