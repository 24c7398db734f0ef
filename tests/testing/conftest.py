"""Runs of pytest as a user has them: in a directory of their own, the plugin found by itself."""

from __future__ import annotations

import configparser
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, ROOT, environment

APPLICATION = """\
def app(environ, start_response):
    if environ["PATH_INFO"] == "/bad":
        raise RuntimeError("no tea left")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"tea"]
"""

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def entry_points() -> str:
    """Answer what an installation says of the plugin, whether or not sitebus is installed here."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return f"[pytest11]\n{setup['options.entry_points']['pytest11'].strip()}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an application, and beside it what an installation leaves of sitebus."""
    installed = tmp_path / "installed" / "sitebus-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: sitebus\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(entry_points())
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "shop.py").write_text(APPLICATION)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return folder


@pytest.fixture
def run(project: Path) -> Run:
    """Run a program of Python's in the project, and answer what it said."""

    def run(*arguments: str, **env: str) -> Result:
        path = f"{ROOT}:{project.parent / 'installed'}"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env=environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    return run


@pytest.fixture
def tests(project: Path, run: Run) -> Run:
    """Run pytest on a module of tests, with our plugin alone unless `plugins` names others.

    None of them is what a user has: pytest loads all that are installed, which takes its time.
    """

    def tests(text: str, *options: str, plugins: tuple[str, ...] = ("sitebus",)) -> Result:
        (project / "test_it.py").write_text(text)
        # The other plugins of this machine may warn.
        chosen = ["-p", "no:cacheprovider", "-p", "no:dash", "-Werror", "-q", *options]
        for name in plugins:
            chosen += ["-p", name]
        env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if plugins else {}
        return run("-m", "pytest", *chosen, **env)

    return tests
