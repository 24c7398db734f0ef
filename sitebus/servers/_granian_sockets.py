"""The sockets of a server that does not show them: found among the descriptors of the process."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

_FOLDERS = ("/proc/self/fd", "/dev/fd")
_WILD = {"0.0.0.0", "::"}
#: ``struct linger``: on, no time.
_RESET = struct.pack("ii", 1, 0)
#: How many milliseconds ago data was sent and received, and how many segments of it were sent, in
#: Linux's ``struct tcp_info``.
_LAST_WORDS = struct.Struct("44x I 4x I 100x I")
#: How many wait to be accepted, in that of a listening socket.
_WAITING = struct.Struct("24x I")


class Place(NamedTuple):
    """Where a listening socket listens, as those that it accepted are known by."""

    family: int
    #: Empty for every address of the host.
    host: str | bytes
    port: int

    @classmethod
    def of(cls, sock: socket.socket) -> Place:
        name = sock.getsockname()
        if isinstance(name, tuple):
            return cls(sock.family, "" if name[0] in _WILD else name[0], name[1])
        return cls(sock.family, name, 0)

    def has(self, sock: socket.socket) -> bool:
        """Tell whether *sock* was accepted here."""
        family, host, port = Place.of(sock)
        return (self.family, self.port) == (family, port) and self.host in ("", host)


def connections(places: list[Place]) -> Iterator[socket.socket]:
    """Yield copies of the connections accepted at *places*; each is closed after its turn."""
    for fd in _descriptors():
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            # A copy, so that it stays the same socket however soon its owner closes it.
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.getpeername()  # or it is no connection
                if any(place.has(sock) for place in places):
                    yield sock


def is_owed(sock: socket.socket) -> bool:
    """Tell whether a client that was answered before has asked again, be it not to the end."""
    sent, received, answers = _last_words(sock)
    return bool(answers and received < sent)


def waiting_at(listening: socket.socket) -> int:
    """Answer how many the kernel has let in whom nobody has accepted yet, if that is known."""
    if sys.platform != "linux" or listening.family == socket.AF_UNIX:
        return 0
    told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size)
    waiting: int = _WAITING.unpack(told)[0]
    return waiting


def silences(places: list[Place]) -> dict[tuple[str, int], float]:
    """Answer, for each peer, for how many seconds nothing was said on either side.

    0 where that is not known. No copy is kept of any: there may be more than descriptors are left.
    """
    found: dict[tuple[str, int], float] = {}
    for each in connections(places):
        with suppress(OSError):
            sent, received, _ = _last_words(each)
            found[peer_of(each)] = min(sent, received) / 1000
    return found


def shut(places: list[Place], peers: Collection[tuple[str, int]]) -> None:
    """Close the connections of *peers*, whoever else has them."""
    for each in connections(places) if peers else ():
        with suppress(OSError):
            if peer_of(each) in peers:
                each.shutdown(socket.SHUT_RDWR)


def _last_words(sock: socket.socket) -> tuple[int, int, int]:
    nobody_knows = 0, 0, 0
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return nobody_knows
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_WORDS.size)
    if len(told) < _LAST_WORDS.size:
        return nobody_knows  # a kernel from before 4.6
    sent, received, answers = _LAST_WORDS.unpack(told)
    return sent, received, answers


def give_up_after(listening: socket.socket, seconds: float) -> None:
    """Have the kernel break connections that are accepted here and take nothing for so long.

    That is known of those that nobody writes to any more, too: all of an answer may be on its way.
    """
    if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        most = max(1, int(min(seconds, 1e6) * 1000))
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, most)


def peer_of(sock: socket.socket) -> tuple[str, int]:
    """Answer who is at the other end, as granian tells it; an empty address on a unix socket."""
    name = sock.getpeername()
    return (name[0].partition("%")[0], name[1]) if isinstance(name, tuple) else ("", 0)


def reset(place: Place, peer: tuple[str, int] | None) -> None:
    """Have the connection of *peer* at *place* end with a reset, when it is closed."""
    if peer is not None:
        for sock in connections([place]):
            if peer_of(sock) == peer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _descriptors() -> list[int]:
    for folder in _FOLDERS:
        # Without a descriptor to be had, nobody can be found.
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return []


def dead_listener(family: int) -> socket.socket:
    """Make a listening socket of the sort that *family* is, to which nobody ever connects.

    ``accept()`` finds nobody there, and no error.
    """
    if family == socket.AF_UNIX:
        dead = socket.socket(socket.AF_UNIX)
        with tempfile.TemporaryDirectory() as folder:
            # Without a name it cannot be found, not even by accident.
            dead.bind(f"{folder}/nobody")
    else:
        dead = socket.socket()
        # Linux has sixteen million addresses for itself alone, others have one.
        net = (
            [secrets.randbelow(254) + 1 for _ in range(3)] if sys.platform == "linux" else [0, 0, 1]
        )
        dead.bind((f"127.{net[0]}.{net[1]}.{net[2]}", 0))
    dead.setblocking(False)
    dead.listen(1)
    return dead
