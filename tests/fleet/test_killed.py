"""Who rolls is killed, and what is rolled: the sites that are left serve on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.driving import BRIEF, begin, run
from tests.fleet.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def test_a_killed_master_leaves_sites_that_serve_and_a_roll_to_resume(
    anew: Rig, ini: Path, tmp_path: Path
) -> None:
    """Nothing of it is left on the hosts; what it had begun is found in its journal."""
    release = shop.waiting_on("web2", tmp_path)
    with anew.load() as load, shop.Gate(anew["web2"].root) as gate:
        with begin(ini, "deploy", release, *BRIEF) as roll:
            gate.wait()
            roll.process.kill()
            roll.wait()
        for host in anew.hosts:
            host.wait_for_guests()
        load.go_on()
        gate.open()

        resumed = run(ini, "deploy", "--resume")
        load.go_on()

    assert resumed.status == 0, resumed.all
    assert anew.releases() == ["r2", "r2", "r2"]
    assert load.failures == {}


def test_a_site_that_is_killed_ends_the_roll(anew: Rig, ini: Path, tmp_path: Path) -> None:
    """The others serve on with the release that they had; the way back starts that site again."""
    release = shop.waiting_on("web2", tmp_path)
    with anew.load("web1", "web3") as load, shop.Gate(anew["web2"].root) as gate:
        with begin(ini, "deploy", release, *BRIEF) as roll:
            gate.wait()
            anew["web2"].kill_site()
            assert roll.wait(40) == 1, roll
        load.go_on()

    assert "web2" in roll.output
    assert load.failures == {}
    assert anew.releases() == ["r1", "r1", "r1"]
