"""The hosts that the tests of a fleet drive are there, apart, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import netns
from tests.fleet.accounts import Account
from tests.fleet.rig import Loopback, Rig, hosts
from tests.helpers import ROOT, environment, wait_for

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes network namespaces"
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with hosts(2) as rig:
        if rig.method != "ssh":
            pytest.skip("needs network namespaces")
        yield rig


def run(command: list[str], told: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, input=told)


def test_whoever_has_the_key_gets_in_over_loopback(loopback: Loopback) -> None:
    """And finds this sitebus, whatever start files this machine's user has."""
    assert loopback.port < 32768
    found = run([*loopback.command(), sys.executable, "-c", "'import sitebus; print(sitebus)'"])
    assert str(ROOT) in found.stdout, found.stderr


@needs_root
def test_sudo_wants_the_password_of_whom_it_makes_root(
    loopback: Loopback, account: Account
) -> None:
    """As it does of an operator who is nobody special on a host."""
    command = [*loopback.command("-l", account.name), "id -un; sudo -S -p '' id -un"]

    said = run(command, f"{account.password}\n")
    assert said.stdout == f"{account.name}\nroot\n", said.stderr


@needs_root
def test_each_host_is_reached_by_its_own_address(rig: Rig) -> None:
    for host in rig.hosts:
        assert host.sshd
        done = run([*host.sshd.command(rig.known_hosts), "ip -brief address show eth0"])
        assert f"{host.address}/24" in done.stdout, done.stderr


@needs_root
def test_a_cut_link_lets_nothing_through_until_it_is_mended(rig: Rig) -> None:
    """And the host beside it does not notice."""
    first, second = rig.hosts
    first.cut()
    assert first.sshd
    assert second.sshd
    short = ("-o", "ConnectTimeout=1")
    assert run([*first.sshd.command(rig.known_hosts, *short), "true"]).returncode == 255
    assert run([*second.sshd.command(rig.known_hosts, *short), "true"]).returncode == 0

    first.mend()

    again = first.sshd.command(rig.known_hosts, "-o", "ConnectTimeout=5")
    assert run([*again, "true"]).returncode == 0


@needs_root
def test_a_site_serves_where_its_host_is(rig: Rig) -> None:
    """Its own release, and its own control socket."""
    rig.serve()
    try:
        for host in rig.hosts:
            status, body = host.ask()
            assert status == 200
            assert f'"host": "{host.name}"'.encode() in body
            assert host.socket.is_socket()
            assert not host.guests()
    finally:
        for host in rig.hosts:
            assert host.site
            assert host.site.stop() == 0


def test_without_namespaces_hosts_are_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the project's own runs take that for a failure."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with hosts(2) as rig:
        assert rig.method == "local"
        assert {host.address for host in rig.hosts} == {"127.0.0.1"}
        assert len({host.port for host in rig.hosts}) == 2

    monkeypatch.setenv("CI", "yes")
    with pytest.raises(pytest.fail.Exception, match="no hosts in network namespaces"), hosts(2):
        pass


KILLED = """\
import os, signal
from tests.fleet.rig import hosts
with hosts(1) as rig:
    print(rig.hosts[0].network.namespace(1), *rig.hosts[0].network.pids(1), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_root
def test_what_a_killed_run_has_left_is_removed_by_the_next(rig: Rig) -> None:
    """Namespaces, links, and the processes in there."""
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, cwd=ROOT, env=environment()
    )
    space, *pids = done.stdout.split()
    assert pids, done.stderr

    netns.sweep()

    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 10)
    assert not os.path.exists(f"/run/netns/{space}")
    assert not os.path.exists(f"/sys/class/net/{space.partition('h')[0]}")
