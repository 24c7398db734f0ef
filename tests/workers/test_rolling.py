"""Every worker is replaced while clients ask, and none of them notices."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from tests.helpers import wait_for
from tests.workers.site import Clients, WorkerSite, release, write

ADAPTERS = ("cheroot", "uvicorn")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_ten_rolls_fail_no_request(adapter: str, tmp_path: Path) -> None:
    """The promise, for clients that keep their connection and for those that bring a new one."""
    write(tmp_path, adapter=adapter, probe="/, /health")
    with WorkerSite(tmp_path) as site:
        first = site.wait_for_workers(2)
        with Clients(site.address) as clients:
            for number in range(10):
                release(tmp_path, f"release {number}")
                site.roll()
                clients.go_on()
        assert not clients.failures
        assert {"one", "release 9"} < clients.versions.keys()
        assert not first & site.wait_for_workers(2)
        assert site.stop() == 0


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_requests_under_way_are_answered_by_who_took_them(adapter: str, tmp_path: Path) -> None:
    """A worker that is replaced finishes what it has; the roll waits for it."""
    write(tmp_path, adapter=adapter)
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        told: list[int] = []
        asking = [
            threading.Thread(target=lambda: told.append(site.ask("/slow?1.5")["pid"]))
            for _ in range(6)
        ]
        for each in asking:
            each.start()
        wait_for(lambda: site.ask()["pid"] in before)
        site.roll()
        for each in asking:
            each.join(20)
        assert len(told) == 6
        assert set(told) <= before


BROKEN = (
    pytest.param("raise RuntimeError('no such table')\n", "no such table", id="does not import"),
    pytest.param(
        'VERSION = "bad"\nHEALTH = "503 Service Unavailable"\n',
        "probe of /health",
        id="answers 503",
    ),
    pytest.param("import os\nos._exit(5)\n", "ended with status 5", id="ends"),
)


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_a_broken_release_takes_nobody_down(text: str, said: str, tmp_path: Path) -> None:
    """The roll is aborted, the old workers go on, and the next roll of a mended one is good."""
    write(tmp_path, probe="/health")
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        with Clients(site.address) as clients:
            release(tmp_path, "bad", text)
            site.signal(signal.SIGHUP)
            site.wait_for_output(rf"roll aborted: worker \d \(pid \d+\): .*{said}")
            clients.go_on(200)
            assert site.wait_for_workers(2) == before
            release(tmp_path, "mended")
            site.roll()
            clients.go_on()
        assert not clients.failures
        assert set(clients.versions) == {"one", "mended"}


def test_a_wish_during_a_roll_is_one_more_roll(tmp_path: Path) -> None:
    """What was saved after the first worker had imported it must be served in the end."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.wait_for_workers(2)
        site.signal(signal.SIGHUP)
        wait_for(lambda: site.output.count("is ready after") > 2, 30)
        site.signal(signal.SIGHUP)
        wait_for(lambda: site.output.count("roll done") > 1, 60)
        site.roll()


def test_workers_are_added_and_taken_away(tmp_path: Path) -> None:
    """By the signals that other servers know for it; the last one stays."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        site.signal(signal.SIGTTIN)
        assert before < site.wait_for_workers(3)
        site.wait_for_output("scale done")
        site.signal(signal.SIGTTOU)
        site.wait_for_output(r"(?s)(scale done.*){2}")
        site.signal(signal.SIGTTOU)
        site.wait_for_output(r"(?s)(scale done.*){3}")
        site.signal(signal.SIGTTOU)
        site.wait_for_output(r"(?s)(scale done.*){4}")
        assert len(site.workers) == 1
        assert site.ask()["version"] == "one"


def test_a_graceful_in_place_replaces_nobody(tmp_path: Path) -> None:
    """SIGUSR1, as log rotation sends it: everybody opens the log's file again."""
    write(tmp_path)
    log = tmp_path / "access.log"
    with WorkerSite(tmp_path, "--access-log", str(log)) as site:
        before = site.wait_for_workers(2)
        site.ask()
        log.rename(tmp_path / "access.log.1")
        site.signal(signal.SIGUSR1)
        wait_for(lambda: [site.ask() for _ in range(8)] and log.is_file() and log.read_text())
        assert site.wait_for_workers(2) == before
        assert "graceful" in site.output


def test_by_configuration_a_graceful_is_in_place_or_a_roll(tmp_path: Path) -> None:
    """`graceful = inplace` is for who has no time for new processes."""
    write(tmp_path, graceful="inplace")
    with open(tmp_path / "site.ini", "a") as file:
        file.write("[signals]\nsigusr1 = graceful\n")
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        site.signal(signal.SIGUSR1)
        site.wait_for_output("passed on to the workers")
        assert site.wait_for_workers(2) == before
    (tmp_path / "site.ini").write_text(
        (tmp_path / "site.ini").read_text().replace("inplace", "rolling")
    )
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        site.signal(signal.SIGUSR1)
        site.wait_for_output("roll done: graceful|roll done in .*: graceful", 30)
        assert not before & site.wait_for_workers(2)


def test_a_worker_is_replaced_for_its_age_and_for_what_it_has_served(tmp_path: Path) -> None:
    """Leaks are somebody else's fault, and must not take the site down."""
    write(tmp_path, max_requests=40)
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        with Clients(site.address) as clients:
            wait_for(lambda: not before & set(site.workers) or clients.failures, 40)
        assert not clients.failures
        assert "max_requests" in site.output
