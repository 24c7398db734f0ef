"""Workers that are forked from a process which has loaded everything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, SiteProcess, wait_for
from tests.workers.site import RELEASE, Clients, WorkerSite, alive, children, release, write

#: Says when, and in which process, it was imported.
LOADED = (
    RELEASE
    + "import os\nwith open('loaded', 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n"
)


def loaded_by(folder: Path) -> list[int]:
    """Answer the pid of each process that has imported the application."""
    return list(map(int, (folder / "loaded").read_text().split()))


def zygotes(site: WorkerSite) -> set[int]:
    return {pid for pid, line in children(site.pid).items() if "--zygote" in line}


def forks(site: WorkerSite) -> set[int]:
    """Answer the workers: children of the zygotes, or of nobody any more."""
    found: set[int] = set()
    for zygote in zygotes(site):
        found |= children(zygote).keys()
    return found


def test_the_application_is_imported_once(tmp_path: Path) -> None:
    """Four workers and one import, in a process that never serves."""
    write(tmp_path, preload="yes", count=4)
    release(tmp_path, "one", LOADED.format(version="one"))
    with WorkerSite(tmp_path) as site:
        (zygote,) = zygotes(site)
        assert loaded_by(tmp_path) == [zygote]
        assert len(forks(site)) == 4
        assert site.ask()["pid"] in forks(site)
        assert site.stop() == 0
        assert not alive(zygote)


@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn"])
def test_a_roll_is_of_new_code(adapter: str, tmp_path: Path) -> None:
    """A fresh zygote for each roll; nobody's request fails, and the old zygote goes."""
    write(tmp_path, preload="yes", adapter=adapter)
    with WorkerSite(tmp_path) as site:
        first = zygotes(site)
        with Clients(site.address) as clients:
            for number in range(3):
                release(tmp_path, f"release {number}")
                site.roll()
                clients.go_on()
        assert not clients.failures
        assert "release 2" in clients.versions
        wait_for(lambda: len(zygotes(site)) == 1 and not zygotes(site) & first, PATIENCE)
        assert site.stop() == 0


def test_a_broken_release_leaves_the_old_zygote(tmp_path: Path) -> None:
    """Whoever dies after that is replaced by what served before, and not by the broken code."""
    write(tmp_path, preload="yes")
    with WorkerSite(tmp_path) as site:
        before, (zygote,) = forks(site), zygotes(site)
        release(tmp_path, "bad", "raise RuntimeError('no such table')\n")
        site.signal(signal.SIGHUP)
        site.wait_for_output("roll aborted.*no such table", 30)
        os.kill(min(before), signal.SIGKILL)
        site.wait_for_output("killed by SIGKILL")
        wait_for(lambda: len(forks(site)) == 2, PATIENCE)
        wait_for(lambda: zygotes(site) == {zygote}, PATIENCE, "the broken one to end")
        assert {site.ask()["version"] for _ in range(20)} == {"one"}


def test_a_zygote_that_dies_is_missed_only_when_it_is_needed(tmp_path: Path) -> None:
    """Its workers serve on; the next one that is wanted comes of a new zygote."""
    write(tmp_path, preload="yes")
    with WorkerSite(tmp_path) as site:
        workers, (zygote,) = forks(site), zygotes(site)
        os.kill(zygote, signal.SIGKILL)
        wait_for(lambda: not alive(zygote))
        assert {site.ask()["pid"] for _ in range(20)} <= workers
        os.kill(min(workers), signal.SIGKILL)
        wait_for(lambda: zygotes(site) - {zygote} and len(forks(site)) == 1, PATIENCE)
        assert site.ask()["version"] == "one"
        assert site.stop() == 0
        wait_for(lambda: not any(map(alive, workers)), PATIENCE)


def test_nothing_is_left_of_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """Neither the zygote nor what it has forked, which is not the supervisor's child."""
    write(tmp_path, preload="yes")
    with WorkerSite(tmp_path) as site:
        family = forks(site) | zygotes(site)
        os.kill(site.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, family)), PATIENCE, "all of them to end")


def test_threads_of_an_import_are_refused_by_name(tmp_path: Path) -> None:
    """What such a thread holds in the moment of a fork would be held for ever."""
    write(tmp_path, preload="yes")
    text = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller',"
    release(tmp_path, "one", f"{RELEASE.format(version='one')}{text} daemon=True).start()\n")
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        assert child.wait() == 78
        assert "poller" in child.output
        assert "preload = no" in child.output


def test_an_application_that_cannot_be_imported_says_so_once(tmp_path: Path) -> None:
    """The same sentence, traceback and status as without preloading."""
    write(tmp_path, preload="yes")
    release(tmp_path, "bad", "raise RuntimeError('no such table')\n")
    with SiteProcess("site.ini", cwd=tmp_path) as child:
        assert child.wait() == 70
        assert child.output.count("Traceback") == 1
        assert "no such table" in child.output.splitlines()[-1]
