"""The command ``sitebus-fleet``, over two sites of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import shop
from tests.fleet.driving import BRIEF, Done, begin, command, run
from tests.fleet.rig import Rig, hosts
from tests.helpers import WARNINGS, environment

pytestmark = pytest.mark.slow

AT_ONCE = ("--soak", "0", "--checks", "1")


@pytest.fixture(scope="module")
def two() -> Iterator[Rig]:
    """Two hosts that are this machine."""
    with hosts(2, local=True) as rig:
        yield rig


@pytest.fixture(scope="module")
def serving(two: Rig) -> Rig:
    """Both serve."""
    two.serve("r1")
    return two


@pytest.fixture
def ini(serving: Rig, tmp_path: Path) -> Path:
    """A fleet.ini of somebody who has no past."""
    return serving.write_ini(
        tmp_path / "fleet.ini",
        fleet={"journal": tmp_path / "journal"},
        extra="[group canary]\nhosts = web2\n",
    )


def records(done: Done) -> list[dict[str, Any]]:
    """Answer what was told line by line."""
    return [json.loads(line) for line in done.out.splitlines()]


def test_the_status_of_all_is_a_table(serving: Rig, ini: Path) -> None:
    """A line for each host; as JSON all there is to know."""
    done = run(ini, "status")
    assert (done.status, done.err) == (0, "")
    head, *lines = [line.split() for line in done.out.splitlines()]
    assert head[:6] == ["HOST", "STATE", "READY", "WORKERS", "REQUESTS", "RELEASE"]
    assert [line[:3] for line in lines] == [[name, "STARTED", "yes"] for name in ("web1", "web2")]
    told = run(ini, "status", "-j", "web2").json["hosts"]
    assert list(told) == ["web2"]
    assert told["web2"]["status"]["workers"]["ready"] == 2


def test_more_of_one_host_is_told_on_request(serving: Rig, ini: Path) -> None:
    """How it is reached, and what it is."""
    done = run(ini, "status", "-v", "canary")
    assert done.status == 0
    assert "web1" not in done.out
    for word in ("127.0.0.1 by local", f"{serving['web2'].port}", "python", "context"):
        assert word in done.out


def test_hosts_are_checked(ini: Path) -> None:
    """Python, sitebus and room are what a roll needs."""
    done = run(ini, "check")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[1] for line in done.out.splitlines()[1:]] == ["well", "well"]
    facts = run(ini, "check", "-j").json["hosts"]["web1"]["facts"]
    assert facts["disk"]["free"] > 0


def test_a_deploy_is_told_line_by_line_and_written_down(
    serving: Rig, ini: Path, tmp_path: Path
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
    assert {host.current for host in serving.hosts} == {"d2"}
    (path,) = (tmp_path / "journal").iterdir()
    assert [json.loads(line) for line in path.read_text().splitlines()] == told

    back = run(ini, "rollback", *AT_ONCE)
    assert back.status == 0, back.all
    assert back.out.splitlines()[-1] == "rollback is done"
    assert {host.current for host in serving.hosts} == {"r1"}


def test_past_rolls_are_listed_and_told(serving: Rig, ini: Path, tmp_path: Path) -> None:
    """A release that hosts have can be named without its directory, if it is whole."""
    release = shop.write_release(tmp_path / "build", "n2")
    assert run(ini, "deploy", release, "--id", "n2", "web1", *AT_ONCE).status == 0
    assert [host.current for host in serving.hosts] == ["n2", "r1"]
    assert run(ini, "rollback", "web1", "--to", "r1", *AT_ONCE).status == 0
    named = run(ini, "deploy", "n2", *AT_ONCE)
    assert named.status == 1
    assert "web2: there is no release 'n2' (it has " in named.err
    shop.write_release(serving["web2"].root / "releases" / "n2", "n2")
    half = run(ini, "deploy", "n2", *AT_ONCE)
    assert "web2: release 'n2' was not staged to its end" in half.err
    assert [host.current for host in serving.hosts] == ["r1", "r1"]

    listed = run(ini, "rolls")
    rolls = [line.split() for line in listed.out.splitlines()[1:]]
    assert [roll[1] for roll in rolls] == ["deploy", "deploy", "rollback", "deploy"]
    assert [line.split()[6] for line in listed.out.splitlines()[1::3]] == ["refused", "done"]
    story = run(ini, "rolls", rolls[3][0])
    assert "web1: activating" in story.out
    assert story.out.splitlines()[-1].endswith("roll done")


def test_a_dry_run_changes_nothing(serving: Rig, ini: Path, tmp_path: Path) -> None:
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
    assert not (serving["web1"].root / "releases" / "d3").exists()


def test_a_broken_release_is_taken_back_with_a_sentence_for_its_host(
    serving: Rig, ini: Path, tmp_path: Path
) -> None:
    """It was good on the first host."""
    release = shop.write_release(tmp_path / "d4", "d4", shop.on("web2", shop.BROKEN))
    done = run(ini, "deploy", release, *AT_ONCE)
    assert done.status == 1
    first, last = done.err.splitlines()
    assert first.startswith("sitebus-fleet: web2: graceful aborted")
    assert "No module named 'no_such_module_of_the_shop'" in first
    assert last == "sitebus-fleet: deploy d4 failed, and was rolled back"
    assert {host.current for host in serving.hosts} == {"r1"}
    over = run(ini, "deploy", "--resume")
    assert (over.status, over.err) == (
        2,
        "sitebus-fleet: no roll is left to be resumed; sitebus-fleet rolls shows the past ones\n",
    )


def test_a_failure_may_be_left_as_it_is_and_the_roll_be_resumed(
    serving: Rig, ini: Path, tmp_path: Path
) -> None:
    """The command to do so is told, and fits no other roll."""
    release = shop.write_release(tmp_path / "d5", "d5", shop.on("web2", shop.WAITING))
    gate = serving["web2"].root / "shared" / "gate"
    gate.unlink()
    done = run(ini, "deploy", release, "--on-failure", "stop", *AT_ONCE)
    assert done.status == 1
    assert [host.current for host in serving.hosts] == ["d5", "d5"]
    again_by = done.err.split("to go on, say sitebus-fleet ")[1].split()
    other = run(ini, "rollback", *again_by[1:])
    assert other.status == 2
    assert f"it is a deploy; say sitebus-fleet deploy --resume {again_by[-1]}" in other.err
    wrong = run(ini, *again_by, "d6")
    assert "it is for release d5, not d6" in wrong.err
    gate.touch()
    shutil.rmtree(release)
    again = run(ini, *again_by)
    assert again.status == 0, again.all
    assert "web1: done with before" in again.out
    assert "web1: reloading" not in again.out
    assert run(ini, "rollback", *AT_ONCE).status == 0


def test_a_release_that_answers_500_closes_the_gate(
    serving: Rig, ini: Path, tmp_path: Path
) -> None:
    """Also where no worker asks it before it serves, and no page is named that tells."""
    unasked = shop.SITE.replace("probe = /\n", "")
    web1 = serving["web1"]
    web1.close_site()
    shop.write_release(web1.root / "releases" / "r1", "r1", site=unasked)
    web1.serve()
    release = shop.write_release(tmp_path / "d7", "d7", shop.FAILING, site=unasked)
    done = run(ini, "deploy", release, "web1", *BRIEF)
    assert done.status == 1
    assert "web1: / answers with status 500 (check 1 of 2)" in done.err
    assert web1.current == "r1"
    assert web1.ask()[0] == 200


def test_a_host_that_is_down_before_holds_up_the_roll(serving: Rig, ini: Path) -> None:
    """Until somebody insists; then its site is started."""
    serving["web2"].close_site()
    done = run(ini, "graceful", *AT_ONCE)
    assert done.status == 1
    assert "sitebus-fleet: web2: no site answers" in done.err
    assert "1 of 2 hosts is not healthy, and --max-unavailable is 1" in done.err
    shown = run(ini, "status")
    assert shown.status == 1
    assert "web2: no site answers" in shown.out
    forced = run(ini, "graceful", "--force", *AT_ONCE)
    assert forced.status == 0, forced.all
    assert serving["web2"].ask()[0] == 200


def test_sites_are_stopped_started_and_ended(serving: Rig, ini: Path) -> None:
    """Nobody is asked where there is no terminal."""
    for wanted, state in (("stop", "STOPPED"), ("start", "STARTED"), ("exit", None)):
        done = run(ini, wanted)
        assert done.status == 0, done.all
        told = run(ini, "status", "-j").json["hosts"]
        found = {each.get("status", {}).get("state") for each in told.values()}
        assert found == {state}
    assert run(ini, "exit").status == 0, "it is so already"
    done = run(ini, "start", "-j")
    assert [(each["host"], each["ok"]) for each in sorted(records(done), key=str)] == [
        ("web1", True),
        ("web2", True),
    ]


def test_requests_are_kept_away_and_let_in_again(ini: Path) -> None:
    """As whoever sends them is told by /readyz."""
    assert run(ini, "drain", "web1").status == 0
    done = run(ini, "status")
    assert [line.split()[2] for line in done.out.splitlines()[1:3]] == ["drained", "yes"]
    assert run(ini, "undrain").status == 0
    assert run(ini, "status", "-j").json["hosts"]["web1"]["status"]["ready"]


def test_a_command_runs_on_all_hosts(ini: Path) -> None:
    """What it writes is told from what it writes elsewhere; one that fails is a failure."""
    done = run(ini, "exec", "--", "sh", "-c", "echo one; printf two >&2; exit 3")
    assert done.status == 1
    assert sorted(done.out.splitlines()) == ["web1  one", "web2  one"]
    assert sorted(done.err.splitlines())[1] == "web1  two"
    assert "has ended with status 3" in done.err
    good = run(ini, "exec", "web1", "-j", "--cwd", "/", "--", "pwd")
    assert records(good) == [{"host": "web1", "out": "/"}, {"host": "web1", "status": 0}]
    missing = run(ini, "exec", "web1", "--", "no-such-program")
    assert missing.status == 1
    assert "web1: cannot run no-such-program: no such file" in missing.err
    late = run(ini, "exec", "web1", "--timeout", "0.3", "--", "sleep", "60")
    assert late.status == 3
    assert "sleep has not ended within 0.3 s" in late.err


def test_a_function_runs_on_all_hosts(ini: Path) -> None:
    """One of the library's here; its exception arrives with its traceback."""
    done = run(ini, "run", "os.path:basename", '"/srv/shop"')
    assert (done.status, sorted(done.out.splitlines())) == (0, ['web1: "shop"', 'web2: "shop"'])
    failed = run(ini, "run", "os:listdir", '"/no/such/place"', "--hosts", "web1", "--debug")
    assert failed.status == 1
    assert "FileNotFoundError" in failed.err
    assert "Traceback" in failed.err
    for wrong, said in (
        ("nowhere:to", "cannot import nowhere"),
        ("os:nothing", "module os has no function nothing"),
        ("os", "'os' is not MODULE:FUNCTION"),
    ):
        refused = run(ini, "run", wrong)
        assert (refused.status, said in refused.err) == (2, True), refused.err


