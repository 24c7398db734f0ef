"""What is mended in uvicorn's protocols; see `sitebus.servers._uvicorn`.

For HTTP/1.1:

- A head longer than ``max_header`` is refused, whatever parses it; `HttpToolsProtocol` keeps one of
  any length, also of a request that waits for its turn.
- Every request gets one answer: a refusal is not written into another's.
- A connection stays when a body comes after the answer to it, for as long as it comes.
- A path that is not ASCII is refused, and not the death of the connection.
- Clients of HTTP/1.0 get no chunks, which they take for text.

For WebSocket: the application runs in a context of its own, a handshake that nobody takes up is
refused, and a refusal by the application is no error.
"""

from __future__ import annotations

import contextvars
from typing import Any

#: For those who know no such thing as no limit.
ANY_LENGTH = 1 << 40

_BLANK = b"\r\n\r\n"
_TOO_LONG = "The head of the request is too long."
_INVALID = "Invalid HTTP request received."


def is_running(cycle: Any) -> bool:
    """Tell whether a connection's request is still being answered."""
    return cycle is not None and not cycle.response_complete


class _Unsaid(int):
    """A length that nobody said: whatever comes is neither too much nor too little."""

    def __lt__(self, _other: int) -> bool:
        return False

    def __sub__(self, _other: int) -> _Unsaid:
        return self


def mended(kind: Any, most: int) -> Any:
    """Answer a *kind* of protocol for HTTP that refuses heads of more than *most* bytes."""
    make = _MENDERS.get(kind.__name__)
    return kind if make is None else make(kind, most or ANY_LENGTH)


class _Polite:
    """What all of them have in common; the rest is uvicorn's."""

    cycle: Any
    connections: Any
    transport: Any
    loop: Any
    timeout_keep_alive: float
    timeout_keep_alive_task: Any
    timeout_keep_alive_handler: Any
    #: Whether the rest is nothing that could be answered.
    is_deaf = False

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if not is_running(cycle):
            super().send_400_response(msg)  # type: ignore[misc]
        elif not cycle.more_body:
            # A later request is at fault: those before it are answered.
            cycle.keep_alive = False
            self.is_deaf = True
        elif cycle.response_started or getattr(self, "pipeline", None):
            self.transport.close()
        else:
            super().send_400_response(msg)  # type: ignore[misc]

    def wait_again(self) -> None:
        """Wait for the rest of a body, or for another request, as after the answer."""
        # It may have become a WebSocket meanwhile, or a lost one.
        is_open = self in self.connections and not self.transport.is_closing()
        if is_open and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _is_late(cycle: Any) -> bool:
    """Tell whether a request was answered and its body is still to come."""
    return cycle is not None and cycle.response_complete and cycle.more_body


