"""Hosts for the tests of a fleet."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.accounts import Account, missing, sudoer
from tests.fleet.rig import Loopback, Rig, hosts, loopback_sshd
from tests.fleet.sshd import program


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Three hosts, for all tests of a module; no site runs yet."""
    with hosts(3) as rig:
        yield rig


@pytest.fixture
def anew(rig: Rig) -> Rig:
    """The same, reached by ssh, serving their first release, whatever was done to them before."""
    if rig.method != "ssh":
        pytest.skip("needs network namespaces")
    rig.reset()
    return rig


@pytest.fixture
def ini(anew: Rig, tmp_path: Path) -> Iterator[Path]:
    """Their fleet.ini, of an operator who has no past; in the end nobody works on the hosts."""
    yield anew.write_ini(tmp_path / "fleet.ini", fleet={"journal": tmp_path / "journal"})
    for host in anew.hosts:
        host.wait_for_guests()


@pytest.fixture(scope="module")
def pair() -> Iterator[Rig]:
    """Two hosts that are this machine, and serve their first release, for all tests of a module."""
    with hosts(2, local=True) as rig:
        rig.serve("r1")
        yield rig


@pytest.fixture
def pair_ini(pair: Rig, tmp_path: Path) -> Path:
    """Their fleet.ini, of an operator who has no past."""
    return pair.write_ini(
        tmp_path / "fleet.ini",
        fleet={"journal": tmp_path / "journal"},
        extra="[group canary]\nhosts = web2\n",
    )


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    """An sshd on 127.0.0.1, for all tests of a module."""
    if program() is None and "CI" not in os.environ:
        pytest.skip("sshd is not installed")
    with loopback_sshd() as loopback:
        yield loopback


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """A user who becomes root by ``sudo`` with a password."""
    if (why := missing()) and "CI" not in os.environ:
        pytest.skip(why)
    with sudoer() as account:
        yield account


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=400", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        if "CI" in os.environ:
            pytest.fail(mounted.stderr)
        pytest.skip("no small disk can be made here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
