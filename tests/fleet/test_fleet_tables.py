"""What ``sitebus-fleet`` prints for people, and what it makes of its command line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from sitebus.cli import fleet_tables as tables
from sitebus.cli.console import Console
from sitebus.cli.fleet import status_of as status_of_error
from sitebus.cli.fleet_arguments import COMMANDS, build_parser, overview, parse
from sitebus.cli.fleet_session import file_of, status_of
from sitebus.cli.fleet_tables import Line, Mood
from sitebus.errors import (
    AccessDenied,
    CallTimeout,
    CannotJournal,
    ConnectFailed,
    HostLost,
    NoSite,
    NoSuchRoll,
    SiteDenied,
    UnknownHost,
    UsageError,
)
from sitebus.fleet import CheckReport
from sitebus.fleet.journal import Past
from sitebus.fleet.rolling import Share

PLAIN = Console(io.StringIO())
COLOURED = Console(io.StringIO(), colour=True)
STATUS = {
    "state": "STARTED",
    "ready": True,
    "ready_wanted": True,
    "why_not_ready": "",
    "workers": None,
    "requests": {"in_flight": 3, "oldest": 0.1},
    "seconds": 90.0,
}
FOUND = {"status": STATUS, "release": "r1", "version": "1.0"}


def test_a_site_without_workers_or_releases_has_a_line_too() -> None:
    """As has a host of which nothing is known; why is told below."""
    lost = HostLost("web2", "the link to it broke")
    down = NoSite("web3", "no site answers")
    found: dict[str, Any] = {"web1": {**FOUND, "release": None}, "web2": lost, "web3": down}
    assert tables.status(PLAIN, found) == [
        "HOST  STATE    READY  WORKERS  REQUESTS  RELEASE  VERSION  FOR",
        "web1  STARTED  yes             3                  1.0      1m 30s",
        "web2  unknown",
        "web3  down",
        "web2: the link to it broke",
        "web3: no site answers",
    ]


def test_states_are_coloured_in_their_column_alone() -> None:
    """The width of what is seen stays what it is."""
    lines = tables.status(COLOURED, {"web1": FOUND, "web2": NoSite("web2", "none")})
    assert lines[1].startswith("web1  \033[32mSTARTED\033[0m  yes")
    assert lines[2] == "web2  \033[31mdown\033[0m"


def test_hosts_whose_sitebus_differs_are_named() -> None:
    """A roll over both may meet what only one of them has."""

    def report(host: str, version: str, *problems: str) -> CheckReport:
        facts = {"python": "3.11.2", "user": "shop", "disk": {"free": 5 << 20}}
        return CheckReport(host, not problems, facts, {"sitebus": version}, problems)

    found = {
        "web1": report("web1", "1.0"),
        "web2": report("web2", "1.1", "its clock is wrong"),
        "web3": ConnectFailed("web3", "nothing answers"),
    }
    assert tables.checks(PLAIN, found) == [
        "HOST            PYTHON  SITEBUS  USER  FREE",
        "web1  well      3.11.2  1.0      shop  5 MB",
        "web2  not well  3.11.2  1.1      shop  5 MB",
        "web3  unknown",
        "web2: its clock is wrong",
        "web3: nothing answers",
        "not all have the same sitebus: 1.0 on web1; 1.1 on web2",
    ]


LINES: list[tuple[dict[str, Any], str]] = [
    (
        {"is": "look", "host": "a", "ok": True, "state": "STARTED", "release": "r1", "why": ""},
        "a: well with r1",
    ),
    ({"is": "look", "host": "a", "ok": False, "why": "it is down"}, "a: not well: it is down"),
    ({"is": "stage", "host": "a", "state": "running"}, "a: getting the release"),
    (
        {"is": "stage", "host": "a", "state": "done", "sent": 0, "seconds": 0.1},
        "a: has the release (it was there, 0.1 s)",
    ),
    (
        {"is": "stage", "host": "a", "state": "failed", "why": "no room", "seconds": 0.1},
        "a: did not get the release: no room",
    ),
    ({"is": "step", "host": "a", "step": "probe"}, "a: checking"),
    ({"is": "step", "host": "a", "step": "undrain", "back": True}, "a: back: taking requests"),
    ({"is": "host", "host": "a", "state": "done", "seconds": 2.0}, "a: done in 2.0 s"),
    ({"is": "host", "host": "a", "state": "lost", "why": "gone"}, "a: unknown: gone"),
    ({"is": "host", "host": "a", "state": "stuck", "why": "full"}, "a: stuck: full"),
    ({"is": "resume", "id": "r-1", "hosts": []}, "roll r-1 goes on: nothing left"),
    ({"is": "note", "host": "a", "note": "old"}, "a: note old"),
]


@pytest.mark.parametrize(("record", "said"), LINES, ids=[said for _, said in LINES])
def test_each_event_of_a_roll_is_a_line(record: dict[str, Any], said: str) -> None:
    """For who follows it, and for who reads its story later."""
    shown = tables.line(record)
    assert shown is not None
    assert shown.shown(PLAIN).startswith(said)
    assert said in tables.story(PLAIN, {**record, "at": 0.0})


def test_what_says_nothing_new_is_no_line() -> None:
    """The step that follows it says more."""
    assert tables.line({"is": "host", "host": "a", "state": "running"}) is None
    assert tables.line({"is": "end", "result": "done"}) is None
    end = {"is": "end", "result": "stopped", "note": "the disk is full", "at": 0.0}
    assert tables.story(PLAIN, end).endswith("roll stopped: the disk is full")


def test_bad_news_are_red() -> None:
    assert Line("a", "failed", "why", Mood.BAD).shown(COLOURED) == "a: \033[31mfailed\033[0m: why"


def test_a_roll_without_an_end_was_cut_off() -> None:
    """The table says so, rather than nothing."""
    begun = {"kind": "deploy", "release": "r2", "hosts": ["a", "b"], "at": 0.0, "by": "ann@desk"}
    _, line = tables.past(PLAIN, [Past("20260101-000000-ab", Path("x"), begun, "", 0.0)])
    assert line.split()[:4] == ["20260101-000000-ab", "deploy", "r2", "2"]
    assert line.endswith("cut off  ann@desk")


DENIED = AccessDenied("a", "no")
STATUSES = [
    ([None, {}], 0),
    ([None, NoSite("a", "none")], 1),
    ([NoSite("a", "none"), HostLost("b", "gone")], 3),
    ([CallTimeout("a", "late")], 3),
    ([DENIED, SiteDenied("b", "no")], 4),
    ([DENIED, None], 3),
]


@pytest.mark.parametrize(("found", "status"), STATUSES)
def test_the_status_tells_what_kind_of_failure_there_was(found: list[Any], status: int) -> None:
    """Scripts act on it."""
    assert status_of({str(number): each for number, each in enumerate(found)}) == status


def test_an_error_of_the_whole_has_a_status() -> None:
    """As every error has that is not a host's."""
    assert status_of_error(UsageError("what?")) == 2
    assert status_of_error(UnknownHost("a", "fleet.ini", ())) == 2
    assert status_of_error(NoSuchRoll("a", ())) == 2
    assert status_of_error(AccessDenied("a", "no")) == 4
    assert status_of_error(CannotJournal("a", "full")) == 1


