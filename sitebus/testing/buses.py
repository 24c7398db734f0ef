"""A bus for one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sitebus.errors import BusNotClean
from sitebus.listeners import ERROR
from sitebus.process import Engine
from sitebus.testing.leftovers import nothing_left


@contextmanager
def clean_bus(errors: list[str], timeout: float = 5.0) -> Iterator[Engine]:
    """Answer a bus that exits with the block, and must be clean then.

    Args:
        errors: Gets what the bus logs as errors, listeners' failures among them; whoever expects
            some takes them out.
        timeout: Seconds that its threads may take to end.

    Raises:
        BusNotClean: It has not ended well, or errors are left; an AssertionError.
        LeftBehind: A thread runs on; an AssertionError.
        ChannelFailures: Listeners failed when it exited.
    """

    def said(message: str, level: int) -> None:
        if level >= ERROR:
            errors.append(message)

    with nothing_left(timeout, descriptors=False):
        engine = Engine()
        engine.subscribe("log", said)
        try:
            yield engine
        finally:
            engine.exit()
    if errors or engine.state not in engine.machine.final:
        raise BusNotClean(engine.state, errors, engine.exit_code)
