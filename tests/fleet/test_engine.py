"""The site on a host, as its operator has it from elsewhere."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus import fleet
from sitebus.errors import CallTimeout, JobFailed, NoSite, RemoteError, SiteRefused
from sitebus.fleet import Fleet, HostEngine, agent_site
from tests.fleet import shop
from tests.fleet.rig import Rig, hosts
from tests.helpers import PATIENCE, wait_for


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with hosts(1, local=True) as rig:
        host = rig.hosts[0]
        host.install()
        site = host.root / "current" / "site.ini"
        site.write_text(site.read_text().replace("publish = shop.*", "publish = shop.price"))
        host.serve()
        yield rig


@pytest.fixture(scope="module")
def one(rig: Rig) -> Iterator[Fleet]:
    with fleet.open(rig.write_ini()) as one:
        yield one
        if one["web1"].engine.state is not None:
            one["web1"].engine.exit()


@pytest.fixture
def engine(one: Fleet) -> HostEngine:
    """The bus of the one host's site, which serves, and does nothing else."""
    engine = one["web1"].engine
    if engine.state is None:
        engine.start()
    wait_for(lambda: all(job["state"] != "running" for job in engine.jobs()))
    return engine


def test_it_tells_how_it_stands(engine: HostEngine, rig: Rig) -> None:
    assert engine.state == "STARTED"
    status = engine.status()
    assert status["ready"]
    assert status["workers"] == {"alive": 2, "ready": 2, "fatal": 0}
    assert engine.version()["pid"] == status["pid"]
    assert [each["worker"] for each in engine.workers()] == [1, 2]
    assert isinstance(engine.jobs(), list)


def test_graceful_answers_when_all_workers_are_new(engine: HostEngine) -> None:
    before = {each["pid"] for each in engine.workers()}
    job = engine.graceful(wait=PATIENCE)
    assert (job["kind"], job["state"]) == ("graceful", "done")
    assert before.isdisjoint(each["pid"] for each in engine.workers())


def test_graceful_that_is_not_waited_for_goes_on(engine: HostEngine) -> None:
    with engine.subscribe("job") as events:
        job = engine.graceful(wait=0)
        assert job["state"] == "running"
        with pytest.raises(SiteRefused) as caught:
            engine.graceful(wait=0)
        assert caught.value.code == 409
        told = [events.next(PATIENCE).said["state"] for _ in range(2)]
    assert told == ["running", "done"]


def test_a_release_that_does_not_boot_is_the_reason(engine: HostEngine, rig: Rig) -> None:
    host = rig.hosts[0]
    module = host.root / "current" / "release.py"
    text = module.read_text()
    module.write_text(f"{text}\n{shop.BROKEN}\n")
    try:
        with pytest.raises(
            JobFailed, match=r"graceful aborted: .*no_such_module_of_the_shop"
        ) as it:
            engine.graceful(wait=PATIENCE)
        assert it.value.job["state"] == "aborted"
    finally:
        module.write_text(text)
    assert host.ask()[0] == 200


def test_what_takes_longer_than_it_may_goes_on(engine: HostEngine) -> None:
    with pytest.raises(CallTimeout, match=r"graceful has not ended within 0.05 s, and goes on"):
        engine.graceful(wait=0.05)
    wait_for(lambda: engine.jobs()[-1]["state"] == "done")


def test_stop_and_start(engine: HostEngine) -> None:
    assert engine.start()["state"] == "STARTED"
    assert engine.stop()["state"] == "done"
    assert engine.state == "STOPPED"
    assert engine.start()["ready"]
    assert engine.state == "STARTED"


def test_restart_answers_when_the_next_image_is_ready(engine: HostEngine) -> None:
    before = engine.status()
    after = engine.restart(wait=PATIENCE)
    assert after["boot"] != before["boot"]
    assert after["pid"] == before["pid"]
    assert after["ready"]


