"""What the control socket tells, and what it does: a real engine, a real socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from sitebus.config import read
from sitebus.control.readiness import Readiness
from sitebus.machine import State
from sitebus.process import Engine
from tests.control.clients import Answered, Connection, FakeCrew, answered, ask, following
from tests.control.conftest import Make
from tests.helpers import wait_for


def test_it_says_how_the_site_stands(control: Path) -> None:
    """The first thing that anybody asks."""
    answer = ask(control, "GET", "/v1/status")
    assert answer.status == 200
    assert answer.said["name"] == "shop"
    assert answer.said["state"] == "STARTED"
    assert answer.said["ready"] is True
    assert answer.said["workers"] is None
    assert answer.said["boot"] == ask(control, "GET", "/v1/version").said["boot"]
    assert answer.said["requests"] == {"in_flight": 0, "oldest": 0.0}


needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None and "CI" not in os.environ, reason="curl is not installed"
)


@needs_curl
def test_curl_can_talk_to_it(control: Path) -> None:
    """Whoever has no sitebus-ctl at hand has curl."""
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", control, "http://localhost/v1/version"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["api"] == 1
    assert told["name"] == "shop"


@needs_curl
def test_curl_can_send_a_body(control: Path, engine: Engine) -> None:
    """What an operator types in a hurry."""
    url = "http://localhost/v1/ready"
    argv = ["curl", "-sS", "--unix-socket", str(control), "-d", '{"ready": false}', url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ready_wanted": False, "ready": False}
    assert Readiness.of(engine).why_not(engine) == "an operator has said: ready off"


def test_it_describes_the_bus(control: Path) -> None:
    """Who listens where, and how long each took."""
    channels = ask(control, "GET", "/v1/bus").said["channels"]
    assert "ControlSocket.make" in [each["name"] for each in channels["start"]]


def test_it_tells_the_configuration_without_its_secrets(make: Make, tmp_path: Path) -> None:
    """A viewer may look, and must not learn a password."""
    path = tmp_path / "site.ini"
    path.write_text("[site]\nname = shop\n[env]\nDB_PASSWORD = swordfish\n")
    socket = make(configuration=read(path))
    answer = ask(socket, "GET", "/v1/config")
    assert "swordfish" not in json.dumps(answer.said)
    titles = {each["title"]: each["settings"] for each in answer.said["sections"]}
    assert {"key": "name", "value": "shop", "origin": f"{path}:2"} in titles["[site]"]
    assert ask(socket, "GET", "/v1/version").said["config"] == str(path)


def test_it_tells_where_every_thread_is(control: Path) -> None:
    """A site that hangs can still be asked where."""
    threads = ask(control, "GET", "/v1/threads").said["threads"]
    main = next(each for each in threads if each["name"] == "MainThread")
    assert "test_it_tells_where_every_thread_is" in main["stack"]


def test_metrics_count_what_is_being_served(control: Path, crew: FakeCrew) -> None:
    """Each worker's too."""
    told = ask(control, "GET", "/v1/metrics").said
    assert told["in_flight"] == 0
    assert told["workers"] == [{"worker": 1, "requests": 7}]


def test_metrics_may_be_somebody_elses(make: Make) -> None:
    """In the words of who scrapes them."""
    path = make(metrics=lambda: "shop_sold_total 3\n")
    answer = ask(path, "GET", "/v1/metrics")
    assert (answer.status, answer.said) == (200, "shop_sold_total 3\n")


def test_its_own_socket_is_no_address_of_the_site(control: Path, engine: Engine) -> None:
    """Nobody is served there."""
    address = engine.sockets.bind("127.0.0.1:0").address
    assert engine.addresses == (address,)
    assert ask(control, "GET", "/v1/status").said["addresses"] == [str(address)]


