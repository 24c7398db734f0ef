"""The PROXY header: read in any pieces, refused if it is anything else, and never over-read."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.errors import BadProxyHeader, ClientGone, SitebusError
from sitebus.servers.proxy_protocol import (
    LONGEST_BINARY,
    SIGNATURE,
    Header,
    NeedMore,
    Reader,
    crc32c,
    read,
    receive,
)
from tests.helpers import wait_for
from tests.servers.conftest import Certificate

CLIENT, SITE = "203.0.113.7", "192.0.2.1"
HELLO = b"GET / HTTP/1.1\r\n"


def line(*words: object, end: bytes = b"\r\n") -> bytes:
    return " ".join(["PROXY", *map(str, words)]).encode() + end


def binary(block: bytes = b"", command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(block)) + block


def addresses(peer: str = CLIENT, local: str = SITE, ports: tuple[int, int] = (4711, 443)) -> bytes:
    packed = b"".join(ipaddress.ip_address(each).packed for each in (peer, local))
    return packed + struct.pack(">HH", *ports)


def vector(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def summed(block: bytes) -> bytes:
    """Answer a header with *block* and its right checksum."""
    blank = binary(block + vector(3, bytes(4)))
    return binary(block + vector(3, crc32c(blank).to_bytes(4, "big")))


PAIR = ((CLIENT, 4711), (SITE, 443))

GOOD: dict[bytes, tuple[object, object]] = {
    line("TCP4", CLIENT, SITE, 4711, 443): PAIR,
    line("TCP4", CLIENT, SITE, 0, 65535): ((CLIENT, 0), (SITE, 65535)),
    line("TCP6", "2001:DB8::7", "::1", 4711, 443): (("2001:db8::7", 4711), ("::1", 443)),
    line("TCP6", f"::ffff:{CLIENT}", f"::ffff:{SITE}", 4711, 443): PAIR,
    line("UNKNOWN"): (None, None),
    line("UNKNOWN", "whatever", "\x00\x07", "is here"): (None, None),
    line("UNKNOWN", ""): (None, None),
    binary(addresses()): PAIR,
    binary(addresses(), family=0x12): PAIR,
    binary(addresses("2001:db8::7", "::1"), family=0x21): (("2001:db8::7", 4711), ("::1", 443)),
    binary(addresses(f"::ffff:{CLIENT}", f"::ffff:{SITE}"), family=0x21): PAIR,
    binary(b"/run/a".ljust(108, b"\0") + b"\0name".ljust(108, b"\0"), family=0x31): (
        "/run/a",
        "@name",
    ),
    binary(bytes(216), family=0x32): ("", ""),
    binary(b"x" * 216, family=0x31): ("x" * 108, "x" * 108),
    binary(command=0x20, family=0): (None, None),
    binary(b"anything", command=0x20, family=0xFF): (None, None),
    binary(b"anything", family=0x00): (None, None),
    binary(addresses(), family=0x10): (None, None),
    binary(addresses() + vector(1, b"h2") + vector(0x20, bytes(5)) + vector(4, b"")): PAIR,
    summed(addresses()): PAIR,
    summed(addresses() + vector(2, b"shop.example.org")): PAIR,
}

BAD = [
    HELLO,
    b"\x16\x03\x01\x02\x00\x01",
    b"\n",
    b"\r\n\r\nGET",
    b"proxy TCP4",
    b"PROXYTCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY\r\n",
    line("UNKNOWN", end=b"\n"),
    line("UNKNOWN", end=b"\r "),
    line("UNKNOWNS"),
    line("UDP4", CLIENT, SITE, 1, 1),
    line("TCP4", CLIENT, SITE, 1, 1, end=b"\n"),
    line("TCP4", CLIENT, SITE, 1),
    line("TCP4", CLIENT, SITE, 1, 1, 1),
    line("TCP4", CLIENT, SITE, 1, 65536),
    line("TCP4", CLIENT, SITE, 1, "01"),
    line("TCP4", CLIENT, SITE, -1, "+1"),
    line("TCP4", CLIENT, SITE, "", 1),
    line("TCP4", "1.2.3.04", SITE, 1, 1),
    line("TCP4", "1.2.3.400", SITE, 1, 1),
    line("TCP4", "1.2.3", SITE, 1, 1),
    line("TCP4", "::1", "::1", 1, 1),
    line("TCP6", CLIENT, SITE, 1, 1),
    line("TCP6", "::1%lo", "::1", 1, 1),
    line("TCP6", "1:2:3", "::1", 1, 1),
    line("TCP4", "x" * 100),
    b"PROXY " + b"x" * 200,
    binary(addresses(), command=0x22),
    binary(addresses(), command=0x11),
    binary(addresses(), family=0x41),
    binary(addresses(), family=0x13),
    binary(addresses()[:-1]),
    binary(addresses(), family=0x21),
    binary(addresses(), family=0x31),
    binary(addresses() + b"\x04"),
    binary(addresses() + b"\x04\x00"),
    binary(addresses() + b"\x04\x00\x01"),
    binary(addresses() + vector(4, b"xx")[:-1]),
    binary(addresses() + vector(3, bytes(4))),
    binary(addresses() + vector(3, b"")),
    binary(addresses() + vector(3, bytes(5))),
    binary(addresses() + vector(4, bytes(LONGEST_BINARY))),
    summed(addresses()).replace(b"\x12\x67", b"\x12\x68"),
]


@pytest.mark.parametrize("sent", GOOD, ids=range(len(GOOD)))
def test_a_header_tells_who_is_connected(sent: bytes) -> None:
    """And where the client's own bytes begin."""
    peer, local = GOOD[sent]
    assert read(sent) == Header(peer, local, len(sent))  # type: ignore[arg-type]
    assert read(sent + HELLO) == Header(peer, local, len(sent), HELLO)  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", BAD, ids=range(len(BAD)))
