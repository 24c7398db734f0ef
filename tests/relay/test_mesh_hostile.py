"""A peer whose key is known, and which means harm: what it can have this node hold, do or tell."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from sitebus.errors import MessageTooLarge
from sitebus.relay.frames import LIMIT
from sitebus.relay.patterns import Patterns
from tests.relay.memory import Network, Node, Stranger


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def stranger(network: Network) -> Stranger:
    """One that is synced with a node that wants ``c.*``, and that keeps ``c.own`` for others."""
    node = network.node("site", ["c.*"], retain=Patterns(["c.own"]))
    network.settle()
    found = Stranger(network, node)
    found.hello()
    found.synced()
    return found


def bad(stranger: Stranger) -> list[tuple[Any, ...]]:
    return stranger.node.told("relay.bad")


def test_losses_that_are_many_are_told_together(network: Network, stranger: Stranger) -> None:
    """One message may speak of ten thousand, and each would be a line in the log."""
    node = stranger.node
    stranger.say({"v": 1, "is": "beat", "at": {f"c.{number}": 7 for number in range(5000)}})
    assert len(node.told("relay.gap")) == 100
    stranger.send(ch="c.0", seq=10)
    network.pass_time(1)
    told = node.told("relay.gap")
    assert len(told) == 100 + 1000 + 1
    assert told[-1][:2] == ("stranger", "*")
    assert sum(lost for _, _, lost in told) == node.mesh.counts.gap == 5000 * 7 + 2
    # The next ones are told at once again.
    stranger.send(ch="c.0", seq=12)
    assert node.told("relay.gap")[-1] == ("stranger", "c.0", 1)


def test_losses_of_a_channel_are_added_up(network: Network, stranger: Stranger) -> None:
    """Every second message is missing: the number is right, and told in one piece."""
    for number in range(1, 301):
        stranger.send(seq=2 * number)
    network.pass_time(1)
    told = stranger.node.told("relay.gap")
    assert told == [("stranger", "c.x", 1)] * 100 + [("stranger", "c.x", 200)]


def test_that_it_sends_what_is_wanted_is_told_once(stranger: Stranger) -> None:
    """It may say so ten thousand times in a second."""
    for _ in range(100):
        stranger.synced()
    assert stranger.node.told("relay.synced") == [("stranger",)]


def test_that_it_sends_what_is_wanted_now_is_told_again(stranger: Stranger) -> None:
    """Somebody here waits for that."""
    stranger.node.mesh.want(["d.*"])
    stranger.network.turn()
    no = stranger.node.mesh._intake.no
    stranger.say({"v": 1, "is": "synced", "no": no, "at": {}})
    assert stranger.node.told("relay.synced") == [("stranger",)] * 2


def test_a_message_in_the_name_of_this_node_is_foreign(stranger: Stranger) -> None:
    """Only a hub may have got it from here."""
    stranger.send(src="site", ep=stranger.node.mesh.epoch)
    assert stranger.node.received == []
    assert stranger.node.mesh.counts.bad == 1
    assert bad(stranger) == [
        ("stranger", "it names another node as its source, and comes from no hub")
    ]


def test_a_hub_may_bring_back_what_came_from_here(network: Network) -> None:
    """There are two, and they know each other."""
    hub = Stranger(network, network.node("site", ["c.*"], hubs=["stranger"]))
    hub.hello(hub=True)
    hub.send(src="site", ep=hub.node.mesh.epoch)
    assert hub.node.received == []
    assert hub.node.mesh.counts.bad == 0


def test_it_takes_no_number_of_connections(network: Network, stranger: Stranger) -> None:
    """Each would be a descriptor, and be beaten for."""
    for number in range(20):
        other = Stranger(network, stranger.node)
        other.hello()
        assert other.end.open == (number < 7)
    assert len(stranger.node.mesh._circle._lanes) == 8
    assert bad(stranger) == [("stranger", "it has 8 connections already")]


def values(node: Node) -> list[tuple[str, list[Any] | tuple[Any, ...]]]:
    found = node.mesh.last_values(Patterns(["*"]))
    return sorted((each.ch, each.args) for each in found)


def test_last_values_that_nobody_asked_for_are_not_kept(stranger: Stranger) -> None:
    """They come as if replayed, which may be early."""
    stranger.send(ch="other", args=[1], keep=True, ret=True)
    stranger.send(ch="c.x", args=[2], keep=True, ret=True)
    assert values(stranger.node) == [("c.x", [2])]


def test_it_puts_away_no_last_value_of_others(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later would get its values instead."""
    monkeypatch.setattr(stranger.node.mesh._intake.retained, "_most", 20)
    stranger.node.mesh.send("c.own", [1])
    stranger.network.turn()
    for number in range(100):
        stranger.send(ch=f"c.{number}", args=[number], keep=True)
    found = values(stranger.node)
    assert ("c.own", [1]) in found
    assert len(found) == 20


def test_a_last_value_stays_as_it_was_sent(network: Network, stranger: Stranger) -> None:
    """Whoever sent it, or has got it, goes on with its own."""
    node = stranger.node
    message = {"list": [1]}
    node.mesh.send("c.own", [message])
    message["list"].append(2)
    stranger.send(ch="c.x", args=[[1]], keep=True)
    node.received[-1].args[0].append(2)
    assert values(node) == [("c.own", [{"list": [1]}]), ("c.x", [[1]])]
    values(node)[0][1][0].clear()
    late = network.node("late", ["c.own"])
    network.wire(node, late)
    network.settle()
    assert late.values("c.own") == [{"list": [1]}]


def test_what_a_node_sends_itself_stays_as_it_was_sent(network: Network) -> None:
    """As on its way to any other."""
    node = network.node("site")
    message = [1]
    node.mesh.send("c.x", [message], to="site")
    message.append(2)
    network.settle()
    assert node.values("c.x") == [[1]]


def test_wants_fit_into_a_hello(network: Network) -> None:
    """It says more than they do; else a peer that comes would be told nothing at all."""
    node = network.node("n" * 256)
    count = 0
    # As large as can be, then what still fits between them.
    for length in range(250, -1, -1):
        with suppress(MessageTooLarge):
            while True:
                node.mesh.want([f"{count:06}" + length * "\u4e2d"])
                count += 1
    network.settle()
    (hello,) = Stranger(network, node).said("hello")
    assert LIMIT - 20 < len(hello) <= LIMIT
