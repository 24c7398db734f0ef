"""No two rolls on one host: who has it, since when, and when it is free again."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus import fleet as fleets
from sitebus.errors import AnotherRoll, CannotLock
from sitebus.fleet import Fleet, agent_roll
from sitebus.fleet.locks import HostLock, Locks, places, who
from tests.helpers import wait_for

HOLDER = {"id": "r-1", "by": "ann@desk"}


def take(path: Path, token: str = "one", stale: float = 60.0) -> dict[str, Any] | None:
    return agent_roll.take([str(path)], token, HOLDER, stale)


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_the_first_has_it_and_the_second_is_told_who(tmp_path: Path) -> None:
    """With the time from when on, which taking it again does not change."""
    path = tmp_path / "lock"
    assert take(path) is None
    since = json.loads(path.read_text())["since"]
    assert take(path) is None
    found = take(path, "two")
    assert found is not None
    assert {name: found[name] for name in ("id", "by", "since")} == {**HOLDER, "since": since}


def test_whoever_frees_it_has_to_have_it(tmp_path: Path) -> None:
    """A roll that was long thought dead must not free the next one's."""
    path = tmp_path / "lock"
    take(path)
    assert not agent_roll.free([str(path)], "two")
    assert take(path, "two") is not None
    assert agent_roll.free([str(path)], "one")
    assert not path.exists(), "nothing is left of it"
    assert take(path, "two") is None
    assert not agent_roll.free([str(tmp_path / "nothing")], "one")


def test_a_lock_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    """Whether its number is nobody's now, or another's."""
    path = tmp_path / "lock"
    take(path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    change(path, pid=gone.pid, began="7")
    assert take(path, "two") is None
    change(path, pid=os.getppid(), began="7")
    assert take(path, "three") is None
    change(path, began="", pid=gone.pid)
    assert take(path, "four") is None
    change(path, began="", pid=os.getppid())
    assert take(path, "five") is not None


def test_of_many_who_come_and_go_one_has_it_at_a_time(tmp_path: Path) -> None:
    """Also while the file is removed by one and opened by another."""
    path = tmp_path / "lock"
    inside: list[str] = []
    faults: list[str] = []
    counts = Counter[str]()

    def work(token: str) -> None:
        while counts[token] < 20:
            if take(path, token) is not None:
                continue
            inside.append(token)
            faults.extend(inside if len(inside) > 1 else ())
            counts[token] += 1
            inside.remove(token)
            agent_roll.free([str(path)], token)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (faults, path.exists()) == ([], False)


@pytest.mark.parametrize("change_of_clock", [-61.0, 61.0])
def test_a_lock_is_free_when_nobody_has_said_for_long_that_it_is_held(
    tmp_path: Path, change_of_clock: float
) -> None:
    """The link to its roll may be down for hours before the host notices."""
    path = tmp_path / "lock"
    take(path)
    change(path, beat=json.loads(path.read_text())["beat"] + change_of_clock)
    assert take(path, "two") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"pid": "x", "beat": 1e99}', "\0"])
def test_what_is_no_lock_holds_up_nobody(tmp_path: Path, text: str) -> None:
    """The machine may have gone down while it was written."""
    path = tmp_path / "lock"
    path.write_text(text)
    assert take(path) is None


