"""The relay: what goes from one bus to others, and what does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sitebus import ChannelFailures
from sitebus.errors import (
    BadRelayAddress,
    KeysNeeded,
    MessageTooLarge,
    NameNeeded,
    NotJson,
    RelayBindError,
    RelayNoAnswer,
    RelayRemoteError,
    RelayStopped,
    WouldDeadlock,
)
from sitebus.process import Engine
from sitebus.relay.plugin import DEFAULT_ADDRESS, Relay
from tests.helpers import nothing_left, wait_for
from tests.relay.nodes import Node, meeting, socket_in

CROSSING: dict[str, Any] = {"export": ["cache.*", "ask"], "import_": ["cache.*", "ask"]}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, ...]]:
    """Two nodes that tell each other of ``cache.*`` and of ``ask``; nothing is left of them."""
    with (
        nothing_left(),
        meeting(
            Node("a", bind=socket_in(tmp_path), **CROSSING),
            Node("b", peers=socket_in(tmp_path), **CROSSING).hears("cache.*"),
        ) as nodes,
    ):
        yield nodes


# The buses.


def test_what_is_exported_is_published_elsewhere(pair: tuple[Node, ...]) -> None:
    """In order, with its named values."""
    a, b = pair
    for number in range(50):
        a.bus.publish("cache.users", number, by="ada")
    wait_for(lambda: len(b.heard) == 50)
    assert b.heard == [("cache.users", number, ("by", "ada")) for number in range(50)]


def test_what_came_is_not_sent_back(pair: tuple[Node, ...]) -> None:
    """Two nodes that import what they export would throw it to and fro for ever."""
    a, b = pair
    a.hears("cache.*")
    a.bus.publish("cache.users", 1)
    b.bus.publish("cache.users", 2)
    wait_for(lambda: len(a.heard) == 2 and len(b.heard) == 2)
    assert a.relay.counts()["tx"] == b.relay.counts()["tx"] == 1


def test_what_a_listener_publishes_in_turn_goes_out(pair: tuple[Node, ...]) -> None:
    """It is a message of its own."""
    a, b = pair
    a.hears("cache.*")
    b.bus.subscribe("cache.ask", lambda: b.bus.publish("cache.told", "b"))
    a.bus.publish("cache.ask")
    wait_for(lambda: ("cache.told", "b") in a.heard)


def test_what_is_not_exported_stays(pair: tuple[Node, ...]) -> None:
    """Nothing leaves that was not named."""
    a, b = pair
    b.hears("private", "cached")
    a.bus.publish("private", 1)
    a.bus.publish("cached", 1)
    a.bus.publish("cache.last", 1)
    wait_for(lambda: b.heard)
    assert b.heard == [("cache.last", 1)]


def test_what_is_not_imported_does_not_enter(tmp_path: Path) -> None:
    """However much others export: it is not even sent."""
    a = Node("a", bind=socket_in(tmp_path), export="*")
    b = Node("b", peers=socket_in(tmp_path), import_="cache.*").hears("cache.*", "other")
    with meeting(a, b):
        a.bus.publish("other", 1)
        a.bus.publish("cache.x", 2)
        wait_for(lambda: b.heard)
        assert b.heard == [("cache.x", 2)]
        assert b.relay.counts()["rx"] == 1


def test_a_pattern_never_means_what_is_a_sites_own(tmp_path: Path) -> None:
    """``export = *`` does not end the neighbours."""
    a = Node("a", bind=socket_in(tmp_path), export="*", import_="*")
    b = Node("b", peers=socket_in(tmp_path), export="*", import_="*")
    heard: list[str] = []
    with meeting(a, b):
        for channel in ("graceful", "stop", "log", "main", "worker.lost", "relay.peer", "SIGTERM"):
            b.bus.subscribe(channel, lambda *_, channel=channel: heard.append(channel))
        heard.clear()
        for channel in ("graceful", "stop", "main", "worker.lost", "SIGTERM"):
            a.bus.publish(channel)
        publisher = a.relay.publish()
        publisher.put(["graceful", "stop", "worker.lost"], None)
        publisher.put("cache.x", 1)
        wait_for(lambda: b.relay.counts()["rx"])
        assert not {"graceful", "stop", "worker.lost", "SIGTERM", "main"} & set(heard)


def test_what_is_no_json_is_refused_where_it_is_published(pair: tuple[Node, ...]) -> None:
    """Nothing was sent, and the caller learns why."""
    a, b = pair
    for value, kind in (({1, 2}, NotJson), ("x" * 300_000, MessageTooLarge)):
        with pytest.raises(ChannelFailures) as caught:
            a.bus.publish("cache.x", value)
        assert isinstance(caught.value.exceptions[0], kind)
        with pytest.raises(kind):
            a.relay.publish().put("cache.x", value)
    a.bus.publish("cache.x", "good")
    wait_for(lambda: b.heard)
    assert b.heard == [("cache.x", "good")]
    assert b.relay.counts()["gap"] == 0


def test_a_listener_that_fails_costs_nobody_else_a_message(pair: tuple[Node, ...]) -> None:
    """It is logged where it failed."""
    a, b = pair
    b.bus.subscribe("cache.x", lambda number: 1 // number, 1)
    a.bus.publish("cache.x", 0)
    a.bus.publish("cache.x", 1)
    wait_for(lambda: len(b.heard) == 2)
    assert any("ZeroDivisionError" in text for _, text in b.logged)


# Commands.


def commanded(tmp_path: Path, *nodes: str) -> AbstractContextManager[tuple[Node, ...]]:
    rules = dict.fromkeys(("graceful", "stop", "start", "log"), nodes)
    return meeting(
        Node("a", bind=socket_in(tmp_path)),
        Node("b", peers=socket_in(tmp_path), commands=rules),
    )


def test_a_command_is_done_for_those_who_may_give_it(tmp_path: Path) -> None:
    """And whoever gave it learns when it is done."""
    with commanded(tmp_path, "a") as (a, b):
        b.bus.start()
        heard = b.hears("graceful").heard
        assert a.relay.call("graceful") == {"b": []}
        assert heard == [("graceful",)]
        assert a.relay.call("stop") == {"b": []}
        assert b.bus.state == b.bus.states.STOPPED
        assert a.relay.call("start") == {"b": []}
        assert b.bus.state == b.bus.states.STARTED
        assert any("graceful: a asked for it" in text for _, text in b.logged)
        b.bus.exit()


def test_a_command_of_anybody_else_is_dropped_and_told(tmp_path: Path) -> None:
    """Once, and counted each time; it is never raised into the site."""
    with commanded(tmp_path, "c") as (a, b):
        b.hears("graceful")
        publisher = a.relay.publish()
        for _ in range(3):
            publisher.put("graceful", None)
        answer = a.relay.call("graceful")["b"]
        assert isinstance(answer, RelayRemoteError)
        assert "[relay command]" in str(answer)
        wait_for(lambda: b.news[-1][0] == "relay.bad")
        assert b.relay.counts()["bad"] == 4
        assert sum(news[0] == "relay.bad" for news in b.news) == 1
        assert b.heard == []


def test_a_log_line_may_be_a_command(tmp_path: Path) -> None:
    """One node may keep the log of others, if it says so."""
    with commanded(tmp_path, "a") as (a, b):
        assert a.relay.call("log", "a word", 30) == {"b": [None]}
        assert (30, "a word") in b.logged


# Questions.


def test_a_call_gathers_an_answer_per_node(tmp_path: Path) -> None:
    """What listeners returned, or what went wrong; each by its node."""
    address = socket_in(tmp_path)
    nodes = [Node("a", bind=address, **CROSSING)]
    nodes += [Node(name, peers=address, **CROSSING) for name in ("b", "c", "d")]
    nodes[1].bus.subscribe("ask", lambda number: number + 1)
    nodes[2].bus.subscribe("ask", lambda number: 1 // 0)
    nodes[3].bus.subscribe("ask", lambda number: {number})
    with meeting(*nodes) as (a, *_):
        assert a.relay.wait_peers("b", "c", "d")
        answers = a.relay.call("ask", 41)
        assert list(answers) == ["b", "c", "d"]
        assert answers["b"] == [42]
        for name, reason in (("c", "ZeroDivisionError"), ("d", "cannot be sent")):
            assert isinstance(answers[name], RelayRemoteError)
            assert reason in str(answers[name])
            assert answers[name].node == name


def test_a_node_that_is_silent_is_told_of(pair: tuple[Node, ...]) -> None:
    """After the time it was given; the call does not fail for it."""
    a, b = pair
    ends = threading.Event()
    b.bus.subscribe("ask", lambda: ends.wait(10))
    answers = a.relay.call("ask", timeout=0.2)
    ends.set()
    assert isinstance(answers["b"], RelayNoAnswer)
    assert "0.2 s" in str(answers["b"])


def test_a_node_that_goes_is_not_waited_for(tmp_path: Path) -> None:
    """Its end is known before the time is over."""
    with (
        nothing_left(),
        meeting(
            Node("a", bind=socket_in(tmp_path), **CROSSING),
            Node("b", peers=socket_in(tmp_path), **CROSSING),
        ) as (a, b),
    ):
        inside = threading.Event()
        b.bus.subscribe("ask", lambda: inside.set())
        b.bus.subscribe("ask", lambda: b.relay.stop())
        answers = a.relay.call("ask", timeout=60)
        assert inside.is_set()
        assert isinstance(answers["b"], RelayNoAnswer)


def test_only_those_who_import_the_channel_are_asked(pair: tuple[Node, ...]) -> None:
    """And of those who were named and are not there it is said."""
    a, _b = pair
    assert a.relay.call("other") == {}
    answers = a.relay.call("ask", nodes=["b", "nobody"], timeout=0.3)
    assert answers["b"] == []
    assert isinstance(answers["nobody"], RelayNoAnswer)


def test_a_call_from_the_threads_that_answers_come_in_is_refused(pair: tuple[Node, ...]) -> None:
    """It would wait for itself."""
    a, b = pair
    caught: list[BaseException] = []

    def ask(*_: object) -> None:
        try:
            b.relay.call("ask")
        except WouldDeadlock as error:
            caught.append(error)

    b.bus.subscribe("cache.x", ask)
    a.bus.publish("cache.x", 1)
    wait_for(lambda: caught)


# Publishers and subscribers.


def test_a_subscriber_gets_what_is_put(pair: tuple[Node, ...]) -> None:
    """In order, with or without its envelope, and None when there is nothing."""
    a, b = pair
    with b.relay.subscribe(["group", "direct.*"]) as subscriber:
        wait_for(lambda: {"group", "direct.*"} <= set(a.relay.peers()[0].wants))
        a.relay.publish().put(["group", "direct.b", "other"], {"do": "it"})
        assert subscriber.get(block=True, timeout=10) == {"do": "it"}
        envelope = subscriber.get(block=True, timeout=10, envelope=True)
        assert (envelope.ch, envelope.src, envelope.args) == ("direct.b", "a", [{"do": "it"}])
        assert subscriber.get() is None
        assert subscriber.get(block=True, timeout=0.01) is None
    assert subscriber.closed
    wait_for(lambda: "group" not in a.relay.peers()[0].wants)


def test_a_subscriber_hears_its_own_node_and_buses_elsewhere(pair: tuple[Node, ...]) -> None:
    """A copy: whoever goes on with what was put does not change it there."""
    a, b = pair
    subscriber = a.relay.subscribe("cache.*")
    wait_for(lambda: "cache.*" in b.relay.peers()[0].wants)
    message = ["old"]
    a.relay.publish().put("cache.x", message)
    message.append("new")
    b.bus.publish("cache.y", 1, two=2)
    assert subscriber.get(block=True, timeout=10) == ["old"]
    assert subscriber.get(block=True, timeout=10) == {"args": [1], "kwargs": {"two": 2}}


def test_iterating_ends_with_the_subscriber(pair: tuple[Node, ...]) -> None:
    """What had come is still to be had."""
    a, _ = pair
    subscriber = a.relay.subscribe("x")
    for number in range(3):
        a.relay.publish().put("x", number)
    subscriber.close()
    assert list(subscriber) == [0, 1, 2]


def test_coroutines_get_messages(pair: tuple[Node, ...]) -> None:
    """Without a thread that waits for each."""
    a, b = pair
    subscriber = b.relay.subscribe("x")
    wait_for(lambda: "x" in a.relay.peers()[0].wants)

    async def three() -> list[Any]:
        found = [await subscriber.aget(10)]
        async for message in subscriber:
            found.append(message)
            if message == "last":
                subscriber.close()
        found.append(await subscriber.aget())
        return found

    publisher = a.relay.publish()
    for message in ("first", "second", "last"):
        publisher.put("x", message)
    assert asyncio.run(three()) == ["first", "second", "last", None]


def test_nothing_in_time_is_none_for_coroutines(pair: tuple[Node, ...]) -> None:
    """As for others."""
    assert asyncio.run(pair[0].relay.subscribe("x").aget(0.01)) is None


def test_a_subscriber_nobody_asks_does_not_fill_the_memory(tmp_path: Path) -> None:
    """What is too much is dropped, counted and told."""
    a = Node("a", bind=socket_in(tmp_path), high_water=10)
    with a.relay:
        subscriber = a.relay.subscribe("x")
        publisher = a.relay.publish()
        for number in range(25):
            publisher.put("x", number)
        assert subscriber.lost == 15
        assert [subscriber.get() for _ in range(11)] == [*range(10), None]
        wait_for(lambda: sum(news[2] for news in a.news if news[:2] == ("relay.drop", "a")) == 15)


def test_a_call_may_be_answered_by_a_subscriber(pair: tuple[Node, ...]) -> None:
    """A program without listeners takes part in a vote."""
    a, b = pair
    subscriber = b.relay.subscribe("vote")
    wait_for(lambda: "vote" in a.relay.peers()[0].wants)

    def vote() -> None:
        b.relay.answer(subscriber.get(block=True, timeout=10, envelope=True), "yes")

    voter = threading.Thread(target=vote)
    voter.start()
    assert a.relay.call("vote") == {"b": "yes"}
    voter.join(10)


# Those who come late.


def test_who_comes_late_gets_the_last_value_of_a_retained_channel(tmp_path: Path) -> None:
    """And nothing else of what was before."""
    a = Node("a", bind=socket_in(tmp_path), export="*", retain="config.*")
    b = Node("b", peers=socket_in(tmp_path), import_="*").hears("config.*", "news")
    with a.relay:
        for number in range(3):
            a.bus.publish("config.x", number)
            a.bus.publish("news", number)
        with b.relay:
            wait_for(lambda: b.heard)
            a.bus.publish("news", "now")
            wait_for(lambda: len(b.heard) == 2)
    assert b.heard == [("config.x", 2), ("news", "now")]
    assert not [news for news in b.news if news[0] == "relay.gap"]


def test_a_subscriber_that_comes_late_gets_the_last_values_too(tmp_path: Path) -> None:
    """Each once, whether this node wanted the channel before or not."""
    a = Node("a", bind=socket_in(tmp_path), retain="config.*")
    b = Node("b", peers=socket_in(tmp_path), import_="config.x")
    with meeting(a, b):
        for channel in ("config.x", "config.y", "other"):
            a.relay.publish().put(channel, channel)
        wait_for(lambda: b.relay.counts()["rx"] == 1)
        subscriber = b.relay.subscribe("*")
        assert [subscriber.get(True, 10), subscriber.get(True, 10)] == ["config.x", "config.y"]
        a.relay.publish().put("last", "last")
        assert subscriber.get(True, 10) == "last"
        assert a.relay.subscribe("config.y").get(True, 10) == "config.y"


# More than two.


def test_a_message_comes_once_however_many_ways_there_are(tmp_path: Path) -> None:
    """Three that all connect to each other, from both sides."""
    names = ("a", "b", "c")
    addresses = {name: f"unix:{tmp_path}/{name}.sock" for name in names}
    nodes = [
        Node(
            name,
            bind=addresses[name],
            peers=[addresses[other] for other in names if other != name],
            **CROSSING,
        ).hears("cache.*")
        for name in names
    ]
    with meeting(*nodes):
        for node in nodes:
            assert node.relay.wait_peers(*(name for name in names if name != node.relay.node))
        for number in range(20):
            for node in nodes:
                node.bus.publish("cache.x", node.relay.node, number)
        wait_for(lambda: all(len(node.heard) == 60 for node in nodes))
        # What would have come twice had its time while the last of these came.
        nodes[0].bus.publish("cache.last")
        wait_for(lambda: all(node.heard[-1] == ("cache.last",) for node in nodes))
        assert {len(node.heard) for node in nodes} == {61}
        assert all(node.relay.counts()["gap"] == 0 for node in nodes)


def test_a_hub_passes_on_what_its_peers_want_of_each_other(tmp_path: Path) -> None:
    """Two that have no connection hear each other, and answer each other's calls."""
    address = socket_in(tmp_path)
    hub = Node("hub", bind=address, hub=True)
    a, b = (Node(name, peers=address, hubs="hub", **CROSSING) for name in ("a", "b"))
    with meeting(hub, a, b):
        b.hears("cache.*").bus.subscribe("ask", lambda: "b is here")

        def arrives() -> bool:
            a.bus.publish("cache.x", 1)
            return bool(b.heard)

        # The hub may not have told yet what the one wants that came later.
        wait_for(arrives)
        assert a.relay.call("ask", nodes=["b"], timeout=10) == {"b": ["b is here"]}
        assert a.relay.call("ask", timeout=0.5) == {"b": ["b is here"]}
        assert a.heard == []


