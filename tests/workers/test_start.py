"""How a site of several processes is asked for, and what it says when it cannot be had."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sitebus.workers import cpus
from tests.helpers import Child, SiteProcess, wait_for
from tests.workers.site import WorkerSite, release, write


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("raise RuntimeError('no such table')\n", 70, "no such table"),
        ("import sys\nsys.exit(9)\n", 70, "SystemExit"),
        ("import os\nos._exit(5)\n", 70, "ended with status 5"),
    ],
)
def test_a_site_that_cannot_start_says_why(
    text: str, status: int, said: str, tmp_path: Path
) -> None:
    """Once, whatever the number of workers, with the application's own traceback, and at once."""
    write(tmp_path)
    release(tmp_path, "bad", text)
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        assert child.wait() == status
        assert said in child.output
        assert child.output.count("Traceback") <= 1
        assert child.output.splitlines()[-1].startswith("sitebus-serve: worker")


def test_a_missing_application_has_the_status_it_always_has(tmp_path: Path) -> None:
    """What one process would say, workers say too."""
    file = write(tmp_path)
    file.write_text(file.read_text().replace("shop:application", "shop:nothing"))
    with SiteProcess("site.ini", "-w", "0", cwd=tmp_path) as alone:
        status = alone.wait()
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        assert child.wait() == status
        assert "nothing" in child.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-w", "-1"), "a whole number from 0 to 1024, or auto"),
        (("-w", "many"), "a whole number from 0 to 1024, or auto"),
        (("-o", "workers.probe=health"), "the path of a URL"),
        (("-o", "workers.probe=http://localhost/"), "the path of a URL"),
        (("-o", "workers.boot_timeout=0"), "a duration"),
        (("-o", "workers.counts=3"), "count"),
        (("-o", "workers.export=stop"), "each process's own"),
        (("--reload", "-o", "reload.supervised=no"), "in [reload] there is one process"),
        (("--reload", "-o", "workers.preload=yes"), "with [reload] each worker imports"),
        (("-o", "workers.preload=yes", "-u", "nobody"), "preload: it imports before"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Before anything is started."""
    write(tmp_path)
    with SiteProcess("site.ini", *arguments, cwd=tmp_path) as child:
        assert child.wait() in (64, 78)
        assert said in child.output
        assert "Traceback" not in child.output


def test_the_command_line_says_how_many(tmp_path: Path) -> None:
    """``-w 1`` is a supervisor with one worker; ``-w 0`` has no supervisor."""
    write(tmp_path)
    with WorkerSite(tmp_path, "-w", "1") as site:
        (worker,) = site.wait_for_workers(1)
        assert site.ask()["pid"] == worker
    with WorkerSite(tmp_path, "-w", "0") as site:
        assert not site.workers
        assert site.ask()["pid"] == site.pid


def test_quickstart_says_who_has_workers(tmp_path: Path) -> None:
    """An application that is an object of this process cannot be in another."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sitebus\n\n"
        "def application(environ, start_response):\n    return []\n\n"
        "sitebus.quickstart(application, settings={'workers.count': 2})\n"
    )
    with Child([sys.executable, program]) as child:
        assert child.wait() == 64
        assert "sitebus-serve" in child.output


def test_the_supervisor_imports_nothing_of_the_application(tmp_path: Path) -> None:
    """What the application does to its process must not happen to who looks after it."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        maps = Path(f"/proc/{site.pid}/maps").read_text()
        assert "shop" not in maps
        site.ask()
    release(tmp_path, "one", "import os\nVERSION = str(os.getppid())\nHEALTH = '200 OK'\n")
    with WorkerSite(tmp_path) as site:
        assert site.ask()["version"] == str(site.pid)


def test_workers_share_a_unix_socket(tmp_path: Path) -> None:
    """Its file is the supervisor's to remove, and none of theirs."""
    import socket

    write(tmp_path)
    with SiteProcess("site.ini", "--bind", "unix:shop.sock", cwd=tmp_path) as child:
        child.wait_for_output("serving on")
        path = tmp_path / "shop.sock"
        child.signal(__import__("signal").SIGHUP)
        child.wait_for_output("roll done", 30)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert child.stop() == 0
        assert not path.exists()


def test_a_worker_binds_nothing_by_itself(tmp_path: Path) -> None:
    """A bind that is new in the file needs a restart, and the roll that meets it says so."""
    file = write(tmp_path)
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        file.write_text(file.read_text().replace("bind = ", "bind = 127.0.0.2:0, "))
        site.signal(__import__("signal").SIGHUP)
        site.wait_for_output("roll aborted.*restart the site", 30)
        assert site.wait_for_workers(2) == before


def test_a_worker_started_by_hand_says_that_it_is_not_for_people() -> None:
    """Nobody finds a link by luck."""
    with Child([sys.executable, "-m", "sitebus.workers"]) as child:
        assert child.wait() == 64
        assert "sitebus-serve" in child.output


def test_auto_is_what_affinity_and_quota_leave(tmp_path: Path) -> None:
    """Sixty-four processors of which a container may use one and a half are two workers."""
    own = tmp_path / "cgroup"
    own.write_text("0::/shop\n")
    group = tmp_path / "shop"
    group.mkdir()
    assert cpus.count(own, tmp_path) == len(os.sched_getaffinity(0))
    (group / "cpu.max").write_text("50000 100000\n")
    assert cpus.count(own, tmp_path) == 1
    (group / "cpu.max").write_text("max 100000\n")
    assert cpus.count(own, tmp_path) == len(os.sched_getaffinity(0))
    own.write_text("1:cpu,cpuacct:/shop\n")
    old = tmp_path / "cpu,cpuacct" / "shop"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("25000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus.count(own, tmp_path) == 1
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpus.count(own, tmp_path) == len(os.sched_getaffinity(0))
    assert cpus.count(tmp_path / "nothing", tmp_path) >= 1


def test_every_descriptor_of_the_supervisor_stays_its_own(tmp_path: Path) -> None:
    """A worker has the sockets, its link, and what it opened itself."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        workers = site.wait_for_workers(2)
        counts = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers}
        site.roll(1)
        again = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in site.workers}
        wait_for(lambda: sorted(again.values()) <= [max(counts.values())] * 2)


def test_a_probe_that_nobody_answers_proves_nothing(tmp_path: Path) -> None:
    """A path that is mistyped, or a host that is nobody's, must not count as a sign of life."""
    file = write(tmp_path, probe="/old/health")
    file.write_text(file.read_text().replace("[mount /]", "[mount /new]"))
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        assert child.wait() == 70
        assert "the probe of /old/health failed: 404" in child.output
    file.write_text(file.read_text().replace("/old/health", "/new/health"))
    with WorkerSite(tmp_path) as site:
        assert len(site.wait_for_workers(2)) == 2
    file.write_text(file.read_text().replace("[mount /new]", "[mount shop.example.org/new]"))
    with WorkerSite(tmp_path, "-o", "site.strict_hosts=yes") as site:
        assert len(site.wait_for_workers(2)) == 2
