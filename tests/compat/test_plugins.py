"""Plugins written as subclasses of wspbus' and magicbus', and ours on either bus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sitebus.compat.cherrypy import plugins, wspbus
from sitebus.compat.magicbus import ProcessBus
from sitebus.compat.magicbus.plugins import opsys, tasks
from sitebus.compat.magicbus.plugins.lifecycle import Execv
from tests.helpers import nothing_left, wait_for


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def bus() -> Iterator[wspbus.Bus]:
    with nothing_left():
        bus = wspbus.Bus()
        try:
            yield bus
        finally:
            bus.exit()


@pytest.fixture
def magic() -> Iterator[ProcessBus]:
    with nothing_left():
        bus = ProcessBus()
        try:
            yield bus
        finally:
            bus.transition("EXITED")


def test_a_subclass_of_monitor_listens_with_every_method_named_like_a_channel(
    bus: wspbus.Bus, heard: list[str]
) -> None:
    """In wspbus each plugin is a SimplePlugin."""

    class Cleaner(plugins.Monitor):
        def start(self) -> None:
            heard.append("start")
            plugins.Monitor.start(self)

        def exit(self) -> None:
            heard.append("exit")

        def news(self, what: str) -> None:
            heard.append(what)

    bus.listeners["news"] = set()
    cleaner = Cleaner(bus, lambda: None, frequency=60)
    assert isinstance(cleaner, plugins.SimplePlugin)
    cleaner.subscribe()
    bus.start()
    assert cleaner.thread is not None
    bus.publish("news", "hello")
    bus.exit()

    assert heard == ["start", "hello", "exit"]


def test_unsubscribe_takes_back_what_subscribe_did(bus: wspbus.Bus) -> None:
    class Cleaner(plugins.Monitor):
        def exit(self) -> None:
            """Only to listen."""

    before = {channel: set(listeners) for channel, listeners in bus.listeners.items()}
    cleaner = Cleaner(bus, lambda: None)
    cleaner.subscribe()
    cleaner.unsubscribe()

    assert {channel: set(listeners) for channel, listeners in bus.listeners.items()} == before


def test_a_subclass_written_for_magicbus_overrides_start_in_capitals(
    magic: ProcessBus, heard: list[str]
) -> None:
    """And calls the method it overrides by that name."""

    class Cleaner(tasks.Monitor):
        def START(self) -> None:  # noqa: N802
            heard.append("START")
            tasks.Monitor.START(self)

        START.priority = 20  # type: ignore[attr-defined]

        def STOP(self) -> None:  # noqa: N802
            heard.append("STOP")
            super().STOP()

    cleaner = Cleaner(magic, lambda: None, frequency=60)
    cleaner.subscribe()
    (listening,) = (each for each in magic.describe().channels["START"])
    assert listening.priority == 20
    magic.transition("RUN")
    assert cleaner.thread is not None
    magic.transition("IDLE")

    assert heard == ["START", "STOP"]
    assert cleaner.thread is None


@pytest.mark.parametrize("kind", [plugins.Monitor, tasks.Monitor])
@pytest.mark.parametrize("make", [wspbus.Bus, ProcessBus])
def test_one_plugin_serves_both_vocabularies(kind: Any, make: Any) -> None:
    """The bus's machine says which channel plays the part."""
    with nothing_left():
        bus = make()
        monitor = kind(bus, lambda: None)
        monitor.subscribe()
        bus.start()
        try:
            assert monitor.thread is not None
        finally:
            bus.exit()
        assert monitor.thread is None


def test_a_pid_file_of_magicbus_is_there_before_the_start(magic: ProcessBus, tmp_path: Any) -> None:
    """It is written when the bus is entered, and goes when it exits."""
    path = tmp_path / "pid"
    opsys.PIDFile(magic, str(path)).subscribe()
    magic.transition("IDLE")
    assert path.read_text().strip().isdecimal()

    magic.transition("EXITED")

    assert not path.exists()


def test_threads_are_waited_for_only_while_the_plugin_is_subscribed() -> None:
    """Whoever has a thread that ends later takes it off."""
    said: list[str] = []
    for waits in (True, False):
        bus = ProcessBus()
        if not waits:
            bus.thread_wait.unsubscribe()
        bus.subscribe("log", lambda msg, level: said.append(msg))
        bus.transition("EXITED")

    assert said.count("Waiting for child threads to terminate...") == 1


def test_a_thread_that_waits_for_the_exit_is_not_waited_for(magic: ProcessBus) -> None:
    """It would be for ever: the exit cannot be complete before it has ended, nor it before that."""
    import threading

    began = threading.Event()
    leaving = threading.Thread(target=lambda: magic.transition("EXITED"))

    def start() -> None:
        leaving.start()
        wait_for(lambda: magic._commands)
        began.set()

    magic.subscribe("RUN", start)
    magic.transition("RUN")
    leaving.join(10)

    assert began.is_set()
    assert not leaving.is_alive()
    assert magic.state == "EXITED"


def test_execv_has_the_process_run_again() -> None:
    """Subscribed by a program of magicbus' before it exits."""
    bus = ProcessBus()
    Execv(bus).subscribe()
    assert not bus.execv

    bus.transition("EXITED")

    assert bus.execv
