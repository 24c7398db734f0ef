"""Rolls of the command ``sitebus-fleet``, over two sites of this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.driving import BRIEF, records, run
from tests.fleet.rig import Rig, hosts

pytestmark = pytest.mark.slow

AT_ONCE = ("--soak", "0", "--checks", "1")


@pytest.fixture
def ini(pair_ini: Path) -> Path:
    return pair_ini


def test_a_deploy_is_told_line_by_line_and_written_down(
    pair: Rig, ini: Path, tmp_path: Path
) -> None:
    """Canaries first; what is printed as JSON is what the journal has."""
    release = shop.write_release(tmp_path / "d2", "d2")
    done = run(ini, "deploy", release, "--canary", "canary", "-j", *BRIEF)
    assert done.status == 0, done.all
    told = records(done)
    assert [each["host"] for each in told if each.get("state") == "done" and "back" in each] == [
        "web2",
        "web1",
    ]
    assert {host.current for host in pair.hosts} == {"d2"}
    (path,) = (tmp_path / "journal").iterdir()
    assert [json.loads(line) for line in path.read_text().splitlines()] == told

    back = run(ini, "rollback", *AT_ONCE)
    assert back.status == 0, back.all
    assert back.out.splitlines()[-1] == "rollback is done"
    assert {host.current for host in pair.hosts} == {"r1"}


def test_past_rolls_are_listed_and_told(pair: Rig, ini: Path, tmp_path: Path) -> None:
    """A release that hosts have can be named without its directory, if it is whole."""
    release = shop.write_release(tmp_path / "build", "n2")
    assert run(ini, "deploy", release, "--id", "n2", "web1", *AT_ONCE).status == 0
    assert [host.current for host in pair.hosts] == ["n2", "r1"]
    assert run(ini, "rollback", "web1", "--to", "r1", *AT_ONCE).status == 0
    named = run(ini, "deploy", "n2", *AT_ONCE)
    assert named.status == 1
    assert "web2: there is no release 'n2' (it has " in named.err
    shop.write_release(pair["web2"].root / "releases" / "n2", "n2")
    half = run(ini, "deploy", "n2", *AT_ONCE)
    assert "web2: release 'n2' was not staged to its end" in half.err
    assert [host.current for host in pair.hosts] == ["r1", "r1"]

    listed = run(ini, "rolls")
    rolls = [line.split() for line in listed.out.splitlines()[1:]]
    assert [roll[1] for roll in rolls] == ["deploy", "deploy", "rollback", "deploy"]
    assert [line.split()[6] for line in listed.out.splitlines()[1::3]] == ["refused", "done"]
    story = run(ini, "rolls", rolls[3][0])
    assert "web1: activating" in story.out
    assert story.out.splitlines()[-1].endswith("roll done")


def test_a_dry_run_changes_nothing(pair: Rig, ini: Path, tmp_path: Path) -> None:
    """It tells in which order what would be done."""
    release = shop.write_release(tmp_path / "d3", "d3")
    done = run(ini, "deploy", release, "--dry-run", "--canary", "canary", "--drain", "1")
    assert done.status == 0, done.all
    assert done.out.splitlines()[:3] == [
        "deploy d3 on 2 hosts: drain, activate, graceful, probe, undrain",
        "  1. web2 (canaries)",
        "  2. web1",
    ]
    told = records(run(ini, "deploy", release, "--dry-run", "-j", "--max-unavailable", "100%"))
    assert told[0]["batches"] == [["web1", "web2"]]
    assert not (tmp_path / "journal").exists()
    assert not (pair["web1"].root / "releases" / "d3").exists()


def test_a_broken_release_is_taken_back_with_a_sentence_for_its_host(
    pair: Rig, ini: Path, tmp_path: Path
) -> None:
    """It was good on the first host."""
    release = shop.write_release(tmp_path / "d4", "d4", shop.on("web2", shop.BROKEN))
    done = run(ini, "deploy", release, *AT_ONCE)
    assert done.status == 1
    first, last = done.err.splitlines()
    assert first.startswith("sitebus-fleet: web2: graceful aborted")
    assert "No module named 'no_such_module_of_the_shop'" in first
    assert last == "sitebus-fleet: deploy d4 failed, and was rolled back"
    assert {host.current for host in pair.hosts} == {"r1"}
    over = run(ini, "deploy", "--resume")
    assert (over.status, over.err) == (
        2,
        "sitebus-fleet: no roll is left to be resumed; sitebus-fleet rolls shows the past ones\n",
    )


def test_a_failure_may_be_left_as_it_is_and_the_roll_be_resumed(
    pair: Rig, ini: Path, tmp_path: Path
) -> None:
    """The command to do so is told, and fits no other roll."""
    release = shop.write_release(tmp_path / "d5", "d5", shop.on("web2", shop.WAITING))
    gate = pair["web2"].root / "shared" / "gate"
    gate.unlink()
    done = run(ini, "deploy", release, "--on-failure", "stop", *AT_ONCE)
    assert done.status == 1
    assert [host.current for host in pair.hosts] == ["d5", "d5"]
    again_by = done.err.split("to go on, say sitebus-fleet ")[1].split()
    other = run(ini, "rollback", *again_by[1:])
    assert other.status == 2
    assert f"it is a deploy; say sitebus-fleet deploy --resume {again_by[-1]}" in other.err
    wrong = run(ini, *again_by, "d6")
    assert "it is for release d5, not d6" in wrong.err
    others = run(ini, *again_by, f"{release}/", "--hosts", "web1")
    assert "it is for other hosts; name none to go on with its own" in others.err
    gate.touch()
    shutil.rmtree(release)
    again = run(ini, *again_by)
    assert again.status == 0, again.all
    assert "web1: done with before" in again.out
    assert "web1: reloading" not in again.out
    assert run(ini, "rollback", *AT_ONCE).status == 0


def test_a_release_that_answers_500_closes_the_gate(pair: Rig, ini: Path, tmp_path: Path) -> None:
    """Also where no worker asks it before it serves, and no page is named that tells."""
    unasked = shop.SITE.replace("probe = /\n", "")
    web1 = pair["web1"]
    web1.close_site()
    shop.write_release(web1.root / "releases" / "r1", "r1", site=unasked)
    web1.serve()
    release = shop.write_release(tmp_path / "d7", "d7", shop.FAILING, site=unasked)
    done = run(ini, "deploy", release, "web1", *BRIEF)
    assert done.status == 1
    assert "web1: / answers with status 500 (check 1 of 2)" in done.err
    assert web1.current == "r1"
    assert web1.ask()[0] == 200


def test_a_host_that_is_down_before_holds_up_the_roll(pair: Rig, ini: Path) -> None:
    """Until somebody insists; then its site is started."""
    pair["web2"].close_site()
    done = run(ini, "graceful", *AT_ONCE)
    assert done.status == 1
    assert "sitebus-fleet: web2: no site answers" in done.err
    assert "1 of 2 hosts is not healthy, and --max-unavailable is 1" in done.err
    shown = run(ini, "status")
    assert shown.status == 1
    assert "web2: no site answers" in shown.out
    forced = run(ini, "graceful", "--force", *AT_ONCE)
    assert forced.status == 0, forced.all
    assert pair["web2"].ask()[0] == 200


def test_a_release_that_hosts_do_not_have_is_refused(pair: Rig, ini: Path) -> None:
    """Nobody knows whether a name or a directory was meant."""
    done = run(ini, "deploy", "r99", *AT_ONCE)
    assert done.status == 1
    assert "web1: there is no release 'r99' (it has " in done.err
    assert {host.current for host in pair.hosts} == {"r1"}


def test_the_last_of_a_fleet_is_a_first_release_too(tmp_path: Path) -> None:
    """Where nothing was ever in place, a deploy starts the site; nobody has to insist."""
    with hosts(1, local=True) as one:
        ini = one.write_ini(tmp_path / "fleet.ini", fleet={"journal": tmp_path / "journal"})
        (one["web1"].root / "shared").mkdir()
        done = run(ini, "deploy", shop.write_release(tmp_path / "r1", "r1"), *AT_ONCE)
        assert done.status == 0, done.all
        assert json.loads(one["web1"].ask()[1])["version"] == "r1"
        assert run(ini, "exit").status == 0
        assert not os.path.exists(one["web1"].socket)
