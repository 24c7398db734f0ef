"""Kept-alive connections that say nothing, for who serves after us: the next image, or a process.

An idle connection of plain HTTP/1.1 is a socket, who is at its other end, and perhaps some bytes
of a request that has begun: its client never learns that somebody else answers. What it sends
meanwhile waits in the kernel.

They travel as what unix sockets carry besides bytes (``SCM_RIGHTS``, unix(7)), so thousands of them
are one descriptor over an exec, and the same to another process. Who leaves a connection closes its
descriptor and never shuts the connection down: that would end it for both.
"""

from __future__ import annotations

import os
import socket
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sitebus import legacy

#: Descriptors in one message; the kernel takes 253.
AT_ONCE = 250
#: How many descriptors it takes to send any: a file, and both ends of a pair.
_TOOLS = 3
#: Bytes of each message: which row its first descriptor belongs to.
_PLACE = 8
#: What messages may take in the kernel, in bytes, if it lets us.
_ROOM = 4 << 20
#: Nothing that is started meanwhile may get what is received.
_CLOSED_BY_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Idle(NamedTuple):
    """One connection between two requests.

    Attributes:
        socket: A descriptor of its own for whoever has this.
        address: Where its listener listens, as `Address` spells it.
        peer: Host and port of the client; None on a unix socket.
        begun: What was read of the next request.
    """

    socket: socket.socket
    address: str
    peer: tuple[str, int] | None = None
    begun: bytes = b""


def pack(idle: Sequence[Idle]) -> int:
    """Put *idle* on their way and close them here.

    What the kernel does not take is closed, and its client sees the end that any stop may bring.
    So are a few of them if the process can have no descriptor more.

    Returns:
        The descriptor that `unpack` takes them from, in this process or in another.

    Raises:
        OSError: There is no descriptor to be had all the same.
    """
    try:
        try:
            file, box, slot = _tools(idle)
        except OSError:
            for each in idle[-_TOOLS:]:
                each.socket.close()
            idle = idle[:-_TOOLS]
            file, box, slot = _tools(idle)
        with slot, suppress(OSError):
            slot.setblocking(False)
            slot.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
            _send(slot, file, idle)
        os.close(file)
    finally:
        for each in idle:
            each.socket.close()
    return box.detach()


def unpack(fd: int) -> list[Idle]:
    """Take what was packed from *fd*, which is closed; what makes no sense is closed as well."""
    with socket.socket(fileno=fd) as box:
        box.setblocking(False)
        messages = _received(box)
        rows = _rows(next(messages, (0, [])))
        found = {start + at: each for start, fds in messages for at, each in enumerate(fds)}
    idle = []
    for at, each in found.items():
        try:
            idle.append(_idle(each, *rows[at]))
        except (IndexError, TypeError, ValueError, OSError):
            os.close(each)  # from another version, or no socket
    return idle


def _tools(idle: Sequence[Idle]) -> tuple[int, socket.socket, socket.socket]:
    """Answer a file that describes *idle*, and the two ends to send it and them through."""
    # One listener's are of one family: to ask each costs more than all the rest of its row.
    families = {each.address: each.socket for each in idle}
    known = {address: int(sock.family) for address, sock in families.items()}
    rows = [[each.address, known[each.address], each.peer, _as_text(each.begun)] for each in idle]
    file = legacy.write({"idle": rows})
    try:
        return (file, *socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    except OSError:
        os.close(file)
        raise


def _send(slot: socket.socket, file: int, idle: Sequence[Idle]) -> None:
    _post(slot, 0, [file])
    for start in range(0, len(idle), AT_ONCE):
        _post(slot, start, [each.socket.fileno() for each in idle[start : start + AT_ONCE]])


def _as_text(begun: bytes) -> str:
    return b64encode(begun).decode() if begun else ""


def _post(slot: socket.socket, place: int, fds: list[int]) -> None:
    socket.send_fds(slot, [place.to_bytes(_PLACE, "big")], fds)


def _received(box: socket.socket) -> Iterator[tuple[int, list[int]]]:
    while True:
        try:
            # Not recv_fds, which forgets its flags in Python 3.11.
            place, found, _, _ = box.recvmsg(_PLACE, socket.CMSG_LEN(AT_ONCE * 4), _CLOSED_BY_EXEC)
        except OSError:
            return  # that was all
        if not place:
            return
        fds = array("i")
        for _, _, data in found:
            fds.frombytes(data[: len(data) // 4 * 4])
        yield int.from_bytes(place, "big"), list(fds)


def _rows(first: tuple[int, list[int]]) -> list[Any]:
    _, files = first
    try:
        (file,) = files
        return list(legacy.read(file)["idle"])
    except (ValueError, KeyError, TypeError):
        return []


def _idle(fd: int, address: str, family: int, peer: list[Any] | None, begun: str) -> Idle:
    place = None if peer is None else (str(peer[0]), int(peer[1]))
    read = b64decode(begun) if begun else b""
    if not isinstance(family, int):
        raise TypeError("no family")
    # The kernel is asked once, for what also tells whether it is a socket at all.
    sock = socket.socket(-1, socket.SOCK_STREAM, 0, fd)
    # Before it is duplicated, which clears the flag in every process that has it.
    sock.setblocking(False)
    if not _CLOSED_BY_EXEC:
        sock.set_inheritable(False)
    return Idle(sock, str(address), place, read)
