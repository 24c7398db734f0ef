"""How a connection is closed in a drain, so that its client gets all that it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: One of uvicorn's; their types differ, and none is public.
Protocol = Any


class Parting:
    """A connection's transport in a drain: closing it does not cut off what is said.

    To close a connection with something unread resets it, and the client may lose what it was sent.
    So its end is sent first, and what still comes is read until the client's end is there.
    """

    def __init__(
        self, connection: Protocol, patience: float, written: Callable[[], object]
    ) -> None:
        transport = connection.transport
        # A WebSocket has that of the connection which it was before.
        self._transport: Any = transport._transport if isinstance(transport, Parting) else transport
        self._connection = connection
        self._patience = patience
        self._written = written
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def belongs_to(self, connection: Protocol) -> bool:
        return self._connection is connection

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        self._written()

    def is_closing(self) -> bool:
        return self._is_closing or bool(self._transport.is_closing())

    def close(self) -> None:
        if self.is_closing():
            return
        if self._may_be_spoken_to():
            self.part()
        else:
            self._is_closing = True
            self._transport.close()

    def part(self) -> None:
        """Say that nothing more comes, and read on until the client has left, for a moment."""
        self._is_closing = True
        self._hear_out()

    def _may_be_spoken_to(self) -> bool:
        if not hasattr(self._connection, "cycle"):
            # WebSocket and HTTP/2 speak both ways at any time; TLS cannot say that we are done.
            return bool(self._transport.can_write_eof())
        cycle = self._connection.cycle
        return cycle is not None and bool(cycle.more_body)

    def _hear_out(self) -> None:
        transport = self._transport
        transport.set_protocol(_Listener(self._connection, transport, self._patience))
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        # Whatever it was paused for.
        transport.resume_reading()


class _Listener(asyncio.Protocol):
    """Reads what a client says after the last word, until it has left too."""

    def __init__(self, connection: Protocol, transport: Any, patience: float) -> None:
        self._connection = connection
        self._timer = connection.loop.call_later(patience, transport.abort)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connection.connection_lost(exc)
