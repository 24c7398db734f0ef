"""Releases come and go on three hosts, and of the requests that go on all the time none fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.driving import BRIEF, run
from tests.fleet.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def fleet(rig: Rig) -> Iterator[Rig]:
    """Three hosts that serve their first release."""
    rig.serve("r1")
    yield rig
    for host in rig.hosts:
        assert host.site
        assert host.site.stop() == 0
        if rig.method == "ssh":
            assert not host.guests(), "whatever came from elsewhere has left"


@pytest.fixture(scope="module")
def ini(fleet: Rig) -> Path:
    return fleet.write_ini()


def versions(rig: Rig) -> dict[str, set[str]]:
    """Answer which releases each host answers, asked as often as it has workers and more."""
    return {
        host.name: {json.loads(host.ask()[1])["version"] for _ in range(6)} for host in rig.hosts
    }


def assert_all_serve(rig: Rig, version: str) -> None:
    assert versions(rig) == {host.name: {version} for host in rig.hosts}
    assert {host.current for host in rig.hosts} == {version}


def test_a_deploy_and_its_rollback_cost_nobody_a_request(
    fleet: Rig, ini: Path, tmp_path: Path
) -> None:
    """Every host answers the new release, and then again the old one."""
    release = shop.write_release(tmp_path / "r2", "r2")
    with fleet.load() as load:
        load.go_on()
        deployed = run(ini, "deploy", release, *BRIEF)
        assert deployed.status == 0, deployed.all
        load.go_on()
        assert_all_serve(fleet, "r2")

        back = run(ini, "rollback", *BRIEF)
        assert back.status == 0, back.all
        load.go_on()
        assert_all_serve(fleet, "r1")

    assert load.failures == {}
    assert load.answered > 200


def test_a_release_that_does_not_boot_is_taken_back_everywhere(
    fleet: Rig, ini: Path, tmp_path: Path
) -> None:
    """It served well on the first host, and not at all on the second."""
    release = shop.write_release(tmp_path / "r3", "r3", shop.on("web2", shop.BROKEN))
    with fleet.load() as load:
        load.go_on()
        done = run(ini, "deploy", release, *BRIEF)
        load.go_on()

    assert done.status == 1, done.all
    assert "web2" in done.all
    assert "no_such_module_of_the_shop" in done.all
    assert "Traceback" not in done.err
    assert load.failures == {}
    assert set(load.shoppers["web1"].versions) == {"r1", "r3"}
    assert set(load.shoppers["web3"].versions) == {"r1"}, "it was never touched"
    assert_all_serve(fleet, "r1")


def test_a_release_that_answers_500_is_seen_by_nobody(
    fleet: Rig, ini: Path, tmp_path: Path
) -> None:
    """Its workers ask it first, and never serve; the hosts before it go back."""
    release = shop.write_release(tmp_path / "r4", "r4", shop.on("web3", shop.FAILING))
    with fleet.load() as load:
        load.go_on()
        done = run(ini, "deploy", release, *BRIEF)
        load.go_on()

    assert done.status == 1, done.all
    assert "web3" in done.all
    assert "500" in done.all
    assert load.failures == {}
    assert set(load.shoppers["web2"].versions) == {"r1", "r4"}
    assert set(load.shoppers["web3"].versions) == {"r1"}
    assert_all_serve(fleet, "r1")


def test_a_canary_alone_gets_what_is_broken(fleet: Rig, tmp_path: Path) -> None:
    """It is the first, and the others are never touched."""
    told = {"canaries": "first"}
    path = tmp_path / "canary.ini"
    ini = fleet.write_ini(path, fleet=told, extra="[group first]\nhosts = web3\n")
    release = shop.write_release(tmp_path / "r5", "r5", shop.BROKEN)
    with fleet.load() as load:
        load.go_on()
        done = run(ini, "deploy", release, *BRIEF)
        load.go_on()

    assert done.status == 1, done.all
    assert "web3: failed" in done.out
    assert "web1: activating" not in done.out
    assert load.failures == {}
    assert_all_serve(fleet, "r1")
