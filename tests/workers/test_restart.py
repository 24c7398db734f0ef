"""The supervisor is run again in its own process, and its workers serve on meanwhile."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from sitebus.relay import Link, Poller, Rest
from tests.helpers import PATIENCE, wait_for
from tests.workers.site import Clients, WorkerSite, release, write


def restart(site: WorkerSite) -> None:
    """Have the supervisor restarted, and wait until its workers were replaced as well."""
    done = site.output.count("roll done")
    site.signal(signal.SIGUSR2)
    wait_for(lambda: site.output.count("roll done") > done, 60, "the roll after the restart")


@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn"])
def test_restarts_of_the_supervisor_fail_no_request(adapter: str, tmp_path: Path) -> None:
    """Same pid; the workers are adopted, and replaced by those of the new image."""
    write(tmp_path, adapter=adapter)
    with WorkerSite(tmp_path) as site:
        pid, first = site.pid, site.wait_for_workers(2)
        with Clients(site.address) as clients:
            for number in range(3):
                release(tmp_path, f"release {number}")
                restart(site)
                clients.go_on()
        assert not clients.failures
        assert "release 2" in clients.versions
        assert not first & site.wait_for_workers(2)
        assert (site.pid, site.process.poll()) == (pid, None)
        assert "Going on with 2 workers" in site.output
        assert site.stop() == 0


def test_an_adopted_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """The new image watches those that it has not started itself."""
    write(tmp_path, preload="yes")
    with WorkerSite(tmp_path) as site:
        restart(site)
        with Clients(site.address, kept=0) as clients:
            victim = site.ask()["pid"]
            os.kill(victim, signal.SIGKILL)
            site.wait_for_output("killed by SIGKILL|ended with status")
            clients.go_on()
        assert site.stop() == 0


def test_a_site_without_workers_any_more_lets_them_go(tmp_path: Path) -> None:
    """Their links are closed, which is all they need to know."""
    file = write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.wait_for_workers(2)
        file.write_text(file.read_text().replace("count = 2", "count = 0"))
        site.signal(signal.SIGUSR2)
        wait_for(lambda: not site.workers, PATIENCE)
        assert wait_for(lambda: site.ask()["pid"] == site.pid, PATIENCE)


def test_the_number_of_workers_follows_the_file(tmp_path: Path) -> None:
    """As do all other settings of theirs."""
    file = write(tmp_path)
    with WorkerSite(tmp_path) as site:
        file.write_text(file.read_text().replace("count = 2", "count = 3"))
        restart(site)
        site.wait_for_workers(3)
        file.write_text(file.read_text().replace("count = 3", "count = 1"))
        restart(site)
        site.wait_for_workers(1)
        assert site.stop() == 0


def test_a_message_half_way_is_whole_in_the_next_image() -> None:
    """Read in part, or sent in part: a link goes on where the one before it stood."""
    poller = Poller("test")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    heard: list[object] = []

    def make(sock: socket.socket, rest: Rest) -> Link:
        return Link(sock, poller, lambda message, _: heard.append(message), print, rest)

    first = make(ours, Rest())
    frame = b"\0\0\0\x0d" + b'{"is":"here"}'
    theirs.sendall(frame[:7])
    wait_for(lambda: first._decoder.unfinished)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for number in range(100):
        assert first.send({"number": number, "load": "x" * 10_000})
    found: list[tuple[socket.socket, Rest]] = []
    poller.call_soon(lambda: found.append(first.detach()))
    sock, rest = wait_for(lambda: found)[0]
    assert rest.begun
    assert rest.unsent
    second = make(sock, rest)
    theirs.sendall(frame[7:])
    wait_for(lambda: heard == [{"is": "here"}])
    got: list[object] = []
    far = Link(theirs, poller, lambda message, _: got.append(message["number"]), print)
    wait_for(lambda: len(got) == 100, 10)
    assert got == list(range(100))
    second.close()
    far.close()
    poller.stop()
