"""What a worker inherits, leaves and says: it harms neither what it starts nor its supervisor."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from sitebus import assembly
from sitebus.errors import NotServing
from sitebus.process import Engine
from sitebus.workers.launch import Launch
from sitebus.workers.supervision import supervise
from tests.helpers import PATIENCE, Child, SiteProcess, nothing_left, wait_for
from tests.workers.site import RELEASE, WorkerSite, alive, children, release, write

ONE = RELEASE.format(version="one")

#: Starts a process when a message comes from elsewhere, and one while it is imported.
STARTS = (
    ONE
    + """
import subprocess, sitebus, threading

def start(name, *_):
    name += "-" + threading.current_thread().name.replace(" ", "-")
    script = f"grep -E 'Sig(Blk|Ign)' /proc/self/status > {name}.draft; mv {name}.draft {name}"
    subprocess.run(["sh", "-c", script])

start("imported")
sitebus.engine.subscribe("shop.news", start)
"""
)

#: Finds its own link, and says what no worker says.
RAVES = (
    ONE
    + """
import gc, sitebus
from sitebus.relay import Link

NONSENSE = [
    {"is": "beat"},
    {"is": "beat", "requests": 0, "in_flight": 0, "rss": 0, "oldest": 0, "lag": 0, "next": "nan"},
    {"is": "beat", "requests": 0, "in_flight": 0, "rss": 0, "oldest": "inf", "lag": 0, "next": 5},
    {"is": "beat", "requests": -1, "in_flight": 0, "rss": 0, "oldest": 0, "lag": 0, "next": 5},
    {"is": "metrics", "snapshot": 7},
    {"is": "metrics", "snapshot": {"families": [7, {}, [], ["a"] * 6]}},
    {"is": "publish", "channel": "shop.news", "args": 7, "kwargs": {}},
    {"is": "publish", "channel": ["shop.news"], "args": [], "kwargs": {}},
    {"is": "publish", "channel": "stop", "args": [], "kwargs": {}},
    {"is": "ready", "mounts": 7},
    {"is": "unfit", "reason": None, "status": "x", "text": 1},
    {"is": "answer", "re": [], "result": 1},
    {"is": "answer", "re": 99, "result": 1},
    {"is": "stacks", "re": 0},
    {"is": "kept"},
    {"is": "log", "message": ["a"], "level": "loud"},
    {"is": "log", "message": 1, "level": 10**30},
    {"is": "log", "message": "x" * 100_000, "level": 20},
    {"is": {}}, {}, {"is": None},
]

def rave(*_):
    link = next(each for each in gc.get_objects() if isinstance(each, Link))
    for nonsense in NONSENSE:
        link.send(nonsense)
    for number in range(20_000):
        link.send({"is": "log", "message": f"line {number}", "level": 10})

