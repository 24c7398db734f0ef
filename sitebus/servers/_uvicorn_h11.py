"""What is mended in `H11Protocol`; see `sitebus.servers._uvicorn_mended`."""

from __future__ import annotations

from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer

from sitebus.servers._uvicorn_polite import BLANK
from sitebus.servers._uvicorn_strict import (
    CONTROL,
    WATCHED,
    Fields,
    check_fields,
    check_lines,
    check_number,
    check_together,
    note,
    parts_of,
    too_long,
    with_host,
)
from sitebus.servers.heads import Refusal


def mend(kind: Any) -> Any:  # noqa: C901 - that of seven methods
    """Mend a *kind* that is mended as all are."""

    class Mended(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.conn.__class__ = _Strict
            self.conn.most_body = self.most_body
            self.conn._receive_buffer.__class__ = _Lines

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            conn = self.conn
            if conn.their_state is h11.IDLE and conn.trailing_data[0] and not self.is_deaf:
                self.begin_head()
            elif self.head_timer is not None:
                self.end_head()

        def handle_events(self) -> None:
            super().handle_events()
            # It may have come behind another, which is answered now.
            if self.cycle is not None and self.cycle.more_body:
                self.expect_rest(self.cycle)

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
            return self.is_between and not self.conn.trailing_data[0]

        @property
        def half_a_head(self) -> bytes:
            """What has come of a head, if nothing else is under way."""
            return bytes(self.conn.trailing_data[0]) if self.is_between else b""

        @property
        def is_between(self) -> bool:
            conn = self.conn
            is_idle = conn.our_state is h11.IDLE and conn.their_state is h11.IDLE
            return is_idle and not self.is_deaf

    return Mended


class _Strict(h11.Connection):
    """Finds no request where others may find another."""

    refusal: Refusal | None = None
    most_body = 0

    def next_event(self) -> Any:
        try:
            if self.their_state is h11.IDLE:
                self._check_head(self.trailing_data[0].partition(BLANK)[0])
            event = super().next_event()
            return self._checked(event) if type(event) is h11.Request else event
        except Refusal as refusal:
            self.refusal = refusal
            raise h11.RemoteProtocolError(refusal.why) from refusal

    def _check_head(self, head: bytes) -> None:
        most = self._max_incomplete_event_size
        if len(head) > most:
            raise too_long(most, is_past_line=b"\r\n" in head[:most])
        check_lines(head)

    def _checked(self, request: h11.Request) -> h11.Request:
        fields = list(request.headers)
        check_number(fields)
        good = check_fields(fields)
        version = request.http_version.decode("ascii")
        check_together(version, _watched(good), self.most_body)
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


class _Lines(ReceiveBuffer):
    """What was received; nothing else ends the line before a chunk for anybody."""

    def maybe_extract_next_line(self) -> bytearray | None:
        line = super().maybe_extract_next_line()
        if line is not None and CONTROL.search(line[:-2]):
            raise h11.LocalProtocolError("a chunk begins with a strange line")
        return line


def _watched(fields: Fields) -> dict[bytes, bytes]:
    seen: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in WATCHED:
            note(seen, name, value)
    return seen
