"""One bus over several processes: what is published here is heard there, and the other way."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sitebus import assembly
from sitebus.errors import (
    ChannelFailures,
    MessageTooLarge,
    NotServing,
    NoWorkerAnswer,
    UnknownWorker,
    WouldDeadlock,
)
from sitebus.process import Engine
from sitebus.workers.launch import Launch
from sitebus.workers.supervision import Supervision, supervise
from tests.helpers import wait_for
from tests.workers.site import WorkerSite, release, write


@pytest.fixture
def supervision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervision]:
    """A supervisor in this process, and its workers."""
    file = write(tmp_path, export="shop.news, shop.log")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    configuration = assembly.read(file)
    made = supervise(configuration, Engine(), Launch(file))
    made.engine.start()
    try:
        yield made
    finally:
        made.engine.exit()
        made.close()


def heard(supervision: Supervision, channel: str = "shop.count") -> list[object]:
    """Answer what each worker's listener of *channel* returns."""
    answers = supervision.engine.workers.call(channel)
    assert answers.keys() == {"1", "2"}
    return list(answers.values())


def test_a_call_gathers_an_answer_from_each_worker(supervision: Supervision) -> None:
    """The pattern of a vote: asked at once, answered in one place."""
    assert heard(supervision) == [[0], [0]]


def test_an_exported_message_reaches_every_worker(supervision: Supervision) -> None:
    """A cache is flushed where it is, whoever says so."""
    supervision.engine.publish("shop.news", "flush")
    wait_for(lambda: heard(supervision) == [[1], [1]])


def test_a_message_of_a_worker_reaches_its_siblings_and_the_supervisor(tmp_path: Path) -> None:
    """And once each: it does not come back to who has published it."""
    write(tmp_path, export="shop.news", count=3)
    with WorkerSite(tmp_path) as site:
        site.ask("/publish?fresh")
        pids = site.wait_for_workers(3)

        def all_have_heard() -> bool:
            told = {(each := site.ask())["pid"]: each["heard"] for _ in range(40)}
            return told.keys() == pids and all(news == ["fresh"] for news in told.values())

        wait_for(all_have_heard, 20)


BOOTING = """\
import threading
from pathlib import Path

import sitebus

HEALTH = "200 OK"
VERSION = []
sitebus.engine.subscribe("shop.news", VERSION.append)
Path("booting").touch()
while not Path("go").exists():
    threading.Event().wait(0.01)
"""


def test_who_comes_up_and_who_drains_hears_it_too(tmp_path: Path) -> None:
    """The one has read already what is told to have changed, and the other still answers."""
    write(tmp_path, export="shop.news", count=1)
    with WorkerSite(tmp_path) as site:
        before = site.ask()["pid"]
        release(tmp_path, "two", BOOTING)
        site.signal(signal.SIGHUP)
        wait_for((tmp_path / "booting").exists, 20)
        assert site.ask("/publish?early")["pid"] == before
        answers: list[dict[str, Any]] = []
        slow = threading.Thread(target=lambda: answers.append(site.ask("/slow?3")))
        slow.start()
        wait_for((tmp_path / "slow").exists)
        (tmp_path / "go").touch()
        wait_for(lambda: site.ask()["pid"] != before, 20)
        site.ask("/publish?late")
        wait_for(lambda: site.ask()["version"] == ["early", "late"])
        slow.join(20)
        assert (answers[0]["pid"], answers[0]["heard"]) == (before, ["early", "late"])


def test_what_is_not_exported_stays_in_its_process(tmp_path: Path) -> None:
    """A channel is private unless the configuration says otherwise."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.ask("/publish?private")
        told = [site.ask() for _ in range(40)]
        assert len({each["pid"] for each in told if each["heard"]}) == 1


def test_news_of_workers_is_heard_in_them_if_it_is_exported(tmp_path: Path) -> None:
    """An application tells somebody that a worker was lost; it is not asked for by a pattern."""
    write(tmp_path, export="shop.news, worker.lost, *")
    file = tmp_path / "shop.py"
    heard = 'self.bus.overhear("*", lambda channel, *told: HEARD.append(channel))'
    file.write_text(
        file.read_text().replace('self.bus.subscribe("shop.news", HEARD.append)', heard)
    )
    with WorkerSite(tmp_path) as site:
        killed = site.ask()["pid"]
        os.kill(killed, signal.SIGKILL)
        site.wait_for_output(r"worker \d .*is ready[^~]*worker \d .*is ready[^~]*is ready")
        found = [site.ask()["heard"] for _ in range(20)]
        assert any("worker.lost" in each for each in found)
        assert not any("worker.spawned" in each for each in found)


def test_a_workers_failure_is_an_answer_too(supervision: Supervision) -> None:
    """Who asks learns which worker failed, and why; the others' answers are not lost."""
    for channel, said in (("shop.broken", "ZeroDivisionError"), ("shop.secret", "JSON|set")):
        for answer in heard(supervision, channel):
            assert isinstance(answer, NoWorkerAnswer)
            assert re.search(said, str(answer)), answer