def run_in(folder: Path, ini: Path, *arguments: str | Path) -> Done:
    """Run it where an operator keeps modules."""
    done = subprocess.run(
        command(ini, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=environment(PYTHONWARNINGS=WARNINGS),
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_module_of_this_directory_is_sent_to_the_hosts(ini: Path, tmp_path: Path) -> None:
    """With what its functions say of what went wrong there; mitogen tells its own log more."""
    (tmp_path / "chores.py").write_text("def add(a, b):\n    return a + b\n")
    log = tmp_path / "mitogen.log"
    words = ("run", "chores:add", "2", "3", "--mitogen-log", log, "--debug")
    done = run_in(tmp_path, ini, *words)
    assert (done.status, sorted(done.out.splitlines())) == (0, ["web1: 5", "web2: 5"]), done.all
    assert log.read_text()
    wrong = run_in(tmp_path, ini, "run", "chores:add", "2", '"x"', "-j", "--hosts", "web1")
    assert wrong.status == 1
    assert "raised TypeError" in records(wrong)[0]["error"]


def test_a_file_goes_to_all_hosts(ini: Path, tmp_path: Path) -> None:
    """And what is not there goes nowhere."""
    (tmp_path / "motd").write_text("hello")
    done = run(ini, "push", tmp_path / "motd", tmp_path / "there", "web1")
    assert done.status == 0, done.all
    assert (tmp_path / "there").read_text() == "hello"
    missing = run(ini, "push", tmp_path / "nothing", "/tmp/there")
    assert missing.status != 0
    assert "there is no such file" in missing.err


def test_logs_and_events_of_all_hosts_are_one_stream(ini: Path) -> None:
    """Each line says whose it is."""
    done = run(ini, "logs")
    assert done.status == 0, done.all
    assert {line.split()[0] for line in done.out.splitlines()} == {"web1", "web2"}
    assert "Bus STARTED" in done.out
    told = records(run(ini, "events", "-j", "--channel", "worker.*", "web2"))
    assert {each["host"] for each in told} == {"web2"}
    assert {each["event"].partition(".")[0] for each in told} == {"worker"}


def test_events_are_followed_until_somebody_has_enough(serving: Rig, ini: Path) -> None:
    """Through whatever the sites do meanwhile."""
    events = begin(ini, "events", "-f", "--channel", "ready")
    with events as following, begin(ini, "logs", "-f", "web1") as logs:
        logs.wait_for_output("web1 .* Bus STARTED")
        assert run(ini, "drain").status == 0
        assert run(ini, "undrain").status == 0
        following.wait_for_output("web1 .* ready true")
        following.wait_for_output("web2 .* ready true")
        for child in (following, logs):
            child.signal(signal.SIGINT)
            assert child.wait() == 130
    assert "Traceback" not in following.output


def test_a_stream_ends_when_nobody_reads_it_any_more(ini: Path) -> None:
    """As ``head`` does once it has its lines."""
    following = subprocess.Popen(
        command(ini, "events", "-f", "--channel", "ready", "web1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONWARNINGS=WARNINGS),
    )
    with following:
        assert following.stdout
        assert run(ini, "drain", "web1").status == 0
        assert following.stdout.readline()
        following.stdout.close()
        assert run(ini, "undrain", "web1").status == 0
        assert following.wait(20) == 0
        assert following.stderr
        assert following.stderr.read() == b""


BAD_INPUT = [
    (("status", "wbe1"), "has no host or group 'wbe1'; did you mean 'web1'?"),
    (("status", "--hosts", "web1,canry"), "no host or group 'canry'; did you mean 'canary'?"),
    (("deploy", "./nothing"), "there is no such directory"),
    (("deploy",), "which release?"),
    (("deploy", ".", "--id", "../etc"), "cannot be"),
    (("graceful", "--max-unavailable", "0"), "neither a number of hosts from 1"),
    (("graceful", "--resume", "20260101-000000-abcd"), "there is no roll '20260101-000000-abcd'"),
    (("rolls", "nothing"), "there is no roll 'nothing'"),
    (("graceful", "--canary", "nobody"), "no host or group 'nobody'"),
    (("status", "--", "ls"), "status takes nothing behind --"),
    (("status", "--wat"), "unrecognized arguments: --wat"),
]


@pytest.mark.parametrize(("words", "said"), BAD_INPUT, ids=[" ".join(e[0]) for e in BAD_INPUT])
def test_bad_input_is_one_sentence(ini: Path, words: tuple[str, ...], said: str) -> None:
    """And the status of wrong usage; no host is asked."""
    done = run(ini, *words)
    assert done.status == 2, done.all
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_a_release_that_hosts_do_not_have_is_refused(serving: Rig, ini: Path) -> None:
    """Nobody knows whether a name or a directory was meant."""
    done = run(ini, "deploy", "r99", *AT_ONCE)
    assert done.status == 1
    assert "web1: there is no release 'r99' (it has " in done.err
    assert {host.current for host in serving.hosts} == {"r1"}


def test_mistakes_in_the_file_are_told_all_at_once(tmp_path: Path) -> None:
    """With file and line."""
    bad = tmp_path / "fleet.ini"
    bad.write_text("[fleet]\nuzer = me\n[hosts]\nweb1 = a\n[group x]\nhosts = web9\n")
    done = run(bad, "status")
    assert done.status == 2
    assert "uzer" in done.err
    assert "web9" in done.err
    missing = run(tmp_path / "none.ini", "status")
    assert (missing.status, len(missing.err.splitlines())) == (2, 1)


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
