"""A directory with applications for PasteDeploy, and distributions that name them."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT

#: The factories that PasteDeploy calls, in a module of its own.
FACTORIES = """\
def page(text):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{text} {environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]
    return application

def make(global_conf, greeting="hello", **settings):
    told = " ".join(f"{key}={value}" for key, value in sorted(settings.items()))
    return page(f"{greeting} {told}".strip())

def loud(app, global_conf, mark="!"):
    def shout(environ, start_response):
        return [part.upper() + mark.encode() for part in app(environ, start_response)]
    return shout

def broken(global_conf):
    raise ValueError("no database")
"""

Distribution = Callable[[str, dict[str, str]], Path]


def distribution(directory: Path, name: str, groups: dict[str, str]) -> Path:
    """Install, as far as PasteDeploy can tell, what has these entry points."""
    folder = directory / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n{points}\n" for group, points in groups.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Answer a directory with the module ``shop``, which the egg ``shop`` has in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "shop.py").write_text(FACTORIES)
    points = "main = shop:make\nbroken = shop:broken"
    filters = "loud = shop:loud"
    groups = {"paste.app_factory": points, "paste.filter_app_factory": filters}
    return distribution(folder, "shop", groups)


@pytest.fixture
def own_egg(tmp_path: Path) -> Path:
    """Answer a directory that makes sitebus known with the entry points that it ships."""
    setup = configparser.ConfigParser()
    setup.optionxform = str  # type: ignore[assignment,method-assign]
    setup.read(ROOT / "setup.cfg")
    points = setup["options.entry_points"]
    groups = {group: text.strip() for group, text in points.items() if group.startswith("paste.")}
    return distribution(tmp_path / "metadata", "sitebus", groups)
