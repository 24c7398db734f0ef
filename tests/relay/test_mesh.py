"""What one node promises: who is up, who gets what, and what a stranger cannot do."""

from __future__ import annotations

import math
import threading
from random import Random
from typing import Any

import pytest

from sitebus.errors import BadName, MessageTooLarge, NotJson, RelayStopped, TooManyWants
from sitebus.relay import Poller
from sitebus.relay.frames import LIMIT
from sitebus.relay.mesh import Mesh
from sitebus.relay.patterns import Patterns
from sitebus.relay.sequences import Mark
from tests.helpers import PATIENCE, wait_for
from tests.relay.memory import Network, Node, Stranger


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def pair(network: Network) -> tuple[Node, Node]:
    """Two nodes that are connected; the second wants ``c.*``."""
    one, two = network.node("one"), network.node("two", ["c.*"])
    network.wire(one, two)
    network.settle()
    return one, two


@pytest.fixture
def stranger(network: Network) -> Stranger:
    node = network.node("site", ["c.*"])
    network.settle()
    return Stranger(network, node)


class TestPeers:
    def test_both_are_up_once_they_are_synced(self, pair: tuple[Node, Node]) -> None:
        """From here on each gets what it wants."""
        one, two = pair
        assert one.told("relay.peer") == [("two", "up")]
        assert two.told("relay.synced") == [("one",)]
        (picture,) = one.mesh.peers()
        assert (picture.node, picture.state, picture.address) == ("two", "up", "memory:two")
        assert (picture.epoch, picture.wants) == (two.mesh.epoch, ("c.*",))

    def test_one_that_leaves_is_down_at_once(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """It says so, and nobody waits three seconds."""
        one, two = pair
        two.mesh.stop(0)
        network.settle()
        assert one.told("relay.peer")[-1] == ("two", "down")
        assert one.mesh.peers()[0].state == "down"

    def test_one_that_is_cut_off_is_down(self, network: Network, pair: tuple[Node, Node]) -> None:
        """And nothing is counted as dropped for it: it will know itself."""
        one, _ = pair
        network.cut(network.ends)
        one.mesh.send("c.x", [1])
        network.pass_time(2)
        assert one.told("relay.peer")[-1] == ("two", "down")
        assert one.told("relay.drop") == []

    def test_one_that_is_silent_is_down_after_its_patience(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Its machine may have lost its power: no connection says so."""
        one, two = pair
        network.nodes.remove(two)
        network.ends.clear()
        network.pass_time(3)
        assert one.told("relay.peer")[-1] == ("two", "up")
        network.pass_time(1.5)
        assert one.told("relay.peer")[-1] == ("two", "down")

    def test_beats_keep_a_quiet_peer_up(self, network: Network, pair: tuple[Node, Node]) -> None:
        """Sites may have nothing to say to each other all night."""
        network.pass_time(60)
        assert [node.told("relay.peer") for node in pair] == [[("two", "up")], [("one", "up")]]

    def test_a_process_that_slept_does_not_blame_its_peers(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Stopped by a debugger for a minute, it has their beats still to read."""
        network.now += 60
        network.settle()
        network.pass_time(5)
        assert [node.told("relay.peer") for node in pair] == [[("two", "up")], [("one", "up")]]

    def test_a_second_connection_stands_by(self, network: Network, pair: tuple[Node, Node]) -> None:
        """Each may connect to the other: messages go one way, and by the other if that breaks."""
        one, two = pair
        second = network.wire(one, two)
        network.settle()
        one.mesh.send("c.x", [1])
        network.turn()
        assert not second[0].waiting
        network.settle()
        network.cut(network.ends[:2])
        one.mesh.send("c.x", [2])
        network.pass_time(10)
        assert two.values("c.x") == [1, 2]
        assert one.told("relay.peer") == [("two", "up")]

    def test_wants_that_were_under_way_when_it_broke_are_said_again(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """The other connection was made before they were wanted."""
        one, two = pair
        network.wire(one, two)
        network.settle()
        two.mesh.want(["d"])
        network.turn()
        network.cut(network.ends[:2])
        network.settle()
        one.mesh.send("d", [1])
        network.settle()
        assert two.values("d") == [1]

    def test_one_that_has_started_anew_is_welcome(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """In a new epoch, with its old connection gone."""
        one, _ = pair
        network.cut(network.ends)
        again = network.node("two", ["c.*"])
        network.wire(one, again)
        network.settle()
        one.mesh.send("c.x", [1])
        network.settle()
        assert again.values("c.x") == [1]
        assert one.told("relay.peer") == [("two", "up"), ("two", "down"), ("two", "up")]

    def test_one_whose_old_connection_is_not_known_to_be_dead_waits_for_that(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Its machine was switched off and on again; no false alarm of two with a name."""
        one, two = pair
        network.nodes.remove(two)
        network.ends.clear()
        again = network.node("two", ["c.*"])
        network.wire(one, again, named=False)
        network.pass_time(5)
        assert again.told("relay.bad") != []
        network.wire(one, again, named=False)
        network.settle()
        assert one.told("relay.peer") == [("two", "up"), ("two", "down"), ("two", "up")]
        assert one.told("relay.bad") == []

    def test_two_with_one_name_are_told_of_once(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """The first keeps it, and the other is told, too, however often it tries."""
        one, two = pair
        other = network.node("two", ["c.*"])
        for _ in range(5):
            network.wire(one, other, named=False)
            network.pass_time(3)
        assert one.told("relay.bad") == [
            ("two", "two nodes have this name, and the one at memory:two was turned away")
        ]
        (complaint,) = other.told("relay.bad")
        assert complaint == ("one", "it turned this node away: another node is called two")
        one.mesh.send("c.x", [1])
        network.settle()
        assert (two.values("c.x"), other.values("c.x")) == ([1], [])
        assert one.told("relay.peer") == [("two", "up")]

    def test_another_of_this_very_name_is_turned_away(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Both are told."""
        one, _ = pair
        other = network.node("one")
        network.wire(one, other, named=False)
        network.settle()
        assert one.told("relay.bad") == [("one", "another node has the name of this one")]
        assert len(other.told("relay.bad")) == 1


class TestSending:
    def test_values_arrive_as_json_has_them(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """And the sender's clock, node and epoch with them."""
        one, two = pair
        sent = one.mesh.send("c.ü\"'\\", (1, "ä\ud800", None), {"k": [True, {"x": 1.5}]})
        network.settle()
        (came,) = two.received
        assert came.args == [1, "ä\ud800", None]
        assert came.kw == {"k": [True, {"x": 1.5}]}
        assert (came.id, came.src, came.ep) == (sent.id, "one", one.mesh.epoch)
        assert came.id == f"one-{came.ep}-1"
        assert came.ts == pytest.approx(sent.ts, abs=1e-5)

    @pytest.mark.parametrize("value", [object(), math.nan, {1: 2}, {"deep": [b"x"]}])
    def test_what_is_no_json_is_refused_in_the_caller(
        self, network: Network, pair: tuple[Node, Node], value: object
    ) -> None:
        """And leaves no hole in the numbers."""
        one, two = pair
        with pytest.raises(NotJson):
            one.mesh.send("c.x", [value])
        with pytest.raises(TypeError):
            one.mesh.send("c.x", (), {"key": value})
        with pytest.raises(MessageTooLarge):
            one.mesh.send("c.x", ["x" * LIMIT])
        one.mesh.send("c.x", [1])
        network.pass_time(3)
        assert two.numbers("one", "c.x") == [1]
        assert two.lost() == {}

    @pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "\ud800", 5])
    def test_names_that_cannot_be_are_refused(self, pair: tuple[Node, Node], name: Any) -> None:
        """They would be refused at the other end."""
        with pytest.raises(BadName):
            pair[0].mesh.send(name)
        with pytest.raises(BadName):
            pair[0].mesh.send("c", to=name)
        with pytest.raises((BadName, TypeError)):
            pair[0].mesh.want([name])

    @pytest.mark.parametrize("call", ["", "x" * 1025, 5])
    def test_calls_that_cannot_be_are_refused(self, pair: tuple[Node, Node], call: Any) -> None:
        """Their answers would be refused as well."""
        with pytest.raises(BadName):
            pair[0].mesh.send("c", call=call)
        with pytest.raises(BadName):
            pair[0].mesh.send("c", re=call)

    def test_what_fits_exactly_arrives(self, network: Network, pair: tuple[Node, Node]) -> None:
        """What is accepted here is not refused there."""
        one, two = pair
        size = LIMIT
        while size:
            try:
                one.mesh.send("c.x", ["x" * size])
                break
            except MessageTooLarge as error:
                size -= max(1, error.size - error.limit)
        assert size > LIMIT - 600
        network.settle()
        assert len(two.received) == 1
        assert one.mesh.counts.bad == two.mesh.counts.bad == 0

    def test_what_sends_in_the_middle_of_sending_has_its_turn(
        self, network: Network, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A finalizer or a signal handler may run anywhere; numbers keep their order."""
        one, two = pair
        numbers = one.mesh._outgoing._numbers
        following = numbers.following
        nested = iter(range(3))

        def interrupted(stream: str) -> Mark:
            mark = following(stream)
            if next(nested, None) is not None:
                assert one.mesh.send("c.x", ["nested"]).seq == 0
            return mark

        monkeypatch.setattr(numbers, "following", interrupted)
        assert one.mesh.send("c.x", ["outer"]).seq == 1
        network.settle()
        assert two.values("c.x") == ["outer", "nested", "nested", "nested"]
        assert two.numbers("one", "c.x") == [1, 2, 3, 4]

    def test_nothing_is_sent_before_the_start_or_after_the_stop(self) -> None:
        """It would wait for nobody."""
        mesh = Mesh("one", Poller(), print, print)
        with pytest.raises(RelayStopped, match="cannot send on 'c'"):
            mesh.send("c")

    def test_what_was_sent_before_the_stop_goes_out(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """The last words of a site are those that matter."""
        one, two = pair
        one.mesh.send("c.x", [1])
        one.mesh.stop(0)
        with pytest.raises(RelayStopped):
            one.mesh.send("c.x", [2])
        network.settle()
        assert two.values("c.x") == [1]

    def test_a_peer_is_sent_what_it_wants_and_no_more(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Each message costs its readers alone."""
        one, _ = pair
        one.mesh.send("d", [1])
        network.turn()
        assert not network.ends[0].waiting

    def test_wants_are_counted(self, network: Network, pair: tuple[Node, Node]) -> None:
        """Two parts of a site may want the same, and one no longer."""
        one, two = pair
        two.mesh.want(["d", "c.*"])
        two.mesh.unwant(["c.*"])
        network.settle()
        one.mesh.send("c.x", [1])
        network.settle()
        two.mesh.unwant(["c.*"])
        two.mesh.unwant(["never wanted"])
        network.settle()
        one.mesh.send("c.x", [2])
        one.mesh.send("d", [3])
        network.settle()
        assert [each.args[0] for each in two.received] == [1, 3]

    def test_too_many_wants_are_refused_and_change_nothing(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """A peer could not take them."""
        one, two = pair
        with pytest.raises(TooManyWants, match="cannot want 1001 patterns"):
            two.mesh.want(map(str, range(1000)))
        with pytest.raises(MessageTooLarge):
            two.mesh.want(["é" * 250 + str(number) for number in range(900)])
        network.settle()
        assert one.mesh.peers()[0].wants == ("c.*",)

    def test_an_answer_reaches_who_asked_alone(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Though it wants no such channel."""
        one, two = pair
        three = network.node("three", ["*"])
        network.wire(two, three)
        network.settle()
        one.mesh.send("c.ask", call="q1")
        network.settle()
        assert two.received[-1].call == "q1"
        two.mesh.send("answer", [5], to="one", re="q1")
        network.pass_time(3)
        assert [(each.ch, each.args, each.re) for each in one.received] == [("answer", [5], "q1")]
        assert three.received == []
        assert three.lost() == {}

    def test_a_message_to_nobody_is_counted(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """No way leads there."""
        one, _ = pair
        one.mesh.send("c", to="nobody")
        one.mesh.send("c", to="nobody")
        network.pass_time(1)
        assert one.told("relay.drop") == [("nobody", 2)]

    def test_a_burst_rings_once(self, network: Network, pair: tuple[Node, Node]) -> None:
        """Waking a thread costs more than a message."""
        one, two = pair
        before = len(one.turns._soon)
        for number in range(500):
            one.mesh.send("c.x", [number])
        assert len(one.turns._soon) == before + 1
        network.settle()
        assert two.values("c.x") == list(range(500))

    def test_a_slow_peer_harms_nobody_else(self, network: Network) -> None:
        """It misses what it has no room for, and is told how much."""
        one = network.node("one")
        slow, quick = network.node("slow", ["*"]), network.node("quick", ["*"])
        network.wire(one, slow, room=20)
        network.wire(one, quick)
        network.settle()
        for number in range(100):
            one.mesh.send("c", [number])
        network.pass_time(3)
        assert quick.values("c") == list(range(100))
        assert slow.values("c") == list(range(20))
        assert slow.lost() == {("one", "c"): 80}
        assert one.told("relay.drop") == [("slow", 80)]
        dropped = {each.node: each.dropped for each in one.mesh.peers()}
        assert dropped == {"slow": 80, "quick": 0}

    def test_a_queue_that_is_full_costs_counted_messages(
        self, network: Network, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The poller may be busy while threads send on; memory must not grow for ever."""
        one, two = pair
        monkeypatch.setattr("sitebus.relay.outgoing.MOST", 10)
        for number in range(25):
            one.mesh.send("c.x", [number])
        network.pass_time(3)
        one.mesh.send("c.x", [25])
        network.settle()
        assert two.values("c.x") == [*range(10), 25]
        assert two.lost() == {("one", "c.x"): 15}
        assert one.told("relay.drop") == [("two", 15)]
        assert one.mesh.counts.tx == 26


class TestRetained:
    def test_who_comes_later_gets_the_last_value_and_no_old_event(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """A state is told again, what has happened is not."""
        one, _ = pair
        for number in range(3):
            one.mesh.send("c.state", [number], retain=True)
            one.mesh.send("c.event", [number])
        network.settle()
        late = network.node("late", ["*"])
        network.wire(one, late)
        network.settle()
        one.mesh.send("c.state", [3], retain=True)
        network.pass_time(3)
        came = [(each.ch, each.args[0], each.ret, each.seq) for each in late.received]
        assert came == [("c.state", 2, True, 3), ("c.state", 3, False, 4)]
        assert late.lost() == {}

    def test_who_wants_it_later_gets_it_as_well(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """And not once more what it wanted before."""
        one, two = pair
        one.mesh.send("c.state", [1], retain=True)
        one.mesh.send("d.state", [2], retain=True)
        network.settle()
        two.mesh.want(["d.*"])
        network.settle()
        two.mesh.want(["*"])
        network.pass_time(3)
        assert [each.args[0] for each in two.received] == [1, 2]

    def test_after_a_break_it_comes_if_it_is_new(
        self, network: Network, pair: tuple[Node, Node]
    ) -> None:
        """Twice would be once too often."""
        one, two = pair
        one.mesh.send("c.old", [1], retain=True)
        one.mesh.send("c.new", [2], retain=True)
        network.settle()
        network.cut(network.ends)
        one.mesh.send("c.new", [3], retain=True)
        network.turn()
        network.wire(one, two)
        network.pass_time(3)
        assert [each.args[0] for each in two.received] == [1, 2, 3]
        assert two.lost() == {}

    def test_channels_are_retained_by_pattern(self, network: Network) -> None:
        """As the configuration says it."""
        one = network.node("one", retain=Patterns(["c.*"]))
        one.mesh.send("c.x", [1])
        one.mesh.send("d", [1])
        network.settle()
        assert [each.ch for each in one.mesh.last_values(Patterns(["*"]))] == ["c.x"]

    def test_more_values_than_a_connection_takes_arrive_in_time(self, network: Network) -> None:
        """There may be thousands, and a small high-water mark."""
        one = network.node("one")
        for number in range(100):
            one.mesh.send(f"c.{number}", [number], retain=True)
        network.settle()
        late = network.node("late", ["*"])
        network.wire(one, late, room=7)
        network.pass_time(30)
        one.mesh.send("c.0", [100])
        network.settle()
        assert sorted(each.args[0] for each in late.received) == list(range(101))
        assert late.lost() == {}


class TestStrangers:
    def test_what_is_no_message_is_counted_and_told_once(self, stranger: Stranger) -> None:
        """A peer that is broken sends nothing else all day."""
        stranger.hello()
        for _ in range(100):
            stranger.say(b"\xff\x00", b"[]", b"{", b'{"v":2}', b'{"v":1}')
        told = stranger.node.told("relay.bad")
        assert told == [
            ("stranger", "it is no JSON"),
            ("stranger", "it is no JSON object"),
            ("stranger", "it is not of version 1"),
            ("stranger", "its field 'id' is missing or wrong"),
        ]
        assert stranger.node.mesh.counts.bad == 500
        assert stranger.node.mesh.peers()[0].bad == 500

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", None),
            ("id", "x" * 2000),
            ("src", ""),
            ("src", 5),
            ("ep", "a\nb"),
            ("ch", ["c"]),
            ("seq", 0),
            ("seq", -1),
            ("seq", True),
            ("seq", 1.0),
            ("seq", 2**60),
            ("seq", "1"),
            ("ts", "now"),
            ("args", {}),
            ("args", None),
            ("kw", []),
            ("re", 5),
            ("hops", -1),
            ("hops", None),
            ("ret", 1),
            ("to", ""),
            ("call", []),
            ("keep", "yes"),
            ("base", 1),
        ],
    )
    def test_a_field_that_is_wrong_is_named(
        self, stranger: Stranger, field: str, value: object
    ) -> None:
        """And nothing of it is delivered."""
        stranger.hello()
        stranger.synced()
        stranger.send(**{field: value})
        name = "seq" if field == "base" else field
        assert stranger.node.told("relay.bad") == [
            ("stranger", f"its field {name!r} is missing or wrong")
        ]
        assert stranger.node.received == []
        stranger.send(unknown="field")
        assert len(stranger.node.received) == 1

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ({"is": "synced", "at": []}, "it does not say how far streams have come"),
            ({"is": "beat", "at": {"c": -1}}, "it does not say how far streams have come"),
            ({"is": "beat", "at": {"c": [1]}}, "it does not say how far streams have come"),
            ({"is": "beat", "at": {"c": [1, 2]}}, "it does not say how far streams have come"),
            ({"is": "beat", "at": {"": 1}}, "it does not say how far streams have come"),
            ({"is": "beat", "at": {"a\nb\nc": 1}}, "it does not say how far streams have come"),
            ({"is": "beat", "of": {"s": 1}}, "it does not say how far streams have come"),
            ({"is": "beat", "of": {"s": ["e", {}]}}, "it does not say how far streams have come"),
            ({"is": "beat", "of": {"s": [1, {}, 1]}}, "it does not say how far streams have come"),
            ({"is": "beat", "of": 1}, "it does not say how far streams have come"),
            ({"is": "wants", "wants": "*"}, "its wants are no list of patterns"),
            ({"is": "wants", "wants": [""]}, "its wants are no list of patterns"),
            ({"is": "wants", "wants": ["x"] * 1001}, "its wants are no list of patterns"),
            ({"is": "wants", "wants": [], "no": "1"}, "its wants have no number"),
            ({"is": "hello", "node": "b", "ep": "e", "wants": []}, "it said hello twice"),
        ],
    )
    def test_talk_that_is_wrong_is_told_once(
        self, stranger: Stranger, message: dict[str, Any], why: str
    ) -> None:
        """It changes nothing."""
        stranger.hello()
        stranger.say({"v": 1, **message}, {"v": 1, **message})
        assert stranger.node.told("relay.bad") == [("stranger", why)]
        assert stranger.node.mesh.peers()[0].wants == ("*",)

    def test_what_later_versions_say_is_left_alone(self, stranger: Stranger) -> None:
        """They may have more to say to those who understand it."""
        stranger.hello(fashion="new")
        stranger.say({"v": 1, "is": "song"}, {"v": 1, "is": ["beat"]})
        assert stranger.node.told("relay.bad") == []

    @pytest.mark.parametrize("what", ["wants", "synced", "beat", "message"])
    def test_nothing_comes_before_a_hello(self, stranger: Stranger, what: str) -> None:
        """Nobody knows whose it is."""
        if what == "message":
            stranger.send()
        else:
            stranger.say({"v": 1, "is": what, "wants": ["*"], "at": {"c": 5}})
        assert stranger.node.told("relay.bad") == [("memory:stranger", "it came before a hello")]
        assert stranger.node.received == []

    def test_who_says_no_hello_is_closed(self, stranger: Stranger) -> None:
        """It holds a connection for nothing."""
        stranger.network.pass_time(5)
        assert stranger.end.closed_for == "nothing was heard for 3 s"

    @pytest.mark.parametrize(
        "fields", [{}, {"node": "x"}, {"node": 5, "ep": "e"}, {"node": "x", "ep": "e"}]
    )
    def test_a_hello_that_says_too_little_is_none(
        self, stranger: Stranger, fields: dict[str, Any]
    ) -> None:
        """It needs a name, an epoch and wants."""
        stranger.say({"v": 1, "is": "hello", **fields})
        assert len(stranger.node.told("relay.bad")) == 1
        assert stranger.node.mesh.peers() == ()

    def test_nobody_speaks_for_another(self, stranger: Stranger) -> None:
        """Only hubs that were named may bring what others sent."""
        stranger.hello(hub=True)
        stranger.synced(of={"other": ["e1", {}, 1]})
        stranger.send(src="other", hops=1)
        assert stranger.node.received == []
        assert stranger.node.told("relay.bad") == [
            ("stranger", "it names another node as its source, and comes from no hub")
        ]

    def test_nobody_has_a_name_that_its_key_does_not_have(self, network: Network) -> None:
        """It would get what is meant for another, and be believed."""
        node = network.node("site", ["*"])
        stranger = Stranger(network, node, name="web2")
        stranger.hello(node="web1")
        stranger.synced()
        stranger.send(src="web1")
        assert node.received == []
        assert not stranger.end.open
        assert node.told("relay.bad") == [("web2", "it is known as web2, and says it is another")]

    def test_a_message_of_another_epoch_than_the_hello_is_bad(self, stranger: Stranger) -> None:
        """A connection has one process at its end."""
        stranger.hello()
        stranger.synced()
        stranger.send(ep="e2")
        assert stranger.node.received == []
        assert len(stranger.node.told("relay.bad")) == 1

    def test_a_message_for_another_is_bad(self, stranger: Stranger) -> None:
        """This node is no hub."""
        stranger.hello()
        stranger.synced()
        stranger.send(to="another")
        assert stranger.node.told("relay.bad") == [("stranger", "it is meant for another node")]

    def test_ten_thousand_texts_of_chance_change_nothing(self, stranger: Stranger) -> None:
        """Half of them look like messages, and all of them are bytes of somebody else's choice."""
        random = Random(8)
        stranger.hello()
        stranger.synced()
        pieces = [
            b"{", b"}", b"[", b"]", b'"v":1', b'"is":', b'"hello"', b'"beat"', b'"at":', b",",
            b'"seq":', b"1", b'"ch":"c.x"', b'"src":"stranger"', b"1e999", b'"\\ud800"', b"null",
            b'"of":', b"\xff", b'"args":', b'"wants":', b"-0", b"true", b'"ep":"e1"', b":",
        ]  # fmt: skip
        for number in range(10_000):
            if number % 2:
                data = random.randbytes(random.randrange(60))
            else:
                data = b"".join(random.choices(pieces, k=random.randrange(25)))
            stranger.say(data)
        node = stranger.node
        assert node.mesh.counts.bad > 9000
        assert len(node.told("relay.bad")) < 20
        assert node.received == []
        assert node.lost() == {}
        stranger.send()
        assert len(node.received) == 1

    def test_messages_with_any_field_mangled_change_nothing(self, stranger: Stranger) -> None:
        """Valid JSON, and valid in all but a field or two."""
        random = Random(9)
        stranger.hello()
        stranger.synced()
        odd: list[Any] = [
            None,
            True,
            -1,
            0,
            1.5,
            1e300,
            2**70,
            "",
            "x" * 300,
            "\ud800",
            "\n",
            [],
            {},
            [[]],
            {"": 0},
        ]
        fields = {
            "id": "i", "src": "stranger", "ep": "e1", "ch": "c.x", "seq": 1, "ts": 1.0,
            "args": [], "kw": {}, "re": None, "hops": 2, "ret": False, "to": None, "at": {},
            "wants": ["*"], "no": 1, "of": {}, "node": "stranger", "base": 0,
        }  # fmt: skip
        for _ in range(3000):
            message: dict[str, Any] = {"v": 1, **fields}
            if random.random() < 0.5:
                message["is"] = random.choice(["hello", "wants", "synced", "beat", "song", 5])
            for field in random.sample(sorted(message), 2):
                message[field] = random.choice(odd)
            if message.get("is") == "bye":
                continue
            stranger.say(message)
        assert stranger.end.open

    def test_as_many_complaints_as_a_minute_has_room_for(self, network: Network) -> None:
        """A thousand strangers with a reason each."""
        node = network.node("site")
        for number in range(1000):
            node.mesh.refused(f"stranger {number}", "it has no key")
        assert len(node.told("relay.bad")) == 20
        assert node.mesh.counts.bad == 1000
        network.now += 60
        node.mesh.refused("stranger", "it has no\x1b[31m key")
        assert node.told("relay.bad")[-1] == ("stranger", "it has no?[31m key")

    def test_names_that_are_made_up_are_not_remembered_for_ever(
        self, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each connection may say another."""
        monkeypatch.setattr("sitebus.relay.circle.MOST_PEERS", 20)
        node = network.node("site")
        for number in range(50):
            stranger = Stranger(network, node)
            stranger.hello(node=f"n{number}")
            node.mesh.left(stranger.end, "gone")
        assert len(node.mesh.peers()) <= 20

    def test_what_a_hub_makes_up_is_bounded(self, network: Network) -> None:
        """It is trusted with messages, not with memory."""
        node = network.node("site", ["*"], hubs=["stranger"])
        stranger = Stranger(network, node)
        stranger.hello(hub=True)
        network.turn()
        for number in range(3000):
            stranger.say(
                {"v": 1, "is": "synced", "no": 1, "of": {f"s{number}": ["e", {"c": 1}, 1]}}
            )
        assert len(node.mesh._intake.books) <= 1300

    @pytest.mark.parametrize(
        ("args", "why"),
        [
            (b"[1e999]", "it is no JSON"),
            (b"[NaN]", "it is no JSON"),
            (b"[" * 200 + b"]" * 200, "more than 100 levels are nested in it"),
            (b"[" * 100_000, "it is no JSON"),
            (b"[%s]" % (b"9" * 5000), "it is no JSON"),
            (b"[%s]" % b",".join([b"1e15"] * 20_000), "it cannot be passed on"),
        ],
    )
    def test_what_could_not_go_on_from_here_is_refused(
        self, network: Network, args: bytes, why: str
    ) -> None:
        """To a worker, or from a hub: it would raise there."""
        hub = network.node("hub", hub=True)
        stranger = Stranger(network, hub)
        stranger.hello()
        stranger.synced()
        stranger.say(
            b'{"v":1,"id":"x","src":"stranger","ep":"e1","ch":"c","seq":1,"hops":2,"args":%s}'
            % args
        )
        assert hub.told("relay.bad") == [("stranger", why)]


class TestListeners:
    def test_what_a_receiver_raises_ends_nothing(self, poller: Poller, errors: list[Any]) -> None:
        """It is reported where the poller reports all."""

        def receive(envelope: object) -> None:
            raise LookupError(envelope)

        mesh = Mesh("one", poller, receive, print)
        mesh.start()
        mesh.send("c", to="one")
        assert mesh.flush(PATIENCE)
        wait_for(lambda: errors)
        mesh.stop(0)
        assert isinstance(errors.pop(), LookupError)

    def test_any_thread_may_send(self, poller: Poller) -> None:
        """Each thread's messages keep their order, and no number is used twice."""
        received: list[Any] = []
        mesh = Mesh("one", poller, received.append, print)
        mesh.start()

        def work(name: int) -> None:
            for number in range(1000):
                mesh.send("c", [name, number], to="one")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mesh.flush(PATIENCE)
        mesh.stop(0)
        assert [each.seq for each in received] == list(range(1, 4001))
        for name in range(4):
            assert [each.args[1] for each in received if each.args[0] == name] == list(range(1000))

    def test_a_mesh_stops_in_the_thread_of_its_poller(self, poller: Poller) -> None:
        """A listener there may end the site."""
        done = threading.Event()

        def receive(envelope: object) -> None:
            mesh.stop(1)
            done.set()

        mesh = Mesh("one", poller, receive, print)
        mesh.start()
        mesh.send("c", to="one")
        assert done.wait(PATIENCE)