def _mend(kind: Any, most: int) -> Any:
    """Mend one that reads a request when the one before is answered, and bounds heads in parts."""
    receive = kind.data_received

    class Mended(_Polite, kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            cycle = self.cycle
            is_late = _is_late(cycle)
            if self.is_deaf:
                return
            is_first = self.timeout_keep_alive_task is not None and not is_late
            if is_first and len(data) > most and _head(data) > most:
                self.send_400_response(_TOO_LONG)
                return
            try:
                receive(self, data)
            except UnicodeDecodeError:
                self.send_400_response(_INVALID)
            if is_late and cycle is self.cycle:
                cycle.more_body = _has_more_body(cycle)
                self.wait_again()

    return Mended


def _has_more_body(cycle: Any) -> bool:
    state = getattr(cycle.conn, "their_state", None)
    # h11 does not say so of a request that is answered.
    return bool(cycle.more_body) if state is None else str(state) == "SEND_BODY"


def _head(data: bytes) -> int:
    """Answer how much of *data* is of the head that it begins with."""
    end = data.find(_BLANK)
    return end if end >= 0 else len(data)


def _mend_httptools(kind: Any, most: int) -> Any:
    receive, complete = kind.data_received, kind.on_message_complete

    class Mended(_Counting, kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            cycle = self.cycle
            in_body = cycle is not None and cycle.more_body
            # Most come whole: those are not looked at.
            if (self.head or len(data) > most) and not in_body and self.is_refused(data, most):
                return
            receive(self, data)
            now = self.cycle
            if now is cycle or self.scope is not now.scope:
                self.have_part(data, cycle, in_body)
            elif self.head:
                self.head = 0
            if now is not None and not now.keep_alive and now.scope["http_version"] == "1.0":
                now.chunked_encoding = False
                now.expected_content_length = _Unsaid()

        def on_message_complete(self) -> None:
            cycle = self.cycle
            if cycle is not None and cycle.response_complete:
                cycle.more_body = False
            else:
                complete(self)

    return Mended


class _Counting(_Polite):
    """Counts how much has come of a head that is not complete."""

    scope: Any
    head = 0
    #: Its end, where the end of all may begin.
    tail = b""

    def is_refused(self, data: bytes, most: int) -> bool:
        """Refuse *data* which makes a head too long."""
        if self.is_deaf:
            return True
        tail = self.tail if self.head else b""
        is_too_long = self.head - len(tail) + _head(tail + data) > most
        if is_too_long:
            self.head = max(1, self.head)
            self.send_400_response(_TOO_LONG)
        return is_too_long

    def have_part(self, data: bytes, before: Any, in_body: bool) -> None:
        """Take note of *data* that ended in the middle of something."""
        now = self.cycle
        if self.scope is not (None if now is None else now.scope):
            begin = data.rfind(_BLANK)
            if begin >= 0:
                self.head = max(1, len(data) - begin - len(_BLANK))
            elif in_body:
                self.head = 1  # some of it was the body's
            else:
                self.head += len(data)
            self.tail = data[-min(3, self.head) :]
        else:
            self.head = 0
        if self.is_deaf:
            self.head = 1  # for is_refused
        elif now is before and in_body and now.response_complete:
            self.wait_again()


def _mend_choosing(kind: Any, most: int) -> Any:
    from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol
    from uvicorn.protocols.http.zttp_impl import ZttpProtocol

    http_1, http_2 = _mend(ZttpProtocol, most), _mend_http2(ZttpH2Protocol)

    class Choosing(kind):  # type: ignore[misc]
        def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
            chosen = http_2 if http2 else http_1
            protocol = chosen(self.config, self.server_state, self.app_state, self.loop)
            self.transport.set_protocol(protocol)
            protocol.connection_made(self.transport)
            if initial_data:
                protocol.data_received(initial_data)

    return Choosing


def _mend_http2(kind: Any) -> Any:
    class Mended(kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            try:
                super().data_received(data)
            except UnicodeDecodeError:
                self.logger.warning(_INVALID)
                self.conn.close()
                self.flush()
                self.transport.close()

    return Mended


#: By what uvicorn calls them.
_MENDERS = {
    "HttpToolsProtocol": _mend_httptools,
    "H11Protocol": _mend,
    "ZttpProtocol": _mend,
    "AutoZttpProtocol": _mend_choosing,
}


def fresh(kind: Any) -> Any:
    """Answer a *kind* of WebSocket protocol that runs the application in a context of its own."""

    class Fresh(kind):  # type: ignore[misc]
        def __init__(self, config: Any, server_state: Any, app_state: Any, **more: Any) -> None:
            # The handshake has a Connection header already, and says something else with it.
            with server_state.without_close():
                super().__init__(config, server_state, app_state, **more)
            # Only the first data, the handshake, start anything.
            self.data_received = self._begin

        def connection_made(self, transport: Any) -> None:
            contextvars.Context().run(super().connection_made, transport)

        def _begin(self, data: bytes) -> None:
            del self.data_received
            contextvars.Context().run(self.data_received, data)
            if not (getattr(self, "handshake_initiated", True) or self.transport.is_closing()):
                self._refuse(str(self.conn.handshake_exc or "not a WebSocket handshake"))

        def _refuse(self, reason: str) -> None:
            """Answer a handshake that was not understood, which would be waited for for ever."""
            self.logger.warning("Invalid WebSocket handshake received: %s", reason)
            body = b"Invalid WebSocket handshake."
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()

        async def send(self, message: Any) -> None:
            await super().send(message)
            # Else it is logged that nobody answered the handshake.
            if self.close_sent and self.initial_response is not None:
                self.handshake_complete = True

    if kind.__name__ != "WebSocketsSansIOProtocol":
        del Fresh.send  # the others know a refusal when they see one
    return Fresh
