"""Read all that a server said on a connection, and be as strict with it as it should be with us."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
#: What tells a client about the inside of a server.
_INSIDE = re.compile(rb"Traceback|File \"|\.py\b|/site-packages|/usr/|panicked at|line \d+, in ")
#: SETTINGS on stream 0, with which HTTP/2 begins.
_HTTP2 = re.compile(rb"\x00..\x04[\x00\x01]\x00{4}", re.DOTALL)


@dataclass
class Answers:
    """What was said.

    Attributes:
        statuses: In their order; without those in between (1xx), but for a switch.
        asked: How many times a body was asked for (100).
        wrong: What is wrong with it.
    """

    statuses: list[int]
    asked: int = 0
    wrong: str = ""

    @property
    def good(self) -> int:
        return sum(200 <= status < 300 for status in self.statuses)


def read_answers(data: bytes, *, closed: bool, switches: bool = False) -> Answers:
    """Read what came until the end, which the server made if *closed*."""
    answers = Answers([])
    if found := _INSIDE.search(data):
        answers.wrong = f"tells about the inside: {found[0]!r}"
    while data and not answers.wrong:
        if switches and _HTTP2.match(data):
            break
        data = _read_one(data, answers, closed)
        if answers.statuses[-1:] == [101]:
            if not switches:
                answers.wrong = "switched to another protocol"
            break
    return answers


def _read_one(data: bytes, answers: Answers, closed: bool) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    line = _STATUS.fullmatch(lines[0])
    fields = [found for each in lines[1:] if (found := _FIELD.fullmatch(each))]
    if line is None or not end or len(fields) != len(lines) - 1:
        answers.wrong = f"not an answer: {data[:80]!r}"
        return b""
    status = int(line[1])
    if status == 100:
        answers.asked += 1
        return rest
    answers.statuses.append(status)
    if status < 200 or status in (204, 304):
        return rest
    try:
        return _rest(fields, rest, closed)
    except ValueError as error:
        answers.wrong = f"{status}: {error}"
        return b""


def _rest(fields: list[re.Match[bytes]], data: bytes, closed: bool) -> bytes:
    lengths = [field[2] for field in fields if field[1].lower() == b"content-length"]
    codings = [field[2] for field in fields if field[1].lower() == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise ValueError("more than one length")
    if codings:
        return _after_chunks(data)
    if not lengths:
        if not closed:
            raise ValueError("a body without an end")
        return b""
    if len(data) < int(lengths[0]):
        raise ValueError(f"{len(data)} of {int(lengths[0])} bytes")
    return data[int(lengths[0]) :]


def _after_chunks(data: bytes) -> bytes:
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if data[length : length + 2] != b"\r\n":
            raise ValueError("a chunk without an end")
        data = data[length + 2 :]
        if not length:
            return data
