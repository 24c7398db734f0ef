"""What a request's body has beyond ``read`` and ``readline``, as PEP 3333 wants it."""

from __future__ import annotations

import sys
from collections.abc import Iterator


class Lines:
    """Answers lines by asking ``readline`` for them."""

    __slots__ = ()

    def readline(self, size: int | None = -1) -> bytes:
        """Answer the next line with its end, at most *size* bytes of it; b"" at the end."""
        raise NotImplementedError

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Answer the lines that are left, or as many as make *hint* bytes."""
        most = sys.maxsize if hint is None or hint <= 0 else hint
        lines: list[bytes] = []
        length = 0
        for line in self:
            lines.append(line)
            length += len(line)
            if length >= most:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
