"""What two peers say to each other about themselves and about how far streams have come.

``hello`` is each side's first word on a connection: who it is, its epoch, what it wants. ``wants``
follows when that changes. ``synced`` answers both: from here on the other gets what it wants, and
so far had the streams come before. ``beat`` is a sign of life, with the streams that have moved.
``bye`` is said by who stops. A number goes with each list of wants, and back with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from sitebus.errors import BadEnvelope
from sitebus.relay.envelope import HOPS, VERSION, is_name, is_number, packed
from sitebus.relay.patterns import Patterns
from sitebus.relay.sequences import MOST_READ, Mark, Marks

#: So many streams go into one message; even with the longest names they fit.
_AT_ONCE = 100
#: And so many patterns may be wanted.
MOST_WANTS = 1000
_NAMES = 2


class Hello(NamedTuple):
    """Who is at the other end."""

    node: str
    ep: str
    wants: Patterns
    no: int
    hub: bool


class Wants(NamedTuple):
    """What the other end wants from now on."""

    wants: Patterns
    no: int


class Source(NamedTuple):
    """How far another source's streams have come at a hub.

    Attributes:
        hops: How many more hubs may pass them on.
    """

    src: str
    ep: str
    marks: Marks
    hops: int = 0


class Told(NamedTuple):
    """A part of ``synced``, or a ``beat``.

    Attributes:
        at: The sender's own streams.
        of: Those that a hub passes on.
        no: Of the wants that it answers.
        first: It is the first part.
        last: It is the last one.
    """

    at: Marks
    of: tuple[Source, ...] = ()
    no: int = 0
    first: bool = True
    last: bool = True


def hello(hello: Hello) -> bytes:
    """Answer what a node says first."""
    return packed(
        {
            "v": VERSION,
            "is": "hello",
            "node": hello.node,
            "ep": hello.ep,
            "wants": list(hello.wants),
            "no": hello.no,
            "hub": hello.hub,
        }
    )


def wants(patterns: Patterns, no: int) -> bytes:
    """Answer what a node says when it wants something else."""
    return packed({"v": VERSION, "is": "wants", "wants": list(patterns), "no": no})


def bye(why: str = "") -> bytes:
    """Answer what a node says last."""
    return packed({"v": VERSION, "is": "bye", "why": why})


def beats(at: Marks, of: Iterable[Source] = ()) -> Iterator[bytes]:
    """Answer a sign of life, in as many messages as are needed."""
    for part_at, part_of in _parts(at, of):
        yield packed({"v": VERSION, "is": "beat", **_fields(part_at, part_of)})


def synced(no: int, at: Marks, of: Iterable[Source] = ()) -> Iterator[bytes]:
    """Answer how far all streams had come for these wants, in as many messages as are needed."""
    parts = list(_parts(at, of))
    for number, (part_at, part_of) in enumerate(parts):
        order = {"first": number == 0, "last": number == len(parts) - 1}
        fields = _fields(part_at, part_of)
        yield packed({"v": VERSION, "is": "synced", "no": no, **order, **fields})


def _parts(at: Marks, of: Iterable[Source]) -> Iterator[tuple[dict[str, Mark], tuple[Source, ...]]]:
    rows = iter(at.items())
    first = dict(islice(rows, _AT_ONCE))
    yield first, ()
    while more := dict(islice(rows, _AT_ONCE)):
        yield more, ()
    for source in of:
        rows = iter(source.marks.items())
        yield {}, (source._replace(marks=dict(islice(rows, _AT_ONCE))),)
        while more := dict(islice(rows, _AT_ONCE)):
            yield {}, (source._replace(marks=more),)


def _fields(at: Marks, of: tuple[Source, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {"at": _written(at)}
    if of:
        fields["of"] = {each.src: [each.ep, _written(each.marks), each.hops] for each in of}
    return fields


def _written(marks: Marks) -> dict[str, Any]:
    return {stream: list(mark) if mark.base else mark.number for stream, mark in marks.items()}


# Below is what the other end says, which may be anything.


def read_hello(message: Mapping[str, Any]) -> Hello:
    """Read who is at the other end.

    Raises:
        BadEnvelope: It does not say so.
    """
    node, ep = message.get("node"), message.get("ep")
    if not (is_name(node) and is_name(ep)):
        raise BadEnvelope("its hello does not say who it is")
    patterns, no = read_wants(message)
    return Hello(str(node), str(ep), patterns, no, message.get("hub") is True)


def read_wants(message: Mapping[str, Any]) -> Wants:
    """Read what the other end wants.

    Raises:
        BadEnvelope: It does not say so.
    """
    texts, no = message.get("wants"), message.get("no", 0)
    if not isinstance(texts, list) or len(texts) > MOST_WANTS or not all(map(is_name, texts)):
        raise BadEnvelope("its wants are no list of patterns")
    if not is_number(no):
        raise BadEnvelope("its wants have no number")
    return Wants(Patterns(texts), no)


def read_told(message: Mapping[str, Any]) -> Told:
    """Read how far streams have come.

    Raises:
        BadEnvelope: It does not say so.
    """
    of, no = message.get("of", {}), message.get("no", 0)
    if not isinstance(of, dict) or not is_number(no):
        raise BadEnvelope("it does not say how far streams have come")
    return Told(
        _marks(message.get("at", {})),
        tuple(_source(*each) for each in of.items()),
        no,
        message.get("first", True) is True,
        message.get("last", True) is True,
    )


def _source(src: str, value: object) -> Source:
    if not (is_name(src) and isinstance(value, list) and len(value) == len(Source._fields) - 1):
        raise BadEnvelope("it does not say how far streams have come")
    ep, marks, hops = value
    if not (is_name(ep) and is_number(hops)):
        raise BadEnvelope("it does not say how far streams have come")
    return Source(src, ep, _marks(marks), min(hops, HOPS))


def _marks(value: object) -> dict[str, Mark]:
    if not isinstance(value, dict) or len(value) > MOST_READ:
        raise BadEnvelope("it does not say how far streams have come")
    return {stream: _mark(stream, each) for stream, each in value.items()}


def _mark(stream: str, value: object) -> Mark:
    number, base = value if isinstance(value, list) and len(value) == _NAMES else (value, 0)
    names = stream.split("\n")
    is_stream = len(names) <= _NAMES and all(map(is_name, names))
    if is_stream and is_number(number) and is_number(base) and base <= number:
        return Mark(number, base)
    raise BadEnvelope("it does not say how far streams have come")
