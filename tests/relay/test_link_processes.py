"""A link between two processes: what is said, handed over, and learnt of a death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sitebus.relay import Link, Poller
from tests.helpers import PATIENCE, environment, open_descriptors, wait_for

PROGRAM = Path(__file__).with_name("peer.py")

#: The descriptors of a process that may not have many are soon all under way.
CROWD = """
import os, resource, threading
from sitebus.relay import Link, Poller
if os.geteuid() == 0:
    os.setuid(65534)
ours, theirs = Link.pair()
poller = Poller()
link = Link(ours, poller, print, print)
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
taken = [link.send({"number": number}, os.dup(0)) for number in range(100)]
lost = link.lost
heard = []
over = threading.Event()
other = Link(theirs, poller, lambda message, fd: heard.append(message), lambda link: over.set())
link.close(flush=10)
over.wait()
print(f"{all(taken)} {lost} {len(heard)} {link.sent} {len(os.listdir('/proc/self/fd'))}")
"""


class Other:
    """A process at the other end of a link."""

    def __init__(self, poller: Poller) -> None:
        ours, theirs = Link.pair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment(),
            )
        self.messages: list[dict[str, Any]] = []
        self.contents: list[str] = []
        self.ended = threading.Event()
        self.link = Link(ours, poller, self._hear, lambda link: self.ended.set())

    def _hear(self, message: dict[str, Any], fd: int | None) -> None:
        if fd is not None:
            self.contents.append(os.read(fd, 99).decode())
        self.messages.append(message)

    def ask(self, message: dict[str, Any], fd: int | None = None) -> dict[str, Any]:
        """Send a message and answer the next that comes."""
        known = len(self.messages)
        assert self.link.send(message, fd)
        wait_for(lambda: len(self.messages) > known, PATIENCE, f"an answer to {message}")
        return self.messages[known]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: ") T " in Path(f"/proc/{self.process.pid}/stat").read_text())
        yield
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def other(poller: Poller) -> Iterator[Other]:
    other = Other(poller)
    yield other
    other.process.kill()
    other.process.wait()
    other.link.close()


def test_messages_come_back(other: Other) -> None:
    """Both directions, through another interpreter."""
    message = {"is": "echo", "text": "größer", "args": [1, None, {"a": 1.5}]}
    assert other.ask(message) == message


def test_a_descriptor_can_be_used_over_there(other: Other) -> None:
    """A visitor's connection goes from one worker to its successor."""
    here, there = socket.socketpair()
    with here:
        assert other.ask({"is": "write", "text": "hello"}, there.detach()) == {"wrote": True}
        assert here.recv(99) == b"hello"
        # Both ends have closed theirs by now, or are about to.
        here.settimeout(PATIENCE)
        assert here.recv(1) == b""


def test_a_descriptor_can_be_had_from_there(other: Other) -> None:
    """And so do those of a worker that is about to end."""
    assert other.ask({"is": "open"}) == {"is": "opened"}
    assert other.contents == [f"from {other.process.pid}"]


def test_neither_keeps_a_descriptor(other: Other) -> None:
    """After many, each has as many as before."""
    there = other.ask({"is": "count"})["descriptors"]
    here = open_descriptors()
    for _ in range(200):
        # Another is what the other end does not understand.
        other.ask({"is": "echo"}, os.dup(0))
        other.ask({"is": "open"})
    assert other.ask({"is": "count"})["descriptors"] == there
    wait_for(lambda: open_descriptors() == here)


def test_a_table_that_is_full_costs_the_descriptor_only(other: Other) -> None:
    """The message says that there was one; the next goes with its own again."""
    reading, writing = os.pipe()
    other.ask({"is": "limit", "to": 0})
    assert other.ask({"is": "write", "text": "lost"}, os.dup(writing)) == {"wrote": False}
    other.ask({"is": "limit", "to": 500})
    assert other.ask({"is": "write", "text": "found"}, writing) == {"wrote": True}
    assert os.read(reading, 99) == b"found"
    assert os.read(reading, 99) == b""
    os.close(reading)


def resident() -> int:
    """Answer how many bytes of memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_one_that_is_suspended_holds_nobody_up(other: Other, poller: Poller) -> None:
    """A pipe that is full neither blocks nor fills the memory; what was taken arrives, in order."""
    assert other.ask({"is": "echo"})
    turned = threading.Event()
    with other.suspended():
        before = resident()
        taken = sum(
            other.link.send({"is": "number", "number": number, "text": "x" * 1000})
            for number in range(40_000)
        )
        grown = resident() - before
        # Nor is the poller busy with it.
        poller.call_soon(turned.set)
        assert turned.wait(5)
    assert 4000 < taken < 5000
    assert other.link.lost == 40_000 - taken
    assert grown < 16 * 1024 * 1024
    # There was no room for it until the other had read some.
    wait_for(lambda: other.link.sent > taken, PATIENCE)
    assert other.ask({"is": "numbered"}) == {"count": taken, "ordered": True}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="the system does not tell")
def test_waiting_for_one_that_is_suspended_is_not_busy(other: Other, poller: Poller) -> None:
    """A full pipe for an hour costs no processor."""
    other.ask({"is": "echo"})
    (thread,) = (each for each in threading.enumerate() if each.name == poller.name)
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def switches() -> list[str]:
        return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]

    with other.suspended():
        while other.link.send({"is": "number", "number": 1, "text": "x" * 1000}):
            pass
        wait_for(lambda: "State:\tS" in status.read_text())
        before = switches()
        threading.Event().wait(0.5)
        assert switches() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_its_death_is_learnt_at_once(other: Other, number: int) -> None:
    """Nobody has to ask whether it lives."""
    other.ask({"is": "echo"})
    began = time.monotonic()
    other.process.send_signal(number)
    assert other.ended.wait(PATIENCE)
    assert time.monotonic() - began < 1
    assert not other.link.send({"is": "echo"})


def test_a_suspended_one_that_is_killed_is_done_with(other: Other) -> None:
    """What it never read is lost, and counted."""
    other.ask({"is": "echo"})
    with other.suspended():
        while other.link.send({"is": "number", "number": 1, "text": "x" * 1000}):
            pass
        lost = other.link.lost
        other.process.kill()
        assert other.ended.wait(PATIENCE)
    assert other.link.lost > lost + 3000


def test_it_learns_of_our_end(other: Other) -> None:
    """A worker whose supervisor is gone ends by itself."""
    other.ask({"is": "echo"})
    other.link.close()
    assert other.process.wait(PATIENCE) == 0


def test_last_words_are_heard(other: Other) -> None:
    """What it said before it died, although nothing could be said to it any more."""
    with other.suspended():
        other.link.send({"is": "die", "words": 2000})
        while other.link.send({"is": "number", "number": 1, "text": "x" * 1000}):
            pass
    assert other.ended.wait(PATIENCE)
    assert [each["number"] for each in other.messages] == list(range(2000))
    assert other.process.wait(PATIENCE) == -signal.SIGKILL


def test_descriptors_that_the_system_refuses_cost_their_messages() -> None:
    """Too many may be under way in all; the link goes on."""
    answer = subprocess.run(
        [sys.executable, "-c", CROWD],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert answer.stderr == ""
    taken, lost, heard, sent, descriptors = answer.stdout.split()
    assert int(lost) > 0
    assert int(heard) == int(sent) == 100 - int(lost)
    assert int(descriptors) < 15
    assert taken == "False"
