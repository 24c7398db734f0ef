"""SIGTERM and SIGINT reach the engine, and only while somebody wants them to."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sitebus.errors import NotMainThread
from sitebus.plugins.signals import ENDING, SignalHandler
from sitebus.process import Engine
from tests.helpers import wait_for


class Recorder(Engine):
    """An engine that counts what it is told, and goes on."""

    interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_an_interrupt(number: signal.Signals) -> None:
    """The engine alone decides what an interrupt means."""
    bus = Recorder()
    handler = SignalHandler(bus)
    handler.subscribe()
    try:
        os.kill(os.getpid(), number)
        wait_for(lambda: bus.interrupts == 1)
    finally:
        handler.unsubscribe()


def test_the_handlers_before_are_put_back() -> None:
    """Whoever lent us the process gets it back as it was."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        handler = SignalHandler(Recorder())
        handler.subscribe()
        handler.subscribe()
        handler.unsubscribe()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: heard == [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_came_later_is_left_alone() -> None:
    """Giving back what somebody else took since would take it from them."""
    before = signal.getsignal(signal.SIGTERM)
    handler = SignalHandler(Recorder())
    handler.subscribe()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handler.unsubscribe()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_is_told_why_it_cannot() -> None:
    """Python itself says only ``signal only works in main thread``."""
    raised: list[Exception] = []

    def subscribe() -> None:
        try:
            SignalHandler(Recorder()).subscribe()
        except NotMainThread as error:
            raised.append(error)

    thread = threading.Thread(target=subscribe, name="worker-1")
    thread.start()
    thread.join()
    assert "SignalHandler.subscribe() works only in the main thread" in str(raised[0])
    assert "'worker-1'" in str(raised[0])


def test_a_real_signal_ends_a_blocked_engine() -> None:
    """From the handler through the main loop to the exit, with status 0."""
    bus = Engine()
    handler = SignalHandler(bus)
    handler.subscribe()
    try:
        bus.start()
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert bus.block() == 0
        timer.join()
    finally:
        handler.unsubscribe()