def test_a_full_disk_is_told_and_a_lock_that_is_held_stays_held(tmp_path: Path) -> None:
    """What was written of it is overwritten where it is, which takes no room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    held, full = tmp_path / "held", tmp_path / "full"
    take(held)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
        found = take(full)
        again = take(held)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found is not None
    assert "full: " in found["error"]
    assert take(full, "two") is None, "what was begun to be written is nobody's lock"
    assert again is not None
    assert take(held, "two") is not None


def test_the_next_place_is_taken_where_the_first_is_not_there(tmp_path: Path) -> None:
    """A root that was never made, or mistyped, is not made for a lock."""
    first, second = str(tmp_path / "shop" / "lock"), str(tmp_path / "lock")
    assert agent_roll.take([first, second], "one", HOLDER, 60.0) is None
    assert not (tmp_path / "shop").exists()
    (tmp_path / "shop").mkdir()
    assert agent_roll.free([first, second], "one")
    assert agent_roll.take([first, second], "two", HOLDER, 60.0) is None
    assert Path(first).exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Somebody could have a file of the operator's emptied by it."""
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    found = take(tmp_path / "lock")
    assert found is not None
    assert "error" in found
    assert not (tmp_path / "precious").exists()


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    path = tmp_path / "fleet.ini"
    path.write_text(
        f"[fleet]\nmethod = local\npython = {sys.executable}\n"
        f"[site]\nroot = {tmp_path}/shop\n[hosts]\nweb1 = localhost\n"
    )
    return path


@pytest.fixture
def here(ini: Path) -> Iterator[Fleet]:
    with fleets.open(ini) as fleet:
        yield fleet


def test_a_host_is_locked_as_long_as_the_roll_has_it(here: Fleet, ini: Path) -> None:
    """Over lines of two operators; the second is told of the first."""
    lock = HostLock(here["web1"], "r-1", "ann@desk")
    lock.take()
    lock.beat()
    with fleets.open(ini) as other:
        second = HostLock(other["web1"], "r-2", who())
        with pytest.raises(AnotherRoll, match=r"since 20\d\d-.* by ann@desk \(roll r-1\)"):
            second.take()
        lock.free()
        second.take()
        with pytest.raises(AnotherRoll, match="roll r-2"):
            lock.take()
        second.free()


def test_a_lock_ends_with_the_link(here: Fleet, ini: Path) -> None:
    """Whoever led the roll may have been killed."""
    with fleets.open(ini) as first:
        HostLock(first["web1"], "r-1", "ann@desk").take()
    HostLock(here["web1"], "r-2", who()).take()


def test_a_lock_is_taken_again_after_the_link_was_lost(here: Fleet) -> None:
    """Unless it is somebody else's by then."""
    lock = HostLock(here["web1"], "r-1", "ann@desk")
    lock.take()
    here["web1"].disconnect()
    lock.beat()
    other = HostLock(here["web1"], "r-2", "bob@desk")
    with pytest.raises(AnotherRoll):
        other.take()
    here["web1"].disconnect()
    other.take()
    with pytest.raises(AnotherRoll, match="bob@desk"):
        lock.beat()


def test_a_roll_is_told_when_its_lock_is_lost(here: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to stop: somebody else is at work."""
    monkeypatch.setattr("sitebus.fleet.locks.BEAT", 0.05)
    lost: list[AnotherRoll] = []
    locks = Locks({"web1": here["web1"]}, "r-1", lost.append)
    locks.take("web1")
    path = Path(f"{here['web1'].entry.root}/.sitebus-roll.lock")
    change(path, token="r-9", by="bob@desk", id="r-9")
    locks.keep()
    wait_for(lambda: lost, 10, "the loss of a lock")
    assert "by bob@desk (roll r-9)" in str(lost[0])
    locks.free()
    assert json.loads(path.read_text())["id"] == "r-9"


def test_a_host_that_cannot_be_locked_says_why(here: Fleet, tmp_path: Path) -> None:
    """Without a lock there is no roll."""
    (tmp_path / "shop" / ".sitebus-roll.lock").mkdir()
    lock = HostLock(here["web1"], "r-1", who())
    with pytest.raises(CannotLock, match=r"web1: cannot lock it .*roll\.lock: Is a directory"):
        lock.take()


def test_without_a_root_the_lock_is_the_users(tmp_path: Path) -> None:
    """Named after the site, since there may be several."""
    path = tmp_path / "fleet.ini"
    path.write_text("[fleet]\nmethod = local\n[site]\nsocket = shop\n[hosts]\nweb1 = localhost\n")
    with fleets.open(path) as fleet:
        assert places(fleet["web1"]) == ["~/.sitebus-roll-shop.lock"]
