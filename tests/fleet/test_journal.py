"""What is written down of a roll outlives whoever leads it, and the machine's end as well."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitebus.errors import BadJournal, CannotJournal, NoSuchRoll
from sitebus.fleet import journal
from sitebus.fleet.journal import Journal, Record

BEGUN: Record = {"is": "roll", "v": journal.VERSION, "kind": "deploy", "at": 1.0}


def write(folder: Path, name: str, *records: Any) -> Path:
    with Journal.create(folder, name) as made:
        for record in records:
            made.write(record)
        return made.path


def test_each_line_is_there_once_it_is_written(tmp_path: Path) -> None:
    """Not when the journal is closed: it may never be."""
    with Journal.create(tmp_path / "deep" / "down", "r") as made:
        made.write(BEGUN)
        assert journal.read(made.path) == [BEGUN]
        made.write({"is": "end", "result": "done"})
        assert len(journal.read(made.path)) == 2
        assert os.stat(made.path).st_mode & 0o777 == 0o600
        assert os.stat(made.path.parent).st_mode & 0o777 == 0o700


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(cut=st.integers(0, 200))
def test_a_torn_last_line_counts_as_not_written(tmp_path: Path, cut: int) -> None:
    """Wherever the machine went down, what is left is whole, and can be gone on with."""
    records = [BEGUN, *({"is": "note", "note": "ä" * n} for n in range(4))]
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    data = b"".join(lines)
    cut = min(max(cut, len(lines[0])), len(data))
    path = tmp_path / "torn.jsonl"
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert journal.read(path) == records[:whole]
    with Journal.reopen(path) as again:
        again.write({"is": "resume"})
    assert journal.read(path) == [*records[:whole], {"is": "resume"}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", ":1: does not begin as a journal does"),
        (b'{"is": "end"}\n', ":1: does not begin as a journal does"),
        (b'{"is": "roll", "v": 99}\n', ":1: was written by another version"),
        (b'{"is": "roll", "v": 1}\nrubbish\n{}\n', ":2: is no line of a journal"),
        (b'{"is": "roll", "v": 1}\n[1]\n', ":2: is no line of a journal"),
        (b"\xff\xfe\n", ":1: is no line of a journal"),
    ],
)
def test_what_is_no_journal_is_said_to_be_none(tmp_path: Path, data: bytes, said: str) -> None:
    """A roll is not resumed from what somebody has changed."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    with pytest.raises(BadJournal, match=re.escape(f"{path}{said}")):
        journal.read(path)
    assert journal.rolls(tmp_path) == []


def test_past_rolls_are_listed_the_latest_first(tmp_path: Path) -> None:
    """With what became of them; one that was cut off says so."""
    write(tmp_path, "20260101-000000-aa", BEGUN, {"is": "end", "result": "done", "at": 3.0})
    write(tmp_path, "20260102-000000-bb", BEGUN, {"is": "note", "at": 2.0})
    later, earlier = journal.rolls(tmp_path)
    assert (later.ended, later.at, later.told()["result"]) == ("", 2.0, "cut off")
    assert (earlier.ended, earlier.at, earlier.told()["result"]) == ("done", 3.0, "done")
    assert journal.rolls(tmp_path / "nowhere") == []


def test_a_roll_is_found_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    """As long as that can only be one."""
    path = write(tmp_path, "20260101-000000-aa", BEGUN)
    write(tmp_path, "20260102-000000-bb", BEGUN)
    assert journal.find(tmp_path, "20260101").path == path
    for name in ("2026", "nothing", "../secret", ""):
        with pytest.raises(NoSuchRoll):
            journal.find(tmp_path, name)
    near = r"no roll '20260101-000000-ab'; did you mean '20260101-000000-aa'\?"
    with pytest.raises(NoSuchRoll, match=near):
        journal.find(tmp_path, "20260101-000000-ab")


def test_names_of_rolls_are_sorted_by_time() -> None:
    """So the last one can be told without a look into any."""
    assert journal.new_id(1e9) < journal.new_id(1e9 + 60)
    assert journal.new_id() != journal.new_id()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Answer a folder in which every journal is a device that takes nothing."""
    (tmp_path / "r.jsonl").symlink_to("/dev/full")
    return tmp_path


def test_a_full_disk_is_one_sentence(full: Path) -> None:
    """Whoever begins a roll learns of it before anything is changed."""
    descriptor = os.open(full / "r.jsonl", os.O_WRONLY)
    sentence = "no space left on device; name another directory"
    with (
        Journal(full / "r.jsonl", descriptor) as made,
        pytest.raises(CannotJournal, match=sentence),
    ):
        made.write(BEGUN)


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    """Two rolls of one name would tell one story."""
    write(tmp_path, "r", BEGUN)
    with pytest.raises(CannotJournal, match="file exists"):
        Journal.create(tmp_path, "r")
    with pytest.raises(CannotJournal, match="no such file"):
        Journal.reopen(tmp_path / "gone.jsonl")


def test_journals_are_in_the_users_state_directory() -> None:
    """Unless the fleet's file names another; a relative one is none, as is the rule there."""
    assert journal.default_folder({"XDG_STATE_HOME": "/var/me"}) == Path("/var/me/sitebus/fleet")
    home = Path.home() / ".local/state/sitebus/fleet"
    assert journal.default_folder({"XDG_STATE_HOME": "me"}) == home == journal.default_folder({})


def test_rolls_of_one_second_are_told_in_their_order(tmp_path: Path) -> None:
    """Their names do not tell, and whoever resumes the last one means the last one."""
    for name, at in (("20260101-000000-ffff", 1.25), ("20260101-000000-0000", 1.5)):
        with Journal.create(tmp_path, name) as book:
            book.write({"is": "roll", "v": 1, "id": name, "at": at})
    assert [past.begun["at"] for past in journal.rolls(tmp_path)] == [1.5, 1.25]
