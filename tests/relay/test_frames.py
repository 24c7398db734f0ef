"""Messages and their bytes: what arrives is what was sent, or an error says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.errors import BadFrame, MessageTooLarge, NotJson, SitebusError
from sitebus.relay import LIMIT, Decoder, encode
from sitebus.relay.frames import size_of

#: With halves of surrogate pairs, which names of files may have.
TEXT = st.text(st.characters())
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(TEXT, VALUES, max_size=5)


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@given(messages=st.lists(MESSAGES, max_size=4), data=st.data())
def test_messages_arrive_wherever_the_stream_is_cut(
    messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    """A socket gives what it has, not what was written."""
    stream = b"".join(encode(each) for each in messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    decoder = Decoder()
    arrived = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        arrived += decoder.feed(stream[start:end])
    assert arrived == messages
    assert not decoder.unfinished


def test_a_stream_may_come_byte_by_byte() -> None:
    """The header, too, can be cut."""
    messages: list[dict[str, Any]] = [
        {"is": "beat", "rss": 5},
        {},
        {"is": "log", "message": "größer"},
    ]
    decoder = Decoder()
    arrived = []
    for byte in b"".join(encode(each) for each in messages):
        arrived += decoder.feed(bytes([byte]))
    assert arrived == messages


def test_a_frame_is_a_count_and_compact_json() -> None:
    """Other programs may want to read it."""
    assert encode({"is": "log", "message": "ä"}) == frame('{"is":"log","message":"ä"}'.encode())


def test_messages_know_how_large_they_were() -> None:
    """Who has many of them wait counts bytes."""
    first, second = Decoder().feed(encode({"a": "x" * 1000}) + encode({}))
    assert (size_of(first), size_of(second)) == (len('{"a":""}') + 1000, len("{}"))
    assert size_of({"a": 1}) == 0


def test_any_mapping_may_be_a_message() -> None:
    """Also one that cannot be changed."""
    assert Decoder().feed(encode(MappingProxyType({"a": 1}))) == [{"a": 1}]


def test_tuples_arrive_as_lists() -> None:
    """Arguments are tuples, and so are named ones."""

    class Beat(NamedTuple):
        requests: int

    assert Decoder().feed(encode({"a": (1, ("b",)), "beat": Beat(3)})) == [
        {"a": [1, ["b"]], "beat": [3]}
    ]


def test_half_a_surrogate_pair_arrives_as_such() -> None:
    """Names of files may hold them, and logs such names; the frame is UTF-8 all the same."""
    data = encode({"name": "\udce4"})
    json.loads(data[4:].decode("utf-8"))
    assert Decoder().feed(data) == [{"name": "\udce4"}]


def circle() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["again"] = [inner]
    return {"args": [inner]}


def well() -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(200_000):
        value = [value]
    return {"deep": value}


@pytest.mark.parametrize(
    ("make", "where", "what"),
    [
        (lambda: {"args": [b"x"]}, "message['args'][0]", "is b'x'"),
        (lambda: {"at": datetime(2000, 1, 1, tzinfo=UTC)}, "message['at']", "datetime"),
        (lambda: {"kwargs": {"lag": float("nan")}}, "message['kwargs']['lag']", "is nan"),
        (lambda: {"lag": float("-inf")}, "message['lag']", "is -inf"),
        (lambda: {"args": [{1: "a"}]}, "message['args'][0]", "has the key 1"),
        (lambda: {None: "a"}, "message", "has the key None"),
        (lambda: {"a": {True: 1}}, "message['a']", "has the key True"),
        (lambda: {"a": ({(1, 2): 3},)}, "message['a'][0]", "has the key (1, 2)"),
        (lambda: {"a": {1, 2}}, "message['a']", "is {1, 2}"),
        (lambda: {"a": 10**10_000}, "message['a']", "is a number of 33220 bits"),
        (circle, "message['args'][0]['again'][0]", "holds itself"),
        (well, "it", "is nested too deeply"),
    ],
)
def test_what_json_cannot_say_is_refused_where_it_was_given(
    make: Callable[[], dict[str, Any]], where: str, what: str
) -> None:
    """The receiver could only guess; the caller can be told which value it is."""
    with pytest.raises(TypeError) as caught:
        encode(make())
    assert isinstance(caught.value, NotJson)
    assert isinstance(caught.value, SitebusError)
    assert caught.value.where == where
    assert what in str(caught.value)


def of_size(size: int) -> dict[str, str]:
    return {"a": "x" * (size - len('{"a":""}'))}


def test_the_largest_message_arrives() -> None:
    """The limit itself is allowed."""
    assert Decoder().feed(encode(of_size(LIMIT))) == [of_size(LIMIT)]


def test_a_larger_one_is_refused() -> None:
    """One process could make another hold any amount of it."""
    with pytest.raises(MessageTooLarge, match=f"of {LIMIT + 1} bytes") as caught:
        encode(of_size(LIMIT + 1))
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)


def test_a_larger_one_is_not_waited_for() -> None:
    """Its header says enough; nothing is kept for it."""
    with pytest.raises(BadFrame, match=f"says to have {LIMIT + 1} bytes"):
        Decoder().feed((LIMIT + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"null",
        b"{} {}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"\xff\xfe",
        b'{"a": "\xed\xb3\xa4"}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"[" * 200_000,
        b'{"":' * 60_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """A peer that has lost its way is not believed."""
    decoder = Decoder()
    with pytest.raises(BadFrame) as caught:
        decoder.feed(encode({"good": 1}) + frame(data) + encode({"late": 1}))
    assert caught.value.before == [{"good": 1}]
    assert len(str(caught.value)) < 400
    with pytest.raises(BadFrame):
        decoder.feed(encode({"later": 1}))


@given(data=st.binary(max_size=200))
def test_any_bytes_make_messages_or_one_error(data: bytes) -> None:
    """A poller's thread must not meet any other exception."""
    decoder = Decoder()
    try:
        messages = decoder.feed(data)
    except BadFrame:
        return
    assert all(type(each) is dict for each in messages)


def test_what_is_held_is_what_is_unfinished() -> None:
    """Half a message is not for ever."""
    data = encode({"is": "ready"})
    decoder = Decoder()
    assert not decoder.unfinished
    assert decoder.feed(data + data[:-1]) == [{"is": "ready"}]
    assert decoder.unfinished
    assert decoder.feed(data[-1:]) == [{"is": "ready"}]
    assert not decoder.unfinished
