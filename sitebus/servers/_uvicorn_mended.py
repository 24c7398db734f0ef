"""What is mended in uvicorn's protocols; see `sitebus.servers._uvicorn`.

For HTTP/1.1:

- A head longer than ``max_header`` is refused, whatever parses it; `HttpToolsProtocol` keeps one of
  any length, also of a request that waits for its turn.
- What others could read in two ways is refused (`sitebus.servers._uvicorn_strict`), by
  `HttpToolsProtocol` and `H11Protocol`; a refusal is heard of by its client, and by the log.
- Every request gets one answer: a refusal is not written into another's, nor a WebSocket's
  handshake. A last one is heard by its client, though that still sends a body.
- What comes behind a request for a protocol that is not spoken is the next request.
- A head has its time, from its first byte on.
- A connection stays when a body comes after the answer to it, for as long as it comes.
- A path that is not ASCII is refused, and not the death of the connection.
- Clients of HTTP/1.0 get no chunks, which they take for text.

For WebSocket: the application runs in a context of its own, a handshake that nobody takes up is
refused, and a refusal by the application is no error.

For WebSocket and HTTP/2: a client's frames are read so many in a turn of the loop, and those that
say nothing are bounded (`sitebus.servers._uvicorn_turns`).
"""

from __future__ import annotations

from typing import Any

from sitebus.servers._uvicorn_polite import INVALID, Polite, head_of
from sitebus.servers._uvicorn_strict import too_long

#: For those who know no such thing as no limit.
ANY_LENGTH = 1 << 40


def mended(kind: Any, most: int, header_timeout: float = 0.0, most_body: int = 0) -> Any:
    """Answer a *kind* of protocol for HTTP that refuses heads of more than *most* bytes.

    Args:
        kind: One of uvicorn's; others are answered as they are.
        most: Bytes; 0 is any.
        header_timeout: Seconds from the first byte of a head to its end; 0 is any.
        most_body: The longest body that a head may tell of; 0 is any.
    """
    make = _MENDERS.get(kind.__name__)
    if make is None:
        return kind
    made = make(kind, most or ANY_LENGTH)
    made.header_timeout = header_timeout
    made.most_body = most_body
    return made


def _is_late(cycle: Any) -> bool:
    """Tell whether a request was answered and its body is still to come."""
    return cycle is not None and cycle.response_complete and cycle.more_body


def _mend(kind: Any, most: int) -> Any:
    """Mend one that reads a request when the one before is answered, and bounds heads in parts."""
    receive = kind.data_received

    class Mended(Polite, kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            cycle = self.cycle
            is_late = _is_late(cycle)
            if self.is_deaf:
                return
            if cycle is not None and cycle.more_body:
                self.pieces += 1
            is_first = self.timeout_keep_alive_task is not None and not is_late
            if is_first and len(data) > most and head_of(data) > most:
                self.send_away(too_long(most, is_past_line=b"\r\n" in data[:most]))
                return
            try:
                receive(self, data)
            except UnicodeDecodeError:
                self.send_400_response(INVALID)
            now = self.cycle
            if is_late and cycle is now:
                cycle.more_body = _has_more_body(cycle)
                self.wait_again()
            elif now is not None and now.more_body:
                self.expect_rest(now)

    return Mended


def _has_more_body(cycle: Any) -> bool:
    state = getattr(cycle.conn, "their_state", None)
    # h11 does not say so of a request that is answered.
    return bool(cycle.more_body) if state is None else str(state) == "SEND_BODY"


def _mend_h11(kind: Any, most: int) -> Any:
    from sitebus.servers import _uvicorn_h11

    return _uvicorn_h11.mend(_mend(kind, most))


def _mend_httptools(kind: Any, most: int) -> Any:
    from sitebus.servers import _uvicorn_httptools

    return _uvicorn_httptools.mend(kind, most)


def _mend_choosing(kind: Any, most: int) -> Any:
    from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol
    from uvicorn.protocols.http.zttp_impl import ZttpProtocol

    from sitebus.servers import _uvicorn_http2

    http_1, http_2 = _mend(ZttpProtocol, most), _uvicorn_http2.mend(ZttpH2Protocol)

    class Choosing(kind):  # type: ignore[misc]
        def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
            chosen = http_2 if http2 else http_1
            protocol = chosen(self.config, self.server_state, self.app_state, self.loop)
            self.transport.set_protocol(protocol)
            protocol.connection_made(self.transport)
            if initial_data:
                protocol.data_received(initial_data)

    return Choosing


#: By what uvicorn calls them.
_MENDERS = {
    "HttpToolsProtocol": _mend_httptools,
    "H11Protocol": _mend_h11,
    "ZttpProtocol": _mend,
    "AutoZttpProtocol": _mend_choosing,
}
