"""A fleet on this machine: what runs where, what ends when, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from sitebus import fleet
from sitebus.errors import (
    CallTimeout,
    ConnectFailed,
    FleetClosed,
    HostLost,
    NoPython,
    NotForwarded,
    NotPlain,
    RemoteError,
)
from sitebus.fleet import Fleet, Host
from tests.fleet import inis
from tests.helpers import PATIENCE, ROOT, environment, wait_for


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with inis.module(tmp_path_factory.mktemp("ops"), "fleet_ops") as module:
        yield module


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, ops: ModuleType) -> Iterator[Host]:
    path = inis.write(tmp_path_factory.mktemp("fleet") / "fleet.ini")
    with fleet.open(path, allow=(ops.__name__,)) as one:
        yield one["web1"]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


def children(pid: int) -> set[int]:
    """Answer the processes that have sprung from one."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    direct = {int(word) for word in found.stdout.split()}
    return direct.union(*(children(each) for each in direct)) if direct else set()


# Functions.


def test_a_function_runs_in_another_process(here: Host, ops: ModuleType) -> None:
    assert here.call(ops.add, 2, b=3) == 5
    assert here.call(ops.pid) not in (os.getpid(), here.connect()["pid"])
    assert here.call(ops.in_main_thread)


def test_methods_of_classes_run_and_those_of_objects_do_not(here: Host, ops: ModuleType) -> None:
    assert here.call(ops.Shelf.static, 1) == ["static", 1]
    assert here.call(ops.Shelf.of_class, 2) == ["Shelf", 2]
    with pytest.raises(NotForwarded, match="belongs to an object"):
        here.call(ops.Shelf().of_object)


def test_what_has_no_name_there_is_refused_here(here: Host) -> None:
    with pytest.raises(NotForwarded, match="define it at the top of a module"):
        here.call(lambda: 1)


def test_a_function_of_the_standard_library_needs_no_permission(here: Host) -> None:
    assert here.call(os.path.basename, "/a/b") == "b"


def test_a_remote_exception_arrives_with_its_traceback(here: Host, ops: ModuleType) -> None:
    with pytest.raises(RemoteError) as caught:
        here.call(ops.boom, "no more")
    assert str(caught.value) == "web1: fleet_ops.boom raised ValueError: no more"
    assert caught.value.kind == "ValueError"
    assert "raise ValueError(what)" in caught.value.remote_traceback


def test_a_function_that_leaves_is_an_error_and_not_the_end(here: Host, ops: ModuleType) -> None:
    with pytest.raises(RemoteError, match="SystemExit: enough"):
        here.call(ops.leave)
    assert here.call(ops.add, 1) == 1


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("cancelled", "raised CancelledError: gone"),
        ("mute", "raised Mute: Mute, which cannot be printed"),
        ("long", "raised ValueError: xxx"),
        ("wide", "too much"),
    ],
)
def test_whatever_is_raised_is_an_answer(here: Host, ops: ModuleType, kind: str, told: str) -> None:
    """Nobody waits for one that mitogen has dropped, or that was never sent."""
    with pytest.raises(RemoteError) as caught:
        here.call(ops.raise_odd, kind, timeout=PATIENCE)
    assert told in caught.value.sentence
    assert len(caught.value.sentence) < 3000
    stream = here.stream(ops.yield_odd, kind)
    assert next(stream) == 1
    with pytest.raises(RemoteError) as caught:
        stream.next(PATIENCE)
    assert told in caught.value.sentence


def test_a_process_that_vanishes_is_told_at_once(here: Host, ops: ModuleType) -> None:
    with pytest.raises(HostLost, match="the process that ran it there has ended"):
        here.call(ops.vanish, timeout=PATIENCE)
    assert here.call(ops.add, 1) == 1


def test_values_are_what_json_can_say(here: Host, ops: ModuleType) -> None:
    with pytest.raises(NotPlain, match=r"what fleet_ops\.add is called with"):
        here.call(ops.add, object())
    with pytest.raises(RemoteError, match="answer what JSON can say"):
        here.call(ops.someone)


