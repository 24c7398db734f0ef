"""Subscribers: what each of several gets, and how waiting for messages ends."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import BadName, RelayStopped, TooManyWants
from sitebus.relay.dispatch import MOST_BYTES
from sitebus.relay.envelope import Envelope
from sitebus.relay.patterns import Patterns
from sitebus.relay.subscriber import Subscriber
from tests.helpers import wait_for
from tests.relay.nodes import Node, meeting, socket_in


def subscriber(most: int = 10) -> Subscriber:
    return Subscriber(Patterns(["x"]), most, lambda _: None, lambda: None)


def envelope(message: Any) -> Envelope:
    return Envelope(
        "a-1-1", "a", "1", "x", 1, 0.0, [message], {}, None, 2, False, None, None, False, 0
    )


def test_few_large_messages_are_too_many_as_well() -> None:
    """Ten thousand messages are little memory, or some gigabytes."""
    asked = subscriber()
    for number in range(3):
        asked.offer(envelope(number)._replace(size=MOST_BYTES // 2))
    asked.offer(envelope("small"))
    assert asked.lost == 1
    assert [asked.get() for _ in range(3)] == [0, 1, "small"]
    asked.offer(envelope("again")._replace(size=MOST_BYTES))
    assert asked.get() == "again"
    assert asked.lost == 1


def test_its_end_is_heard_by_all_who_wait() -> None:
    """A thread that waits for messages is not left behind because another did as well."""
    asked = subscriber()
    found: list[Any] = []
    waiting = [threading.Thread(target=lambda: found.append(asked.get(True, 30))) for _ in range(3)]
    for each in waiting:
        each.start()
    wait_for(lambda: len(asked._changed._waiters) == 3)  # type: ignore[attr-defined]
    asked.close()
    for each in waiting:
        each.join(10)
    assert found == [None] * 3


def test_a_coroutine_waits_on_when_another_was_quicker() -> None:
    """None means that there was nothing in time, and not that somebody else got it."""

    async def two() -> list[Any]:
        asked = subscriber()
        both = [asyncio.ensure_future(asked.aget(10)) for _ in range(2)]
        await asyncio.sleep(0)
        assert len(asked._wakers) == 2
        asked.offer(envelope(1))
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        assert sum(each.done() for each in both) == 1
        asked.offer(envelope(2))
        return sorted(await asyncio.gather(*both))

    assert asyncio.run(two()) == [1, 2]


def test_a_loop_that_is_gone_costs_nobody_a_message() -> None:
    """Whoever sends has nothing to do with how somebody has ended an event loop."""
    asked = subscriber()
    loop = asyncio.new_event_loop()
    task = loop.create_task(asked.aget())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asked.offer(envelope(1))
    assert asked.get() == 1
    task.get_coro().close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("pattern", ["", "a\nb", "x" * 300])
def test_what_is_no_pattern_is_refused_where_it_is_said(tmp_path: Path, pattern: str) -> None:
    """Whether the relay runs or not; and it goes on."""
    node = Node("a", bind=socket_in(tmp_path))
    with pytest.raises(BadName):
        node.relay.subscribe(pattern)
    with node.relay:
        with pytest.raises(BadName):
            node.relay.subscribe([pattern])
        assert node.relay.flush()


def test_too_many_patterns_are_refused_where_they_are_said(tmp_path: Path) -> None:
    """Rather than that the subscriber hears nothing."""
    node = Node("a", bind=socket_in(tmp_path))
    with node.relay, pytest.raises(TooManyWants):
        node.relay.subscribe(map(str, range(2000)))
    assert not any("Traceback" in text for _, text in node.logged)


def test_as_many_messages_wait_for_listeners_as_for_a_peer(tmp_path: Path) -> None:
    """What is more is dropped, counted and told; the listener goes on with what it has."""
    a = Node("a", bind=socket_in(tmp_path), export="x")
    b = Node("b", peers=socket_in(tmp_path), import_="x", high_water=5)
    goes_on = threading.Event()
    b.bus.subscribe("x", lambda _: goes_on.wait(10))
    b.hears("x")
    with meeting(a, b):
        for number in range(20):
            a.bus.publish("x", number)
        wait_for(lambda: b.relay.counts()["rx"] == 20)
        goes_on.set()
        wait_for(lambda: [news for news in b.news if news[0] == "relay.drop"])
        (drop,) = (news for news in b.news if news[0] == "relay.drop")
        assert drop[1] == "b"
        assert len(b.heard) + drop[2] == 20
        assert len(b.heard) in (5, 6)  # one more if the first was being heard


def test_publishing_while_the_relay_ends_is_no_failure(tmp_path: Path) -> None:
    """A site publishes until it has ended; only who says it to the relay is told."""
    node = Node("a", bind=socket_in(tmp_path), export="x")
    with node.relay:
        running = node.relay._running
        assert running is not None
        running.mesh._outgoing.close()  # as it is while it ends
        node.bus.publish("x", 1)
        with pytest.raises(RelayStopped):
            node.relay.publish().put("x", 1)