# The life.


def test_news_is_published_and_logged(pair: tuple[Node, ...]) -> None:
    """Who is there and who has gone."""
    a, b = pair
    wait_for(lambda: ("relay.peer", "b", "up") in a.news and ("relay.synced", "b") in a.news)
    b.relay.stop()
    wait_for(lambda: ("relay.peer", "b", "down") in a.news)
    assert any(text == "relay: b is down" for _, text in a.logged)


def test_it_runs_from_the_start_of_a_site_to_its_exit(tmp_path: Path) -> None:
    """Also while the site is stopped: another node may be who starts it again."""
    node = Node("a", bind=socket_in(tmp_path))
    node.relay.subscribe()
    with nothing_left():
        node.bus.start()
        before = node.relay.picture()
        node.bus.stop()
        node.bus.start()
        assert node.relay.picture() == before
        assert node.bus.relay is node.relay
        node.bus.exit()
        assert not node.relay.addresses
    node.relay.unsubscribe()
    assert node.bus.relay is None


def test_each_life_is_somebody_new(tmp_path: Path) -> None:
    """Else others would take a restart for a loss."""
    node = Node("a", bind=socket_in(tmp_path))
    epochs = set()
    for _ in range(3):
        with node.relay:
            epochs.add(node.relay.picture().epoch)
    assert len(epochs) == 3