def test_functions_may_ask_for_the_process_that_they_run_in(here: Host, ops: ModuleType) -> None:
    """Marked as mitogen's own decorators mark them."""
    assert here.call(ops.with_econtext, 1) == [1, "ExternalContext"]
    assert here.call(ops.with_router, 2) == [2, "Router"]
    assert list(here.stream(ops.stream_with_econtext)) == ["ExternalContext"]


def test_processes_have_the_numbers_that_mitogens_log_knows_them_by(here: Host) -> None:
    assert here.lineage[0] > 0


# Lanes.


def test_a_lane_that_takes_too_long_is_replaced(
    here: Host, ops: ModuleType, tmp_path: Path
) -> None:
    """The next call must not wait for what nobody waits for any more."""
    marked = tmp_path / "pid"
    with pytest.raises(CallTimeout, match=r"fleet_ops\.mark_and_nap has not ended within 0\.5 s"):
        here.call(ops.mark_and_nap, str(marked), 1000, timeout=0.5)
    began = time.monotonic()
    assert here.call(ops.add, 1, timeout=PATIENCE) == 1
    assert time.monotonic() - began < 3
    wait_for(lambda: not is_alive(int(marked.read_text())))


def test_the_timeout_of_a_result_counts_as_well(here: Host, ops: ModuleType) -> None:
    pending = here.call_async(ops.nap, 1000)
    with pytest.raises(CallTimeout):
        pending.result(timeout=0.1)
    with pytest.raises(CallTimeout):
        pending.result()


def test_what_was_given_up_is_told_so(here: Host, ops: ModuleType) -> None:
    pending = here.call_async(ops.nap, 1000)
    pending.cancel()
    with pytest.raises(HostLost, match="was given up"):
        pending.result()


def test_two_calls_at_once_do_not_wait_for_each_other(here: Host, ops: ModuleType) -> None:
    slow = here.call_async(ops.nap, 1000)
    assert here.call(ops.add, 1, timeout=PATIENCE) == 1
    assert here.facts()["pid"] == here.connect()["pid"]
    slow.cancel()


def test_what_a_lane_started_ends_with_it(here: Host, ops: ModuleType) -> None:
    trunk = here.connect()["pid"]
    with pytest.raises(CallTimeout):
        here.call(ops.sleeper, timeout=0.5)

    def names() -> str:
        pids = ",".join(map(str, children(trunk))) or "1"
        found = subprocess.run(["ps", "-o", "args=", "-p", pids], capture_output=True, text=True)
        return found.stdout

    wait_for(lambda: "1234.5" not in names())


def test_an_agent_that_hangs_is_replaced_when_it_is_needed(tmp_path: Path, ops: ModuleType) -> None:
    with fleet.open(inis.write(tmp_path / "fleet.ini"), allow=(ops.__name__,)) as one:
        host = one["web1"]
        pid = host.connect()["pid"]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(CallTimeout):
            host.facts(timeout=0.3)
        assert host.facts(timeout=PATIENCE)["pid"] != pid
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not is_alive(pid))


def test_an_agent_that_is_killed_is_told_at_once_and_replaced(
    tmp_path: Path, ops: ModuleType
) -> None:
    with fleet.open(inis.write(tmp_path / "fleet.ini"), allow=(ops.__name__,)) as one:
        host = one["web1"]
        pending = host.call_async(ops.nap, 1000)
        os.kill(host.connect()["pid"], signal.SIGKILL)
        with pytest.raises(HostLost):
            pending.result(timeout=PATIENCE)
        assert host.call(ops.add, 1) == 1


# Streams.


def test_a_generator_is_a_stream(here: Host, ops: ModuleType) -> None:
    assert list(here.stream(ops.count, 1000)) == list(range(1000))


def test_a_stream_ends_there_when_it_is_closed_here(here: Host, ops: ModuleType) -> None:
    with here.stream(ops.forever) as stream:
        assert [next(stream) for _ in range(500)] == list(range(500))
    assert list(stream) == []
    assert here.call(ops.add, 1) == 1


