"""What goes wrong around a site that reloads: kill -9, full disks, floods of signals, and worse."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.reloading import SITEAPP, Reloading, processes_of, version

Starter = Callable[..., Reloading]

SERVED = ("siteapp:application", "-e", "development")
AS_ROOT = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    (site / "siteapp.py").write_text(SITEAPP)
    (site / "views.py").write_text(version("v1"))
    return site


@pytest.fixture
def start(folder: Path) -> Iterator[Starter]:
    with ExitStack() as running:

        def start(*arguments: str, **settings: object) -> Reloading:
            child = Reloading(folder, *(arguments or SERVED), **settings)  # type: ignore[arg-type]
            running.callback(print, child)
            running.callback(child.close)
            return child

        yield start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one page."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    """Write to *path* until the disk is full."""
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 64) == 64:
            pass


def wait_until_alone(site: Reloading) -> None:
    """Wait until nothing that *site* started is left, nor the site."""
    wait_for(lambda: not processes_of(site.pid), PATIENCE, "its children to end")


# kill -9.


def test_a_kill_in_the_middle_of_a_reload_leaves_nothing(start: Starter, folder: Path) -> None:
    """No trial goes on for nobody, and the next start has port and pid file at once."""
    keeping = ("-o", "plugin pidfile.path=site.pid")
    site = start(*SERVED, *keeping)
    site.wait_for_page("v1")
    gate = folder / "gate"
    os.mkfifo(gate)
    site.save("views.py", "open('gate').read()\n" + version("v2"))
    wait_for(lambda: len(processes_of(site.pid)) == 2, PATIENCE, "a trial")
    address = site.address
    site.process.kill()
    assert site.wait() == -signal.SIGKILL
    wait_until_alone(site)
    assert (folder / "site.pid").read_text().strip() == str(site.pid)

    site.save("views.py", version("v3"))
    bind = f"127.0.0.1:{address[1]}"
    again = start(*SERVED, *keeping, "-o", f"server.bind={bind}", bound=True)
    again.wait_for_page("v3")
    assert again.address == address
    assert (folder / "site.pid").read_text().strip() == str(again.pid)
    assert again.stop() == 0
    assert not (folder / "site.pid").exists()


def test_a_kill_in_the_middle_of_a_trial_leaves_nothing(start: Starter, folder: Path) -> None:
    """Here of one that is to mend a start; whoever waits for its report is gone."""
    (folder / "views.py").write_text("oops\n")
    site = start()
    site.wait_for_failure()
    gate = folder / "gate"
    os.mkfifo(gate)
    site.save("views.py", "open('gate').read()\n" + version("v2"))
    # Opened when somebody reads there: the trial is in the middle of its import.
    with gate.open("w"):
        site.process.kill()
        site.wait()
        wait_until_alone(site)


# Full disks.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_that_cannot_be_written_costs_only_the_log(start: Starter) -> None:
    """The site serves, reloads and ends, and says once that there is no log."""
    site = start(*SERVED, "-o", "logging.error=/dev/full", "-o", "logging.access=/dev/full")
    for number in range(2, 4):
        site.save("views.py", version(f"v{number}"))
        site.wait_for_page(f"v{number}")
    assert site.stop() == 0
    assert site.output.count("cannot write the log '/dev/full'") <= 3  # once an image
    assert "Traceback" not in site.output


@AS_ROOT
def test_a_disk_that_fills_up_costs_only_the_log(start: Starter, small_disk: Path) -> None:
    log = small_disk / "site.log"
    site = start(*SERVED, "-o", f"logging.error={log}")
    site.wait_for_page("v1")
    fill(log)
    site.save("views.py", "oops\n")
    site.wait_for_failure()
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    assert site.stop() == 0
    assert os.strerror(errno.ENOSPC) in site.output
    assert "Traceback" not in site.output


@AS_ROOT
def test_a_pid_file_on_a_full_disk_is_refused(start: Starter, small_disk: Path) -> None:
    """In one sentence, with the status for it, and nothing half done."""
    fill(small_disk / "rest")
    site = start(*SERVED, "-o", f"plugin pidfile.path={small_disk}/site.pid")
    assert site.wait() == 73
    assert "site.pid" in site.output
    assert "Traceback" not in site.output
    assert [each.name for each in small_disk.iterdir()] == ["rest"]


@AS_ROOT
def test_a_disk_that_is_full_by_now_holds_no_reload_up(start: Starter, small_disk: Path) -> None:
    """The pid file is held, not written again."""
    pid_file = small_disk / "site.pid"
    site = start(*SERVED, "-o", f"plugin pidfile.path={pid_file}")
    site.wait_for_page("v1")
    fill(small_disk / "rest")
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    assert pid_file.read_text().strip() == str(site.pid)
    assert site.stop() == 0
    assert not pid_file.exists()


# Signals.


@pytest.mark.slow
def test_ten_thousand_signals_disturb_no_reload(start: Starter) -> None:
    """They ask for log files to be opened again, and come all the time, the exec included."""
    site = start()
    site.wait_for_page("v1")
    for number in range(10_000):
        site.signal(signal.SIGUSR1)
        if number == 3_000:
            site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    assert site.process.poll() is None
    assert site.stop() == 0


@pytest.mark.slow
def test_restarts_asked_for_in_a_flood_are_a_few(start: Starter) -> None:
    """Each is tried first, and one at a time; the site serves all the while."""
    site = start()
    site.wait_for_page("v1")
    for _ in range(200):
        site.signal(signal.SIGHUP)
        assert site.get().status == 200
    assert site.stop() == 0
    wait_until_alone(site)


# Endless imports.


def test_an_endless_import_is_refused_in_time(start: Starter) -> None:
    """The old code serves meanwhile and afterwards, and the trial is ended."""
    site = start(*SERVED, "-o", "reload.try_timeout=3s")
    site.wait_for_page("v1")
    site.save("views.py", "while True:\n    pass\n")
    page = site.wait_for_failure()
    assert "within 3 s" in page.body
    assert "v1" in page.body
    wait_for(lambda: processes_of(site.pid) == [site.pid], PATIENCE, "the trial to end")
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    assert site.stop() == 0


def test_an_endless_import_at_the_start_can_be_ended(start: Starter, folder: Path) -> None:
    """As any stuck start: the first signal in order, the second faster, the third at once."""
    (folder / "views.py").write_text("open('begun', 'w').close()\nwhile True:\n    pass\n")
    site = start()
    wait_for((folder / "begun").exists, PATIENCE)

    def ends() -> bool:
        site.signal(signal.SIGTERM)
        return site.process.poll() is not None

    wait_for(ends, PATIENCE, "an end")
    assert site.wait() == 70
    wait_until_alone(site)


# What goes away.


def test_a_deleted_directory_takes_nothing_down(start: Starter, folder: Path) -> None:
    """What is loaded goes on; no restart is possible, until the directory is back."""
    site = start()
    boot = site.boot
    site.wait_until_watched()
    kept = {each: each.read_text() for each in folder.glob("*.py")}
    shutil.rmtree(folder)
    page = site.wait_for_failure()
    assert (page.status, site.boot) == (200, boot)
    site.signal(signal.SIGHUP)
    site.wait_for_output("is not there any more")
    assert site.get().status == 200

    folder.mkdir()
    for path, text in kept.items():
        path.write_text(text)
    site.save("views.py", version("back again"))
    site.wait_for_page("back again")
    assert site.stop() == 0


def test_a_deleted_directory_does_not_take_workers_down(start: Starter, folder: Path) -> None:
    """One sentence says what is missing, and who serves goes on until it is there again."""
    site = start(*SERVED, supervised=True)
    site.wait_for_page("v1")
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")  # so it is watched
    kept = {each: each.read_text() for each in folder.glob("*.py")}
    shutil.rmtree(folder)
    page = site.wait_for_failure()
    assert "v2" in page.body
    site.wait_for_output(f"ERROR .*: the directory {folder}, where the site was started, is not")
    assert "Traceback" not in site.output

    folder.mkdir()
    for path, text in kept.items():
        path.write_text(text)
    site.save("views.py", version("back again"))
    site.wait_for_page("back again")
    assert site.stop() == 0


def test_a_deleted_directory_lets_the_site_end(start: Starter, folder: Path) -> None:
    site = start()
    site.wait_until_watched()
    shutil.rmtree(folder)
    site.wait_for_failure()
    assert site.stop() == 0
    wait_until_alone(site)


def test_a_notify_socket_that_is_gone_is_told_once(start: Starter, tmp_path: Path) -> None:
    """Whoever wanted to know is not there; the site is for others."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        site = start(env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        listener.settimeout(PATIENCE)
        while b"READY=1" not in listener.recv(65536):
            pass
    (tmp_path / "notify").unlink()
    for number in range(2, 4):
        site.save("views.py", version(f"v{number}"))
        site.wait_for_page(f"v{number}")
    assert site.stop() == 0
    assert "Traceback" not in site.output
    assert site.output.count("ERROR") <= 3