def test_it_can_be_stopped_and_started(control: Path, engine: Engine) -> None:
    """The socket answers while nothing else does: who else could start it again?"""
    stopped = ask(control, "POST", "/v1/stop?wait=10")
    assert (stopped.status, stopped.said["job"]["state"]) == (200, "done")
    assert engine.state is State.STOPPED
    assert ask(control, "GET", "/v1/status").said["why_not_ready"] == "the site is STOPPED"

    assert ask(control, "POST", "/v1/start?wait=10").said["job"]["state"] == "done"
    assert ask(control, "GET", "/v1/status").said["ready"] is True


def test_who_waits_for_the_exit_is_answered(control: Path, engine: Engine) -> None:
    """Not cut off: it asked whether the site has gone, and it has."""
    answer = ask(control, "POST", "/v1/exit?wait=10")
    assert (answer.status, answer.said["job"]["state"]) == (200, "done")
    engine.wait(State.EXITING)
    wait_for(lambda: not control.exists(), what="the socket's file to be removed")


def test_without_workers_graceful_is_published_in_place(control: Path, engine: Engine) -> None:
    """The same request everywhere."""
    heard: list[str] = []
    engine.subscribe("graceful", lambda: heard.append("graceful"))
    assert ask(control, "POST", "/v1/graceful?wait=10").said["job"]["state"] == "done"
    assert ask(control, "POST", "/v1/reopen?wait=10").said["job"]["state"] == "done"
    assert heard == ["graceful", "graceful"]


def test_a_job_is_answered_at_once_and_can_be_waited_for(control: Path, engine: Engine) -> None:
    """A client that does not want to wait gets something to ask for later."""
    release = threading.Event()
    engine.subscribe("graceful", lambda: release.wait(10))
    begun = ask(control, "POST", "/v1/graceful")
    assert (begun.status, begun.said["job"]["state"]) == (202, "running")
    place = begun.fields["Location"]
    assert ask(control, "GET", place).said["job"]["state"] == "running"
    assert ask(control, "GET", f"{place}?wait=0.05").said["job"]["state"] == "running"
    release.set()
    ended = ask(control, "GET", f"{place}?wait=10").said["job"]
    assert (ended["state"], ended["reason"]) == ("done", "")
    assert [each["id"] for each in ask(control, "GET", "/v1/jobs").said["jobs"]] == [ended["id"]]


def test_a_job_that_fails_says_why(control: Path, engine: Engine) -> None:
    """And harms nothing else."""

    def fail() -> None:
        raise ValueError("the certificate is gone")

    engine.subscribe("graceful", fail)
    job = ask(control, "POST", "/v1/graceful?wait=10").said["job"]
    assert (job["state"], job["reason"]) == ("failed", "ValueError: the certificate is gone")
    engine.unsubscribe("graceful", fail)
    assert ask(control, "GET", "/v1/status").said["ready"] is True


def test_one_job_of_a_kind_at_a_time(control: Path, engine: Engine) -> None:
    """The second is told which one is in its way."""
    release = threading.Event()
    engine.subscribe("graceful", lambda: release.wait(10))
    first = ask(control, "POST", "/v1/graceful").said["job"]
    second = ask(control, "POST", "/v1/graceful")
    assert second.status == 409
    assert second.error == f"graceful (job {first['id']}) is running; wait for it to end"
    assert second.said["job"]["id"] == first["id"]
    release.set()


def test_a_repeated_key_is_the_same_job(control: Path, engine: Engine) -> None:
    """A client that lost the answer may ask again."""
    heard: list[str] = []
    engine.subscribe("graceful", lambda: heard.append("graceful"))
    key = {"Idempotency-Key": "deploy-41"}
    first = ask(control, "POST", "/v1/graceful?wait=10", fields=key).said["job"]
    again = ask(control, "POST", "/v1/graceful?wait=10", fields=key).said["job"]
    assert first["id"] == again["id"]
    assert heard == ["graceful"]
    other = ask(control, "POST", "/v1/stop", fields=key)
    assert other.status == 409
    assert "/v1/graceful" in other.error


