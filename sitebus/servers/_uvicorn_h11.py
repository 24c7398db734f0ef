"""What is mended in `H11Protocol`; see `sitebus.servers._uvicorn_mended`."""

from __future__ import annotations

from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer

from sitebus.servers._uvicorn_polite import BLANK
from sitebus.servers._uvicorn_strict import (
    CONTROL,
    check_fields,
    check_lines,
    check_together,
    parts_of,
    with_host,
)
from sitebus.servers.heads import Refusal


def mend(kind: Any) -> Any:
    """Mend a *kind* that is mended as all are."""

    class Mended(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.conn.__class__ = _Strict
            self.conn._receive_buffer.__class__ = _Lines

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            conn = self.conn
            if conn.their_state is h11.IDLE and conn.trailing_data[0] and not self.is_deaf:
                self.begin_head()
            elif self.head_timer is not None:
                self.end_head()

        def send_400_response(self, msg: str) -> None:
            self.refusal = self.conn.refusal
            super().send_400_response(msg)

        @property
        def head(self) -> int:
            """How much has come of a head that is not complete."""
            return len(self.conn.trailing_data[0])

        @property
        def is_at_rest(self) -> bool:
            """Tell whether it is between two requests, and nothing of the next was read."""
            conn = self.conn
            is_idle = conn.our_state is h11.IDLE and conn.their_state is h11.IDLE
            return is_idle and not conn.trailing_data[0] and not self.is_deaf

    return Mended


class _Strict(h11.Connection):
    """Finds no request where others may find another."""

    refusal: Refusal | None = None

    def next_event(self) -> Any:
        try:
            if self.their_state is h11.IDLE:
                check_lines(self.trailing_data[0].partition(BLANK)[0])
            event = super().next_event()
            return _checked(event) if type(event) is h11.Request else event
        except Refusal as refusal:
            self.refusal = refusal
            raise h11.RemoteProtocolError(refusal.why) from refusal


class _Lines(ReceiveBuffer):
    """What was received; nothing else ends the line before a chunk for anybody."""

    def maybe_extract_next_line(self) -> bytearray | None:
        line = super().maybe_extract_next_line()
        if line is not None and CONTROL.search(line[:-2]):
            raise h11.LocalProtocolError("a chunk begins with a strange line")
        return line


def _checked(request: h11.Request) -> h11.Request:
    fields = list(request.headers)
    good = check_fields(fields)
    version = request.http_version.decode("ascii")
    check_together(version, dict(good))
    target, host = parts_of(request.method, request.target)
    if version == "1.0":
        # Said by one who does not know what it means.
        good = [each for each in good if each[0] != b"expect"]
    if host is not None:
        good = with_host(good, host)
    if good == fields and target == request.target:
        return request
    return h11.Request(
        method=request.method, headers=good, target=target, http_version=request.http_version
    )
