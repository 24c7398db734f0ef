"""Which messages cross the edge between processes, and which have just come over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sitebus.errors import ChannelFailures
from sitebus.process import Engine
from sitebus.relay.exports import Exports

Sent = list[tuple[str, tuple[Any, ...], Mapping[str, Any]]]


@pytest.fixture
def sent() -> Sent:
    return []


@pytest.fixture
def exports(sent: Sent) -> Iterator[Exports]:
    exports = Exports(Engine(), ["news", "echo"], lambda *message: sent.append(message))
    exports.subscribe()
    yield exports
    exports.unsubscribe()


def test_what_is_published_here_is_sent_on(exports: Exports, sent: Sent) -> None:
    """With its named values; on other channels nothing is."""
    exports.bus.publish("news", 1, two=2)
    exports.bus.publish("other", 3)
    assert sent == [("news", (1,), {"two": 2})]


def test_what_comes_from_elsewhere_is_heard_and_not_sent_back(exports: Exports, sent: Sent) -> None:
    """Two processes would throw it to and fro for ever."""
    heard: list[int] = []
    exports.bus.subscribe("news", heard.append)
    exports.publish("news", [1], {})
    assert heard == [1]
    assert sent == []
    exports.bus.publish("news", 2)
    assert sent == [("news", (2,), {})]


def test_what_a_listener_publishes_in_turn_is_a_message_of_its_own(
    exports: Exports, sent: Sent
) -> None:
    """On the same channel as well as on another."""

    def echo(number: int) -> None:
        if number:
            exports.bus.publish("news", 0)
            exports.bus.publish("echo", number)

    exports.bus.subscribe("news", echo)
    exports.publish("news", [1], {})
    assert sent == [("news", (0,), {}), ("echo", (1,), {})]


def test_a_listener_that_fails_is_not_the_senders_business(exports: Exports, sent: Sent) -> None:
    """It was logged; the next message is treated as any other."""
    exports.bus.subscribe("news", lambda number: 1 // number)
    exports.publish("news", [0], {})
    exports.publish("nobody", [0], {})
    with pytest.raises(ChannelFailures):
        exports.bus.publish("news", 0)
    assert sent == [("news", (0,), {})]


def test_nothing_is_sent_after_the_end(exports: Exports, sent: Sent) -> None:
    """And one that has come is not remembered when nobody listens."""
    exports.unsubscribe()
    exports.publish("news", [1], {})
    exports.subscribe()
    exports.bus.publish("news", 2)
    assert sent == [("news", (2,), {})]


def test_patterns_export_what_they_match(sent: Sent) -> None:
    """Also channels that nobody has declared, and each message once."""
    exports = Exports(Engine(), ["cache.*", "*.all", "cache.x"], lambda *each: sent.append(each))
    exports.subscribe()
    for channel in ("cache.x", "cache.all", "other", "cached"):
        exports.bus.publish(channel, 1)
    exports.unsubscribe()
    exports.bus.publish("cache.x", 2)
    assert [channel for channel, _, _ in sent] == ["cache.x", "cache.all"]


def test_a_pattern_never_exports_what_is_a_processs_own(sent: Sent) -> None:
    """Unless it is said in so many words."""
    exports = Exports(Engine(), ["*"], lambda *each: sent.append(each), also=["relay.*"])
    exports.subscribe()
    with exports.bus:
        exports.bus.publish("worker.lost", 1)
        exports.bus.publish("relay.gap", 2)
        exports.bus.publish("relay.gap", 3)
        exports.bus.publish("news", 4)
    exports.unsubscribe()
    assert [channel for channel, _, _ in sent] == ["relay.gap", "relay.gap", "news"]
    assert exports.carries("news")
    assert not exports.carries("stop")


def test_two_exports_of_one_bus_pass_on_what_the_other_brings() -> None:
    """What comes from other machines goes on to the workers, and the other way."""
    bus, sent = Engine(), list[tuple[Any, ...]]()
    machines = Exports(bus, ["*"], lambda *each: sent.append(("machines", *each)))
    workers = Exports(bus, ["*"], lambda *each: sent.append(("workers", *each)))
    for each in (machines, workers):
        each.subscribe()
    machines.publish("news", [1], {})
    workers.publish("news", [2], {})
    assert sent == [("workers", "news", (1,), {}), ("machines", "news", (2,), {})]
    sent.clear()
    with machines.coming("news"):
        workers.publish("news", [3], {})
    assert sent == []
