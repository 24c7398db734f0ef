"""Plugins: what is marked is checked and subscribed as one unit."""

from __future__ import annotations

import pytest

from sitebus import Engine, ProcessBus
from sitebus.errors import BadListener, UnknownChannel
from sitebus.plugins import Plugin, SimplePlugin, listens


class Counter(Plugin):
    """Notes what it hears."""

    def __init__(self, bus: Engine) -> None:
        super().__init__(bus)
        self.heard: list[str] = []

    @listens("start", priority=10)
    def start(self) -> None:
        self.heard.append("start")

    @listens("stop")
    @listens("shop.closed")
    def stop(self) -> None:
        self.heard.append("stop")


def test_a_plugin_listens_until_it_is_unsubscribed(bus: Engine) -> None:
    counter = Counter(bus)
    counter.subscribe()
    bus.start()
    bus.publish("shop.closed")
    counter.unsubscribe()
    bus.stop()
    assert counter.heard == ["start", "stop"]
    assert not bus.listeners["start"]


def test_one_plugin_speaks_both_vocabularies() -> None:
    """It names the part it plays; magicbus calls it START."""
    bus = ProcessBus()
    counter = Counter(bus)
    counter.subscribe()
    with bus:
        assert counter.heard == ["start"]
    assert counter.heard == ["start", "stop"]


def test_a_subclass_overrides_the_method_and_its_priority(bus: Engine) -> None:
    class Late(Counter):
        def start(self) -> None:
            self.heard.append("late")

        start.priority = 90  # type: ignore[attr-defined]

    early, late = Counter(bus), Late(bus)
    late.heard = early.heard
    late.subscribe()
    early.subscribe()
    bus.start()
    assert early.heard == ["start", "late"]


def test_a_near_miss_of_a_channel_is_refused_before_anything_listens(bus: Engine) -> None:
    """``strat`` would wait for messages that never come."""

    class Typo(Counter):
        @listens("strat")
        def count(self) -> None: ...

    with pytest.raises(UnknownChannel) as caught:
        Typo(bus).subscribe()
    assert str(caught.value) == (
        "no channel named 'strat' (wanted by Typo.count); did you mean 'start'?"
    )
    assert not bus.listeners["start"]


def test_a_signature_that_cannot_take_its_messages_is_refused(bus: Engine) -> None:
    class Log(Plugin):
        @listens("log")
        def log(self, message: str) -> None: ...

    class Start(Plugin):
        @listens("start")
        def start(self, what: str) -> None: ...

    with pytest.raises(BadListener, match=r"Log\.log cannot listen on 'log': .* carry 2 values"):
        Log(bus).subscribe()
    with pytest.raises(BadListener, match=r"Start\.start cannot listen on 'start'"):
        Start(bus).subscribe()


@pytest.mark.parametrize(
    "takes",
    [
        lambda self: None,
        lambda self, more=1: None,
        lambda self, *rest: None,
        lambda self, *, key=1: None,
    ],
)
def test_a_signature_that_can_is_not(bus: Engine, takes: object) -> None:
    kind = type("Fine", (Plugin,), {"start": listens("start")(takes)})  # type: ignore[type-var]
    kind(bus).subscribe()
    bus.start()


def test_a_simple_plugin_subscribes_what_is_named_like_a_channel(bus: Engine) -> None:
    """Plugins written for wspbus run unchanged."""

    class Old(SimplePlugin):
        heard: list[str] = []  # noqa: RUF012 - as such plugins are written

        def start(self) -> None:
            self.heard.append("start")

        start.priority = 70  # type: ignore[attr-defined]

        def other(self) -> None:
            self.heard.append("other")

    old = Old(bus)
    old.subscribe()
    bus.publish("other")
    bus.start()
    old.unsubscribe()
    bus.stop()
    assert old.heard == ["start"]
