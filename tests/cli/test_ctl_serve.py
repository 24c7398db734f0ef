"""``sitebus-ctl`` and what ``sitebus-serve`` serves: with workers and without."""

from __future__ import annotations

import json
import signal
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
    # The one that failed may still be ending.
    wait_for(lambda: "2 of 2 ready" in ctl.said("status"))


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
    assert ctl.refused("scale", "0") == (2, "count should be a number from 1 to 1024")
    assert ctl.refused("drain", "9") == (1, "there is no worker 9; they are numbered 1 to 3")


def test_a_stopped_site_keeps_its_workers_number(ctl: Ctl) -> None:
    """It is no site of one process, and has the same number again after a start."""
    serve(ctl, "-o", "workers.count=2", "site.ini")
    ctl.said("stop")
    assert ctl.said("workers") == "no worker runs: the site is STOPPED\n"
    ctl.said("start")
    assert [each["worker"] for each in workers(ctl)] == [1, 2]


def workers(ctl: Ctl) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ctl.said("workers", "-j"))["workers"]
    return found


TOLD = """\
import sitebus


@sitebus.engine.subscribe("shop.price")
def price(goods, cents):
    with open("heard", "a") as file:
        file.write(f"{os.getpid()} {goods}\\n")
    return f"{goods} {cents / 100:.2f}"
"""


def test_every_worker_answers_what_is_published(ctl: Ctl) -> None:
    """The supervisor never imports the application, and the workers have it."""
    (ctl.directory / "shop.py").write_text(SHOP + TOLD)
    serve(ctl, "-o", "workers.count=2", "-o", "control.publish=shop.price", "site.ini")
    pids = {str(each["pid"]) for each in workers(ctl)}
    said = ctl.said("publish", "shop.price", '"tea"', "250")
    assert said == 'worker 1: ["tea 2.50"]\nworker 2: ["tea 2.50"]\n'
    heard = (ctl.directory / "heard").read_text().split("\n")
    assert sorted(heard[:-1]) == sorted(f"{pid} tea" for pid in pids)

    done = ctl("publish", "shop.price", '"tea"', '"much"')
    assert done.returncode == 1
    assert done.stdout.startswith("worker 1: TypeError: unsupported operand")
    assert "publish shop.price failed" in done.stdout


def test_an_exported_message_is_heard_once_by_each_process(ctl: Ctl) -> None:
    """Whether it came from the control socket or from another worker."""
    (ctl.directory / "shop.py").write_text(SHOP + TOLD)
    options = ("control.publish=shop.price", "workers.export=shop.price", "workers.count=2")
    serve(ctl, *(word for each in options for word in ("-o", each)), "site.ini")
    assert "do not answer" in ctl.said("publish", "shop.price", '"tea"', "1")
    assert "do not answer" in ctl.said("publish", "shop.price", '"rum"', "1")
    heard = ctl.directory / "heard"

    def lines() -> list[str]:
        return [line.split()[1] for line in heard.read_text().splitlines()]

    # Each hears one message after the other: with the second of both, all of the first is there.
    wait_for(lambda: heard.exists() and lines().count("rum") == 2, 20, "both workers to hear")
    assert lines().count("tea") == 2


def test_a_roll_that_a_signal_began_is_shown(ctl: Ctl) -> None:
    """Nobody asked for it here, and it is what an operator wonders about."""
    site = serve(ctl, "-o", "workers.count=2", "site.ini")
    site.signal(signal.SIGHUP)
    wait_for(lambda: "roll done (4 of 4 steps)" in ctl.said("jobs"), 20, "the roll to be done")
    assert ctl.said("jobs").count("roll") == 2  # its name and its kind


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
