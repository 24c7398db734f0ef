"""The command ``sitebus-fleet`` as an operator runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from sitebus.cli.fleet import main
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
    """Run it to its end, in this process: a process for each would cost more than what it does."""
    told, out, err = environment(PYTHONWARNINGS=WARNINGS), io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, told, clear=True),
        mock.patch.object(sys, "stdin", io.StringIO()),
        mock.patch.object(sys, "path", sys.path[:]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = main(["--fleet", str(ini), *map(str, arguments)])
    return Done(status, out.getvalue(), err.getvalue())


def run_apart(ini: Path, *arguments: str | Path, cwd: Path = ROOT) -> Done:
    """Run it to its end, in a process of its own as operators do."""
    done = subprocess.run(
        command(ini, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=environment(PYTHONWARNINGS=WARNINGS),
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def records(done: Done) -> list[dict[str, Any]]:
    """Answer what was told line by line."""
    return [json.loads(line) for line in done.out.splitlines()]


def begin(ini: Path, *arguments: str | Path) -> Child:
    """Begin it, for who wants to interfere; it ends with the block."""
    return Child(command(ini, *arguments), ROOT, {"PYTHONWARNINGS": WARNINGS})
