"""What hypercorn's HTTP/2 lacks: to ask a client to leave, and to let one go on that is late."""

from __future__ import annotations

import struct
from typing import Any

#: No stream has a higher number: a GOAWAY that asks to open no more, and forbids none.
EVERY_STREAM = 2**31 - 1


def go_away(last: int, code: int = 0) -> bytes:
    """Answer the frame that says that no stream above *last* is served (RFC 9113, 6.8)."""
    # h2 itself ends the connection with it, and could not finish the streams that are open.
    return struct.pack(">HBBBIII", 0, 8, 7, 0, 0, last, code)


class Streams(dict[int, Any]):
    """The streams of a connection; what belongs to none goes nowhere."""

    def __missing__(self, number: int) -> _Nobody:
        return _Nobody()


class _Nobody:
    async def handle(self, _event: object) -> None:
        pass
