"""What waits for a peer, and what of it goes together; pure."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sitebus.relay.batches import BATCH, QUEUE_BYTES, Outbox, unpack


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_what_is_packed_is_unpacked(words: list[bytes], at_once: int) -> None:
    """In order, whole, and nothing else, however putting and sending take turns."""
    outbox, found = Outbox(10_000), []
    for number, word in enumerate(words):
        assert outbox.put(word)
        if number % at_once == 0:
            found += unpack(outbox.batch()) or []
            outbox.sent()
    while batch := outbox.batch():
        assert outbox.batch() == batch
        found += unpack(batch) or []
        outbox.sent()
    assert found == words
    assert len(outbox) == 0


@given(st.binary())
def test_any_bytes_are_a_batch_or_none(data: bytes) -> None:
    """What a peer sends is not trusted to be what it says."""
    messages = unpack(data)
    if messages is not None:
        assert b"".join(len(each).to_bytes(4) + each for each in messages) == data
        assert messages


def test_the_high_water_mark_counts_what_is_being_sent() -> None:
    outbox = Outbox(3)
    assert [outbox.put(b"x") for _ in range(4)] == [True, True, True, False]
    outbox.batch()
    assert not outbox.put(b"x")
    outbox.sent()
    assert len(outbox) == 0
    assert outbox.put(b"x")


def test_few_large_ones_are_too_much_as_well() -> None:
    outbox, word = Outbox(10_000), bytes(256 * 1024)
    count = 0
    while outbox.put(word):
        count += 1
    assert count == QUEUE_BYTES // (len(word) + 4)
    outbox.clear()
    assert outbox.batch() == b""
    assert outbox.put(word)


def test_a_batch_has_an_end() -> None:
    """Or others would wait for it to be sent."""
    dice, outbox = random.Random(3), Outbox(10_000)
    for _ in range(3000):
        outbox.put(bytes(dice.randrange(500)))
    sizes = []
    while batch := outbox.batch():
        sizes.append(len(batch))
        outbox.sent()
    assert all(BATCH <= size < BATCH + 504 for size in sizes[:-1])