sitebus.engine.subscribe("shop.news", rave)
"""
)


@pytest.mark.parametrize("preload", ["no", "yes"])
def test_what_an_application_starts_can_be_told_to_end(preload: str, tmp_path: Path) -> None:
    """A signal that is blocked, or ignored, stays so in all that a process starts."""
    write(tmp_path, export="shop.news", preload=preload)
    release(tmp_path, "one", STARTS)
    with WorkerSite(tmp_path) as site:
        site.ask("/publish?heard")
        wait_for((tmp_path / "heard-sitebus-relay").exists, PATIENCE)
    control = sum(1 << (int(number) - 1) for number in (1, 2, 3, 10, 12, 15, 21, 22))
    for name in ("imported-MainThread", "heard-sitebus-relay"):
        masks = re.findall(r"(?m)^Sig\w+:\s*(\w+)$", (tmp_path / name).read_text())
        assert len(masks) == 2
        assert [int(mask, 16) & control for mask in masks] == [0, 0], name


def test_a_worker_that_has_lost_its_standard_error_ends_with_its_supervisor(
    tmp_path: Path,
) -> None:
    """Applications put what they like there; it must not keep the port for ever."""
    write(tmp_path)
    release(tmp_path, "one", ONE + "import sys\nsys.stderr = sys.__stderr__ = None\n")
    with WorkerSite(tmp_path) as site:
        workers = site.wait_for_workers(2)
        os.kill(site.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, workers)), PATIENCE, "the workers to end")


def test_a_site_is_told_to_end_while_a_preload_is_stuck(tmp_path: Path) -> None:
    """Who waits for a zygote has no process that could be told to end."""
    write(tmp_path, preload="yes")
    release(tmp_path, "stuck", "print('LOADING', flush=True)\nimport time\ntime.sleep(600)\n")
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        child.wait_for_output("LOADING")
        (zygote,) = children(child.pid)
        child.signal(signal.SIGINT)
        assert child.wait(10) == 0
        assert not alive(zygote)
        assert "Traceback" not in child.output


def test_a_start_that_is_called_off_never_says_that_it_serves(tmp_path: Path) -> None:
    """Somebody may have waited for that line; and the end that was asked for is no failure."""
    write(tmp_path)
    release(tmp_path, "stuck", "print('LOADING', flush=True)\nimport time\ntime.sleep(600)\n")
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        child.wait_for_output("LOADING")
        child.signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert "serving on" not in child.output
        assert "ERROR" not in child.output


def _release_at(folder: Path, version: str) -> None:
    folder.mkdir()
    write(folder)
    release(folder, version)


def test_a_roll_follows_the_link_that_the_site_was_started_in(tmp_path: Path) -> None:
    """``current`` leads to release 42 now; that release 41 has been removed harms nobody."""
    _release_at(tmp_path / "41", "forty-one")
    _release_at(tmp_path / "42", "forty-two")
    current = tmp_path / "current"
    current.symlink_to("41")
    with WorkerSite(current, env={"PWD": str(current)}) as site:
        assert site.ask()["version"] == "forty-one"
        (tmp_path / "next").symlink_to("42")
        (tmp_path / "next").replace(current)
        shutil.rmtree(tmp_path / "41")
        site.roll()
        assert site.ask()["version"] == "forty-two"


def test_a_directory_that_is_gone_aborts_the_roll(tmp_path: Path) -> None:
    """Who serves goes on serving; the supervisor goes on as well, and ends when it is told to."""
    folder = tmp_path / "shop"
    _release_at(folder, "one")
    with WorkerSite(folder) as site:
        before = site.wait_for_workers(2)
        shutil.rmtree(folder)
        site.signal(signal.SIGHUP)
        site.wait_for_output("roll aborted.*is not there any more", 30)
        wait_for(lambda: set(site.workers) == before, PATIENCE)
        assert site.ask()["version"] == "one"
        assert site.stop() == 0


def test_what_a_worker_raves_harms_nobody(tmp_path: Path) -> None:
    """Wrong types, numbers that are none, and more lines than anybody can read."""
    write(tmp_path, export="shop.news", count=2)
    release(tmp_path, "one", RAVES)
    with WorkerSite(tmp_path) as site:
        workers = site.wait_for_workers(2)
        site.ask("/publish?now")
        wait_for(lambda: site.ask("/log") and "a word from the application" in site.output, 30)
        assert site.output.count("what makes no sense") >= 12
        assert "Traceback" not in site.output
        assert site.wait_for_workers(2) == workers
        os.kill(min(workers), signal.SIGKILL)
        os.kill(max(workers), signal.SIGKILL)
        wait_for(lambda: len(site.workers) == 2 and not workers & set(site.workers), PATIENCE)
        release(tmp_path, "two")
        site.roll()
        assert site.ask()["version"] == "two"
        assert site.stop() == 0


#: Runs a site as the first process of a container does: whoever loses its parent becomes its child.
CONTAINER = """\
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "sitebus", "site.ini"])
"""


def _zombies(pid: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] == "Z" and int(stat[1]) == pid:
                found.append(entry.name)
    return found


def test_the_first_process_of_a_container_buries_its_workers(tmp_path: Path) -> None:
    """Forks whose zygote has ended are its children there; nobody else would ever reap them."""
    write(tmp_path, preload="yes")
    with Child([sys.executable, "-c", CONTAINER], cwd=tmp_path) as child:
        child.wait_for_output("serving on")
        (zygote,) = children(child.pid)
        forks = set(children(zygote))
        os.kill(zygote, signal.SIGKILL)
        wait_for(lambda: forks <= set(children(child.pid)), PATIENCE)
        for fork in forks:
            os.kill(fork, signal.SIGKILL)
        child.wait_for_output("(?s)killed by SIGKILL.*killed by SIGKILL", 20)
        child.signal(signal.SIGHUP)
        child.wait_for_output("roll done", 30)
        wait_for(lambda: not _zombies(child.pid), PATIENCE, "zombies to be buried")


def test_a_restart_leaves_no_zombie_of_a_zygote(tmp_path: Path) -> None:
    """The next image does not know whose it was, and would keep it for ever."""
    write(tmp_path, preload="yes")
    with WorkerSite(tmp_path) as site:
        site.signal(signal.SIGUSR2)
        site.wait_for_output("roll done", 60)
        wait_for(lambda: not _zombies(site.pid), PATIENCE, "zombies to be buried")


def test_what_is_asked_of_workers_before_there_are_any_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that only the start of the bus expects would be nobody's to end."""
    write(tmp_path, export="shop.news")
    monkeypatch.chdir(tmp_path)
    with nothing_left():
        engine = Engine()
        configuration = assembly.read(tmp_path / "site.ini")
        supervision = supervise(configuration, engine, Launch(tmp_path / "site.ini"))
        crew = engine.workers
        engine.publish("shop.news", 1)
        engine.publish("SIGQUIT")
        crew.reload_in_place()
        for command in ("kill", "call", "roll"):
            with pytest.raises(NotServing):
                getattr(crew, command)("1")
        assert crew.pictures() == ()
        supervision.close()
        engine.exit()


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_a_site_without_its_standard_streams_serves(closed: str, tmp_path: Path) -> None:
    """Their numbers must not become those of a link, or of a socket."""
    file = write(tmp_path)
    file.write_text(file.read_text().replace("bind = 127.0.0.1:0", "bind = unix:shop.sock"))
    told = f"exec {sys.executable} -m sitebus site.ini {closed}"
    with Child(["sh", "-c", told], cwd=tmp_path) as child:
        wait_for(lambda: _answers(tmp_path / "shop.sock"), PATIENCE)
        workers = set(children(child.pid))
        assert len(workers) == 2
        for pid in (child.pid, *workers):
            for number in range(3):
                assert "socket" not in os.readlink(f"/proc/{pid}/fd/{number}")
        child.signal(signal.SIGTERM)
        assert child.wait(20) == 0


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