def test_a_stream_does_not_run_ahead_of_its_reader(here: Host, ops: ModuleType) -> None:
    """What nobody reads must not fill the memory of either side."""
    with here.stream(ops.forever) as stream:
        next(stream)
        feed = stream.feed
        assert feed is not None
        wait_for(lambda: feed.receiver.size() >= 100)
        assert here.call(ops.add, 1) == 1
        assert feed.receiver.size() <= 256


def test_a_stream_tells_of_an_exception_behind_what_it_sent(here: Host, ops: ModuleType) -> None:
    stream = here.stream(ops.half)
    assert next(stream) == 1
    with pytest.raises(RemoteError, match="KeyError: 'two'"):
        next(stream)


def test_nothing_comes_in_time(here: Host) -> None:
    with here.exec_stream(["sleep", "1000"]) as stream, pytest.raises(TimeoutError):
        stream.next(0.05)


def test_a_stream_that_another_thread_closes_ends(here: Host, ops: ModuleType) -> None:
    """As one does that follows a log, when its reader has seen enough."""
    stream, wire = here.exec_stream(["sleep", "1000"]), here.duplex(ops.echo, "hi")
    seen: list[object] = []
    readers = [
        threading.Thread(target=lambda: seen.append(list(stream))),
        threading.Thread(target=lambda: seen.append(list(wire))),
    ]
    for reader in readers:
        reader.start()
    stream.close()
    readers[0].join(PATIENCE)
    wire.stop()
    readers[1].join(PATIENCE)
    assert seen in ([[], []], [[], [b"hi"]])


def test_bytes_go_both_ways(here: Host, ops: ModuleType) -> None:
    with here.duplex(ops.echo, "hi") as wire:
        came = iter(wire)
        assert next(came) == b"hi"
        wire.send(bytes(range(256)))
        assert next(came) == bytes(reversed(range(256)))
        wire.close()
        assert wire.result(timeout=PATIENCE) == 256


# Commands.


def test_a_command_answers_what_it_wrote(here: Host, tmp_path: Path) -> None:
    script = "cat; echo $NAME >&2; pwd; exit 3"
    done = here.exec(
        ["sh", "-c", script], input="é" * 100_000, env={"NAME": "x"}, cwd=str(tmp_path)
    )
    assert done.status == 3
    assert done.out == f"{'é' * 100_000}{tmp_path}\n"
    assert done.err == "x\n"
    assert done.lost == 0


def test_of_a_command_that_writes_much_the_end_is_kept(here: Host) -> None:
    done = here.exec(["sh", "-c", "seq 100000"], limit=1000)
    assert done.out.endswith("99999\n100000\n")
    assert len(done.out) == 1000
    assert done.lost > 500_000


def test_a_command_that_takes_too_long_is_killed_with_its_children(
    here: Host, tmp_path: Path
) -> None:
    marked = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {marked}; wait"
    with pytest.raises(CallTimeout, match=r"sh has not ended within 0\.5 s, and was killed"):
        here.exec(["sh", "-c", script], timeout=0.5)
    wait_for(lambda: not is_alive(int(marked.read_text())))


def test_there_is_no_such_command(here: Host, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="cannot run nothing-like-it: no such file"):
        here.exec(["nothing-like-it"])
    with pytest.raises(RemoteError, match=f"cannot run {tmp_path}/gone: no such file"):
        here.exec(["true"], cwd=f"{tmp_path}/gone")


@pytest.mark.parametrize("argv", ["ls", [], ["a\0b"]])
def test_what_is_no_command_is_told(here: Host, argv: list[str]) -> None:
    """A string is a sequence of strings, and no list of words."""
    with pytest.raises(RemoteError, match=r"^web1: (no command is named|cannot run 'a)"):
        here.exec(argv)


@pytest.mark.parametrize("url", ["http://[::1", "http://x:many/", "ftp://x/"])
def test_what_is_no_url_is_told(here: Host, url: str) -> None:
    with pytest.raises(RemoteError, match=r"is no URL.*; write http://HOST/PATH, or a path"):
        here.fetch(url)