def test_anything_else_is_refused(sent: bytes) -> None:
    """Guessing would let anybody choose an address."""
    with pytest.raises(BadProxyHeader) as caught:
        read(sent)
    assert isinstance(caught.value, SitebusError)
    assert "\n" not in str(caught.value)
    assert "may connect here" in str(caught.value)


def test_the_checksum_is_the_one_of_its_definition() -> None:
    """The examples of RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


def test_a_stranger_is_refused_at_its_first_wrong_byte() -> None:
    """Rather than waited for."""
    for sent in (b"G", b"PRO ", b"\r\n\r\n\x01", SIGNATURE + b"\x23", SIGNATURE + b"\x21\x99"):
        assert isinstance(Reader().feed(sent[:-1]), NeedMore)
        with pytest.raises(BadProxyHeader):
            read(sent)


def outcome(pieces: Sequence[bytes]) -> object:
    """Answer what comes of *pieces*, fed one after the other until it is decided."""
    reader = Reader()
    try:
        for piece in pieces:
            found = reader.feed(piece)
            if isinstance(found, Header):
                return found[:3]
    except BadProxyHeader:
        return "refused"
    return "more"


def expected(sent: bytes) -> object:
    return outcome([sent])


WORDS = st.sampled_from(
    [b"PROXY", b" ", b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"80", b"\r", b"\n", b"\r\n"]
) | st.binary(max_size=3)
BLOCKS = st.builds(
    bytes.__add__,
    st.sampled_from([b"", addresses(), addresses("::1", "::2"), bytes(216)]),
    st.lists(st.builds(vector, st.integers(0, 40), st.binary(max_size=8))).map(b"".join)
    | st.binary(max_size=20),
)
SENT = st.one_of(
    st.sampled_from([*GOOD, *BAD]),
    st.lists(WORDS).map(b"".join),
    st.lists(WORDS).map(lambda words: b"PROXY " + b"".join(words)),
    st.builds(binary, BLOCKS, st.sampled_from([0x20, 0x21, 0x22]), st.integers(0, 255)),
    st.builds(summed, BLOCKS),
    st.binary(),
)


@settings(deadline=None)  # the machine may be busy
@given(SENT, st.binary(max_size=5), st.lists(st.integers(0, 300), max_size=20))
def test_any_pieces_are_as_good_as_one(sent: bytes, more: bytes, cuts: list[int]) -> None:
    """A network cuts where it likes."""
    whole = sent + more
    places = [0, *sorted(cut for cut in cuts if cut <= len(whole)), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    assert outcome(pieces) == expected(whole)


@settings(deadline=None)  # the machine may be busy
@given(SENT)
def test_byte_after_byte_is_as_good_as_one(sent: bytes) -> None:
    """The most pieces there can be."""
    assert outcome([bytes([byte]) for byte in sent]) == expected(sent)


@settings(deadline=None)  # the machine may be busy
@given(SENT)
def test_what_it_asks_for_is_never_too_much(sent: bytes) -> None:
    """Before a TLS handshake there is no way to put a byte back."""
    reader, taken = Reader(), 0
    try:
        found = reader.feed(b"")
        while isinstance(found, NeedMore) and taken + found.least <= len(sent):
            assert found.least > 0
            taken += found.least
            found = reader.feed(sent[taken - found.least : taken])
    except BadProxyHeader:
        return
    assert isinstance(found, Header) is isinstance(expected(sent), tuple)
    if isinstance(found, Header):
        assert (found.consumed, found.rest) == (taken, b"")


@settings(deadline=None)  # the machine may be busy
@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
def test_both_versions_say_the_same(
    peer: ipaddress.IPv4Address, local: ipaddress.IPv4Address, one: int, two: int
) -> None:
    """Whatever the addresses."""
    text = read(line("TCP4", peer, local, one, two))
    packed = read(binary(addresses(str(peer), str(local), (one, two))))
    assert text[:2] == packed[:2] == ((str(peer), one), (str(local), two))


# From a socket.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Answer our end and the proxy's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("sent", GOOD, ids=range(len(GOOD)))
def test_a_socket_is_left_where_the_client_begins(pair: Pair, sent: bytes) -> None:
    """There is no way to put a byte back."""
    ours, theirs = pair
    theirs.sendall(sent + HELLO)
    assert receive(ours, Reader()) == Header(*GOOD[sent], len(sent))  # type: ignore[arg-type]
    assert ours.recv(100) == HELLO


@pytest.mark.parametrize("cut", [1, 5, 11, 13, 16, 20, 27])
def test_a_header_in_pieces_does_not_keep_a_socket_readable(pair: Pair, cut: int) -> None:
    """Else a loop would turn in vain until the rest comes."""
    ours, theirs = pair
    ours.setblocking(False)
    reader, sent = Reader(), binary(addresses())
    assert receive(ours, reader) == NeedMore(1)
    theirs.sendall(sent[:cut])
    assert isinstance(receive(ours, reader), NeedMore)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    theirs.sendall(sent[cut:] + HELLO)
    assert receive(ours, reader) == Header(*PAIR, len(sent))
    assert ours.recv(100) == HELLO


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 1.2", SIGNATURE])
def test_a_proxy_that_leaves_is_gone(pair: Pair, sent: bytes) -> None:
    """Balancers try whether a port is open, and that is no error of theirs."""
    ours, theirs = pair
    theirs.sendall(sent)
    theirs.close()
    reader = Reader()
    if sent:
        assert isinstance(receive(ours, reader), NeedMore)
    with pytest.raises(ClientGone):
        receive(ours, reader)


def test_a_stranger_on_a_socket_is_refused(pair: Pair) -> None:
    """Without a word of what it said being lost on anybody."""
    ours, theirs = pair
    theirs.sendall(HELLO)
    with pytest.raises(BadProxyHeader):
        receive(ours, Reader())


def test_a_silent_proxy_is_waited_for_as_long_as_the_socket_says(pair: Pair) -> None:
    """The time is the caller's to choose."""
    ours, _ = pair
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        receive(ours, Reader())


def test_tls_begins_behind_the_header(
    pair: Pair, certificate: Certificate, meanwhile: Callable[..., Future[Any]]
) -> None:
    """Also where both have come in one packet."""
    ours, theirs = pair
    theirs.sendall(line("TCP4", CLIENT, SITE, 4711, 443))
    trust = ssl.create_default_context(cafile=certificate.root)
    theirs.settimeout(10)
    client = meanwhile(trust.wrap_socket, theirs, server_hostname="localhost")
    wait_for(lambda: len(ours.recv(1000, socket.MSG_PEEK)) > 100)
    found = receive(ours, Reader())
    assert isinstance(found, Header)
    assert found.peer == (CLIENT, 4711)
    context = certificate.tls.context()
    with context.wrap_socket(ours, server_side=True) as server, client.result(10) as connected:
        connected.sendall(HELLO)
        assert server.recv(100) == HELLO
