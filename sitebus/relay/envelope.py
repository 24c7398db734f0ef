"""What one message between nodes looks like, and what is refused: version 1, a JSON object.

What has the key ``is`` is talk between two peers (see `sitebus.relay.talk`); all else is an
envelope. Fields that are not known are left alone; a version that is not known is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeGuard

from sitebus.errors import BadEnvelope, BadName, MessageTooLarge
from sitebus.relay.frames import LIMIT, dump

VERSION = 1
#: A message passes so many hubs at most.
HOPS = 2
#: Characters in the name of a node, a channel or a pattern.
LONGEST_NAME = 256
_LONGEST_ID = 1024
#: So many containers may be one in the other.
_DEEPEST = 100
#: So high a node may count; further, and JSON's readers elsewhere would round.
_HIGHEST = 2**53

#: Between the channel and the node it is meant for; no name has it.
_FOR = "\n"


class Envelope(NamedTuple):
    """One message with all that is known of it; the names are those on the wire.

    Attributes:
        id: Of this message: its source, the source's epoch, a number.
        src: The node that sent it.
        ep: The source's epoch: another one each time that it starts.
        ch: The channel.
        seq: Which message of the source's epoch on this channel it is, from 1.
        ts: When it was sent, in seconds since 1970 by the source's clock.
        args: Its values.
        kw: Its named values.
        re: The `call` that it answers.
        hops: How many hubs may still pass it on.
        ret: It is the last value of a retained channel, sent again to who came later.
        to: The only node that it is meant for.
        call: Answers to it are asked for, with this in their `re`.
        keep: It is the last value of its channel from now on: who comes later is sent it again.
        base: The number before the channel's first, if the source had forgotten the channel.
        size: The bytes that it came in, for those where it waits; not on the wire.
    """

    id: str
    src: str
    ep: str
    ch: str
    seq: int
    ts: float
    args: list[Any] | tuple[Any, ...] = ()
    kw: dict[str, Any] = {}  # noqa: RUF012 - never changed
    re: str | None = None
    hops: int = HOPS
    ret: bool = False
    to: str | None = None
    call: str | None = None
    keep: bool = False
    base: int = 0
    size: int = 0

    @property
    def stream(self) -> str:
        """What its number counts in: the channel, and for whom if not for all."""
        return self.ch if self.to is None else stream(self.ch, self.to)

    def encode(self) -> bytes:
        """Answer it as JSON.

        Raises:
            NotJson: It holds what JSON cannot say; a TypeError.
            MessageTooLarge: It is too large.
        """
        message: dict[str, Any] = {
            "v": VERSION,
            "id": self.id,
            "src": self.src,
            "ep": self.ep,
            "ch": self.ch,
            "seq": self.seq,
            "ts": self.ts,
            "args": self.args,
            "kw": self.kw,
            "re": self.re,
            "hops": self.hops,
            "ret": self.ret,
        }
        if self.to is not None:
            message["to"] = self.to
        if self.call is not None:
            message["call"] = self.call
        if self.keep:
            message["keep"] = True
        if self.base:
            message["base"] = self.base
        return packed(message)


def packed(message: dict[str, Any]) -> bytes:
    """Answer *message* as JSON, if it is not too large."""
    data = dump(message)
    if len(data) > LIMIT:
        raise MessageTooLarge(len(data), LIMIT)
    return data


def stream(channel: str, to: str) -> str:
    """Answer the name of what is sent on *channel* to one node; it is numbered by itself."""
    return f"{channel}{_FOR}{to}"


def parts_of(stream: str) -> tuple[str, str]:
    """Answer the channel of a stream, and the node it is for; nothing if it is for all."""
    channel, _, to = stream.partition(_FOR)
    return channel, to


def check_name(what: str, name: str) -> str:
    """Answer *name* if a node, channel or pattern may be called so.

    Raises:
        BadName: It may not.
    """
    if not isinstance(name, str):
        raise BadName(what, name, "it is no text")
    if not is_name(name):
        limits = f"it has from 1 to {LONGEST_NAME} characters, and none that cannot be printed"
        raise BadName(what, name, limits)
    return name


def is_name(name: object) -> TypeGuard[str]:
    """Tell whether a node, channel or pattern may be called so."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()


