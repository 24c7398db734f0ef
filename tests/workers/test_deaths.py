"""Workers die, hang and fail to come up, and so may the supervisor: who serves then."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.workers.site import Clients, WorkerSite, alive, release, write


def test_a_worker_that_dies_is_replaced_at_once(tmp_path: Path) -> None:
    """By a signal, or of itself; the others go on meanwhile."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        first = site.wait_for_workers(2)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        site.wait_for_output("killed by SIGKILL")
        wait_for(lambda: len(site.workers) == 2 and victim not in site.workers, PATIENCE)
        with pytest.raises((OSError, AssertionError, Exception)):
            site.ask("/end")
        site.wait_for_output("ended with status 3")
        wait_for(lambda: len(site.workers) == 2, PATIENCE)
        assert site.ask()["version"] == "one"
        assert site.stop() == 0


@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn"])
def test_nothing_is_left_of_a_supervisor_that_is_killed(adapter: str, tmp_path: Path) -> None:
    """The end of the link is the end of the workers: after what is under way, and no later."""
    write(tmp_path, adapter=adapter)
    with WorkerSite(tmp_path) as site:
        workers = site.wait_for_workers(2)
        told: list[int] = []
        asking = threading.Thread(target=lambda: told.append(site.ask("/slow?1.5")["pid"]))
        asking.start()
        wait_for(lambda: site.ask()["pid"] in workers)
        address = site.address
        os.kill(site.pid, signal.SIGKILL)
        asking.join(20)
        assert set(told) <= workers
        assert told
        wait_for(lambda: not any(map(alive, workers)), PATIENCE, "the workers to end")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)


def test_nor_of_a_worker_that_was_to_come_up(tmp_path: Path) -> None:
    """Its import may never end; and it serves nobody who could be waited for."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.wait_for_workers(2)
        text = "import os\nos.mkfifo('gate')\nopen('gate').read()\n"
        release(tmp_path, "stuck", text)
        site.signal(signal.SIGHUP)
        wait_for((tmp_path / "gate").exists, PATIENCE, "an import")
        workers = set(site.workers)
        assert len(workers) == 3
        os.kill(site.pid, signal.SIGKILL)
        # drain_timeout is 30 s, which those who serve have.
        wait_for(lambda: not any(map(alive, workers)), PATIENCE, "the workers to end")


def test_a_worker_that_gives_no_sign_of_life_is_replaced(tmp_path: Path) -> None:
    """Stopped by a debugger, or stuck in a library that never gives the interpreter back."""
    write(tmp_path, heartbeat_timeout="1s")
    with WorkerSite(tmp_path) as site:
        victim = min(site.wait_for_workers(2))
        os.kill(victim, signal.SIGSTOP)
        site.wait_for_output("heartbeat_timeout", 30)
        wait_for(lambda: len(site.workers) == 2 and not alive(victim), PATIENCE)
        assert site.stop() == 0


def test_a_worker_with_a_hung_request_is_replaced_and_told_of(tmp_path: Path) -> None:
    """Its stacks are in the log, its other requests are finished, and then it is ended."""
    write(tmp_path, request_timeout="1s", drain_timeout="1s")
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        asking = threading.Thread(target=_ask_in_vain, args=(site,))
        asking.start()
        site.wait_for_output("request_timeout", 30)
        site.wait_for_output("(?s)all threads:.*/slow")
        site.wait_for_output("(recycle|drain) done", 30)
        assert len(before & site.wait_for_workers(2)) == 1
        asking.join(20)


def _ask_in_vain(site: WorkerSite) -> None:
    try:
        site.ask("/slow?60")
    except Exception as error:
        print(f"the hung request ended with {error!r}")


def test_workers_that_cannot_come_up_are_tried_ever_more_slowly(tmp_path: Path) -> None:
    """A crash loop costs little, is visible, and heals by itself once its cause is mended."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.wait_for_workers(2)
        with Clients(site.address, kept=0) as clients:
            release(tmp_path, "bad", "raise RuntimeError('no such table')\n")
            os.kill(min(site.workers), signal.SIGKILL)
            site.wait_for_output(r"(?s)(another is started in [\d.]+ s.*?){3}", 30)
            failures = len(clients.failures)
            release(tmp_path, "mended")
            wait_for(lambda: clients.versions["mended"], 30)
            assert len(clients.failures) == failures
        site.wait_for_workers(2)


def test_a_boot_that_never_ends_is_ended(tmp_path: Path) -> None:
    """An import that waits for a database that is not there must not wait for ever."""
    write(tmp_path, boot_timeout="2s")
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        release(tmp_path, "stuck", "import time\ntime.sleep(600)\n")
        site.signal(signal.SIGHUP)
        site.wait_for_output("roll aborted.*boot_timeout", 30)
        wait_for(lambda: set(site.workers) == before, PATIENCE)
        assert site.ask()["version"] == "one"


def test_a_second_interrupt_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    """Ctrl-C twice: whatever they serve, the terminal is wanted back."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        workers = site.wait_for_workers(2)
        asking = threading.Thread(target=_ask_in_vain, args=(site,))
        asking.start()
        site.signal(signal.SIGINT)
        site.wait_for_output("Bus STOPPING")
        site.signal(signal.SIGINT)
        site.wait(10)
        asking.join(20)
        wait_for(lambda: not any(map(alive, workers)), PATIENCE)
