"""The bus with the manners of wspbus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import sitebus
from sitebus.compat.cherrypy import wspbus
from tests.helpers import nothing_left


@pytest.fixture
def bus() -> Iterator[wspbus.Bus]:
    with nothing_left():
        bus = wspbus.Bus()
        try:
            yield bus
        finally:
            bus.exit()


def test_a_process_has_one_bus() -> None:
    """Plugins of CherryPy's and of ours would else wait for different starts."""
    assert wspbus.bus is sitebus.engine
    assert isinstance(wspbus.bus, wspbus.Bus)


def test_it_starts_again_after_an_exit(bus: wspbus.Bus) -> None:
    """Test suites exit the engine after each module, and start it for the next."""
    heard: list[str] = []
    for channel in ("start", "stop", "exit"):
        bus.subscribe(channel, lambda channel=channel: heard.append(channel))
    for _ in range(3):
        bus.start()
        assert str(bus.state) == "states.STARTED"
        bus.exit()
        assert str(bus.state) == "states.EXITING"

    assert heard == ["start", "stop", "exit"] * 3


def test_what_failed_before_an_exit_is_forgotten_after_it(bus: wspbus.Bus) -> None:
    """The next start is judged by itself."""

    def fail() -> None:
        raise OSError("once")

    bus.subscribe("stop", fail)
    bus.start()
    with pytest.raises(wspbus.ChannelFailures):
        bus.exit()
    bus.unsubscribe("stop", fail)

    bus.start()
    bus.exit()

    assert bus.block() == 0


def test_block_raises_a_status_that_is_not_success(bus: wspbus.Bus) -> None:
    """Programs do not look at what it answers, and would end with status 0."""

    def fail() -> None:
        raise OSError("no")

    bus.subscribe("exit", fail)
    bus.start()
    with pytest.raises(wspbus.ChannelFailures):
        bus.exit()

    with pytest.raises(SystemExit) as leaving:
        bus.block()

    assert leaving.value.code == 70


def test_arguments_have_the_names_of_wspbus(bus: wspbus.Bus) -> None:
    """They may be given by name."""
    heard: list[int] = []
    bus.subscribe(channel="news", callback=heard.append, priority=10)
    bus.publish("news", 1)
    bus.unsubscribe(channel="news", callback=heard.append)
    bus.publish("news", 2)

    assert heard == [1]


def test_a_request_that_asks_for_a_graceful_has_had_it(bus: wspbus.Bus) -> None:
    """A page tells its reader that it was done."""
    import threading

    heard: list[str] = []
    bus.subscribe("graceful", lambda: heard.append("graceful"))
    bus.start()

    bus.serving_threads.add(threading.get_ident())
    bus.graceful()

    assert heard == ["graceful"]


def test_looking_at_every_attribute_starts_nothing(bus: wspbus.Bus) -> None:
    """CherryPy's checker does, and a process with threads cannot become a daemon."""
    import threading

    before = set(threading.enumerate())
    for name in dir(bus):
        getattr(bus, name, None)

    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert "sitebus loop" not in new
