"""What is mended in uvicorn's protocols for WebSocket; see `sitebus.servers._uvicorn_mended`."""

from __future__ import annotations

import contextvars
from typing import Any

from sitebus.servers._uvicorn_polite import FAREWELL
from sitebus.servers._uvicorn_turns import Turnstile, WebSocketFrames, complain_of

_NO_HANDSHAKE = b"Invalid WebSocket handshake."


def fresh(kind: Any) -> Any:
    """Answer a *kind* of WebSocket protocol that runs the application in a context of its own."""

    class Fresh(kind):  # type: ignore[misc]
        has_begun = False

        def __init__(self, config: Any, server_state: Any, app_state: Any, **more: Any) -> None:
            # The handshake has a Connection header already, and says something else with it.
            with server_state.without_close():
                super().__init__(config, server_state, app_state, **more)

        def connection_made(self, transport: Any) -> None:
            take = super().data_received
            self.turns = Turnstile(self, transport, WebSocketFrames(), take, self.refuse)
            contextvars.Context().run(super().connection_made, self.turns)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.turns.let_go()

        def data_received(self, data: bytes) -> None:
            if self.has_begun:
                self.turns.receive(data)
                return
            # Only the first data, the handshake, start anything.
            self.has_begun = True
            contextvars.Context().run(super().data_received, data)
            if not (getattr(self, "handshake_initiated", True) or self.transport.is_closing()):
                _refuse_handshake(self)

        def refuse(self) -> None:
            """Close for too many frames."""
            complain_of(self, "WebSocket frames of no use", "too many small frames")
            self.transport.abort()

    mend = {"WebSocketsSansIOProtocol": _mend_sansio, "WebSocketProtocol": _mend_deprecated}
    return mend.get(kind.__name__, lambda made: made)(Fresh)


def _mend_sansio(kind: Any) -> Any:
    class Mended(kind):  # type: ignore[misc]
        async def send(self, message: Any) -> None:
            await super().send(message)
            # The others know a refusal when they see one. Else it is logged that nobody answered
            # the handshake.
            if self.close_sent and self.initial_response is not None:
                self.handshake_complete = True

    return Mended


def _mend_deprecated(kind: Any) -> Any:
    class Mended(kind):  # type: ignore[misc]
        def fail_connection(self, *args: Any) -> None:
            super().fail_connection(*args)
            # It would wait ten seconds for who goes on, and keep what has come.
            self.loop.call_later(FAREWELL, self.transport.abort)

    return Mended


def _refuse_handshake(connection: Any) -> None:
    """Answer a handshake that was not understood, which would be waited for for ever."""
    reason = str(connection.conn.handshake_exc or "not a WebSocket handshake")
    connection.logger.warning("Invalid WebSocket handshake received: %s", reason)
    connection.transport.write(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_NO_HANDSHAKE), _NO_HANDSHAKE)
    )
    connection.transport.close()
