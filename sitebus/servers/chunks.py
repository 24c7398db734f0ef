"""Take a request's body out of its chunks, as they come, and refuse what is not quite in chunks.

Pure, for servers that are fed by a loop. What a lenient reader makes of a line before a chunk, the
proxy in front may not have made of it, and then the two disagree where the next request begins.
"""

from __future__ import annotations

import re

from sitebus.errors import BadChunks, BodyTooLarge

#: The longest line before a chunk, and what extensions and trailers may take in all; bytes.
LONGEST_LINE, MOST_EXTRAS = 1024, 16 << 10

_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t\x20!#-\[\]-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*)"
    % (_NAME, _NAME, _QUOTED)
)
_TRAILER = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*" % _NAME)


class Chunks:
    """One body.

    Args:
        most: How long it may be; 0 is any.

    Attributes:
        is_done: Whether its end has come.
        rest: What was fed and is not understood yet; once it is done, what comes behind it.
    """

    def __init__(self, most: int = 0) -> None:
        self.is_done = False
        self.rest = b""
        self._most = most
        self._total = 0
        self._extras = 0
        # Of the chunk that has begun; then two more bytes end it.
        self._left = 0
        self._is_begun = False
        self._is_last = False

    def feed(self, data: bytes) -> bytes:
        """Take what was received next; answer what of it is the body's.

        Raises:
            BadChunks: It is in no chunks.
            BodyTooLarge: It is longer than it may be; said as soon as its chunks say so.
        """
        self.rest += data
        pieces: list[bytes] = []
        while not self.is_done and self._step(pieces):
            pass
        return b"".join(pieces)

    def _step(self, pieces: list[bytes]) -> bool:
        """Get on by one thing; tell whether it was there."""
        if self._left:
            return self._take_some(pieces)
        if self._is_begun:
            return self._end_chunk()
        line = self._line()
        if line is None:
            return False
        if self._is_last:
            self._take_trailer(line)
        else:
            self._begin_chunk(line)
        return True

    def _take_some(self, pieces: list[bytes]) -> bool:
        piece, self.rest = self.rest[: self._left], self.rest[self._left :]
        pieces.append(piece)
        self._left -= len(piece)
        return not self._left

    def _end_chunk(self) -> bool:
        end = self.rest[:2]
        if end != b"\r\n"[: len(end)]:
            raise BadChunks("a chunk is longer than it said")
        if len(end) < 2:
            return False
        self.rest = self.rest[2:]
        self._is_begun = False
        return True

    def _line(self) -> bytes | None:
        most = MOST_EXTRAS if self._is_last else LONGEST_LINE
        end = self.rest.find(b"\r\n", 0, most)
        if end >= 0:
            line, self.rest = self.rest[:end], self.rest[end + 2 :]
            return line
        if len(self.rest) >= most or b"\n" in self.rest:
            raise BadChunks("a line of it is too long, or has no end")
        return None

    def _begin_chunk(self, line: bytes) -> None:
        known = _SIZE.fullmatch(line)
        if known is None:
            raise BadChunks("a chunk does not begin with its size")
        self._spend(len(known[2]))
        self._left = int(known[1], 16)
        self._is_begun = bool(self._left)
        self._is_last = not self._left
        self._total += self._left
        if self._most and self._total > self._most:
            raise BodyTooLarge(self._most)

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.is_done = True
        elif _TRAILER.fullmatch(line):
            self._spend(len(line))
        else:
            raise BadChunks("what follows the last chunk is no header")

    def _spend(self, length: int) -> None:
        self._extras += length
        if self._extras > MOST_EXTRAS:
            raise BadChunks("there is more about its chunks than in them")