def test_a_restart_that_would_fail_is_refused(engine: HostEngine, rig: Rig) -> None:
    path = rig.hosts[0].root / "current" / "site.ini"
    text = path.read_text()
    path.write_text(f"{text}\n[mount /more]\n")
    boot = engine.version()["boot"]
    try:
        with pytest.raises(JobFailed, match="restart failed: "):
            engine.restart(wait=PATIENCE)
    finally:
        path.write_text(text)
    assert engine.version()["boot"] == boot


def test_readiness_is_told_and_asked_for(engine: HostEngine) -> None:
    assert engine.ready(False) == {"ready_wanted": False, "ready": False}
    with pytest.raises(CallTimeout, match="the site is not ready in time: "):
        engine.wait_ready(0.2)
    engine.ready(True)
    assert engine.wait_ready()["ready"]


def test_publishing_answers_for_every_process(engine: HostEngine) -> None:
    answer = engine.publish("shop.price", 3, currency="EUR")
    assert set(answer) == {"supervisor", "workers"}
    with pytest.raises(SiteRefused, match="not open to the control socket") as caught:
        engine.publish("stop")
    assert caught.value.code == 403


def test_events_come_as_they_happen_and_through_restarts(engine: HostEngine) -> None:
    with engine.subscribe("worker.*", "shop.*") as events:
        engine.publish("shop.price", 7)
        first = events.next(PATIENCE)
        assert (first.name, first.said["args"]) == ("shop.price", [7])
        engine.restart(wait=PATIENCE)
        names = {events.next(PATIENCE).name for _ in range(4)}
        assert names <= {"worker.spawned", "worker.ready", "worker.exited", "worker.draining"}
        last = events.next(PATIENCE).id
    with engine.subscribe("shop.*", last=last) as events:
        engine.publish("shop.price", 8)
        assert events.next(PATIENCE).said["args"] == [8]


def test_what_the_site_remembers_ends(engine: HostEngine) -> None:
    engine.publish("shop.price", 1)
    assert "shop.price" in [event.name for event in engine.events("shop.*")]
    assert all(isinstance(event.said, dict) for event in engine.logs())


def test_workers_are_scaled_and_replaced(engine: HostEngine) -> None:
    engine.scale(1)
    assert len(engine.workers()) == 1
    engine.scale(2)
    (before,) = [each["pid"] for each in engine.workers() if each["worker"] == 1]
    engine.drain_worker(1)
    assert before not in [each["pid"] for each in engine.workers()]
    engine.reopen()


def test_a_path_is_asked_for_at_the_site(engine: HostEngine) -> None:
    found = engine.host.fetch("/")
    assert found.status == 200
    assert '"version": "r1"' in found.body
    url = engine.status()["addresses"][0]
    assert engine.host.fetch(f"http://{url}/?q=1").status == 200
    with pytest.raises(RemoteError, match="is no URL of http"):
        engine.host.fetch("ftp://nowhere/")


def test_a_site_is_found_by_its_name_and_by_its_file(rig: Rig, engine: HostEngine) -> None:
    host = rig.hosts[0]
    pid = engine.version()["pid"]
    with fleet.open(rig.write_ini(hosts={"web1": {"socket": "shop"}})) as one:
        with pytest.raises(NoSite, match="no site named 'shop' is running"):
            one["web1"].engine.version()
        told = one["web1"].call(os.putenv, "XDG_RUNTIME_DIR", str(host.runtime))
        assert told is None
    for where in ({"socket": "shop"}, {"ini": str(host.root / "current/site.ini")}):
        assert ask_from(host.runtime, where)["pid"] == pid


