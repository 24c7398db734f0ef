"""The pages about the fleet tell what there is, and their programs run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.fleet import _mitogen, agent_shelf, fleets, journal
from sitebus.fleet.operations import Step
from sitebus.fleet.passwords import BECOME_PASSWORD, PASSWORD
from sitebus.fleet.rolling import Result, State
from tests.fleet.rig import Rig, hosts
from tests.helpers import ROOT, environment
from tests.test_docs import BLOCKS

REFERENCE = (ROOT / "docs" / "reference" / "fleet.rst").read_text()
HOWTO = (ROOT / "docs" / "howto" / "fleet.rst").read_text()


@pytest.mark.parametrize(
    "words",
    [
        [each for each in State if each is not State.WAITING],
        list(Step),
        [each for each in Result if each is not Result.RUNNING],
    ],
)
def test_the_words_of_a_journal_are_told(words: list[str]) -> None:
    """Whoever reads one with a program has to know them all."""
    section = REFERENCE.partition("The journal of a roll")[2].partition("On a host")[0]
    assert [word for word in words if f"``{word}``" not in section] == []
    assert f"``v`` ({journal.VERSION})" in section


def test_every_kind_of_line_is_told() -> None:
    """As the code writes them."""
    section = REFERENCE.partition("The journal of a roll")[2].partition("On a host")[0]
    told = set(re.findall(r"^``(\w+)``$", section, re.MULTILINE))
    files = (ROOT / "sitebus" / "fleet").glob("*.py")
    written = {
        kind
        for path in files
        if not path.name.startswith("agent")
        for kind in re.findall(r'"is": "(\w+)"', path.read_text())
    }
    assert told == written


def test_what_is_on_a_host_is_told() -> None:
    """Somebody will look there."""
    names = (agent_shelf.MARK, agent_shelf.FILES, agent_shelf.STAGING)
    for name in (*names, agent_shelf.BEFORE):
        assert f"{name}" in REFERENCE
    for name in (PASSWORD, BECOME_PASSWORD):
        assert f"``{name}``" in REFERENCE


def test_the_safety_that_is_told_is_there() -> None:
    """Each switch that mitogen has for it."""
    assert _mitogen._Router.unidirectional
    source = Path(_mitogen.__file__).read_text() + Path(fleets.__file__).read_text()
    for word in ("whitelist_prefix", "add_source_override", "GET_RESOURCE"):
        assert word in source
    assert ".fork(" not in source


@pytest.fixture(scope="module")
def served() -> Iterator[Rig]:
    """Two hosts that are this machine, with a site each."""
    with hosts(2, local=True) as rig:
        for host in rig.hosts:
            host.install()
            file = host.root / "current" / "site.ini"
            file.write_text(file.read_text().replace("publish = shop.*", "publish = shop.news"))
            host.serve()
        yield rig


def programs(page: str) -> list[str]:
    """Answer the programs of a page that are complete."""
    found = [each for each in BLOCKS if each.page.match(page) and each.language == "python"]
    return [each.text for each in found if "with fleet.open" in each.text]


@pytest.mark.parametrize("page", ["howto/fleet.rst", "reference/fleet.rst"])
def test_the_programs_run(served: Rig, tmp_path: Path, page: str) -> None:
    """As they stand, but for where things are."""
    served.write_ini(tmp_path / "fleet.ini")
    for each in BLOCKS:
        if each.page.match(page) and each.caption == "chores.py":
            (tmp_path / "chores.py").write_text(each.text)
    root = served["web1"].root
    (root / "shared" / "kept").write_text("kept")
    subprocess.run(["git", "init", "-q", "--bare", str(root / "notes.git")], check=True)
    texts = programs(page)
    assert texts
    for text in texts:
        done = subprocess.run(
            [sys.executable, "-c", text.replace("/srv/shop", str(root))],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    if page == "howto/fleet.rst":
        assert (tmp_path / "backup" / "kept").read_text() == "kept"
        assert (tmp_path / "notes" / ".git").is_dir()
        assert "worker.ready" in done.stdout