def test_the_file_is_the_named_one_or_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the one of this directory."""
    monkeypatch.delenv("SITEBUS_FLEET", raising=False)
    assert (file_of("a.ini"), file_of(None)) == ("a.ini", "fleet.ini")
    monkeypatch.setenv("SITEBUS_FLEET", "/srv/fleet.ini")
    assert (file_of("a.ini"), file_of(None)) == ("a.ini", "/srv/fleet.ini")


def test_every_command_has_a_help() -> None:
    """And each stands in the overview."""
    for command in COMMANDS:
        assert f"sitebus-fleet {command}" in build_parser(command).format_help()
        assert f"  {command} " in overview()
        assert parse([command, "--help"]).help


def test_options_stand_where_one_likes() -> None:
    """Before the command and behind it, and between hosts."""
    told = parse(["--fleet", "a.ini", "graceful", "web1", "--soak", "0", "web2", "-j"])
    assert (told.command, told.options.fleet, told.names) == ("graceful", "a.ini", ("web1", "web2"))
    assert (told.options.soak, told.options.json) == (0.0, True)
    assert parse(["--hosts", "a,b", "status", "--hosts", "c", "d"]).names == ("a,b", "c", "d")
    # A fleet's file may be named as a command is.
    assert parse(["--fleet", "status", "check"]).options.fleet == "status"


@pytest.mark.parametrize(
    ("words", "resume", "release"),
    [
        (("--resume",), "", None),
        (("--resume", "r2"), "", "r2"),
        (("--resume", "20260101-010203-ab12", "r2"), "20260101-010203-ab12", "r2"),
        (("r2", "--resume", "20260101-010203"), "20260101-010203", "r2"),
        (("--resume=20260101", "-j"), "20260101", None),
        (("r2",), None, "r2"),
    ],
)
def test_a_roll_to_resume_is_told_from_a_release(
    words: tuple[str, ...], resume: str | None, release: str | None
) -> None:
    """Either may follow the flag."""
    options = parse(["deploy", *words]).options
    assert (options.resume, options.release) == (resume, release)


def test_what_stands_behind_two_dashes_is_a_command() -> None:
    """Its own options are none of ours."""
    told = parse(["exec", "web1", "--", "ls", "-j", "--", "x"])
    assert (told.names, told.rest, told.options.json) == (("web1",), ("ls", "-j", "--", "x"), False)


def test_limits_are_read() -> None:
    options = parse(["restart", "--max-unavailable", "30%", "--batch", "2"]).options
    assert (options.max_unavailable, options.batch) == (Share(30, True), 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which command?"),
        (["depoly"], "there is no command 'depoly'; did you mean 'deploy'?"),
        (["graceful", "--batch", "0"], "'0' is not a number from 1"),
        (["graceful", "--soak", "-1"], "--soak"),
        (["graceful", "--timeout", "0"], "should be more than nothing"),
        (["graceful", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["run", "os:getpid", "{"], "'{' is not JSON"),
        (["run", "os:getpid", "word"], "for a text, say"),
        (["exec", "--"], "which command?"),
    ],
)
def test_a_command_line_that_makes_no_sense(words: list[str], said: str) -> None:
    """Is one sentence."""
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert said in str(caught.value)
