"""A request's body, as PEP 3333 has it.

Nothing is read ahead of the application but what came with it, and nothing behind the end. A body
that fails is remembered as ``failure``: applications have ways of their own with errors, and the
client shall hear what was wrong all the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from sitebus.errors import BadChunks, BodyTooLarge, BodyTooSlow, ClientGone
from sitebus.servers._cheroot_stream import PIECE, Reader
from sitebus.servers.heads import TRAILER
from sitebus.servers.lines import Lines

#: The longest line before a chunk, and what extensions and trailers may take in all; bytes.
LONGEST_LINE, MOST_EXTRAS = 1024, 16 << 10

_UNREAD = "all of its request was read"
_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t\x20!#-\[\]-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*)\r\n"
    % (_NAME, _NAME, _QUOTED)
)

Failure = BadChunks | BodyTooLarge | BodyTooSlow | ClientGone


class Input(Lines):
    """A body whose length was told.

    Args:
        file: What the client sends.
        length: How long it is.
        begin: Is called before anything is waited for.

    Raises:
        ClientGone: From every method that reads: the client left before the body was complete.
        BodyTooSlow: From every method that reads: too little came in too long a time.
    """

    __slots__ = ("_begin", "_file", "_left", "failure")

    def __init__(
        self, file: Reader, length: int = 0, begin: Callable[[], object] | None = None
    ) -> None:
        self._file = file
        self._left = length
        self._begin = begin
        self.failure: Failure | None = None

    @property
    def is_read(self) -> bool:
        """Whether nothing of it is left on the connection."""
        return not self._left

    def is_longer(self, size: int) -> bool:
        """Tell whether more than *size* bytes of it are known to be left."""
        return self._left > size

    def read(self, size: int | None = -1) -> bytes:
        """Answer *size* bytes, fewer only at the end; all that is left if it is negative."""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        return self._take(wanted) if wanted else b""

    def readline(self, size: int | None = -1) -> bytes:
        """Answer the next line with its end, at most *size* bytes of it; b"" at the end."""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        if not wanted:
            return b""
        return self._reading(self._line, wanted)

    def discard(self, most: int) -> bool:
        """Read the rest, if that is no more than *most* bytes; tell whether nothing is left."""
        try:
            while most > 0 and not self.is_read:
                most -= len(self.read(min(most, PIECE)))
        except OSError:
            return False
        return self.is_read

    def _take(self, wanted: int) -> bytes:
        return self._reading(self._exactly, wanted)

    def _reading(self, read: Callable[[int], bytes], wanted: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        try:
            return read(wanted)
        except (BadChunks, BodyTooLarge, BodyTooSlow, ClientGone) as failure:
            self.failure = failure
            raise

    def _exactly(self, wanted: int) -> bytes:
        data = self._file.read(wanted)
        self._left -= len(data)
        if len(data) < wanted:
            raise ClientGone(_UNREAD)
        return data

    def _line(self, wanted: int) -> bytes:
        line = self._file.readline(wanted)
        self._left -= len(line)
        if len(line) < wanted and not line.endswith(b"\n"):
            raise ClientGone(_UNREAD)
        return line


class ChunkedInput(Input):
    """A body that comes in chunks.

    Args:
        file: What the client sends.
        most: How long it may be; 0 is any.
        begin: Is called before anything is waited for.

    Raises:
        BodyTooLarge: From every method that reads, besides: it is longer than it may be.
        BadChunks: From every method that reads, besides: it is in no chunks.
    """

    __slots__ = ("_extras", "_is_read", "_most", "_total")

    def __init__(
        self, file: Reader, most: int = 0, begin: Callable[[], object] | None = None
    ) -> None:
        super().__init__(file, 0, begin)
        self._most = most
        self._total = 0
        self._extras = 0
        self._is_read = False

    @property
    def is_read(self) -> bool:
        """Whether nothing of it is left on the connection."""
        return self._is_read

    def read(self, size: int | None = -1) -> bytes:
        """Answer *size* bytes, fewer only at the end; all that is left if it is negative."""
        if size == 0 or self._is_read:
            return b""
        return self._take(sys.maxsize if size is None or size < 0 else size)

    def readline(self, size: int | None = -1) -> bytes:
        """Answer the next line with its end, at most *size* bytes of it; b"" at the end."""
        if size == 0 or self._is_read:
            return b""
        return self._reading(self._line, sys.maxsize if size is None or size < 0 else size)

    def _exactly(self, wanted: int) -> bytes:
        pieces: list[bytes] = []
        while wanted and self._in_chunk():
            piece = super()._exactly(min(wanted, self._left))
            pieces.append(piece)
            wanted -= len(piece)
            self._end_chunk()
        return b"".join(pieces)

    def _line(self, wanted: int) -> bytes:
        pieces: list[bytes] = []
        while wanted and self._in_chunk():
            piece = super()._line(min(wanted, self._left))
            pieces.append(piece)
            wanted -= len(piece)
            self._end_chunk()
            if piece.endswith(b"\n"):
                break
        return b"".join(pieces)

    def _in_chunk(self) -> bool:
        """Begin the next chunk if none is begun; tell whether there is one."""
        if not self._left and not self._is_read:
            self._left = self._size()
            if self._left:
                self._total += self._left
                if self._most and self._total > self._most:
                    raise BodyTooLarge(self._most)
            else:
                self._skip_trailers()
                self._is_read = True
        return not self._is_read

    def _end_chunk(self) -> None:
        if not self._left and self._file.read(2) != b"\r\n":
            raise self._broken("a chunk is longer than it said")

    def _size(self) -> int:
        line = self._file.readline(LONGEST_LINE)
        known = _SIZE.fullmatch(line)
        if known is None:
            raise self._broken("a chunk does not begin with its size")
        self._spend(len(known[2]))
        return int(known[1], 16)

    def _skip_trailers(self) -> None:
        while (line := self._file.readline(MOST_EXTRAS)) != b"\r\n":
            if not TRAILER.fullmatch(line):
                raise self._broken("what follows the last chunk is no header")
            self._spend(len(line))

    def _spend(self, length: int) -> None:
        self._extras += length
        if self._extras > MOST_EXTRAS:
            raise BadChunks("there is more about its chunks than in them")

    def _broken(self, what: str) -> BadChunks | ClientGone:
        return ClientGone(_UNREAD) if self._file.ended else BadChunks(what)
