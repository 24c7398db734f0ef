"""A server on the engine's loop whose library does what it should not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from sitebus.loop import LoopThread
from sitebus.servers.looped import LoopServer


class Stubborn(LoopServer):
    """Its drain fails in the way that *drains* says."""

    drains = "raises"

    async def serve(self) -> None:
        self.announce()
        await asyncio.Event().wait()

    async def leave(self, linger: float) -> None:
        if self.drains == "raises":
            raise KeyError("the library's")
        await asyncio.Event().wait()

    def busy(self) -> list[tuple[str, str]]:
        return [("request 1", "GET /")]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.stop()


@pytest.fixture
def server(loop: LoopThread) -> Iterator[Stubborn]:
    made = Stubborn(loop.loop, [])
    thread = threading.Thread(target=made.start)
    thread.start()
    assert made.serving.wait(5)
    yield made
    made.finish(5)
    thread.join(5)
    assert not thread.is_alive()


def test_a_drain_that_fails_is_told_and_over(
    server: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a stop would wait until its time is up, and nobody would know why."""
    server.drain(0.0)
    assert server.drained.wait(5)
    assert not server.ready
    (record,) = caplog.records
    assert "the drain of a server failed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_a_drain_that_never_ends_is_cut(server: Stubborn) -> None:
    """Who is left behind is named."""
    server.drains = "hangs"
    server.drain(0.0)
    assert server.finish(5) == [("request 1", "GET /")]
    assert server.drained.is_set()


def test_an_ended_loop_is_an_ended_server(loop: LoopThread) -> None:
    """A stop must not wait for what cannot run any more."""
    server = Stubborn(asyncio.new_event_loop(), [])
    server.loop.close()
    server.drain(0.0)
    assert server.drained.wait(5)
