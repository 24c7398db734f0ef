"""What somebody sees of ``sitebus-fleet`` at a terminal, and what Ctrl-C does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.accounts import Account
from tests.fleet.driving import run
from tests.fleet.rig import Loopback, Rig
from tests.fleet.screen import CTRL_C, Screen
from tests.plugins.launching import python_for_everyone

pytestmark = pytest.mark.slow

AT_ONCE = ("--soak", "0", "--checks", "1")


@pytest.fixture
def ini(pair_ini: Path) -> Path:
    return pair_ini


def last_board(screen: Screen) -> list[str]:
    """Answer the lines of the hosts as they were drawn last."""
    board = screen.text.split("\033[2A")[-1]
    return [line.split("\033[K")[-1] for line in board.split("\n")[:2]]


def test_each_host_has_a_line_that_changes(ini: Path) -> None:
    """With its state and how long it takes, in colour; it stays when all is over."""
    with Screen(ini, "graceful", *AT_ONCE, NO_COLOR="") as screen:
        assert screen.wait() == 0, screen.plain
    for line, host in zip(last_board(screen), ("web1", "web2"), strict=True):
        assert re.match(rf"{host}  \033\[32mdone\033\[0m +\d+\.\d s  in ", line), line
    for host in ("web1", "web2"):
        for word in ("waiting", "reloading", "done"):
            assert re.search(rf"^{host}  {word}", screen.plain, re.MULTILINE), screen.plain
    assert "graceful is done" in screen.plain


def test_what_is_wrong_stands_below_the_lines(ini: Path) -> None:
    """And none of them is longer than the terminal is wide."""
    with Screen(ini, "deploy", "no-such-release", *AT_ONCE, NO_COLOR="") as screen:
        assert screen.wait() == 1
    board = [line for line in screen.plain.splitlines() if line.startswith("web")]
    assert max(map(len, board)) < 100
    assert "\033[31mdid not get the release" in screen.text
    said = screen.plain.splitlines()[-1]
    assert said.startswith("sitebus-fleet: deploy no-such-release was refused: nothing was changed")


@pytest.mark.parametrize("told", [{"lines": 4}, {"TERM": "dumb"}], ids=["low", "dumb"])
def test_where_the_lines_do_not_fit_changes_are_told_one_by_one(
    ini: Path, told: dict[str, int | str]
) -> None:
    """A board that is higher than the terminal would be a mess."""
    with Screen(ini, "undrain", **told) as screen:  # type: ignore[arg-type]
        assert screen.wait() == 0
    assert "\033[2A" not in screen.text
    assert re.search(r"^web1: takes requests in", screen.plain, re.MULTILINE)


def test_nothing_is_taken_from_all_hosts_unasked(ini: Path) -> None:
    """Whoever means one host, or says so, is not asked."""
    with Screen(ini, "exit") as screen:
        screen.wait_for(r"End the site of all 2 hosts\? \[y/N\] ")
        screen.type(b"n\r")
        assert screen.wait() == 1
    assert "nothing was done" in screen.plain
    with Screen(ini, "stop", "web1") as screen:
        assert screen.wait() == 0
    with Screen(ini, "stop") as screen:
        screen.wait_for("Stop the site of all")
        screen.type(b"y\r")
        assert screen.wait() == 0
    with Screen(ini, "stop", "--yes") as screen:
        assert screen.wait() == 0
    assert run(ini, "start").status == 0


def test_ctrl_c_stops_a_roll_in_order_and_the_second_leaves_at_once(
    pair: Rig, ini: Path, tmp_path: Path
) -> None:
    """Either way it can be gone on with, by what is said then."""
    release = shop.write_release(tmp_path / "c2", "c2", shop.on("web1", shop.WAITING))
    with shop.Gate(pair["web1"].root) as gate, Screen(ini, "deploy", release, *AT_ONCE) as screen:
        gate.wait()
        screen.type(CTRL_C)
        screen.wait_for("stopping once the hosts at work are done with")
        gate.open()
        assert screen.wait() == 1, screen.plain
    assert "sitebus-fleet: deploy c2 was stopped; to go on, say sitebus-fleet" in screen.plain
    assert [host.current for host in pair.hosts] == ["c2", "r1"]

    again = shop.write_release(tmp_path / "c3", "c3", shop.on("web1", shop.WAITING))
    with shop.Gate(pair["web1"].root) as gate, Screen(ini, "deploy", again, *AT_ONCE) as screen:
        gate.wait()
        screen.type(CTRL_C)
        screen.wait_for("stopping once")
        screen.type(CTRL_C)
        assert screen.wait() == 130, screen.plain
    assert "Traceback" not in screen.plain
    told = re.search(r"left at once; to go on, say sitebus-fleet (.*)", screen.plain)
    assert told, screen.plain
    done = run(ini, *told[1].split())
    assert done.status == 0, done.all
    assert [host.current for host in pair.hosts] == ["c3", "c3"]


def test_ctrl_c_before_anything_is_changed_changes_nothing(
    pair: Rig, ini: Path, tmp_path: Path
) -> None:
    """The hosts are looked at, and that is all."""
    before = [host.current for host in pair.hosts]
    release = shop.write_release(tmp_path / "c4", "c4")
    with Screen(ini, "deploy", release, *AT_ONCE) as screen:
        screen.wait_for("^roll .*: deploy c4")
        screen.type(CTRL_C)
        status = screen.wait()
    assert [host.current for host in pair.hosts] in (before, ["c4", before[1]]), screen.plain
    assert (status, "was stopped" in screen.plain) == (1, True), screen.plain


@pytest.fixture
def guarded(loopback: Loopback, account: Account, tmp_path: Path) -> Path:
    """Answer the fleet.ini of a host that wants a password for sudo."""
    path = tmp_path / "fleet.ini"
    python = python_for_everyone().path
    rows = {
        "user": account.name,
        "port": loopback.port,
        "identity": loopback.identity,
        "known_hosts": loopback.known_hosts,
        "python": python,
        "become": "root",
    }
    told = "".join(f"{name} = {value}\n" for name, value in rows.items())
    path.write_text(f"[fleet]\n{told}[hosts]\nweb1 = {loopback.address}\n")
    return path


def test_a_password_is_asked_for_when_it_is_needed(guarded: Path, account: Account) -> None:
    """Again if it is wrong; it is shown to nobody."""
    with Screen(guarded, "exec", "--", "id", "-u") as screen:
        screen.wait_for("web1: sudo wants a password for root.*\\npassword for sudo: ")
        screen.type(b"wrong\r")
        screen.wait_for("web1: sudo does not take the password.*\\npassword for sudo: ")
        screen.type(account.password.encode() + b"\r")
        assert screen.wait() == 0, screen.plain
    assert re.search("^web1  0$", screen.plain, re.MULTILINE)
    assert account.password not in screen.plain


def test_who_has_no_password_is_let_go(guarded: Path) -> None:
    """Without a terminal nobody is asked at all."""
    with Screen(guarded, "status") as screen:
        screen.wait_for("password for sudo: ")
        screen.type(b"\r")
        assert screen.wait() == 4
    done = run(guarded, "status")
    assert done.status == 4
    assert "web1: sudo wants a password for root" in done.out