def test_it_begins_when_threads_may_and_before_privileges_are_dropped(tmp_path: Path) -> None:
    """A daemon forks before; keys may be readable by root alone."""
    node = Node("a", bind=socket_in(tmp_path))
    node.relay.subscribe()
    runs: list[bool] = []
    for priority in (65, 70, 72):
        node.bus.subscribe("start", partial(_note, runs, node.relay), priority)
    node.bus.start()
    node.bus.exit()
    node.relay.unsubscribe()
    assert runs == [False, False, True]


def _note(runs: list[bool], relay: Relay) -> None:
    runs.append(bool(relay.addresses))


def test_counts_go_on_through_stops(tmp_path: Path) -> None:
    """A counter never goes back."""
    a = Node("a", bind=socket_in(tmp_path), export="*")
    for _ in range(2):
        with a.relay:
            a.bus.publish("x", 1)
            assert a.relay.flush()
    assert a.relay.counts()["tx"] == 2


def test_nothing_goes_out_before_the_start_and_after_the_end(tmp_path: Path) -> None:
    """A bus may publish at any time; who says it outright is told."""
    node = Node("a", bind=socket_in(tmp_path), export="*")
    node.relay.subscribe()
    node.bus.publish("x", 1)
    for refused in (
        lambda: node.relay.publish().put("x", 1),
        lambda: node.relay.call("x"),
    ):
        with pytest.raises(RelayStopped):
            refused()
    assert node.relay.peers() == ()
    assert not node.relay.flush()
    assert not node.relay.wait_peers(timeout=0.01)
    node.relay.unsubscribe()