def test_publishing_reaches_listeners(control: Path, engine: Engine) -> None:
    """On a channel that the configuration has opened."""
    heard: list[tuple[object, ...]] = []

    def price(*args: object, **kwargs: object) -> str:
        heard.append((*args, *kwargs.items()))
        return "changed"

    engine.subscribe("shop.price", price)
    said = {"channel": "shop.price", "args": ["tea", 3], "kwargs": {"currency": "EUR"}}
    job = ask(control, "POST", "/v1/publish?wait=10", said).said["job"]
    assert heard == [("tea", 3, ("currency", "EUR"))]
    assert job["result"] == ["changed"]
    with following(control, "/v1/events?channel=shop.*&follow=no") as events:
        assert [each[2]["args"] for each in events] == [["tea", 3]]


def test_only_open_channels_are_published_on(control: Path, engine: Engine) -> None:
    """Else an operator's typing mistake could stop the site from inside."""
    answer = ask(control, "POST", "/v1/publish", {"channel": "stop", "args": []})
    assert answer.status == 403
    assert answer.error == (
        "channel 'stop' is not open to the control socket (shop.price); see [control] publish"
    )
    assert engine.state is State.STARTED


def test_with_workers_graceful_is_a_roll(control: Path, crew: FakeCrew) -> None:
    """The job is the crew's, and ends with it."""
    begun = ask(control, "POST", "/v1/graceful", {"reason": "release 41"})
    assert (begun.status, crew.asked) == (202, [("roll", "release 41")])
    assert begun.said["job"]["progress"] == [0, 4]
    assert crew.running is not None
    crew.running.end()
    ended = ask(control, "GET", f"/v1/jobs/{begun.said['job']['id']}?wait=10").said["job"]
    assert (ended["state"], ended["progress"]) == ("done", [4, 4])


def test_an_aborted_roll_is_told_with_its_reason(control: Path, crew: FakeCrew) -> None:
    """A release that does not boot must not look like success."""
    begun = ask(control, "POST", "/v1/graceful").said["job"]
    assert crew.running is not None
    crew.running.end("aborted", "worker 1 did not become ready: No module named 'shop'")
    job = ask(control, "GET", f"/v1/jobs/{begun['id']}?wait=10").said["job"]
    assert job["state"] == "aborted"
    assert job["reason"] == "worker 1 did not become ready: No module named 'shop'"


@pytest.mark.parametrize("by", ["control", "signal"])
def test_one_roll_at_a_time(control: Path, crew: FakeCrew, by: str) -> None:
    """Whoever began the one that runs."""
    if by == "signal":
        running = crew.roll("SIGHUP").id
    else:
        running = ask(control, "POST", "/v1/graceful").said["job"]["id"]
    for target, said in (("/v1/graceful", None), ("/v1/scale", {"count": 3})):
        answer = ask(control, "POST", target, said)
        assert answer.status == 409
        assert answer.said["job"]["id"] == running
        assert running in answer.error
    assert ask(control, "GET", f"/v1/jobs/{running}").said["job"]["state"] == "running"
    assert crew.running is not None
    crew.running.end()
    # Nothing is left of what was refused.
    assert ask(control, "GET", f"/v1/jobs/{running}?wait=10").said["job"]["state"] == "done"
    states = [each["state"] for each in ask(control, "GET", "/v1/jobs").said["jobs"]]
    assert states == ["done"]


def test_workers_are_listed(control: Path, crew: FakeCrew) -> None:
    """With what each last said of itself."""
    first, second = ask(control, "GET", "/v1/workers").said["workers"]
    assert (first["worker"], first["serial"], first["pid"]) == (1, 11, 1001)
    assert first["beat"]["rss"] == 50 << 20
    assert second["state"] == "READY"
    status = ask(control, "GET", "/v1/status").said
    assert status["workers"] == {"alive": 2, "ready": 2, "fatal": 0}