def test_what_is_not_json_is_refused_where_it_is_published(supervision: Supervision) -> None:
    """In the caller, who can do something about it, and not in some thread of ours."""
    workers = supervision.engine.workers
    with pytest.raises(TypeError, match="datetime"):
        workers.call("shop.count", datetime.now())
    with pytest.raises(MessageTooLarge):
        workers.call("shop.count", "x" * 300_000)
    with pytest.raises(ChannelFailures) as failures:
        supervision.engine.publish("shop.news", {1})
    assert failures.value.get_instances()
    assert isinstance(failures.value.exceptions[0], TypeError)


def test_log_lines_of_workers_come_up(tmp_path: Path) -> None:
    """To one place, with the worker's number."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.ask("/log")
        site.wait_for_output(r"worker \d: a word from the application")


def test_a_worker_is_asked_for_its_stacks(supervision: Supervision) -> None:
    """Which thread is where, in a process that nobody may attach a debugger to."""
    text = supervision.engine.workers.dump(1)
    assert "MainThread" in text
    with pytest.raises(UnknownWorker):
        supervision.engine.workers.dump(7)


def test_who_would_wait_for_itself_is_refused(supervision: Supervision) -> None:
    """A listener of worker.* runs where the answers come in."""
    caught: list[Exception] = []
    done = threading.Event()

    def ask(*_: object) -> None:
        try:
            supervision.engine.workers.call("shop.count")
        except WouldDeadlock as error:
            caught.append(error)
        done.set()

    supervision.engine.subscribe("worker.draining", ask)
    supervision.engine.workers.drain(1)
    assert done.wait(20)
    assert "a thread of its own" in str(caught[0])


def test_a_job_has_a_result(supervision: Supervision) -> None:
    """Who asks for a roll can wait for it and is told how it went."""
    job = supervision.engine.workers.roll("a test")
    assert job.wait(30)
    assert (job.state, job.reason) == ("done", "a test")
    assert supervision.engine.workers.job(job.id) is job
    before = {each.serial for each in supervision.engine.workers.pictures()}
    assert supervision.engine.workers.scale(3).wait(30)
    assert before < {each.serial for each in supervision.engine.workers.pictures()}


def test_a_stop_ends_the_workers_and_a_start_brings_them_back(supervision: Supervision) -> None:
    """The listening sockets stay: clients wait in the kernel's queue meanwhile."""
    engine = supervision.engine
    engine.stop()
    assert all(not each.pid for each in engine.workers.pictures())
    with pytest.raises(NotServing):
        engine.workers.roll("too late")
    engine.start()
    assert heard(supervision) == [[0], [0]]


@pytest.mark.parametrize("command", ["exit", "stop"])
def test_a_worker_that_leaves_on_purpose_is_replaced_without_blame(
    command: str, tmp_path: Path
) -> None:
    """The life of the site is the supervisor's; that of one process is the application's, too."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        before = site.wait_for_workers(2)
        victim = site.ask(f"/{command}")["pid"]
        wait_for(lambda: victim not in site.workers and len(site.workers) == 2, 20)
        assert len(before & set(site.workers)) == 1
        assert "ERROR" not in site.output


def test_a_worker_cannot_restart_the_site(tmp_path: Path) -> None:
    """It is told who can."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        assert "sitebus-ctl restart" in site.ask("/restart")["heard"][0]


@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn", "waitress", "wsgiref"])
def test_an_application_is_told_that_it_is_not_alone(adapter: str, tmp_path: Path) -> None:
    """PEP 3333, wsgi.multiprocess: what it keeps in memory the next request may not find."""
    write(tmp_path, adapter=adapter)
    with WorkerSite(tmp_path) as site:
        assert site.ask()["shared"] is True
    with WorkerSite(tmp_path, "-w", "0") as site:
        assert site.ask()["shared"] is False


def test_sigquit_tells_where_every_thread_of_the_site_is(tmp_path: Path) -> None:
    """That of the supervisor would tell nothing about a site that hangs."""
    write(tmp_path)
    with WorkerSite(tmp_path) as site:
        site.signal(signal.SIGQUIT)
        site.wait_for_output(r"worker 1, all threads")
        site.wait_for_output(r"worker 2, all threads")
