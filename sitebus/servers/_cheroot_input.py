"""A request's body on cheroot, as PEP 3333 has it.

Of cheroot's own, one looks for the end of a line for ever in a body that comes in chunks, the other
reads on behind the body when it is iterated, and neither answers its lines as a list. What they are
good for: ``read(size)`` of both with a size above 0, which waits for as many bytes, or the end;
``readline(size)`` of `KnownLengthRFile`; its ``remaining``; and ``buffer`` of `ChunkedRFile`, what
is left of the chunk that was begun. Nothing is read ahead of the application but that.
"""

from __future__ import annotations

import sys
from typing import Any

from cheroot.errors import MaxSizeExceeded

from sitebus.errors import BodyTooLarge, ClientGone
from sitebus.servers.lines import Lines

_UNREAD = "all of its request was read"


class Input(Lines):
    """A body whose length was told.

    Raises:
        ClientGone: From every method that reads: the client left before the body was complete.
    """

    __slots__ = ("_file",)

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Answer *size* bytes, fewer only at the end; all that is left if it is negative."""
        file = self._file
        wanted = file.remaining if size is None or size < 0 else min(size, file.remaining)
        data: bytes = file.read(wanted) if wanted else b""
        if len(data) < wanted:
            raise ClientGone(_UNREAD)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        """Answer the next line with its end, at most *size* bytes of it; b"" at the end."""
        file = self._file
        wanted = file.remaining if size is None or size < 0 else min(size, file.remaining)
        line: bytes = file.readline(wanted) if wanted else b""
        if len(line) < wanted and not line.endswith(b"\n"):
            raise ClientGone(_UNREAD)
        return line


class ChunkedInput(Input):
    """A body that comes in chunks."""

    __slots__ = ()

    def read(self, size: int | None = -1) -> bytes:
        """Answer *size* bytes, fewer only at the end; all that is left if it is negative."""
        if size == 0:
            return b""
        return self._more(None if size is None or size < 0 else size)

    def readline(self, size: int | None = -1) -> bytes:
        """Answer the next line with its end, at most *size* bytes of it; b"" at the end."""
        most = sys.maxsize if size is None or size < 0 else size
        line: list[bytes] = []
        while most and (first := self._more(1)):
            line.append(first)
            most -= 1
            if first == b"\n":
                break
            # The rest of the chunk is here.
            end = self._file.buffer.find(b"\n")
            length = min(most, end + 1 if end >= 0 else len(self._file.buffer))
            if length:
                line.append(self._more(length))
                most -= length
            if line[-1].endswith(b"\n"):
                break
        return b"".join(line)

    def _more(self, size: int | None) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except MaxSizeExceeded as error:
            raise BodyTooLarge(self._file.maxlen) from error
        except ValueError as error:  # it ended where a chunk's size or end belongs
            raise ClientGone(_UNREAD) from error
        return data
