"""Connections break in the middle of things: who asked is told, and nobody else notices."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from sitebus import fleet as fleets
from sitebus.errors import FleetError, HostLost
from sitebus.fleet import Fleet
from tests.fleet.rig import Host, Rig, Sshd
from tests.helpers import ROOT, Child, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

#: How long something runs that nobody waits for; the tests are over before.
LONG = "300"


@pytest.fixture(scope="module")
def net(rig: Rig) -> Rig:
    if rig.method != "ssh":
        pytest.skip("needs network namespaces")
    return rig


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def fleet(net: Rig, pool: ThreadPoolExecutor) -> Iterator[Fleet]:
    """All hosts, connected; nothing of it is left on any of them afterwards."""
    with fleets.open(net.write_ini()) as fleet:
        assert set(fleet.connect().values()) == {None}
        yield fleet
    for host in net.hosts:
        host.wait_for_guests()


def sleeping(pool: ThreadPoolExecutor, fleet: Fleet, host: Host) -> Future[object]:
    """Have a program run on a host for long, and answer what will come of it."""
    found: Future[object] = pool.submit(lambda: fleet[host.name].exec(["sleep", LONG]))
    host.wait_for_guest(f"sleep {LONG}")
    return found


def said(fleet: Fleet, name: str) -> str:
    return fleet[name].exec(["echo", "here"], timeout=10).out.strip()


def test_a_killed_session_is_told_at_once_and_to_its_caller_alone(
    net: Rig, fleet: Fleet, pool: ThreadPoolExecutor
) -> None:
    """The next call connects again; what ran on the host ends with the connection."""
    lost, kept = (sleeping(pool, fleet, net[name]) for name in ("web1", "web2"))
    began = time.monotonic()
    net["web1"].kill_sessions()

    with pytest.raises(HostLost, match=r"^web1: "):
        lost.result(10)

    assert time.monotonic() - began < 3
    assert not kept.done()
    assert said(fleet, "web1") == "here"
    wait_for(lambda: f"sleep {LONG}" not in net["web1"].guests().values(), 10)
    fleet.close()
    with pytest.raises(FleetError):
        kept.result(10)


def test_a_cut_link_is_noticed_by_its_silence(
    net: Rig, fleet: Fleet, pool: ThreadPoolExecutor
) -> None:
    """Within some beats of the keepalive; and the host answers again once the link is mended."""
    lost = sleeping(pool, fleet, net["web2"])
    began = time.monotonic()
    net["web2"].cut()
    try:
        with pytest.raises(HostLost, match=r"^web2: "):
            lost.result(15)
        assert time.monotonic() - began < 8

        answers = fleet.each(lambda host: said(fleet, host.name))

        assert isinstance(answers["web2"], FleetError)
        assert (answers["web1"], answers["web3"]) == ("here", "here")
    finally:
        net["web2"].mend()
    assert said(fleet, "web2") == "here"


def no_session(sshd: Sshd) -> bool:
    return not sshd.sessions()


MASTER = """\
import sys
import threading

from sitebus import fleet
fleet = fleet.open(sys.argv[1])
for host in fleet.hosts():
    host.launch(["sleep", "4321"])
fleet.each(lambda host: (host.exec_stream(["sleep", sys.argv[2]]), print("there", flush=True)))
threading.Event().wait()
"""


def test_only_what_was_asked_to_stay_outlives_a_killed_master(net: Rig) -> None:
    """No agent, no program, no session; nobody was there to end them."""
    with Child([sys.executable, "-c", MASTER, net.write_ini(), LONG], ROOT) as master:
        wait_for(lambda: master.output.count("there") == len(net.hosts), 20)
        for host in net.hosts:
            host.wait_for_guest(f"sleep {LONG}")
        master.process.kill()
        master.wait()

        for host in net.hosts:
            host.wait_for_guests("sleep 4321")
            assert host.sshd
            wait_for(partial(no_session, host.sshd), 10)