def test_the_end_of_the_relay_ends_its_subscribers(tmp_path: Path) -> None:
    """A loop over one does not hang for ever."""
    node = Node("a", bind=socket_in(tmp_path))
    with node.relay:
        subscriber = node.relay.subscribe("x")
        found: list[Any] = []
        loop = threading.Thread(target=lambda: found.extend(subscriber))
        loop.start()
        node.relay.publish().put("x", 1)
    loop.join(10)
    assert found == [1]


# What is refused.


def test_without_an_address_it_is_where_everybody_looks() -> None:
    """And nothing of it is opened by making it."""
    with nothing_left():
        assert Relay(Engine())._plan.bind == (DEFAULT_ADDRESS,)
        assert Relay(Engine(), peers="unix:/x")._plan.bind == ()


@pytest.mark.parametrize("told", [{"bind": "tcp://0.0.0.0:5555"}, {"peers": "tcp://10.0.0.9:5555"}])
def test_beyond_this_machine_it_needs_keys(told: dict[str, str]) -> None:
    """Anybody could read along."""
    relay = Relay(Engine(), **told)  # type: ignore[arg-type]
    with pytest.raises(KeysNeeded, match="keygen") as caught:
        relay.check()
    assert caught.value.status == 78
    with pytest.raises(KeysNeeded):
        relay.start()


