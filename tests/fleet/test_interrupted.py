"""Rolls that are interrupted half way: what is known is said, and what can be put right is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.driving import BRIEF, begin, run
from tests.fleet.rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def test_a_host_that_is_cut_off_is_unknown_until_the_roll_is_resumed(
    anew: Rig, ini: Path, tmp_path: Path
) -> None:
    """Those before it go back, those behind it are not touched, and nothing new begins."""
    release = shop.waiting_on("web2", tmp_path)
    web2 = anew["web2"]
    with anew.load("web1", "web3") as load, shop.Gate(web2.root) as gate:
        with begin(ini, "deploy", release, *BRIEF) as roll:
            gate.wait()
            web2.cut()
            try:
                assert roll.wait(40) == 3, roll
                again = run(ini, "deploy", release, *BRIEF)
            finally:
                web2.mend()
        assert "web2" in roll.output
        assert "unknown" in roll.output
        assert again.status == 3, again.all
        assert "web2" in again.err
        assert [anew[name].current for name in ("web1", "web3")] == ["r1", "r1"]
        assert set(load.shoppers["web1"].versions) == {"r1", "r2"}
        assert set(load.shoppers["web3"].versions) == {"r1"}

        gate.open()
        resumed = run(ini, "deploy", "--resume")
        load.go_on()

    assert resumed.status == 1, resumed.all
    assert "was rolled back" in resumed.all
    assert anew.releases() == ["r1", "r1", "r1"]
    assert load.failures == {}


def test_a_session_that_is_killed_costs_the_roll_and_no_more(
    anew: Rig, ini: Path, tmp_path: Path
) -> None:
    """The host is there still: it is asked again, and goes back like those before it."""
    release = shop.waiting_on("web2", tmp_path, "r3")
    with anew.load() as load, shop.Gate(anew["web2"].root) as gate:
        with begin(ini, "deploy", release, *BRIEF) as roll:
            gate.wait()
            anew["web2"].kill_sessions()
            roll.wait_for_output("web2: back: reloading")
            gate.open()
            assert roll.wait(40) == 1, roll
        load.go_on()

    assert "failed, and was rolled back" in roll.output
    assert anew.releases() == ["r1", "r1", "r1"]
    assert load.failures == {}


def test_two_operators_do_not_roll_at_the_same_time(anew: Rig, ini: Path, tmp_path: Path) -> None:
    """The second is told since when the first does, and changes nothing."""
    release = shop.waiting_on("web1", tmp_path, "r4")
    other = anew.write_ini(tmp_path / "other.ini", fleet={"journal": tmp_path / "others"})
    second = shop.write_release(tmp_path / "r5", "r5")
    with anew.load() as load, shop.Gate(anew["web1"].root) as gate:
        with begin(ini, "deploy", release, *BRIEF) as roll:
            gate.wait()

            refused = run(other, "deploy", second, *BRIEF)

            assert refused.status == 1, refused.all
            assert "another roll is running" in refused.err
            gate.open()
            assert roll.wait(40) == 0, roll
        load.go_on()
    assert anew.releases() == ["r4", "r4", "r4"]
    assert load.failures == {}
