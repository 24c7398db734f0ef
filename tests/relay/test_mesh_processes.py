"""Nodes as processes: stopped, killed and started again while another goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import PATIENCE, ROOT, environment, wait_for

MEMBER = Path(__file__).with_name("member.py")


class Member:
    """A process that runs ``member.py``, and all that it has printed."""

    def __init__(self, name: str, address: str, *more: str) -> None:
        self.lines: list[list[Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, MEMBER, name, address, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(map(json.loads, self.process.stdout))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self, line: str = "counts") -> list[Any]:
        """Answer what it says it has: received, of those different, and what it counted."""
        before = len(self.told("did"))
        self.tell(line)
        wait_for(lambda: len(self.told("did")) > before, 2 * PATIENCE)
        return self.told("did")[-1][2:]

    def told(self, what: str) -> list[list[Any]]:
        return [line for line in list(self.lines) if line[0] == what]

    def wait_for_news(self, *news: Any, count: int = 1) -> None:
        wait_for(lambda: self.lines.count([*news]) >= count, 2 * PATIENCE, f"{news}: {self.lines}")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()


Start = Callable[..., Member]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    members: list[Member] = []

    def start(name: str, *more: str) -> Member:
        members.append(Member(name, f"unix:{tmp_path}/relay.sock", *more))
        # Begun, it is to be ended, be it never there.
        wait_for(lambda: ["there"] in members[-1].lines, 3 * PATIENCE)
        return members[-1]

    yield start
    for member in members:
        member.end()


def test_a_process_that_is_stopped_harms_nobody_and_knows_its_losses(start: Start) -> None:
    """It is down after its patience, and when it goes on it counts exactly what it missed."""
    one = start("one", "listen")
    two, three = start("two"), start("three")
    one.wait_for_news("relay.peer", "two", "up")
    one.wait_for_news("relay.peer", "three", "up")
    two.process.send_signal(signal.SIGSTOP)
    for _ in range(10):
        one.ask("send 500")
    one.wait_for_news("relay.peer", "two", "down")
    one.ask("send 500")
    assert wait_for(lambda: three.ask()[0] == 5500)
    two.process.send_signal(signal.SIGCONT)
    one.wait_for_news("relay.peer", "two", "up", count=2)

    def settled() -> bool:
        received, _, _, _, gap, _, _ = two.ask()
        return bool(received + gap == 5500)

    assert wait_for(settled, 2 * PATIENCE)
    received, _, _, _, gap, _, bad = two.ask()
    told = sum(line[3] for line in two.told("relay.gap"))
    assert (received + told, bad) == (5500, 0)
    assert gap == told > 0
    assert three.ask()[4] == 0


def test_a_process_that_is_killed_is_down_at_once_and_up_again_in_a_new_epoch(
    start: Start,
) -> None:
    """The system closes its connection; no false gap, and none called by its name."""
    one, two = start("one", "listen"), start("two")
    for count in (1, 2):
        one.wait_for_news("relay.peer", "two", "up", count=count)
        two.ask("send 10")
        assert wait_for(lambda: one.ask()[0] == 10 * count)  # noqa: B023
        two.process.kill()
        one.wait_for_news("relay.peer", "two", "down", count=count)
        two = start("two")
    one.wait_for_news("relay.peer", "two", "up", count=3)
    assert one.told("relay.gap") == one.told("relay.bad") == []


def test_who_listens_is_killed_and_comes_back(start: Start) -> None:
    """Its stale socket is replaced, and the others find it again."""
    one, two = start("one", "listen"), start("two")
    two.wait_for_news("relay.peer", "one", "up")
    one.process.kill()
    two.wait_for_news("relay.peer", "one", "down")
    one = start("one", "listen")
    two.wait_for_news("relay.peer", "one", "up", count=2)
    one.ask("send 10")
    assert wait_for(lambda: two.ask()[0] == 10)
    assert two.told("relay.gap") == []
