"""``sitebus-ctl`` and what ``sitebus-serve`` serves: with workers and without."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cli.test_ctl import Ctl
from tests.helpers import Child, wait_for

SHOP = """\
import os

RELEASE = 1


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{RELEASE} {os.getpid()}".encode()]
"""
SITE = """\
[site]
name = shop
[server]
bind = 127.0.0.1:0
[mount /]
app = shop:application
"""
BROKEN = SHOP.replace("RELEASE = 1", "import nothing_of_that_name")


@pytest.fixture
def ctl(tmp_path: Path) -> Iterator[Ctl]:
    """Answer the command, where there is a shop to serve."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "site.ini").write_text(SITE)
    found = Ctl(tmp_path)
    with found.running:
        yield found


def serve(ctl: Ctl, *arguments: str) -> Child:
    child = Child([sys.executable, "-m", "sitebus", *arguments], ctl.directory, ctl.environment)
    ctl.running.enter_context(child)
    child.wait_for_output("Ctrl-C to stop")
    return child


def url(child: Child) -> str:
    return child.wait_for_output(r"serving on (http://\S+)")[1]


def test_a_site_that_is_served_from_a_file_can_be_controlled(ctl: Ctl) -> None:
    """Without a word in the file."""
    site = serve(ctl, "site.ini")
    status = json.loads(ctl.said("status", "-j"))
    assert status["addresses"] == [url(site).removeprefix("http://")]
    assert ctl.said("restart") == f"shop serves again, as process {site.pid}\n"
    assert requests.get(url(site), timeout=10).text == f"1 {site.pid}"
    ctl.said("exit")
    assert site.wait() == 0


def test_one_application_without_a_file_has_no_socket(ctl: Ctl) -> None:
    """A script is no site that somebody runs."""
    serve(ctl, "-b", "127.0.0.1:0", "/=shop:application")
    assert not (ctl.runtime / "sitebus").exists()


def test_a_release_that_does_not_load_fails_the_restart(ctl: Ctl) -> None:
    """The old one serves on."""
    site = serve(ctl, "site.ini")
    (ctl.directory / "shop.py").write_text(BROKEN)
    done = ctl("restart")
    assert done.returncode == 1
    assert "No module named 'nothing_of_that_name'" in done.stdout
    assert requests.get(url(site), timeout=10).text == f"1 {site.pid}"


def test_a_roll_brings_a_release_or_fails(ctl: Ctl) -> None:
    """What a deployment script does, with workers."""
    site = serve(ctl, "-o", "workers.count=2", "site.ini")
    (ctl.directory / "shop.py").write_text(SHOP.replace("RELEASE = 1", "RELEASE = 22"))
    assert "graceful done" in ctl.said("graceful", "--wait")
    assert requests.get(url(site), timeout=10).text.startswith("22 ")

    (ctl.directory / "shop.py").write_text(BROKEN)
    done = ctl("graceful", "--wait")
    assert (done.returncode, "graceful aborted" in done.stdout) == (1, True)
    assert "nothing_of_that_name" in done.stdout
    assert requests.get(url(site), timeout=10).text.startswith("22 ")
    assert "2 of 2 ready" in ctl.said("status")


def test_workers_do_what_they_are_told(ctl: Ctl) -> None:
    """Each by its number."""
    serve(ctl, "-o", "workers.count=2", "site.ini")
    before = {each["worker"]: each["pid"] for each in workers(ctl)}
    assert "drain worker 1 done" in ctl.said("drain", "1", "--wait")
    assert "kill worker 2 done" in ctl.said("kill", "2")

    def after() -> bool:
        now = {each["worker"]: each["pid"] for each in workers(ctl) if each["state"] == "READY"}
        return set(now) == {1, 2} and not set(now.values()) & set(before.values())

    wait_for(after, 20, "both workers to be new")
    assert "scale to 3 workers done" in ctl.said("scale", "3", "--wait")
    assert "MainThread" in ctl.said("dump", "3")
    assert "reopen done" in ctl.said("reopen")
    assert ctl.refused("drain", "9") == (1, "there is no worker 9; they are numbered 1 to 3")


def workers(ctl: Ctl) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ctl.said("workers", "-j"))["workers"]
    return found


def test_a_supervisor_restarts_in_place(ctl: Ctl) -> None:
    """Its workers serve meanwhile."""
    site = serve(ctl, "-o", "workers.count=2", "site.ini")
    assert ctl.said("restart") == f"shop serves again, as process {site.pid}\n"
    assert requests.get(url(site), timeout=10).text.startswith("1 ")
    ctl.said("exit")
    assert site.wait() == 0
    assert not list((ctl.runtime / "sitebus").iterdir())


def test_a_daemon_can_be_controlled(ctl: Ctl) -> None:
    """It has no terminal, and nobody knows its pid by heart."""
    argv = [sys.executable, "-m", "sitebus", "-D", "site.ini"]
    with Child(argv, ctl.directory, ctl.environment) as start:
        assert start.wait() == 0
    status = json.loads(ctl.said("wait", "ready", "-j"))
    assert status["pid"] != start.pid
    assert "restart" not in ctl.said("jobs")
    ctl.said("restart")
    ctl.said("exit")
    assert ctl.refused("status")[0] == 3
    assert not list((ctl.runtime / "sitebus").iterdir())
