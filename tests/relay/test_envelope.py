"""What a message between nodes looks like on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.errors import BadEnvelope, BadName, MessageTooLarge, NotJson
from sitebus.relay import LIMIT
from sitebus.relay.envelope import (
    Envelope,
    _is_plain,
    _wrong_in,
    check_name,
    envelope,
    parse,
    parts_of,
    stream,
)

NAMES = st.text("ab-.*ß中😀", min_size=1, max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=10,
)
ENVELOPES = st.builds(
    Envelope,
    id=NAMES,
    src=NAMES,
    ep=NAMES,
    ch=NAMES,
    seq=st.integers(1001, 2**53),
    ts=st.floats(0, 1e12),
    args=st.lists(JSON),
    kw=st.dictionaries(st.text(), JSON),
    re=st.none() | NAMES,
    hops=st.integers(0, 2),
    ret=st.booleans(),
    to=st.none() | NAMES,
    call=st.none() | NAMES,
    keep=st.booleans(),
    base=st.integers(0, 1000),
)


@settings(max_examples=20, deadline=None)
@given(ENVELOPES)
def test_what_is_written_is_read(sent: Envelope) -> None:
    """Every field of it."""
    data = sent.encode()
    assert envelope(parse(data), len(data)) == sent._replace(size=len(data))


PLAIN = Envelope("i", "s", "e", "c", 2, 1.0, [], {}, None, 1, False, None, None, False, 1)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.5, 2**53, 2**53 + 1, "", "x", "a\nb", "\udc80",
    "x" * 256, "x" * 257, "x" * 1024, "x" * 1025, [], (), {}, [1], {"k": 1},
)  # fmt: skip


@pytest.mark.parametrize("field", [each for each in Envelope._fields if each != "size"])
def test_what_is_let_pass_in_haste_would_pass_every_test(field: str) -> None:
    """Most messages are read so; and those that are not still may be right."""
    assert _is_plain(PLAIN)
    assert not _wrong_in(PLAIN)
    verdicts = []
    for value in ODD:
        found = PLAIN._replace(**{field: value})
        verdicts.append((_is_plain(found), not _wrong_in(found)))
    assert (True, False) not in verdicts
    assert (False, False) in verdicts


@pytest.mark.parametrize("text", ['{"v":1}', ' {"v":1}', '{"v":1}\n', '\t{"v": 1 } '])
def test_white_space_around_it_is_json(text: str) -> None:
    """Others may write it so."""
    assert parse(text.encode()) == {"v": 1}


@pytest.mark.parametrize("text", ["", " ", "{", '{"v":1}{}', '{"v":1} x', "x"])
def test_what_is_not_one_object_is_none(text: str) -> None:
    """Neither half of one nor more."""
    with pytest.raises(BadEnvelope, match="it is no JSON"):
        parse(text.encode())


def test_it_is_the_json_that_is_documented() -> None:
    """Others may write such messages, too."""
    sent = Envelope("web1-a1-3", "web1", "a1", "cache.invalidate", 17, 5.5, ["k"], {"all": True})
    assert json.loads(sent.encode()) == {
        "v": 1,
        "id": "web1-a1-3",
        "src": "web1",
        "ep": "a1",
        "ch": "cache.invalidate",
        "seq": 17,
        "ts": 5.5,
        "args": ["k"],
        "kw": {"all": True},
        "re": None,
        "hops": 2,
        "ret": False,
    }


def test_fields_that_are_not_known_are_left_alone() -> None:
    """A later release may have some more."""
    sent = Envelope("i", "s", "e", "c", 1, 1.0)
    more = json.dumps({**json.loads(sent.encode()), "colour": "red"}).encode()
    assert envelope(parse(more), len(more)).src == "s"


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5, [1]])
def test_another_version_is_refused(version: Any) -> None:
    """It may mean something else by the same names."""
    with pytest.raises(BadEnvelope, match="it is not of version 1"):
        parse(json.dumps({"v": version}).encode())


def test_a_text_that_is_too_large_is_not_read() -> None:
    """Whatever brought it."""
    with pytest.raises(BadEnvelope, match="bytes"):
        parse(b" " * (LIMIT + 1))


def test_what_cannot_be_written_is_refused() -> None:
    """In the sender."""
    with pytest.raises(NotJson):
        Envelope("i", "s", "e", "c", 1, 1.0, [object()]).encode()
    with pytest.raises(MessageTooLarge):
        Envelope("i", "s", "e", "c", 1, 1.0, ["x" * LIMIT]).encode()


@pytest.mark.parametrize("depth", [97, 98, 99])
@pytest.mark.parametrize("kind", ["[%s]", '{"k":%s}'])
def test_it_is_nested_as_deep_as_is_said(depth: int, kind: str) -> None:
    """The message and its values are two of a hundred levels."""
    value = "1"
    for _ in range(depth):
        value = kind % value
    data = f'{{"v":1,"args":[{value}]}}'.encode()
    if depth <= 98:
        parse(data)
    else:
        with pytest.raises(BadEnvelope, match="more than 100 levels"):
            parse(data)


def test_many_values_side_by_side_are_not_deep() -> None:
    """A list of a thousand pairs is a usual message."""
    assert parse(json.dumps({"v": 1, "args": [[[1, {}]]] * 1000}).encode())


def test_a_stream_is_of_a_channel_and_perhaps_for_a_node() -> None:
    """No name has what is between the two."""
    one = Envelope("i", "s", "e", "c", 1, 1.0)
    assert one.stream == "c"
    assert one._replace(to="n").stream == stream("c", "n")
    assert parts_of(stream("c", "n")) == ("c", "n")
    assert parts_of("c") == ("c", "")


@pytest.mark.parametrize("name", ["a", "cache.*", "web-1", "größe", "x" * 256])
def test_names_are_printable(name: str) -> None:
    """In any script."""
    assert check_name("channel", name) == name


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "x" * 257, "\x1b[31m", "\udc80", None, 5])
def test_what_is_no_name_is_said_so(name: Any) -> None:
    """It would break a line of a log, or the stream's name."""
    with pytest.raises(BadName, match="cannot relay for channel") as raised:
        check_name("channel", name)
    assert raised.value.name == name
