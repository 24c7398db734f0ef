"""What a message looks like on the wire: four bytes that count, big-endian, and a JSON object.

Nothing is converted on the way but a tuple, which arrives as a list: a key that is no text, which
`json` would turn into one without a word, is refused where it was given.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from sitebus.errors import BadFrame, MessageTooLarge, NotJson

#: So many bytes of JSON a message may have.
LIMIT = 256 * 1024

_HEADER = 4
_CONTAINERS = (dict, list, tuple)


class Message(dict[str, Any]):
    """A message that has come, and how many bytes it came in."""

    __slots__ = ("size",)

    size: int


def size_of(message: Mapping[str, Any]) -> int:
    """Answer how many bytes a message came in; 0 if it was made here."""
    return message.size if isinstance(message, Message) else 0


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ASCII_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def encode(message: Mapping[str, Any]) -> bytes:
    """Answer the frame of a message.

    Raises:
        NotJson: It holds what JSON cannot say; a TypeError.
        MessageTooLarge: It has more than `LIMIT` bytes.
    """
    data = dump(dict(message))
    if len(data) > LIMIT:
        raise MessageTooLarge(len(data), LIMIT)
    return frame(data)


def dump(message: dict[str, Any]) -> bytes:
    """Answer a message as JSON.

    Raises:
        NotJson: It holds what JSON cannot say; a TypeError.
    """
    try:
        data = _dump(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise _fault(message) or NotJson("it", f"cannot be written ({error})") from error
    if not _keys_are_text(message):
        raise _fault(message) or NotJson("it", "has changed meanwhile")
    return data


class Cutter:
    """Makes frames of the bytes of a stream, however they come."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun to come."""
        return bool(self._held)

    @property
    def held(self) -> bytes:
        """What has come of a message that is not whole yet."""
        return bytes(self._held)

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Answer what is in the frames that are whole with *data*, without their headers.

        Raises:
            BadFrame: What follows them is none, and no more will come.
        """
        held = self._held
        held += data
        start = 0
        try:
            while end := self._end_of(start):
                yield bytes(held[start + _HEADER : end])
                start = end
        finally:
            del held[:start]

    def _end_of(self, start: int) -> int:
        """Answer where the frame ends that begins at *start*, or 0 while it is not whole."""
        header = self._held[start : start + _HEADER]
        if len(header) < _HEADER:
            return 0
        size = int.from_bytes(header, "big")
        if size > LIMIT:
            raise BadFrame(f"it says to have {size} bytes, and {LIMIT} is the limit")
        end = start + _HEADER + size
        return end if end <= len(self._held) else 0


class Decoder(Cutter):
    """Makes messages of the bytes of a stream, however they come."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Answer the messages that are whole with *data*.

        Raises:
            BadFrame: What follows them is no message, and no more will come; they are in the
                error's ``before``.
        """
        messages: list[dict[str, Any]] = []
        try:
            messages += map(_parse, self.cut(data))
        except BadFrame as error:
            error.before = messages
            raise
        return messages


def frame(data: bytes) -> bytes:
    """Answer *data* as one frame."""
    return len(data).to_bytes(_HEADER, "big") + data


def _dump(message: dict[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(message).encode()
    except UnicodeEncodeError:
        # A file name that is no UTF-8, say: half of a surrogate pair can only be escaped.
        return _ASCII_ENCODER.encode(message).encode()


def _parse(data: bytes) -> Message:
    try:
        message = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"{reprlib.repr(data)} is no JSON ({error})") from error
    if not isinstance(message, dict):
        raise BadFrame(f"{reprlib.repr(message)} is no JSON object")
    found = Message(message)
    found.size = len(data)
    return found


def _keys_are_text(message: dict[str, Any]) -> bool:
    """Whether `json` has changed no key; what holds itself it has refused before."""
    inside: list[Any] = [message]
    while inside:
        values: Iterable[Any] = inside.pop()
        if isinstance(values, dict):
            if not all(isinstance(key, str) for key in values):
                return False
            values = values.values()
        inside += [each for each in values if isinstance(each, _CONTAINERS)]
    return True


def _fault(message: dict[str, Any]) -> NotJson | None:
    """Look for what is wrong, in the order in which a person would."""
    try:
        return _fault_in(message, "message", ())
    except RecursionError:
        return NotJson("it", "is nested too deeply")


def _fault_in(value: object, where: str, above: tuple[int, ...]) -> NotJson | None:
    if not isinstance(value, _CONTAINERS):
        what = _foreign(value)
        return NotJson(where, what) if what else None
    if id(value) in above:
        return NotJson(where, "holds itself")
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            return NotJson(where, f"has the key {reprlib.repr(key)}")
        found = _fault_in(each, f"{where}[{key!r}]", (*above, id(value)))
        if found:
            return found
    return None


def _foreign(value: object) -> str:
    """Answer what a value is that JSON does not have; nothing of one that it has."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value!r}"
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:  # sys.set_int_max_str_digits
            return f"is a number of {value.bit_length()} bits"
        return ""
    return "" if value is None or isinstance(value, str) else f"is {reprlib.repr(value)}"
