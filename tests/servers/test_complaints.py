"""What is said of clients that misbehave, and how much of it."""

from __future__ import annotations

import pytest

from sitebus.servers.complaints import MOST, WARNING, WINDOW, Complaints


class Heard:
    """A log, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.time = 100.0
        self.complaints = Complaints(self.log, lambda: self.time)

    def log(self, message: str, level: int) -> None:
        assert level == WARNING
        self.lines.append(message)

    def tell(self, kind: str, times: int) -> None:
        for number in range(times):
            self.complaints.tell(kind, f"{kind} {number}")


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_few_are_told_as_they_are(heard: Heard) -> None:
    heard.tell("bad", MOST)
    assert heard.lines == [f"bad {number}" for number in range(MOST)]


def test_an_attack_does_not_fill_the_log(heard: Heard) -> None:
    """It is counted, and the count is told with whatever comes next."""
    heard.tell("bad", 1000)
    assert len(heard.lines) == MOST
    heard.time += WINDOW
    heard.tell("slow", 1)
    assert heard.lines[MOST:] == [f"... and {1000 - MOST} more: bad", "slow 0"]


def test_each_kind_has_its_own_count(heard: Heard) -> None:
    """A flood of one does not hide the other."""
    heard.tell("bad", 1000)
    heard.tell("slow", 2)
    assert heard.lines[MOST:] == ["slow 0", "slow 1"]


def test_a_new_window_starts_anew(heard: Heard) -> None:
    for _ in range(3):
        heard.tell("bad", MOST)
        heard.time += WINDOW
    assert len(heard.lines) == 3 * MOST


def test_what_was_left_out_is_told_at_the_end(heard: Heard) -> None:
    """Once."""
    heard.tell("bad", MOST + 1)
    heard.complaints.flush()
    heard.complaints.flush()
    assert heard.lines[MOST:] == ["... and 1 more: bad"]
