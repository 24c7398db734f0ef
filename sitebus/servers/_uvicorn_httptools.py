"""What is mended in `HttpToolsProtocol`; see `sitebus.servers._uvicorn_mended`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import httptools

from sitebus.servers._uvicorn_polite import BLANK, Polite, head_of, is_running
from sitebus.servers._uvicorn_strict import (
    SINGLE,
    SPOKEN,
    WATCHED,
    check_number,
    check_single,
    check_together,
    checked,
    note,
    parts_of,
    too_long,
    with_host,
)
from sitebus.servers.heads import MOST_FIELDS, Refusal

_SLASH = 47
#: The parser takes another protocol's first line for ours.
_STRANGER = re.compile(rb"(?:\A|\n)[A-Z]+ [^ \r\n]+ RTSP/")
#: What may be between the pieces of a body: so much, and so much more for each byte of it.
_OVERHEAD, _OVERHEAD_EACH = 64 << 10, 8
#: Hosts seen to be well formed, which most requests repeat; filled as they come.
KNOWN_HOSTS: set[bytes] = set()
_MOST_HOSTS = 500
_LONGEST_HOST = 256
_TOO_MUCH_BETWEEN = "The body has more between its chunks than in them."


class _Unsaid(int):
    """A length that nobody said: whatever comes is neither too much nor too little."""

    def __lt__(self, _other: int) -> bool:
        return False

    def __sub__(self, _other: int) -> _Unsaid:
        return self


def mend(kind: Any, most: int) -> Any:  # noqa: C901 - that of five methods
    receive, complete = kind.data_received, kind.on_message_complete
    begin, take = kind.on_headers_complete, kind.on_body

    class Mended(_Counting, kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            cycle = self.cycle
            in_body = cycle is not None and cycle.more_body
            if len(data) > most:
                self.most = most
            if in_body:
                self.pieces += 1
                if self.has_too_much_between(len(data)):
                    self.send_400_response(_TOO_MUCH_BETWEEN)
                    return
            # Most come whole: those are not looked at.
            elif (self.head or len(data) > most) and self.is_refused(data, most):
                return
            elif b" RTSP/" in data and _STRANGER.search(data):
                self.refusal = Refusal(505, SPOKEN)
                self.send_400_response(SPOKEN)
                return
            receive(self, data)
            if self.unread_from:
                self.read_on(memoryview(data), receive)
            now = self.cycle
            if now is not None and (now.more_body or not now.keep_alive):
                self.prepare(now)
            if now is cycle or self.scope is not now.scope:
                self.have_part(data, cycle, in_body)
            elif self.head:
                self.head = 0
                self.begun.clear()
                self.end_head()

        def on_header(self, name: bytes, value: bytes) -> None:
            name = name.lower()
            if name in WATCHED:
                seen = self.seen
                if seen or name != b"host" or value not in KNOWN_HOSTS or self.is_in_trailers:
                    value = self.watch(name, value)
                else:
                    seen[name] = value
            self.headers.append((name, value))

        def on_headers_complete(self) -> None:
            version = self.parser.get_http_version()
            seen, url = self.seen, self.url
            is_plain = b"host" in seen and len(seen) == 1 and url[0] == _SLASH
            if not is_plain or version != "1.1" or b"#" in url:
                self.check_head(version)
            if self.most or len(self.headers) > MOST_FIELDS:
                self.check_size()
            begin(self)
            if b"transfer-encoding" in seen:
                # What comes behind the body is none of the head's.
                self.headers = list(self.headers)
            seen.clear()
            self.given = self.taken = 0

        def on_body(self, body: bytes) -> None:
            self.given += len(body)
            take(self, body)

        def on_message_complete(self) -> None:
            cycle = self.cycle
            if cycle is not None and cycle.response_complete:
                cycle.more_body = False
            else:
                complete(self)

    return Mended


class _Counting(Polite):
    """Counts how much has come of a head that is not complete, and watches what it says."""

    # CPython finds attributes quickly in an instance that has up to thirty of them. uvicorn's has
    # 28, so ours are elsewhere; tests/servers/test_uvicorn.py counts them.
    __slots__ = (
        "begun", "given", "head", "head_timer", "most", "pieces", "refusal", "seen", "tail",
        "taken", "unread_from",
    )  # fmt: skip

    scope: Any
    headers: Any
    parser: Any
    pipeline: Any
    url: bytes
    expect_100_continue: bool
    ws_protocol_class: Any
    head: int

    def __init__(self, *args: Any, **named: Any) -> None:
        #: How much has come of a head that is not complete, and its end, where the end of all may
        #: begin.
        self.head, self.tail = 0, b""
        #: The longest that a head may be, once so much has come at once that one may be longer.
        self.most = 0
        #: Where in what has come the next request begins, if its parser has stopped before that.
        self.unread_from = 0
        #: How much came after the head, and how much of that was the body itself.
        self.taken = self.given = 0
        # As `Polite` has them.
        self.head_timer = self.refusal = None
        self.pieces = 0
        super().__init__(*args, **named)
        #: What the head says that is watched.
        self.seen: dict[bytes, bytes] = {}
        #: What has come of a head, where it is known where that has begun.
        self.begun = bytearray()

    @property
    def is_at_rest(self) -> bool:
        """Tell whether it is between two requests, and nothing of the next was read."""
        cycle = self.cycle
        if cycle is None:
            return self.scope is None
        is_answered = cycle.response_complete and not cycle.more_body
        return is_answered and self.scope is cycle.scope and not (self.pipeline or self.is_deaf)

    @property
    def half_a_head(self) -> bytes:
        """What has come of a head, if all of it is known and nothing else is under way."""
        cycle = self.cycle
        is_answered = cycle is None or (cycle.response_complete and not cycle.more_body)
        return bytes(self.begun) if is_answered and not (self.pipeline or self.is_deaf) else b""

    @property
    def is_in_trailers(self) -> bool:
        """Tell whether the fields that come now are behind a body."""
        cycle = self.cycle
        return cycle is not None and self.scope is cycle.scope

    def watch(self, name: bytes, value: bytes) -> bytes:
        """Answer the *value* of a field that matters, if it is good."""
        if self.is_in_trailers:
            return value
        try:
            if name in SINGLE:
                check_single(name, self.seen)
            value = checked(name, value)
        except Refusal as refusal:
            self.refusal = refusal
            raise
        note(self.seen, name, value)
        if name == b"host" and len(value) < _LONGEST_HOST and len(KNOWN_HOSTS) < _MOST_HOSTS:
            KNOWN_HOSTS.add(value)
        return value

    def check_head(self, version: str) -> None:
        try:
            seen = self.seen
            check_together(version, seen, self.most_body)
            target, host = parts_of(self.parser.get_method(), self.url)
            is_upgrade = self.parser.should_upgrade() and self._get_upgrade() != b"websocket"
            if is_upgrade and seen.keys() & {b"content-length", b"transfer-encoding"}:
                raise Refusal(501, "A request with a body cannot change the protocol here.")
        except Refusal as refusal:
            self.refusal = refusal
            raise
        if host is not None:
            self.url = target
            self.headers[:] = with_host(self.headers, host)
        # Said by one who does not know what it means.
        self.expect_100_continue = (
            version != "1.0" and seen.get(b"expect", b"").lower() == b"100-continue"
        )

    def prepare(self, cycle: Any) -> None:
        """Prepare for the answer to who has just said something."""
        if cycle.more_body:
            self.expect_rest(cycle)
        if not cycle.keep_alive and cycle.scope["http_version"] == "1.0":
            cycle.chunked_encoding = False
            cycle.expected_content_length = _Unsaid()

    def check_size(self) -> None:
        """Check the head that is complete, which nobody has measured while it came."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        try:
            check_number(self.headers)
            if self.most and size > self.most:
                raise too_long(self.most, is_past_line=len(self.url) < self.most)
        except Refusal as refusal:
            self.refusal = refusal
            raise

    def _should_upgrade(self) -> bool:
        if self.parser.get_method() == b"CONNECT":
            self.refusal = Refusal(405, "This server is no proxy.")
            raise self.refusal
        if not super()._should_upgrade():  # type: ignore[misc]
            return False
        if is_running(self.cycle):
            self.refusal = Refusal(400, "A WebSocket cannot begin before the answers are complete.")
            raise self.refusal
        return True

    def _unsupported_upgrade_warning(self) -> None:
        super()._unsupported_upgrade_warning()  # type: ignore[misc]
        stopped = sys.exception()
        if isinstance(stopped, httptools.HttpParserUpgrade):
            self.unread_from = stopped.args[0]

    def read_on(self, data: memoryview, receive: Callable[[Any, memoryview], None]) -> None:
        """Read what is behind a request for another protocol, which it gets no answer in."""
        while self.unread_from and not self.is_deaf:
            data, self.unread_from = data[self.unread_from :], 0
            if data:
                receive(self, data)

    def _get_upgrade(self) -> bytes | None:
        upgrade: bytes | None = super()._get_upgrade()  # type: ignore[misc]
        return upgrade

    def is_refused(self, data: bytes, most: int) -> bool:
        """Refuse *data* which makes a head too long."""
        if self.is_deaf:
            return True
        tail = self.tail if self.head else b""
        is_too_long = self.head - len(tail) + head_of(tail + data) > most
        if is_too_long:
            is_past_line = b"\r\n" in (bytes(self.begun) + data)[:most]
            is_known = bool(self.begun) or not self.head
            self.head = max(1, self.head)
            self.send_away(too_long(most, is_past_line=is_past_line or not is_known))
        return is_too_long

    def has_too_much_between(self, size: int) -> bool:
        """Count *size* more bytes; tell whether too few of all belong to the body."""
        self.taken += size
        # What has just come is not parsed yet.
        return self.taken - size > _OVERHEAD + _OVERHEAD_EACH * self.given

    def have_part(self, data: bytes, before: Any, in_body: bool) -> None:
        """Take note of *data* that ended in the middle of something."""
        if self not in self.connections:
            return  # it has become a WebSocket
        now = self.cycle
        if self.scope is not (None if now is None else now.scope):
            if now is before and not in_body and (self.begun or not self.head):
                self.begun += data
            else:
                self.begun.clear()
            begin = data.rfind(BLANK)
            if begin >= 0:
                self.head = max(1, len(data) - begin - len(BLANK))
            elif in_body:
                self.head = 1  # some of it was the body's
            else:
                self.head += len(data)
            self.tail = data[-min(3, self.head) :]
            self.begin_head()
        else:
            self.head = 0
            self.begun.clear()
        if self.is_deaf:
            self.head = 1  # for is_refused
            self.end_head()
        elif now is before and in_body and now.response_complete:
            self.wait_again()
