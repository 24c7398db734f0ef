"""A directory with small applications, and the command run in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, environment

APPLICATIONS = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

def greeter(greeting="hello"):
    def greet(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [greeting.encode()]
    return greet

def shouting(app, mark="!"):
    def shout(environ, start_response):
        return [part.upper() + mark.encode() for part in app(environ, start_response)]
    return shout

number = 7
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Answer a directory that has applications to serve, good and bad."""
    (tmp_path / "hello.py").write_text(APPLICATIONS)
    (tmp_path / "broken.py").write_text("import hello\nprice = 1 / 0\n")
    (tmp_path / "typo.py").write_text("def app(:\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit('I am a script')\n")
    return tmp_path


@pytest.fixture
def command(directory: Path) -> Command:
    """Run ``sitebus-serve`` to its end, and answer what it said on either stream."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sitebus", *arguments],
            cwd=directory,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run
