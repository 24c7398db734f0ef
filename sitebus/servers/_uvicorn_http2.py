"""What is mended in `ZttpH2Protocol`; see `sitebus.servers._uvicorn_mended`."""

from __future__ import annotations

import asyncio
from typing import Any

from sitebus.servers._uvicorn_parting import Parting
from sitebus.servers._uvicorn_polite import FAREWELL, INVALID
from sitebus.servers._uvicorn_turns import CountingTurnstile, Http2Frames, complain_of

#: How much of an answer waits for its client before its application does; bytes.
MOST_PENDING = 64 << 10
#: The code for who asks too much (RFC 9113, section 7).
_CALM_DOWN = 11


def mend(kind: Any) -> Any:  # noqa: C901 - that of nine methods
    """Answer a *kind* of protocol that is mended."""
    from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle

    receive = kind.data_received
    paced = _paced(RequestResponseCycle)

    class Mended(kind):  # type: ignore[misc]
        #: How many answers wait until their client takes more.
        stalled = 0

        def connection_made(self, transport: Any) -> None:
            self.turns = CountingTurnstile(self, transport, Http2Frames(), self.take, self.refuse)
            self.moved = asyncio.Event()
            super().connection_made(self.turns)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.forget_all()
            self.turns.let_go()

        def handle_request(self, event: Any) -> None:
            super().handle_request(event)
            cycle = self.cycles[event.stream_id]
            cycle.__class__ = paced
            cycle.connection = self

        def data_received(self, data: bytes) -> None:
            self.turns.receive(data)

        def take(self, data: bytes) -> None:
            try:
                receive(self, data)
            except UnicodeDecodeError:
                self.logger.complain(INVALID, INVALID)
                self.conn.close()
                self.flush()
                self.transport.close()
            if self.transport.is_closing():
                self.forget_all()
            else:
                self.go_on()

        def refuse(self) -> None:
            """Close for too many frames, and say why, also to who sends more of them."""
            complain_of(self, "HTTP/2 frames of no use", "too many frames that say nothing")
            self.forget_all()
            self.conn.close(_CALM_DOWN)
            self.flush()
            self.transport = parting = Parting(self, FAREWELL, _nothing)
            parting.part()

        def forget_all(self) -> None:
            # Else what they still send is an error, of theirs.
            for cycle in self.cycles.values():
                cycle.disconnected = True
                cycle.message_event.set()
            self.go_on()

        async def wait_for_room(self) -> None:
            self.stalled += 1
            try:
                await self.moved.wait()
            finally:
                self.stalled -= 1

        def go_on(self) -> None:
            """Let who waits for room look again."""
            self.moved.set()
            self.moved.clear()

    return Mended


def _paced(kind: Any) -> Any:
    """Answer a *kind* of requests whose answers wait for their client.

    What a client leaves no room for would be kept, all of it, and nobody would have a turn while
    an application makes more.
    """

    class Paced(kind):  # type: ignore[misc]
        connection: Any

        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.disconnected:
                await asyncio.sleep(0)
            while self.has_too_much:
                await self.connection.wait_for_room()

        @property
        def has_too_much(self) -> bool:
            if self.disconnected or self.response_complete:
                return False
            return bool((self.stream.pending_bytes or 0) > MOST_PENDING)

    return Paced


def _nothing() -> None:
    pass