def test_commands_over_tcp_need_keys(tmp_path: Path) -> None:
    """Else anybody on this machine may call itself the boss."""
    rules = {"exit": ["boss"]}
    with pytest.raises(KeysNeeded, match="unix:/run"):
        Relay(Engine(), bind="tcp://127.0.0.1:0", commands=rules).check()
    assert Relay(Engine(), bind=socket_in(tmp_path), commands=rules).check() == ()


def test_with_keys_each_peer_has_a_name(tmp_path: Path) -> None:
    """Else any of the keys would do for any of them."""
    with pytest.raises(NameNeeded, match="NAME=tcp://"):
        Relay(Engine(), peers="tcp://10.0.0.9:5555", keys=tmp_path).check()


@pytest.mark.parametrize("address", ["http://x", "tcp://", "tcp://x", "unix:", "127.0.0.1:5555"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """When it is made, with one that would do."""
    with pytest.raises(BadRelayAddress, match="unix:/run"):
        Relay(Engine(), bind=address)


def test_a_port_that_others_may_be_given_is_doubted() -> None:
    """A client that connects to it again and again ends up talking to itself."""
    assert Relay(Engine(), bind="tcp://127.0.0.1:5555").check() == ()
    (doubt,) = Relay(Engine(), bind="tcp://127.0.0.1:40000").check()
    assert "32768" in doubt


def test_an_address_in_use_leaves_nothing(tmp_path: Path) -> None:
    """The start fails with one sentence, and can be tried again."""
    first = Node("a", bind=socket_in(tmp_path))
    second = Node("b", bind=socket_in(tmp_path))
    with first.relay, nothing_left():
        with pytest.raises(RelayBindError) as caught:
            second.relay.start()
        assert caught.value.status == 69
    with second.relay:
        assert second.relay.addresses