def parse(data: bytes) -> dict[str, Any]:
    """Answer the JSON object that a peer sent.

    Raises:
        BadEnvelope: It is none, or of another version.
    """
    if len(data) > LIMIT:
        raise BadEnvelope(f"it has more than {LIMIT} bytes")
    try:
        message = _read(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadEnvelope("it is no JSON") from error
    if not isinstance(message, dict):
        raise BadEnvelope("it is no JSON object")
    if _is_deep(data, message):
        raise BadEnvelope(f"more than {_DEEPEST} levels are nested in it")
    if message.get("v") != VERSION or message["v"] is True:
        raise BadEnvelope(f"it is not of version {VERSION}")
    return message


def envelope(message: dict[str, Any], size: int) -> Envelope:
    """Read the envelope in a JSON object, which came in *size* bytes.

    Raises:
        BadEnvelope: Something is missing or wrong; the reason names the field, not its value.
    """
    get = message.get
    found = Envelope(
        get("id"),  # type: ignore[arg-type]
        get("src"),  # type: ignore[arg-type]
        get("ep"),  # type: ignore[arg-type]
        get("ch"),  # type: ignore[arg-type]
        get("seq"),  # type: ignore[arg-type]
        get("ts", 0.0),
        get("args", ()),
        get("kw", {}),
        get("re"),
        get("hops", 0),
        get("ret", False),
        get("to"),
        get("call"),
        get("keep", False),
        get("base", 0),
        size,
    )
    if not _is_plain(found) and (wrong := _wrong_in(found)):
        raise BadEnvelope(f"its field {wrong!r} is missing or wrong")
    return found


def _is_plain(found: tuple[Any, ...]) -> bool:
    """Tell whether all is as it must be in a message as most are; if not, it may be all the same.

    What it lets pass the tests below let pass: they take twice as long, for every message.
    """
    id_, src, ep, ch, seq, ts, args, kw, re, hops, ret, to, call, keep, base, _ = found
    return (
        type(id_) is type(src) is type(ep) is type(ch) is str
        and type(seq) is type(hops) is type(base) is int
        and type(ts) is float
        and type(args) is list
        and type(kw) is dict
        and re is to is call is None
        and type(ret) is type(keep) is bool
        and 0 < len(id_) <= _LONGEST_ID
        and 0 < len(src) <= LONGEST_NAME
        and 0 < len(ep) <= LONGEST_NAME
        and 0 < len(ch) <= LONGEST_NAME
        and f"{src}{ep}{ch}".isprintable()
        and 0 <= base < seq <= _HIGHEST
        and 0 <= hops <= _HIGHEST
    )


def _wrong_in(found: Envelope) -> str:
    """Answer the first field that is not as it must be."""
    for number, test in enumerate(_TESTS):
        if not test(found[number]):
            return found._fields[number]
    return "seq" if found.seq <= found.base else ""


def is_id(value: object) -> bool:
    """Tell whether a message or a call may be called so."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID


def _is_no_id(value: object) -> bool:
    return value is None or is_id(value)


def _is_bool(value: object) -> bool:
    return value is True or value is False


def is_number(value: object) -> TypeGuard[int]:
    """Tell whether it is a number that a node may count to."""
    return type(value) is int and 0 <= value <= _HIGHEST


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    # 1e999 is JSON, and what Python makes of it is none.
    value = float(text)
    if math.isinf(value):
        _refuse(text)
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_float)
_scan: Callable[[str, int], tuple[object, int]] = vars(_DECODER)["scan_once"]


def _read(text: str) -> object:
    # What `decode` does if there is white space around it, at half the cost if there is none.
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)


def _is_deep(data: bytes, value: object) -> bool:
    """Tell whether more is nested in it than can be written again everywhere."""
    if data.count(b"[") + data.count(b"{") <= _DEEPEST:
        return False
    row: list[Any] = [value]
    for _ in range(_DEEPEST):
        inside = (each.values() if isinstance(each, dict) else each for each in row)
        row = [each for several in inside for each in several if isinstance(each, dict | list)]
        if not row:
            return False
    return True


#: In the order of the fields.
_TESTS: tuple[Callable[[object], bool], ...] = (
    is_id,
    is_name,
    is_name,
    is_name,
    is_number,
    lambda ts: type(ts) in (float, int),
    lambda args: type(args) in (list, tuple),
    lambda kw: type(kw) is dict,
    _is_no_id,
    is_number,
    _is_bool,
    lambda to: to is None or is_name(to),
    _is_no_id,
    _is_bool,
    is_number,
)
