"""Several workers accept from the same sockets, and each gets its part."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.workers.site import WorkerSite, release, write

WORKERS, CLIENTS = 4, 16
#: Of each cheroot: with those of all workers there are enough for everyone.
THREADS = 5


def site_of(folder: Path, adapter: str) -> WorkerSite:
    file = write(folder, adapter=adapter, count=WORKERS)
    file.write_text(file.read_text().replace("[server]\n", f"[server]\nthreads = {THREADS}\n"))
    release(folder, "one")
    return WorkerSite(folder)


def kept(site: WorkerSite, stack: ExitStack) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(*site.address, timeout=PATIENCE)
    stack.callback(connection.close)
    connection.connect()
    return connection


def most_of(connections: Iterable[http.client.HTTPConnection]) -> int:
    """Answer how many of *connections*, which have asked, the same worker has answered."""
    answered = [json.loads(each.getresponse().read())["pid"] for each in connections]
    return max(Counter(answered).values())


def burst(site: WorkerSite) -> int:
    """Let many come at once and stay; answer how many of them one worker got."""
    with ExitStack() as stack:
        connections = []
        for _ in range(CLIENTS):
            connections.append(kept(site, stack))
            connections[-1].request("GET", "/")
        return most_of(connections)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn", "hypercorn"])
def test_a_burst_of_kept_connections_is_spread(adapter: str, tmp_path: Path) -> None:
    """Who is awake already would have most of them, and most of the work from then on."""
    pytest.importorskip(adapter)
    with site_of(tmp_path, adapter) as site:
        burst(site)  # the first of all finds some that have not served yet
        assert statistics.median(burst(site) for _ in range(9)) <= 0.65 * CLIENTS
        assert site.stop() == 0


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def slow_burst(site: WorkerSite) -> int:
    """The same with requests that take a while, all there before anybody can look."""
    pids = site.wait_for_workers(WORKERS)
    with ExitStack() as stack:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        wait_for(lambda: all(state(pid) == "T" for pid in pids), PATIENCE, "workers to stop")
        connections = [kept(site, stack) for _ in range(CLIENTS)]
        for each in connections:
            each.request("GET", "/slow?0.5")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        return most_of(connections)


def test_nobody_waits_for_a_thread_while_others_have_one(tmp_path: Path) -> None:
    """A request that waits behind one of a second and a half takes three."""
    with site_of(tmp_path, "cheroot") as site:
        # Whether all workers are let run soon enough is the machine's business.
        assert min(slow_burst(site) for _ in range(4)) <= THREADS
        assert site.stop() == 0


def test_one_worker_serves_all_when_the_others_do_not(tmp_path: Path) -> None:
    """To let others go first is a courtesy of milliseconds, whoever they are."""
    with site_of(tmp_path, "cheroot") as site, ExitStack() as stack:
        alone, *others = site.wait_for_workers(WORKERS)
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        wait_for(lambda: all(state(pid) == "T" for pid in others), PATIENCE, "workers to stop")
        connections = [kept(site, stack) for _ in range(3 * THREADS)]
        for each in connections:
            each.request("GET", "/slow?0.1")
        answers = [json.loads(each.getresponse().read()) for each in connections]
        assert {answer["pid"] for answer in answers} == {alone}


def test_who_finds_all_busy_is_told_so(tmp_path: Path) -> None:
    """Doors that are closed for want of a thread do not keep newcomers from their 503."""
    file = write(tmp_path, count=1)
    told = "[server]\nthreads = 1\nmax_waiting = 3\n"
    file.write_text(file.read_text().replace("[server]\n", told))
    release(tmp_path, "one")
    with WorkerSite(tmp_path) as site, ExitStack() as stack:
        clients = []
        for _ in range(12):
            client = socket.create_connection(site.address, PATIENCE)
            stack.callback(client.close)
            client.sendall(b"GET /slow?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(client)
        wait_for(
            lambda: sum(_is_refused(each) for each in clients) >= 8, PATIENCE, "the rest to be told"
        )


def _is_refused(client: socket.socket) -> bool:
    try:
        return client.recv(13, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"HTTP/1.1 503 "
    except BlockingIOError:
        return False
