"""What a control socket makes of worker processes: their answers, their requests, their jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sitebus.config import Override, read
from sitebus.errors import NoWorkerAnswer
from sitebus.process import Engine
from tests.control.clients import FakeCrew, Ticket, ask, following
from tests.control.conftest import Make

MESSAGE = {"channel": "shop.price", "args": ["tea", 3], "kwargs": {"currency": "EUR"}}


def publish(path: Path) -> Any:
    return ask(path, "POST", "/v1/publish?wait=10", MESSAGE).said["job"]


def test_a_message_is_answered_by_every_worker(
    control: Path, crew: FakeCrew, engine: Engine
) -> None:
    """The supervisor has no application: who would answer listens in the workers."""
    crew.answers = {"10": ["ten"], "2": [{1, 2}.__class__]}
    engine.subscribe("shop.price", lambda *args, **kwargs: "above")
    job = publish(control)
    assert crew.asked == [("shop.price", (("tea", 3), {"currency": "EUR"}))]
    assert job["state"] == "done"
    assert job["result"] == {
        "supervisor": ["above"],
        "workers": {"2": ["<class 'set'>"], "10": ["ten"]},
    }
    assert list(job["result"]["workers"]) == ["2", "10"]


def test_whoever_fails_to_answer_costs_nobody_else_an_answer(
    control: Path, crew: FakeCrew, engine: Engine
) -> None:
    """A script sees that not all have heard; a person sees who has."""
    hung = NoWorkerAnswer(2, "on 'shop.price'", "nothing came within 5 s")
    crew.answers = {"1": ["heard"], "2": hung}

    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("no such\ngoods")

    engine.subscribe("shop.price", broken)
    job = publish(control)
    assert job["state"] == "failed"
    assert job["reason"] == "supervisor: ValueError: no such goods, and 1 more failed"
    assert job["result"] == {
        "supervisor": {"error": "ValueError: no such goods"},
        "workers": {"1": ["heard"], "2": {"error": "nothing came within 5 s"}},
    }


def test_an_exported_message_is_sent_once(
    make: Make, crew: FakeCrew, engine: Engine, tmp_path: Path
) -> None:
    """It goes to the workers by itself: asked for an answer too, they would hear it twice."""
    file = tmp_path / "site.ini"
    file.write_text("[site]\nname = shop\n")
    export = Override("workers", "export", "shop.price", "-o")
    configuration = read(file, overrides=[export])
    path = make(name="shop", publish=("shop.price",), configuration=configuration)
    heard: list[object] = []
    engine.subscribe("shop.price", lambda *args, **kwargs: heard.append(args))
    job = publish(path)
    assert (heard, crew.asked) == ([("tea", 3)], [])
    assert job["result"] == {"supervisor": [None], "workers": None}


def test_the_requests_of_workers_are_the_sites(control: Path, crew: FakeCrew) -> None:
    """A supervisor serves none itself: to say none would be no news."""
    told = ask(control, "GET", "/v1/status").said
    assert told["requests"] == {"in_flight": 2, "oldest": 0.5}


@pytest.fixture
def roll(crew: FakeCrew, engine: Engine, control: Path) -> Ticket:
    """Answer a roll that a signal has begun."""
    ticket = crew.roll("SIGHUP")
    engine.publish("rolling.begin", {"id": ticket.id, "kind": "roll"})
    return ticket


def test_a_roll_that_a_signal_began_is_a_job_too(control: Path, roll: Ticket) -> None:
    """Whoever is refused because of it, or wonders why nothing is ready, can see it."""
    (job,) = ask(control, "GET", "/v1/status").said["jobs"]
    assert (job["id"], job["state"], job["progress"]) == (roll.id, "running", [0, 4])
    roll.end("aborted", "worker 1 does not boot")
    ended = ask(control, "GET", f"/v1/jobs/{roll.id}?wait=10").said["job"]
    assert (ended["state"], ended["reason"]) == ("aborted", "worker 1 does not boot")
    assert [each["id"] for each in ask(control, "GET", "/v1/jobs").said["jobs"]] == [roll.id]


def test_a_roll_that_was_asked_for_here_is_one_job(
    control: Path, crew: FakeCrew, engine: Engine
) -> None:
    """It has two names, and is told once, as are its begin and its end."""
    begun = ask(control, "POST", "/v1/graceful").said["job"]
    assert crew.running is not None
    engine.publish("rolling.begin", {"id": crew.running.id, "kind": "roll"})
    crew.running.end()
    ask(control, "GET", f"/v1/jobs/{begun['id']}?wait=10")
    ask(control, "GET", f"/v1/jobs/{crew.running.id}?wait=10")
    assert [each["id"] for each in ask(control, "GET", "/v1/jobs").said["jobs"]] == [begun["id"]]
    with following(control, "/v1/events?channel=job&follow=no") as events:
        assert [each[2]["state"] for each in events] == ["running", "done"]


@pytest.mark.parametrize("facts", [(), ("roll-1",), ({},), ({"id": "roll-9"},), ({"id": None},)])
def test_news_of_a_roll_that_nobody_knows_is_news_only(
    control: Path, crew: FakeCrew, engine: Engine, facts: tuple[Any, ...]
) -> None:
    """Anybody may publish anything."""
    engine.publish("rolling.begin", *facts)
    assert ask(control, "GET", "/v1/jobs").said["jobs"] == []
