"""A request of waitress's, read strictly: what two servers could read in two ways is refused.

waitress's own parser takes a request with two lengths, without a host, or for a version that does
not exist. What is in a head is decided by `sitebus.servers.heads` instead, and what is in
chunks by `sitebus.servers.chunks`; the rest is handed to waitress as its parser would have it.
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import unquote_to_bytes

from waitress import buffers, parser, receiver

from sitebus.errors import BadChunks, BodyTooLarge
from sitebus.servers.chunks import Chunks
from sitebus.servers.heads import PHRASES, Head, Refusal, find_end, read
from sitebus.servers.waiting import NEVER

_EMPTY_LINES = re.compile(rb"(?:\r\n)*")


class Refused:
    """What waitress answers instead of what an application would."""

    def __init__(self, refusal: Refusal) -> None:
        self.status = refusal.status
        self.why = refusal.why

    def to_response(self, _ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Answer a status, headers, and a body."""
        status = f"{self.status} {PHRASES[self.status]}"
        return status, [("Content-Type", "text/plain")], f"{self.why}\r\n".encode("ascii")


class Parser(parser.HTTPRequestParser):  # type: ignore[misc]
    """One request, as far as it has come.

    Attributes:
        begun: When its first byte came.
        keeps: Whether the client would like the connection to stay.
    """

    keeps = False
    header_plus: bytes
    #: Of one that was not understood, for what waitress logs of it.
    command = path = request_uri = ""
    _body_begun = 0.0
    # How much of the head was looked at.
    _seen = 0

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        # Of an answer to what was not understood.
        self.version = "1.1"
        self.begun = time.time()

    @property
    def is_begun(self) -> bool:
        """Whether there is anything of it but empty lines."""
        return self.headers_finished or bool(self.header_plus)

    def received(self, data: bytes) -> int:
        if self.completed:
            return 0
        try:
            return self._receive_body(data) if self.headers_finished else self._receive_head(data)
        except Refusal as refusal:
            self.refuse(refusal)
            return len(data)

    def refuse(self, refusal: Refusal) -> None:
        """Have it answered by *refusal*."""
        self.error = Refused(refusal)
        self.completed = True

    def due(self, answered: float, header_timeout: float, timeout: float, min_rate: int) -> float:
        """Answer when all of its head, or enough of its body, must have come.

        Args:
            answered: When the one before it was.
            header_timeout: Seconds for the head; 0 is any.
            timeout: Seconds for a body without a byte.
            min_rate: Bytes a second of a body at least; 0 is any.
        """
        if not self.headers_finished:
            return max(self.begun, answered) + header_timeout if header_timeout else NEVER
        if not min_rate:
            return NEVER
        began = max(self._body_begun, answered)
        return began + timeout + float(self.body_bytes_received) / min_rate

    def _receive_head(self, data: bytes) -> int:
        block = self.header_plus + data
        if self._seen < 2:
            # Some clients send one too many after a body (RFC 9112, section 2.2).
            empty = _EMPTY_LINES.match(block)
            assert empty is not None
            block = block[empty.end() :]
        end = find_end(block, self.adj.max_request_header_size - 1, self._seen)
        if end < 0:
            self.header_plus, self._seen = block, len(block)
            return len(data)
        self.headers_finished = True
        self._take(read(block[:end], self.adj.max_request_body_size - 1))
        return len(data) - (len(block) - end - 4)

    def _take(self, head: Head) -> None:
        self.command, self.request_uri, self.query = head.method, head.target, head.query
        self.path, self.url_scheme = _path(head), self.adj.url_scheme
        self.version, self.keeps = head.version.removeprefix("HTTP/"), head.keeps
        self.headers = {key.removeprefix("HTTP_"): text for key, text in head.fields.items()}
        # It comes to applications as one that has a length, and is whole.
        self.headers.pop("TRANSFER_ENCODING", None)
        self.chunked = head.length is None
        if head.length == 0:
            self.completed = True
            return
        self.expect_continue = head.waits
        self._body_begun = time.time()
        if head.length is None:
            self.body_rcv = _Receiver(self.adj)
        else:
            self.content_length = head.length
            buffer = buffers.OverflowableBuffer(self.adj.inbuf_overflow)
            self.body_rcv = receiver.FixedStreamReceiver(head.length, buffer)

    def _receive_body(self, data: bytes) -> int:
        consumed: int = self.body_rcv.received(data)
        self.body_bytes_received += consumed
        if self.body_rcv.completed:
            self.completed = True
            if self.chunked:
                self.headers["CONTENT_LENGTH"] = str(self.body_rcv.__len__())
        return consumed


class _Receiver:
    """A body in chunks, for waitress."""

    error = None

    def __init__(self, adj: Any) -> None:
        self._chunks = Chunks(adj.max_request_body_size - 1)
        self._buffer = buffers.OverflowableBuffer(adj.inbuf_overflow)

    def __len__(self) -> int:
        length: int = self._buffer.__len__()
        return length

    @property
    def completed(self) -> bool:
        return self._chunks.is_done

    def received(self, data: bytes) -> int:
        try:
            self._buffer.append(self._chunks.feed(data))
        except BadChunks as error:
            raise Refusal(400, f"The body cannot be read: {error.what}.") from error
        except BodyTooLarge as error:
            raise Refusal(413, "The body of the request is too large.") from error
        return len(data) - (len(self._chunks.rest) if self._chunks.is_done else 0)

    def getfile(self) -> Any:
        return self._buffer.getfile()

    def getbuf(self) -> Any:
        return self._buffer


def _path(head: Head) -> str:
    """Answer the path with all of it unquoted, as waitress does."""
    if "%2F" not in head.path:
        return head.path
    target = head.target
    if not target.startswith("/"):
        target = "/" + target.split("/", 3)[3]
    return unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
