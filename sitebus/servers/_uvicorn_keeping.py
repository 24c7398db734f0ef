"""How idle connections go to who serves after us, and come from who served before.

Only those of plain HTTP/1.1, between two requests: nothing is in our hands then but a descriptor,
and perhaps the beginning of a head.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sitebus.servers._uvicorn_parting import Protocol

if TYPE_CHECKING:
    from sitebus.servers.hosting import Leave

#: How many are given away before others have their turn; each takes a descriptor more until then.
AT_ONCE = 100

#: Is told the end of those that are another's.
_NOBODY = asyncio.Protocol()


def can_be_kept(kind: Any) -> bool:
    """Tell whether a *kind* of protocol knows when it is between two requests."""
    return hasattr(kind, "is_at_rest")


class Keeping:
    """Gives connections away, each as soon as it is idle; until then they are served.

    Args:
        leave: Is given them.
        sockets: The listening sockets, in the order of their numbers.
    """

    def __init__(self, leave: Leave, sockets: Sequence[socket.socket]) -> None:
        self.give = leave
        self._doors = _doors(sockets)
        self._families = [each.family for each in sockets]

    def see_off(self, connection: Protocol) -> None:
        """Give *connection* away, now or as soon as it is idle."""
        if self._give(connection) or self._is_seen_off(connection):
            return
        # It may become idle when an answer, or a body that came after one, is complete, and when
        # the last of an answer is written, which is only told if nothing may stay behind.
        for occasion in "on_response_complete", "wait_again", "resume_writing":
            before = getattr(connection, occasion)
            setattr(connection, occasion, self._then_give(connection, before))
        for cycle in (connection.cycle, *(waiting for waiting, _ in _pipeline(connection))):
            if cycle is not None and not cycle.response_complete:
                cycle.on_response = connection.on_response_complete
        connection.transport.set_write_buffer_limits(0)

    def _is_seen_off(self, connection: Protocol) -> bool:
        return "on_response_complete" in vars(connection)

    def _then_give(self, connection: Protocol, before: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            before()
            self._give(connection)

        return call

    def _give(self, connection: Protocol) -> bool:
        transport = connection.transport
        if transport.is_closing():
            return False
        begun = _left_of(connection)
        if begun is None or transport.get_write_buffer_size():
            return False
        door = self._door(connection)
        try:
            sock = _copy(transport, self._families[door])
        except OSError:
            return False  # no descriptor is left; it stays, for as long as its client may be silent
        # All that it would do when it is lost is done here: there are thousands of them.
        connection.connections.discard(connection)
        transport.set_protocol(_NOBODY)
        # Neither loop shuts a connection down for that: it ends when its last descriptor does.
        transport.abort()
        self.give(door, sock, connection.client, begun)
        return True

    def _door(self, connection: Protocol) -> int:
        place = connection.server
        door = self._doors.get(place)
        return self._doors.get(_port(place), 0) if door is None else door


def introduced(protocol: Protocol, peer: tuple[str, int] | str | None, begun: bytes) -> Protocol:
    """Answer *protocol*, told as soon as it is connected who its client is, and what that said."""
    connection_made = protocol.connection_made

    def connected(transport: asyncio.Transport) -> None:
        del protocol.connection_made
        connection_made(transport)
        if isinstance(peer, tuple):
            protocol.client = peer
        if begun:
            protocol.data_received(begun)

    protocol.connection_made = connected
    return protocol


def _left_of(connection: Protocol) -> bytes | None:
    """Answer what was read of the next request; None if *connection* is not between two."""
    return b"" if connection.is_at_rest else connection.half_a_head or None


def _copy(transport: Any, family: int) -> socket.socket:
    number = os.dup(transport.get_extra_info("socket").fileno())
    # Told what it is, it need not ask.
    sock = socket.socket(family, socket.SOCK_STREAM, 0, number)
    # Only this keeps Python from clearing the flag, for everybody who has the connection.
    sock.setblocking(False)
    return sock


def _doors(sockets: Sequence[socket.socket]) -> dict[Any, int]:
    """Answer the numbers of *sockets* by what a connection says it came by, and by port."""
    doors: dict[Any, int] = {}
    for number, each in enumerate(sockets):
        with suppress(OSError):
            place = _place(each.getsockname())
            doors.setdefault(place, number)
            doors.setdefault(_port(place), number)
    return doors


def _place(name: Any) -> tuple[str, int | None]:
    """Answer what uvicorn makes of the *name* of a socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else (name, None)


def _port(place: tuple[str, int | None] | None) -> int | None:
    return place[1] if place is not None else None


def _pipeline(connection: Protocol) -> Sequence[Any]:
    return getattr(connection, "pipeline", ())
