"""The body of a request, from ``wsgi.input`` to ASGI's messages.

A piece is what has arrived, and the next one is only read when it is asked for. A body that ends
too soon is a client that left, never a short body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from sitebus.asgi import Message

#: No piece is longer; bytes.
PIECE = 64 << 10


class Incoming:
    """What a WSGI server has of a request's body."""

    __slots__ = ("_input", "_left", "ended")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._input: Any = environ.get("wsgi.input")
        #: How much is left; -1 if only its end will tell.
        self._left = _length(environ)
        #: Whether there is nothing more to read.
        self.ended = self._left == 0

    def read(self) -> Message:
        """Wait for the next piece and answer it as a message; ``http.disconnect`` if none comes."""
        try:
            piece = available(self._input, PIECE if self._left < 0 else min(PIECE, self._left))
        except Exception:  # noqa: BLE001 - the server's stream; what it raises says no more than this
            return self._lost()
        if self._left < 0:
            self.ended = not piece
        elif not piece:
            return self._lost()
        else:
            self._left -= len(piece)
            self.ended = not self._left
        return {"type": "http.request", "body": piece, "more_body": not self.ended}

    def _lost(self) -> Message:
        self.ended = True
        return {"type": "http.disconnect"}


def _length(environ: WSGIEnvironment) -> int:
    length = environ.get("CONTENT_LENGTH", "")
    if length.isdecimal() and "HTTP_TRANSFER_ENCODING" not in environ:
        return int(length)
    # A stream of unknown length can only be read if the server ends it.
    may_have_one = (
        "HTTP_TRANSFER_ENCODING" in environ or environ.get("SERVER_PROTOCOL", "") > "HTTP/2"
    )
    return -1 if may_have_one and environ.get("wsgi.input_terminated") else 0


def available(stream: Any, most: int) -> bytes:
    """Answer what *stream* has, at most *most*; wait only if it has nothing; b"" at its end.

    PEP 3333 has no such call: ``read(n)`` waits for all of it. What it can be made of differs.
    """
    if hasattr(stream, "read1"):
        found = stream.read1(most)
    elif hasattr(stream, "remaining") and hasattr(getattr(stream, "rfile", None), "peek"):
        # cheroot's, of a known length: a buffered file under a count.
        found = stream.read(min(most, len(stream.rfile.peek(1))) or 1)
    elif type(getattr(stream, "buffer", None)) is bytes:
        # cheroot's, in chunks: the first byte brings the whole chunk.
        found = stream.read(1)
        found += stream.read(min(most - 1, len(stream.buffer))) if stream.buffer else b""
    else:
        found = stream.read(most)
    return bytes(found)
