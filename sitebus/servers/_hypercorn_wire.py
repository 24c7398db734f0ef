"""h11's side of a connection, for hypercorn: strict with requests, and with more to say.

h11 reads what two servers could read in two ways: a request with two lengths, folded lines, lines
that end in LF alone, any Host and any version. What a head says is decided by
`sitebus.servers.heads` instead, and what is in chunks by `sitebus.servers.chunks`; h11 gets
what they have found.

What is relied on of h11 is told at the top of `sitebus.servers._hypercorn`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11

from sitebus.errors import BadChunks
from sitebus.servers.chunks import Chunks
from sitebus.servers.heads import Head, Refusal, find_end, read

_REASONS = {each.value: each.phrase.encode() for each in HTTPStatus}
#: What a client begins with that speaks HTTP/2 without asking (RFC 9113, section 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
_ORIGIN = re.compile(rb"[a-z]+://[^/?]*", re.IGNORECASE)


class Wire(h11.Connection):
    """A connection of h11's that becomes one of ours with `prepare`.

    Attributes:
        refusal: Why the request was refused, once one was.
        is_over: Whether nothing that it says is heard any more.
    """

    is_over = False
    refusal: Refusal | None = None
    _most_header = 0
    _most_body = 0
    _complain: Callable[[Refusal], object]
    # How much of the next head was looked at.
    _seen = 0

    def prepare(
        self, most_header: int, most_body: int, complain: Callable[[Refusal], object]
    ) -> None:
        """Be ready for the first request, with these limits (0 is any); refusals are told."""
        self._most_header, self._most_body = most_header, most_body
        self._complain = complain
        self._reader = self._read_head

    @property
    def is_spoken_to(self) -> bool:
        """Whether a request is not yet at its end, or its end is not known."""
        return self.their_state is h11.SEND_BODY or self.refusal is not None

    @property
    def is_midway(self) -> bool:
        """Whether the head of a request has begun, and is not complete."""
        return self.their_state is h11.IDLE and self._seen > 0

    def send(self, event: Any) -> Any:
        refusal = self.refusal
        if type(event) is h11.Response:
            if refusal is not None:
                event = self._refusing(event, refusal)
            # Frozen, and made with an empty one.
            object.__setattr__(event, "reason", _REASONS.get(event.status_code, b""))
        elif type(event) is h11.EndOfMessage and refusal is not None and not self._is_bodiless:
            return super().send(h11.Data(data=_text(refusal))) + super().send(event)
        return super().send(event)

    def receive_data(self, data: bytes) -> None:
        if not self.is_over:
            super().receive_data(data)

    def next_event(self) -> Any:
        return h11.NEED_DATA if self.is_over else super().next_event()

    def _refusing(self, event: h11.Response, refusal: Refusal) -> h11.Response:
        """Answer the response that hypercorn has made without a body, for one with it."""
        kept = [each for each in event.headers if each[0] != b"content-length"]
        about = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_text(refusal)))]
        return h11.Response(status_code=event.status_code, headers=[*about, *kept])

    @property
    def _is_bodiless(self) -> bool:
        return self._request_method == b"HEAD"

    def _get_io_object(self, role: Any, event: Any, io_dict: Any) -> Any:
        made: Any = super()._get_io_object(role, event, io_dict)
        state: Any = self.their_state
        if role is not h11.CLIENT:
            return made
        if state is h11.IDLE:
            return self._read_head
        if state is not h11.SEND_BODY:
            # What comes after the last request is nobody's, and no reason to refuse that.
            return None if made is None else _swallow
        return made if hasattr(made, "_length") else _ChunkReader(self)

    def _read_head(self, buffer: Any) -> h11.Request | None:
        data: bytearray = buffer._data
        if self._seen < 2:
            # Some clients send one too many after a body (RFC 9112, section 2.2).
            while data.startswith(b"\r\n"):
                del data[:2]
        if self.their_http_version is None and data.startswith(_PREFACE):
            buffer.maybe_extract_at_most(len(_PREFACE))
            return h11.Request(method=b"PRI", target=b"*", headers=[], http_version=b"2.0")
        try:
            return self._understood(buffer, data)
        except Refusal as refusal:
            raise self.refused(refusal) from refusal

    def _understood(self, buffer: Any, data: bytearray) -> h11.Request | None:
        if not _may_be_preface(data):
            end = find_end(data, self._most_header, self._seen)  # type: ignore[arg-type]
            if end >= 0:
                self._seen = 0
                block = bytes(buffer.maybe_extract_at_most(end + 4)[:end])
                return _request(block, read(block, self._most_body))
        self._seen = len(data)
        return None

    def refused(self, refusal: Refusal) -> h11.RemoteProtocolError:
        """Remember it, log it, and answer what h11 would raise for it."""
        self.refusal = refusal
        self._complain(refusal)
        return h11.RemoteProtocolError(refusal.why, error_status_hint=refusal.status)


class _ChunkReader:
    """Reads a body in chunks, as h11's own does."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._chunks = Chunks()
        self._is_over = False

    def __call__(self, buffer: Any) -> h11.Data | h11.EndOfMessage | None:
        if self._is_over:
            return h11.EndOfMessage()
        data = buffer.maybe_extract_at_most(len(buffer))
        if data is None:
            return None
        try:
            body = self._chunks.feed(bytes(data))
        except BadChunks as error:
            refusal = Refusal(400, f"The body cannot be read: {error.what}.")
            raise self._wire.refused(refusal) from error
        if self._chunks.is_done:
            self._is_over = True
            buffer += self._chunks.rest
        if body:
            return h11.Data(data=body)
        return h11.EndOfMessage() if self._is_over else None

    def read_eof(self) -> None:
        raise h11.RemoteProtocolError("the client left in the middle of a body")


def _swallow(buffer: Any) -> None:
    buffer.maybe_extract_at_most(len(buffer))


def _may_be_preface(data: bytearray) -> bool:
    return len(data) < len(_PREFACE) and _PREFACE.startswith(data)


def _text(refusal: Refusal) -> bytes:
    return refusal.why.encode("ascii") + b"\r\n"


def _request(block: bytes, head: Head) -> h11.Request:
    lines = block.split(b"\r\n")[1:]
    headers = [(name, value.strip(b" \t")) for name, _, value in map(_parted, lines)]
    target = head.target.encode("ascii")
    if head.target[:1] not in "/*":
        # What the target says counts, whatever the Host says (RFC 9112, section 3.2.2).
        host = head.fields["HTTP_HOST"].encode("ascii")
        headers = [(b"Host", host), *(each for each in headers if each[0].lower() != b"host")]
        target = _ORIGIN.sub(b"", target, count=1)
        target = target if target.startswith(b"/") else b"/" + target
    if "HTTP_UPGRADE" in head.fields:
        # RFC 9113 has given it up: what a proxy lets pass with it, it does not see any more.
        headers = [each for each in headers if not _is_h2c(*each)]
    return h11.Request(
        method=head.method.encode("ascii"),
        target=target,
        headers=headers,
        http_version=head.version[5:].encode("ascii"),
    )


def _parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


def _is_h2c(name: bytes, value: bytes) -> bool:
    return name.lower() == b"upgrade" and value.lower() == b"h2c"
