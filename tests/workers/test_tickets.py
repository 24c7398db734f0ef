"""What parts of the supervisor are told of jobs and workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus import assembly
from sitebus.process import Engine
from sitebus.relay import Poller
from sitebus.workers.jobs import Job, Kind
from sitebus.workers.launch import Launch
from sitebus.workers.nursery import Failure
from sitebus.workers.supervision import supervise
from sitebus.workers.supervisor import Supervisor
from sitebus.workers.tickets import REMEMBERED, JobTicket, Tickets
from tests.helpers import PATIENCE
from tests.workers.site import write


class Nobody:
    """A worker without a process."""

    slot = 1


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller("test")
    poller.start()
    yield poller
    poller.stop()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """One whose bus is not started."""
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    engine = Engine()
    supervision = supervise(assembly.read(file), engine, Launch(file))
    yield supervision.supervisor
    supervision.close()
    engine.exit()


def job(number: int = 1) -> Job:
    return Job(f"roll-{number}", Kind.ROLL, "new code", 0.0)


def test_whoever_waits_for_a_job_is_called_once(poller: Poller) -> None:
    """In the poller's thread, whether the job has ended before or ends later."""
    ticket = JobTicket(job(), poller)
    calls: list[bool] = []
    early, late = threading.Event(), threading.Event()
    ticket.when_settled(lambda: calls.append(poller.is_current))
    ticket.when_settled(early.set)
    poller.call_soon(ticket.settle)
    assert early.wait(PATIENCE)
    poller.call_soon(ticket.settle)
    ticket.when_settled(late.set)
    assert late.wait(PATIENCE)
    assert calls == [True]


def test_jobs_of_long_ago_are_forgotten(poller: Poller) -> None:
    """A supervisor may live for years; and a job has one ticket."""
    tickets = Tickets(poller)
    first = job(0)
    assert tickets.of(first) is tickets.of(first) is tickets.find(first.id)
    for number in range(1, REMEMBERED + 1):
        tickets.of(job(number))
    assert tickets.find(first.id) is None
    assert tickets.find(f"roll-{REMEMBERED}") is not None


def test_several_may_hear_a_message(supervisor: Supervisor) -> None:
    """One that fails is reported, and keeps it from nobody else."""
    heard: list[object] = []

    def failing(hand: object, message: object) -> None:
        heard.append(message)
        raise ValueError("not for me")

    message = {"is": "news"}
    supervisor.hear("news", failing)
    supervisor.hear("news", lambda hand, message: heard.append(message["is"]))
    supervisor.hearing.hear(Nobody(), message, None)  # type: ignore[arg-type]
    assert heard == [message, "news"]


def test_what_cannot_travel_is_refused_where_it_is_told(supervisor: Supervisor) -> None:
    """Also when nobody is there who would hear it."""
    supervisor.tell("reload", channel="files_refreshed")
    with pytest.raises(TypeError, match="values"):
        supervisor.tell("reload", values={1, 2})


def test_a_process_that_was_never_there_says_why_as_a_worker_would() -> None:
    """Whoever shows the reason need not know who gave it."""
    assert Failure("no room", 73, "a traceback").message() == {
        "is": "unfit",
        "reason": "no room",
        "status": 73,
        "text": "a traceback",
    }