def test_one_worker_can_be_told_something(control: Path, crew: FakeCrew) -> None:
    """By the number that the list shows."""
    assert ask(control, "POST", "/v1/workers/2/kill?wait=10").said["job"]["state"] == "done"
    dumped = ask(control, "POST", "/v1/workers/1/dump?wait=10").said["job"]
    assert "shop.py" in dumped["result"]["stacks"]
    assert ask(control, "POST", "/v1/workers/2/drain").status == 202
    assert crew.asked == [("kill", 2), ("dump", 1), ("drain", 2)]


def test_the_number_of_workers_can_be_changed(control: Path, crew: FakeCrew) -> None:
    """As TTIN and TTOU do by one."""
    assert ask(control, "POST", "/v1/scale", {"count": 3}).status == 202
    assert crew.asked == [("scale", 3)]


def test_graceful_in_place_is_passed_on_by_the_supervisor(
    control: Path, crew: FakeCrew, engine: Engine
) -> None:
    """Where the configuration says so, nothing is replaced."""
    crew.inplace = True
    heard: list[str] = []
    engine.subscribe("graceful", lambda: heard.append("graceful"))
    assert ask(control, "POST", "/v1/graceful?wait=10").said["job"]["state"] == "done"
    assert heard == ["graceful"]
    assert ask(control, "POST", "/v1/reopen?wait=10").said["job"]["state"] == "done"
    assert crew.asked == [("inplace", None)]


def refused(answer: Answered) -> tuple[int, str]:
    return answer.status, answer.error


def test_what_needs_workers_says_so(control: Path) -> None:
    """A site of one process is no mistake, only something else."""
    sentence = "cannot {}: this site is one process; see [workers] count"
    assert refused(ask(control, "POST", "/v1/scale", {"count": 2})) == (
        409,
        sentence.format("scale"),
    )
    assert refused(ask(control, "POST", "/v1/workers/1/kill")) == (409, sentence.format("kill"))
    assert ask(control, "GET", "/v1/workers").said == {"workers": []}


@pytest.mark.parametrize("what", ["drain", "kill", "dump"])
def test_a_worker_that_is_not_there_is_said_so(control: Path, crew: FakeCrew, what: str) -> None:
    """With those that are; and nothing is left of the job."""
    answer = ask(control, "POST", f"/v1/workers/7/{what}")
    assert refused(answer) == (404, "there is no worker 7; they are numbered 1 to 2")
    answer = ask(control, "POST", f"/v1/workers/all/{what}")
    assert refused(answer) == (404, "'all' is no number of a worker")
    assert ask(control, "GET", "/v1/jobs").said["jobs"] == []


def test_a_worker_that_does_not_answer_is_a_failed_job(control: Path, crew: FakeCrew) -> None:
    """It was asked, which is more than a refusal."""
    crew.mute = True
    job = ask(control, "POST", "/v1/workers/1/dump?wait=10").said["job"]
    assert (job["state"], job["reason"]) == ("failed", "cannot restart: it does not answer")


def test_workers_that_hang_do_not_hold_up_the_socket(control: Path, crew: FakeCrew) -> None:
    """Who asks about them waits, and nobody else."""
    release = threading.Event()
    pictures = crew.pictures

    def wait() -> object:
        release.wait(10)
        return pictures()

    crew.pictures = wait  # type: ignore[method-assign, assignment]
    waiting = Connection(control)
    waiting.request("GET", "/v1/workers")
    assert ask(control, "GET", "/v1/version").status == 200
    release.set()
    assert len(answered(waiting.getresponse()).said["workers"]) == 2
    waiting.close()


