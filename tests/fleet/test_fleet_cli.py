"""The command ``sitebus-fleet``, over two sites of this machine."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.fleet.driving import begin, command, records, run, run_apart
from tests.fleet.rig import Rig
from tests.helpers import WARNINGS, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def ini(pair_ini: Path) -> Path:
    return pair_ini


def test_the_status_of_all_is_a_table(pair: Rig, ini: Path) -> None:
    """A line for each host; as JSON all there is to know."""
    done = run_apart(ini, "status")
    assert (done.status, done.err) == (0, "")
    head, *lines = [line.split() for line in done.out.splitlines()]
    assert head[:6] == ["HOST", "STATE", "READY", "WORKERS", "REQUESTS", "RELEASE"]
    assert [line[:3] for line in lines] == [[name, "STARTED", "yes"] for name in ("web1", "web2")]
    told = run(ini, "status", "-j", "web2").json["hosts"]
    assert list(told) == ["web2"]
    assert told["web2"]["status"]["workers"]["ready"] == 2


def test_more_of_one_host_is_told_on_request(pair: Rig, ini: Path) -> None:
    """How it is reached, and what it is."""
    done = run(ini, "status", "-v", "canary")
    assert done.status == 0
    assert "web1" not in done.out
    for word in ("127.0.0.1 by local", f"{pair['web2'].port}", "python", "context"):
        assert word in done.out


def test_hosts_are_checked(ini: Path) -> None:
    """Python, sitebus and room are what a roll needs."""
    done = run(ini, "check")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[1] for line in done.out.splitlines()[1:]] == ["well", "well"]
    facts = run(ini, "check", "-j").json["hosts"]["web1"]["facts"]
    assert facts["disk"]["free"] > 0


def test_sites_are_stopped_started_and_ended(pair: Rig, ini: Path) -> None:
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
        ("nowhere:to", "cannot load 'nowhere:to': there is no module 'nowhere'"),
        ("os:nothing", "cannot load 'os:nothing': 'os' has no attribute 'nothing'"),
        ("os:name", "'os:name' is no function but of type str"),
        ("os", "'os' is not MODULE:FUNCTION"),
        ("chores.py:add", "'chores.py:add' is not MODULE:FUNCTION"),
    ):
        refused = run(ini, "run", wrong)
        assert (refused.status, said in refused.err) == (2, True), refused.err


def test_a_module_of_this_directory_is_sent_to_the_hosts(ini: Path, tmp_path: Path) -> None:
    """With what its functions say of what went wrong there; mitogen tells its own log more."""
    (tmp_path / "chores.py").write_text("def add(a, b):\n    return a + b\n")
    log = tmp_path / "mitogen.log"
    words = ("run", "chores:add", "2", "3", "--mitogen-log", log, "--debug")
    done = run_apart(ini, *words, cwd=tmp_path)
    assert (done.status, sorted(done.out.splitlines())) == (0, ["web1: 5", "web2: 5"]), done.all
    assert log.read_text()
    wrong = run_apart(ini, "run", "chores:add", "2", '"x"', "-j", "--hosts", "web1", cwd=tmp_path)
    assert wrong.status == 1
    assert "raised TypeError" in records(wrong)[0]["error"]
    (tmp_path / "chores.py").write_text("def add(a, b:\n    return a + b\n")
    broken = run_apart(ini, "run", "chores:add", "2", "3", cwd=tmp_path)
    assert broken.status == 1
    assert "chores.py" in broken.err.splitlines()[0], "its author's traceback, and none of ours"
    assert "loading 'chores:add' failed with SyntaxError" in broken.err.splitlines()[-1]


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


def test_events_are_followed_until_somebody_has_enough(pair: Rig, ini: Path) -> None:
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


def test_mistakes_in_the_file_are_told_all_at_once(tmp_path: Path) -> None:
    """With file and line."""
    bad = tmp_path / "fleet.ini"
    bad.write_text("[fleet]\nuzer = me\n[hosts]\nweb1 = a\n[group x]\nhosts = web9\n")
    done = run(bad, "status")
    assert done.status == 2
    assert "uzer" in done.err
    assert "web9" in done.err
    missing = run_apart(tmp_path / "none.ini", "status")
    assert (missing.status, len(missing.err.splitlines())) == (2, 1)
