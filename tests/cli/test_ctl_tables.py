"""What ``sitebus-ctl`` shows to people of what it was answered."""

from __future__ import annotations

import re
import time

import pytest

from sitebus.cli import ctl_tables as tables


def test_an_event_is_told_with_the_time_when_it_happened() -> None:
    """What was long ago is not now; facts are read more easily than JSON."""
    seconds = time.mktime((2024, 2, 29, 23, 59, 58, 0, 0, -1))
    said = {"args": [{"slot": 1, "seconds": 0.61234}, "x"], "kwargs": {"b": None}, "at": seconds}
    shown = tables.event("worker.ready", said)
    assert shown == '2024-02-29 23:59:58 worker.ready slot=1 seconds=0.612 "x" b=null'
    now = tables.event("stopped", {"args": [], "at": time.time()})
    assert re.fullmatch(r"\d\d:\d\d:\d\d stopped", now)
    assert tables.event("lost", {"count": 3}).endswith(" 3 events were lost")


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (["a", None], '["a", null]'),
        ({"supervisor": [], "workers": {"1": [2]}}, "worker 1: [2]"),
        ({"supervisor": [1], "workers": {"2": {"error": "why"}}}, "supervisor: [1]\nworker 2: why"),
        ({"supervisor": {"error": "no"}, "workers": {}}, "supervisor: no"),
        ({"supervisor": [], "workers": {}}, "no worker serves"),
    ],
)
def test_what_was_answered_is_shown(result: object, shown: str) -> None:
    """A line for each process that has something to say."""
    assert tables.published({"result": result}) == shown