def ask_from(runtime: Path, where: dict[str, str]) -> dict[str, object]:
    """Ask as the agent does where the site's user has logged in."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        told = agent_site.look(where, "version")
    finally:
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
    assert isinstance(told, dict)
    return told


def test_a_site_that_is_frozen_is_given_up(engine: HostEngine, rig: Rig) -> None:
    """And whoever asks the host for something else is not held up."""
    pid = engine.version()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        pending = engine.host.call_async(
            agent_site.look, engine.host.entry.where, "status", timeout=0.5
        )
        assert engine.host.exec(["echo", "hi"]).out == "hi\n"
        with pytest.raises(CallTimeout):
            pending.result()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert engine.state == "STARTED"


def test_exit_and_start(engine: HostEngine, rig: Rig) -> None:
    assert engine.exit()["state"] == "done"
    assert engine.state is None
    with pytest.raises(NoSite, match=r"^web1: no site answers on .*; start it$"):
        engine.status()
    assert engine.start(wait=PATIENCE)["ready"]
    assert rig.hosts[0].ask()[0] == 200
    engine.exit()


def test_without_a_way_to_start_it_that_is_told(rig: Rig, engine: HostEngine) -> None:
    engine.exit()
    rows = {"socket": str(rig.hosts[0].socket), "root": str(rig.hosts[0].root)}
    path = rig.folder / "bare.ini"
    told = "".join(f"{key} = {value}\n" for key, value in rows.items())
    path.write_text(f"[hosts]\nweb1 = x\n[fleet]\nmethod = local\n[site]\n{told}")
    with (
        fleet.open(path) as one,
        pytest.raises(NoSite, match="say unit = NAME or start = COMMAND in"),
    ):
        one["web1"].engine.start()


def test_a_unit_is_started_by_systemctl(
    rig: Rig, engine: HostEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name, which starts the site as a unit would."""
    engine.exit()
    host = rig.hosts[0]
    start = shlex.split(host.rows()["start"])
    # It returns when the site is in a session of its own, as systemctl does.
    launch = f"import subprocess; subprocess.Popen({start}, start_new_session=True)"
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ncd {host.root}\n'
        '[ "$2" = shop.service ] || { echo "Unit $2 not found." >&2; exit 5; }\n'
        f"exec {sys.executable} -c {shlex.quote(launch)} >/dev/null 2>&1 </dev/null\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with fleet.open(rig.write_ini(hosts={"web1": {"unit": "shop.service"}})) as one:
        assert one["web1"].engine.start(wait=PATIENCE)["ready"]
        one["web1"].engine.exit()
    assert (tmp_path / "said").read_text() == "start shop.service\n"
    wrong = rig.write_ini(hosts={"web1": {"unit": "no.service"}})
    told = "systemctl cannot start no.service: Unit no.service not found"
    with fleet.open(wrong) as one, pytest.raises(RemoteError, match=told):
        one["web1"].engine.start()


def test_a_command_that_does_not_start_it_is_told(rig: Rig, engine: HostEngine) -> None:
    engine.exit()
    rows = {"start": "sh -c 'echo port taken >&2; exit 69'"}
    with (
        fleet.open(rig.write_ini(hosts={"web1": rows})) as one,
        pytest.raises(RemoteError, match="ended at once with status 69: port taken"),
    ):
        one["web1"].engine.start()


def test_a_site_that_ends_while_it_is_waited_for_is_told_at_once(
    rig: Rig, engine: HostEngine, tmp_path: Path
) -> None:
    """As one whose application cannot be imported does: what it has said last is the reason."""
    engine.exit()
    root = tmp_path / "root"
    root.mkdir()
    command = "sh -c 'sleep 0.5; echo no such shop; exit 3'"
    path = tmp_path / "fleet.ini"
    told = f"root = {root}\nsocket = {tmp_path}/none\nstart = {command}\n"
    path.write_text(f"[hosts]\nweb1 = x\n[fleet]\nmethod = local\n[site]\n{told}")
    began = time.monotonic()
    with (
        fleet.open(path) as one,
        pytest.raises(RemoteError, match="has ended with status 3: no such shop"),
    ):
        one["web1"].engine.start(wait=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
