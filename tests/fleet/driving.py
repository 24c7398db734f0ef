"""The command ``sitebus-fleet`` as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers import ROOT, WARNINGS, Child, environment

_PROGRAM = (sys.executable, "-m", "sitebus.cli.fleet")

#: For rolls: hosts are looked at, and not for long.
BRIEF = ("--soak", "0.2", "--checks", "2")


class Done(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def all(self) -> str:
        """Everything it printed."""
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(ini: Path, *arguments: str | Path) -> list[str]:
    return [*_PROGRAM, "--fleet", str(ini), *map(str, arguments)]


def run(ini: Path, *arguments: str | Path) -> Done:
    """Run it to its end."""
    done = subprocess.run(
        command(ini, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=environment(PYTHONWARNINGS=WARNINGS),
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def begin(ini: Path, *arguments: str | Path) -> Child:
    """Begin it, for who wants to interfere; it ends with the block."""
    return Child(command(ini, *arguments), ROOT, {"PYTHONWARNINGS": WARNINGS})
