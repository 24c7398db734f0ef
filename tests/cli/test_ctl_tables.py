"""What ``sitebus-ctl`` shows to people of what it was answered."""

from __future__ import annotations

import io
import re
import time

import pytest

from sitebus.cli import ctl_tables as tables
from sitebus.cli.console import Console


def test_an_event_is_told_with_the_time_when_it_happened() -> None:
    """What was long ago is not now; facts are read more easily than JSON."""
    seconds = time.mktime((2024, 2, 29, 23, 59, 58, 0, 0, -1))
    said = {"args": [{"slot": 1, "seconds": 0.61234}, "x"], "kwargs": {"b": None}, "at": seconds}
    shown = tables.event("worker.ready", said)
    assert shown == '2024-02-29 23:59:58 worker.ready slot=1 seconds=0.612 "x" b=null'
    now = tables.event("stopped", {"args": [], "at": time.time()})
    assert re.fullmatch(r"\d\d:\d\d:\d\d stopped", now)
    assert tables.event("lost", {"count": 3}).endswith(" 3 events were lost")


def test_who_overhears_is_shown_below_who_listens() -> None:
    """By pattern; a site that was started by an older sitebus does not say, and that is no harm."""
    one = {"name": "shop.changed", "priority": 50, "asynchronous": False, "last": None}
    told = {"channels": {"start": [{**one, "longest": 0.002}]}}
    console = Console(io.StringIO())
    before = tables.bus(console, told)
    assert [line.split() for line in before] == [
        ["CHANNEL", "PRIORITY", "LISTENER", "LAST", "LONGEST"],
        ["start", "50", "shop.changed", "2.0", "ms"],
    ]
    overhearing = {"price.*": [{**one, "name": "Exports._export", "longest": None}]}
    after = tables.bus(console, {**told, "overhearing": overhearing})
    assert after[: len(before)] == before
    assert [line.split() for line in after[len(before) :]] == [
        [],
        ["PATTERN", "PRIORITY", "LISTENER", "LAST", "LONGEST"],
        ["price.*", "50", "Exports._export"],
    ]


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
