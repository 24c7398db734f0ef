"""A mesh over ZeroMQ: who somebody is, is said by the key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.relay import Poller
from sitebus.relay.envelope import Envelope
from sitebus.relay.keys import Keys
from sitebus.relay.mesh import Mesh
from sitebus.relay.transport import Settings
from sitebus.relay.zeromq import ZeroMQTransport
from tests.helpers import wait_for
from tests.relay.ears import ANYWHERE, make_keys


class Site:
    """A node that remembers what it is told."""

    def __init__(self, poller: Poller, node: str, keys: Keys, **options: Any) -> None:
        self.received: list[Envelope] = []
        self.news: list[tuple[object, ...]] = []
        self.mesh = Mesh(
            node, poller, self.received.append, lambda *said: self.news.append(said), **options
        )
        high_water = options.get("high_water", 10_000)
        self.transport = ZeroMQTransport(poller, self.mesh, Settings(node, high_water, keys))
        self.mesh.add(self.transport)
        self.mesh.start()

    def wait_for_news(self, *said: object) -> None:
        wait_for(lambda: said in self.news, 10, what=str(self.news))


Make = Callable[..., Site]


@pytest.fixture
def make(poller: Poller) -> Iterator[Make]:
    sites: list[Site] = []

    def new(node: str, keys: Keys, **options: Any) -> Site:
        sites.append(Site(poller, node, keys, **options))
        return sites[-1]

    yield new
    for site in sites:
        site.mesh.stop(0)


def test_messages_arrive_once_and_in_order(make: Make, tmp_path: Path) -> None:
    """Also when both connect to each other, and have two connections."""
    keys = make_keys(tmp_path, "a", "b")
    one, other = make("a", keys["a"]), make("b", keys["b"])
    other.mesh.want(["x.*"])
    address = other.transport.listen(ANYWHERE)
    other.transport.connect(one.transport.listen(ANYWHERE), "a")
    one.transport.connect(address, "b")
    one.wait_for_news("relay.peer", "b", "up")
    other.wait_for_news("relay.peer", "a", "up")
    for number in range(5000):
        one.mesh.send("x.y", [number])
    wait_for(lambda: len(other.received) == 5000, 10)
    assert [envelope.args[0] for envelope in other.received] == list(range(5000))
    assert other.mesh.counts.gap == 0


def test_who_says_another_name_than_its_keys_is_no_peer(make: Make, tmp_path: Path) -> None:
    """A node that was broken into cannot speak for the others."""
    keys = make_keys(tmp_path, "a", "b", "c")
    one, liar = make("a", keys["a"]), make("c", keys["b"])
    one.mesh.want(["x.*"])
    liar.mesh.want(["x.*"])
    liar.transport.connect(one.transport.listen(ANYWHERE), "a")
    wait_for(lambda: one.mesh.counts.bad >= 1)
    for site in (one, liar):
        site.mesh.send("x.y", ["secret"])
    wait_for(lambda: one.mesh.counts.bad >= 2)
    assert not [picture for picture in one.mesh.peers() if picture.state == "up"]
    assert one.received == liar.received == []


def test_a_foreign_key_is_counted(make: Make, tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "a", "b")
    (tmp_path / "a" / "peers" / "b.key").unlink()
    one, foreign = make("a", keys["a"]), make("b", keys["b"])
    one.mesh.want(["x.*"])
    foreign.mesh.want(["x.*"])
    foreign.transport.connect(one.transport.listen(ANYWHERE), "a")
    wait_for(lambda: one.mesh.counts.bad >= 1)
    for site in (one, foreign):
        site.mesh.send("x.y", ["secret"])
    wait_for(lambda: one.mesh.counts.bad >= 2)
    assert one.mesh.peers() == foreign.mesh.peers() == ()
    assert one.received == foreign.received == []


def test_what_was_sent_is_what_came_and_what_is_missed(make: Make, tmp_path: Path) -> None:
    """Whoever sends faster than the other reads loses some, and both know how many."""
    keys = make_keys(tmp_path, "a", "b")
    one, other = make("a", keys["a"], high_water=100), make("b", keys["b"])
    other.mesh.want(["x.*"])
    other.transport.connect(one.transport.listen(ANYWHERE), "a")
    one.wait_for_news("relay.peer", "b", "up")
    sent = 20_000
    for _ in range(sent):
        one.mesh.send("x.y", ["x" * 3000])
    wait_for(lambda: len(other.received) + other.mesh.counts.gap == sent, 20)
    # Told with the next beat.
    wait_for(lambda: one.mesh.counts.drop == other.mesh.counts.gap)
    assert one.mesh.counts.drop > 0
