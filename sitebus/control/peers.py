"""Who is at the other end of the control socket, and what they may do.

The system says who connected; nothing that the peer sends is believed.
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from sitebus import accounts

_CREDENTIALS = struct.Struct("3i")
#: ``SO_PEERGROUPS``, which the socket module does not name.
_PEER_GROUPS = 59
_MOST_GROUPS = 1024


class Role(enum.IntEnum):
    """What somebody may do; who may do more may do all that is before it."""

    STRANGER = 0
    VIEWER = 1
    OPERATOR = 2


class Peer(NamedTuple):
    """Who connected: process, user, and every group."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(sock: socket.socket) -> Peer:
    """Answer who is at the other end of a connected unix socket.

    Raises:
        OSError: The system does not say.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    # The system's numbers are unsigned.
    return Peer(pid, uid & 0xFFFFFFFF, frozenset((gid & 0xFFFFFFFF, *_groups(sock))))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4 * _MOST_GROUPS)
    except OSError:
        return ()  # before Linux 4.13; the main group must do
    return struct.unpack(f"{len(data) // 4}I", data)


class People(NamedTuple):
    """Some users, and the members of some groups."""

    users: frozenset[int]
    groups: frozenset[int]

    @classmethod
    def named(cls, names: Iterable[str]) -> People:
        """Read names or numbers of users, and of groups behind an ``@``.

        Raises:
            UnknownAccount: There is no such user or group.
        """
        words = tuple(names)
        users = (accounts.user_of(word).uid for word in words if not word.startswith("@"))
        groups = (accounts.gid_of(word[1:]) for word in words if word.startswith("@"))
        return cls(frozenset(users), frozenset(groups))

    def have(self, peer: Peer) -> bool:
        """Tell whether *peer* is one of them."""
        return peer.uid in self.users or not self.groups.isdisjoint(peer.groups)


class Roles:
    """Who has which role; root and the user that the site runs as are always operators."""

    def __init__(self, operators: Iterable[str] = (), viewers: Iterable[str] = ()) -> None:
        self._operators = People.named(operators)
        self._viewers = People.named(viewers)

    def of(self, peer: Peer) -> Role:
        """Answer what *peer* may do."""
        if peer.uid in (0, os.geteuid()) or self._operators.have(peer):
            return Role.OPERATOR
        return Role.VIEWER if self._viewers.have(peer) else Role.STRANGER
