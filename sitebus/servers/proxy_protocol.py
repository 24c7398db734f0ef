"""Read the PROXY header, v1 or v2, that a proxy puts in front of a connection.

It says for whom the proxy connects, once for the connection and before anything else, TLS too
(https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
Only the addresses are used. What v2 may add besides (TLVs) is skipped, but must be well-formed,
and a checksum among it must be right.

`Reader` is fed what was received, in pieces of any size. What it answers depends only on the bytes,
never on the pieces. `receive` feeds it from a socket, and leaves there what follows the header, for
a TLS handshake or for a server that wants its client's bytes itself. The rest here is pure.
"""

from __future__ import annotations

import re
import socket
from functools import cache
from typing import NamedTuple

from sitebus.errors import BadProxyHeader, ClientGone
from sitebus.sockets.networks import address_of

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

#: The longest header of v1, by its definition, and of v2, by ours; bytes.
LONGEST_LINE = 107
LONGEST_BINARY = 8192

#: The shortest there is, which both versions have: ``PROXY UNKNOWN``.
_SHORTEST = 15
_HEAD = 16

_LINE = re.compile(
    rb"PROXY (TCP[46]) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

_LOCAL, _PROXY = 0x20, 0x21
_CHECKSUM = 3
#: Address families of v2: how long both addresses with their ports are.
_LENGTHS = {1: 12, 2: 36, 3: 216}
_UNIX = 3


Place = tuple[str, int] | str


class NeedMore(NamedTuple):
    """The header goes on for so many bytes at least, so as many may be read without harm."""

    least: int


class Header(NamedTuple):
    """What a proxy says of a connection.

    Attributes:
        peer: Who the client is, as `socket.socket.getpeername` would have it: a pair, or the path
            of a unix socket. None where it is the connection's own, as for a proxy's own checks.
        local: Where the client has connected to, in the same way.
        consumed: How many bytes the header has.
        rest: What was fed besides: the first bytes of the client.
    """

    peer: Place | None
    local: Place | None
    consumed: int
    rest: bytes = b""


class Reader:
    """One connection's header, as far as it has come."""

    def __init__(self) -> None:
        self._received = b""

    def __len__(self) -> int:
        """How many bytes were fed."""
        return len(self._received)

    def feed(self, data: bytes) -> NeedMore | Header:
        """Take what was received next.

        Raises:
            BadProxyHeader: It is no PROXY header, and what may follow does not matter.
        """
        self._received += data
        return read(self._received)


def receive(sock: socket.socket, reader: Reader) -> NeedMore | Header:
    """Feed *reader* what *sock* has of the header, and leave the rest where it is.

    A socket that blocks is waited for once; one that does not is asked again when it is readable.

    Raises:
        BadProxyHeader: It is no PROXY header.
        ClientGone: The other side has closed before it was complete.
        TimeoutError: The socket has a timeout, and this was too long.
    """
    before = len(reader)
    try:
        seen = sock.recv(LONGEST_BINARY, socket.MSG_PEEK)
    except BlockingIOError:
        return NeedMore(1)
    if not seen:
        raise ClientGone("its PROXY header was complete")
    found = reader.feed(seen)
    own = found.consumed - before if isinstance(found, Header) else len(seen)
    sock.recv(own)
    return found._replace(rest=b"") if isinstance(found, Header) else found


def read(received: bytes) -> NeedMore | Header:
    """Answer the header that *received* begins with; see `Reader`."""
    if received[:5] == b"PROXY"[: len(received)]:
        return _read_line(received)
    if received[:12] == SIGNATURE[: len(received)]:
        return _read_binary(received)
    raise BadProxyHeader("it begins with something else")


# Version 1, a line.


def _read_line(received: bytes) -> NeedMore | Header:
    start = received[:LONGEST_LINE]
    end = start.find(b"\n")
    if end < 0:
        return _more_of_line(start)
    line = start[: end + 1]
    if _UNKNOWN.fullmatch(line):
        return Header(None, None, len(line), received[len(line) :])
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadProxyHeader("its line is not as version 1 has it")
    version = int(match[1][-1:])
    peer, local = (_pair(version, match[n].decode(), int(match[n + 2])) for n in (2, 3))
    return Header(peer, local, len(line), received[len(line) :])


def _more_of_line(start: bytes) -> NeedMore:
    if b"\r" in start[:-1]:
        raise BadProxyHeader("its line does not end with CR and LF")
    if len(start) >= LONGEST_LINE:
        raise BadProxyHeader(f"its line goes on after {LONGEST_LINE} bytes")
    return NeedMore(max(_SHORTEST - len(start), 1 if start.endswith(b"\r") else 2))


def _pair(version: int, address: str, port: int) -> tuple[str, int]:
    if (":" in address) is not (version == 6) or port > 65535:
        raise BadProxyHeader("its line has addresses or ports that are none")
    return _shown(address), port


def _shown(address: str) -> str:
    known = address_of(address)
    if known is None:
        raise BadProxyHeader("its line has addresses or ports that are none")
    return str(known)


# Version 2, binary.


def _read_binary(received: bytes) -> NeedMore | Header:
    _check_start(received)
    if len(received) < _HEAD:
        return NeedMore(_HEAD - len(received))
    length = _HEAD + int.from_bytes(received[14:16], "big")
    if length > LONGEST_BINARY:
        raise BadProxyHeader(f"it has {length} bytes of at most {LONGEST_BINARY}")
    if len(received) < length:
        return NeedMore(length - len(received))
    header, rest = received[:length], received[length:]
    command, family = header[12], header[13]
    # LOCAL is about the proxy itself, and the rest about nothing that could be called an address.
    if command == _LOCAL or not family >> 4 or not family & 15:
        return Header(None, None, length, rest)
    peer, local = _addresses(header, family >> 4)
    return Header(peer, local, length, rest)


def _check_start(received: bytes) -> None:
    if len(received) > 12 and received[12] not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"its version and command are {received[12]:#04x}")
    if len(received) > 13 and received[12] == _PROXY:
        family, transport = divmod(received[13], 16)
        if family > _UNIX or transport > 2:
            raise BadProxyHeader(f"its address family is {received[13]:#04x}")