def test_what_a_command_writes_comes_as_it_does(here: Host, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    with here.exec_stream(["sh", "-c", f"echo $$; cat {go}; echo b >&2; exit 2"]) as stream:
        kind, text = next(stream)
        assert kind == "out"
        assert is_alive(int(text))
        go.write_text("go\n")
        assert list(stream) == [("out", "go\n"), ("err", "b\n"), ("status", 2)]


def test_a_command_ends_when_its_stream_is_closed(here: Host) -> None:
    with here.exec_stream(["sh", "-c", "echo $$; sleep 1000"]) as stream:
        pid = int(next(stream)[1])
        assert is_alive(pid)
    wait_for(lambda: not is_alive(pid))


def test_an_interrupt_is_for_what_runs_and_not_for_the_agent(here: Host) -> None:
    """On a terminal, Ctrl-C goes to everybody: a roll that is to stop in order needs its hosts."""
    pid = here.connect()["pid"]
    os.kill(pid, signal.SIGINT)
    done = here.exec(["sh", "-c", "kill -INT $$; sleep 1000"], timeout=PATIENCE)
    assert done.status == -signal.SIGINT
    assert here.connect()["pid"] == pid


def test_facts_tell_what_the_host_is(here: Host) -> None:
    facts = here.facts()
    assert facts["python"] == sys.version.split()[0]
    assert facts["disk"]["free"] > 0
    assert len(facts["load"]) == 3
    try:
        assert facts["sitebus"] == metadata.version("sitebus")
    except metadata.PackageNotFoundError:
        assert facts["sitebus"] is None


# The end.


def test_closing_ends_everything_that_was_not_asked_to_stay(
    tmp_path: Path, ops: ModuleType
) -> None:
    one = fleet.open(inis.write(tmp_path / "fleet.ini"), allow=(ops.__name__,))
    host = one["web1"]
    trunk = host.connect()["pid"]
    lane = host.call(ops.pid)
    left = host.call(ops.leave_sleeper)
    command = int(next(host.exec_stream(["sh", "-c", "echo $$; sleep 1000"]))[1])
    stays = host.launch(["sleep", "1000"])
    pids = (trunk, lane, left, command)
    assert all(map(is_alive, pids))

    one.close()

    for pid in pids:
        wait_for(partial(is_gone, pid))
    assert is_alive(stays)
    os.kill(stays, signal.SIGKILL)
    with pytest.raises(FleetClosed):
        host.facts()
    one.close()


MASTER = """
import sys
sys.path.insert(0, {folder!r})
import fleet_ops
from sitebus import fleet

one = fleet.open({path!r}, allow=("fleet_ops",))
host = one["web1"]
stream = host.exec_stream(["sh", "-c", "echo $$; sleep 1000"])
pids = [host.connect()["pid"], host.call(fleet_ops.pid), host.call(fleet_ops.leave_sleeper)]
print(*pids, int(next(stream)[1]), host.launch(["sleep", "1000"]), flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "ending"),
    [("sys.stdin.read()", signal.SIGKILL), ("sys.exit(0)", None), ("raise ValueError", None)],
    ids=["killed", "exits", "fails"],
)
def test_nothing_is_left_of_a_master_that_did_not_close(
    tmp_path: Path, then: str, ending: signal.Signals | None
) -> None:
    """Neither of one that was killed, nor of one that forgot."""
    (tmp_path / "fleet_ops.py").write_text(inis.OPS)
    path = inis.write(tmp_path / "fleet.ini")
    program = MASTER.format(folder=str(tmp_path), path=str(path), then=then)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
        cwd=ROOT,
    ) as master:
        assert master.stdout is not None
        *pids, stays = map(int, master.stdout.readline().split())
        if ending is not None:
            assert all(map(is_alive, pids))
            master.send_signal(ending)
        master.wait(PATIENCE)
    for pid in pids:
        wait_for(partial(is_gone, pid))
    assert is_alive(stays)
    os.kill(stays, signal.SIGKILL)


def test_nothing_is_left_here(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with fleet.open(inis.write(tmp_path / "fleet.ini")) as one:
        assert one.connect() == {"web1": None}
        assert set(threading.enumerate()) > before
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_allowing_the_library_does_not_send_it(tmp_path: Path) -> None:
    """Every host has its own, which another Python's would break."""
    with fleet.open(inis.write(tmp_path / "fleet.ini"), allow=("json",)) as one:
        assert one["web1"].call(json.dumps, [1]) == "[1]"


def test_mitogens_log_is_for_nobody_else(tmp_path: Path) -> None:
    """It tells what functions are called with."""
    log = tmp_path / "mitogen.log"
    with fleet.open(inis.write(tmp_path / "fleet.ini"), log=log, debug=True) as one:
        one["web1"].exec(["true"], input="secret")
    assert log.stat().st_mode & 0o777 == 0o600


def test_closing_does_not_wait_for_who_is_on_the_way(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 1234.5\n")
    python.chmod(0o700)
    text = f"python = {python}\nconnect_timeout = 300\n"
    one = fleet.open(inis.write(tmp_path / "fleet.ini", text))
    errors: list[Exception | None] = []
    thread = threading.Thread(target=lambda: errors.append(one.connect()["web1"]))
    thread.start()
    wait_for((tmp_path / "begun").exists)
    one.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert isinstance(errors[0], ConnectFailed)


def test_profiles_are_written_if_they_are_asked_for(tmp_path: Path) -> None:
    """Where mitogen writes them; the site's own are elsewhere."""
    with fleet.open(inis.write(tmp_path / "fleet.ini"), profile=True) as one:
        pid = one["web1"].connect()["pid"]

    def written() -> list[Path]:
        return list(Path("/tmp").glob(f"mitogen.stats.{pid}.*"))

    try:
        wait_for(written)
    finally:
        for path in (*written(), *Path("/tmp").glob(f"mitogen.stats.{os.getpid()}.*")):
            path.unlink()


def test_what_is_launched_and_ends_at_once_is_an_error(here: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(RemoteError, match="has ended at once with status 4: no such port"):
        here.launch(["sh", "-c", "echo no such port; exit 4"], log=str(log))
    assert log.read_text() == "no such port\n"


# What does not work.


def test_a_host_without_python_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = inis.write(tmp_path / "fleet.ini", "python = /no/such/python3\n")
    with (
        fleet.open(path) as one,
        pytest.raises(NoPython, match=r"^web1: there is no /no/such/python3 on it"),
    ):
        one["web1"].connect()


def test_a_python_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    path = inis.write(tmp_path / "fleet.ini", f"python = {silent}\nconnect_timeout = 500ms\n")
    with fleet.open(path) as one, pytest.raises(ConnectFailed, match=r"within 0\.5 s"):
        one["web1"].connect()


def test_a_fleet_reads_as_a_mapping_of_its_hosts(tmp_path: Path) -> None:
    path = inis.write(tmp_path / "fleet.ini", "[group two]\nhosts = b c\n", hosts=("a", "b", "c"))
    with fleet.open(path) as one:
        assert isinstance(one, Fleet)
        assert [host.name for host in one] == ["a", "b", "c"]
        assert len(one) == 3
        assert [host.name for host in one.hosts("two")] == ["b", "c"]
        with pytest.raises(KeyError, match="two is a group of b, c"):
            one["two"]


def test_without_mitogen_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['mitogen'] = None\n"
        "from sitebus import fleet\n"
        f"one = fleet.open({str(inis.write(tmp_path / 'fleet.ini'))!r})\n"
        "try: one.connect()\n"
        "except fleet.fleets.MissingExtra as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), cwd=ROOT
    )
    assert done.stdout == "mitogen is not installed; run: pip install 'sitebus[fleet]'\n"


def test_importing_a_fleet_imports_no_library(tmp_path: Path) -> None:
    """Whoever only reads the file must not wait for what drives hosts."""
    program = "import sys; from sitebus import fleet; print('mitogen' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), cwd=ROOT
    )
    assert done.stdout == "False\n", done.stderr
