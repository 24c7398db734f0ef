"""A new release is served, however soon it comes after the one before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workers.site import RELEASE, WorkerSite, write


def bring(folder: Path, version: str, moment: float) -> None:
    """Write a release that looks like any other from outside: size and second are the same."""
    draft = folder / "release.draft"
    draft.write_text(RELEASE.format(version=version))
    os.utime(draft, (moment, moment))
    draft.replace(folder / "release.py")


@pytest.mark.parametrize("preload", ["no", "yes"])
def test_two_releases_in_one_second_are_two(preload: str, tmp_path: Path) -> None:
    """Python would take the bytecode of the first for that of the second."""
    write(tmp_path, preload=preload)
    (tmp_path / "shop.py").touch()
    import time

    moment = float(int(time.time()) + 60)
    bring(tmp_path, "one", moment)
    with WorkerSite(tmp_path, env={"PYTHONDONTWRITEBYTECODE": ""}) as site:
        assert site.ask()["version"] == "one"
        bring(tmp_path, "two", moment)
        site.roll()
        assert site.ask()["version"] == "two"