def _addresses(header: bytes, family: int) -> tuple[Place, Place]:
    end = _HEAD + _LENGTHS[family]
    if len(header) < end:
        raise BadProxyHeader(f"it has {len(header)} bytes, which is too few for its addresses")
    _check_vectors(header, end)
    block = header[_HEAD:end]
    if family == _UNIX:
        return _path(block[:108]), _path(block[108:])
    import ipaddress

    width = 4 if family == 1 else 16
    first, second = (
        _shown(str(ipaddress.ip_address(part)))
        for part in (block[:width], block[width : 2 * width])
    )
    ports = block[2 * width :]
    return (first, int.from_bytes(ports[:2], "big")), (second, int.from_bytes(ports[2:], "big"))


def _path(field: bytes) -> str:
    """Answer the path of a unix socket; an abstract name begins with @, as everywhere here."""
    name = field[1:] if field.startswith(b"\0") else field
    text = name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return f"@{text}" if text and field.startswith(b"\0") else text


def _check_vectors(header: bytes, start: int) -> None:
    """Walk over what stands behind the addresses, and compare the checksum if there is one."""
    while start < len(header):
        kind, length = header[start], int.from_bytes(header[start + 1 : start + 3], "big")
        end = start + 3 + length
        if start + 3 > len(header) or end > len(header):
            raise BadProxyHeader("what is behind its addresses does not end where it should")
        if kind == _CHECKSUM:
            _check_sum(header, start + 3, end)
        start = end


def _check_sum(header: bytes, start: int, end: int) -> None:
    blank = header[:start] + bytes(end - start) + header[end:]
    if header[start:end] != crc32c(blank).to_bytes(4, "big"):
        raise BadProxyHeader("its checksum is wrong")


def crc32c(data: bytes) -> int:
    """Answer the Castagnoli checksum of *data* (RFC 9260, appendix A)."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))