def test_a_failing_picture_harms_nobody(control: Path, crew: FakeCrew, engine: Engine) -> None:
    """The supervisor goes on whatever a handler does."""
    logged: list[str] = []
    engine.subscribe("log", lambda message, level=20: logged.append(message))
    crew.broken = ZeroDivisionError("on paper")
    answer = ask(control, "GET", "/v1/workers")
    assert refused(answer) == (500, "this failed, and was logged: ZeroDivisionError")
    wait_for(lambda: any("on paper" in each for each in logged))
    crew.broken = None
    assert ask(control, "GET", "/v1/workers").status == 200


def test_events_come_as_they_happen(control: Path, engine: Engine) -> None:
    """What a dashboard shows."""
    with following(control, "/v1/events?channel=worker.*,stopped") as events:
        engine.publish("worker.ready", {"slot": 1})
        engine.publish("rolling.done", {"seconds": 1.0})
        engine.stop()
        first, second = next(events), next(events)
    assert first[1] == "worker.ready"
    assert first[2]["args"] == [{"slot": 1}]
    assert second[1:] == ("stopped", {"args": [], "at": second[2]["at"]})
    assert time.time() - 60 < first[2]["at"] <= second[2]["at"] < time.time() + 1


def test_nothing_is_missed_between_two_connections(control: Path, engine: Engine) -> None:
    """Last-Event-ID is where the reader was."""
    with following(control, "/v1/events?channel=worker.*") as events:
        engine.publish("worker.ready", 1)
        last = next(events)[0]
    engine.publish("worker.ready", 2)
    engine.publish("worker.gone", 3)
    with following(control, "/v1/events?channel=worker.*&follow=no", last) as events:
        assert [(name, said["args"]) for _, name, said in events] == [
            ("worker.ready", [2]),
            ("worker.gone", [3]),
        ]


def test_a_number_of_another_life_means_from_the_beginning(control: Path, engine: Engine) -> None:
    """After a restart the numbers begin anew."""
    engine.publish("worker.ready", 1)
    target = "/v1/events?channel=worker.*&follow=no"
    with following(control, target, "0badc0de-9999") as events:
        assert [said["args"] for _, _, said in events] == [[1]]


def test_what_was_lost_is_said(control: Path, engine: Engine) -> None:
    """A reader who comes too late must know."""
    with following(control, "/v1/events?channel=worker.*") as events:
        engine.publish("worker.ready", 0)
        last = next(events)[0]
    for number in range(1500):
        engine.publish("worker.ready", number)
    with following(control, "/v1/events?channel=worker.*&follow=no", last) as events:
        found = list(events)
    assert found[0][1:] == ("lost", {"count": 500})
    assert [said["args"] for _, _, said in found[1:]] == [[n] for n in range(500, 1500)]


def test_the_log_can_be_followed(control: Path, engine: Engine) -> None:
    """Its last lines, and those to come."""
    engine.log("before", 30)
    with following(control, "/v1/logs") as lines:
        said = next(each for _, _, each in lines if each["message"] == "before")
        assert said == {"level": 30, "message": "before", "at": said["at"]}
        engine.log("after")
        after = next(lines)[2]
        assert (after["level"], after["message"]) == (20, "after")
        assert after["at"] >= said["at"]


def test_jobs_are_events_too(control: Path, engine: Engine) -> None:
    """So that a second operator sees what the first does."""
    with following(control, "/v1/events?channel=job") as events:
        ask(control, "POST", "/v1/graceful?wait=10")
        begun, ended = next(events)[2], next(events)[2]
    assert (begun["state"], ended["state"]) == ("running", "done")
    assert begun["id"] == ended["id"]


def test_values_that_are_no_json_are_shown_all_the_same(control: Path, engine: Engine) -> None:
    """An event must not fail because of what it carries."""
    engine.publish("worker.ready", {1, 2}, float("nan"), b"x", 10**5000, "\ud800", object)
    with following(control, "/v1/events?channel=worker.*&follow=no") as events:
        (found,) = events
    assert found[2]["args"][:3] == [[1, 2], "nan", "b'x'"]
