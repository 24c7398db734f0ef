"""A soak finds what it looks for: in peace nothing, in a site that leaks or loses, just that."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from benchmarks.soak import site as sites
from benchmarks.soak.events import Operator
from benchmarks.soak.run import Soak, growth
from benchmarks.soak.site import Site, Vitals
from tests.helpers import PATIENCE, ROOT, Child, nothing_left, wait_for

REST = Vitals(descriptors=20, threads=10, memory=50_000)


@pytest.mark.parametrize(
    ("middle", "end", "told"),
    [
        (REST, REST, []),
        (REST, Vitals(19, 9, 40_000), []),
        # Threads that are about to end, and a heap that has not come back to the byte.
        (REST, Vitals(20, 12, 63_000), []),
        # What the image before the last had does not count.
        (Vitals(20, 10, 90_000), Vitals(20, 10, 90_000), []),
        (REST, Vitals(21, 10, 50_000), ["descriptors grew from 20 to 21"]),
        (REST, Vitals(20, 13, 50_000), ["threads grew from 10 to 13"]),
        (REST, Vitals(20, 10, 64_000), ["memory grew from 50000 KB to 64000 KB without a restart"]),
    ],
)
def test_growth_is_told(middle: Vitals, end: Vitals, told: list[str]) -> None:
    """What a site has at rest is what it keeps."""
    assert list(growth(REST, middle, end)) == told


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files, which has to be empty afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_every_event_comes_true(tmp_path: Path) -> None:
    """An operator that does nothing would let every site pass."""
    done: Counter[str] = Counter()
    with Site(tmp_path, "cheroot") as site:
        operator = Operator(site, Random(1), done)
        for event in Operator.HARMLESS:
            operator.do(event)
        for event in ("restart", "code change"):
            before = site.told()["boot"]
            operator.do(event)
            # For a moment both answer.
            wait_for(partial(_is_another, site, before), what=f"another after a {event}")
        assert site.stop() == os.EX_OK

    assert (operator.complaints, set(done)) == ([], set(Operator.ALL))


def _is_another(site: Site, boot: object) -> bool:
    return bool(site.told()["boot"] != boot)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_soak_in_peace_ends_well(tmp_path: Path) -> None:
    """The command as CI gives it, but for the time: it prints its table, and leaves nothing."""
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "6", "--seed", "1"]
    with Child(command, cwd=ROOT, env={"TMPDIR": str(tmp_path)}) as soak:
        assert soak.wait(120) == os.EX_OK, soak

    assert "seed 1" in soak.output
    assert "all is well" in soak.output
    assert "\r" not in soak.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_soak_that_is_cut_short_leaves_nothing(number: int, tmp_path: Path) -> None:
    """CI has its own deadline, and whoever watches may have seen enough."""
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "60"]
    with Child(command, cwd=ROOT, env={"TMPDIR": str(tmp_path)}) as soak:
        wait_for(lambda: list(tmp_path.glob("soak-*/site.sock")), PATIENCE, "the site to serve")
        (folder,) = tmp_path.iterdir()
        site = next(pid for pid in _processes() if _folder_of(pid) == folder)
        soak.signal(number)
        assert soak.wait() != os.EX_OK

    assert list(tmp_path.iterdir()) == []
    # It may be any of the site's processes; what is left of an orphan is gone a moment later.
    wait_for(lambda: site not in _processes(), what="the site to be gone")


def _processes() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


def _folder_of(pid: str) -> Path | None:
    with suppress(OSError):  # gone, or somebody else's
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    return None


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_leak_is_found(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that nobody closes, answers that are another's, and what is logged of failures."""
    good = "return answer(start_response, text.encode())"
    leaky = f"leaked.append(open(__file__)); {good}"
    front = sites.FRONT.replace(good, leaky).replace("passing = []", "passing, leaked = [], []")
    front = front.replace("first = saying(", "first = saying('not ' + ")
    front += '\nsitebus.engine.subscribe("started", lambda: sitebus.engine.log("help", 40))\n'
    assert front.count("leaked") == 2
    assert front.count("'not ' + ") == 1
    monkeypatch.setattr(sites, "FRONT", front)

    with nothing_left():
        soak = Soak("cheroot", 6, seed=1)
        assert not soak.run()

    assert any(each.startswith("descriptors grew") for each in soak.complaints)
    assert any("not swapped 0" in each for each in soak.complaints)
    assert any(each.startswith("logged ") and each.endswith(": help") for each in soak.complaints)
    assert "NOT well" in capsys.readouterr().out
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_site_that_does_not_start_is_told_of(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the site has said tells why."""
    monkeypatch.setattr(sites, "_INI", sites._INI.replace("name = soak", "nome = soak"))

    assert not Soak("cheroot", 10, seed=1).run()

    assert "it ended with status 78" in capsys.readouterr().out
    assert list(temporary.iterdir()) == []
