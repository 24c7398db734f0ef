"""A site whose libraries are kept between reloads, for tests that change and harm it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import PATIENCE, ROOT, environment, wait_for
from tests.workers.site import WorkerSite, children

SITE = """\
[site]
name = shop
[server]
adapter = cheroot
bind = 127.0.0.1:0
[logging]
access = off
[mount /]
app = shop:application
[workers]
count = {workers}
[reload]
enabled = yes
warm = yes
{more}
"""

#: Says who it is, what others said when they were imported, and in which process that was.
APPLICATION = """\
import json
import os

import heavy
import release
{imports}


def application(environ, start_response):
    if environ["PATH_INFO"] == "/later":
        import later
    told = {{
        "pid": os.getpid(),
        "parent": os.getppid(),
        "version": release.VERSION,
        "heavy": heavy.IMPORTED_BY,
        "answer": {answer},
    }}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

#: Notes which process has imported it.
HEAVY = """\
import os

with open(__name__ + ".txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
IMPORTED_BY = os.getpid()
"""


def control(command: str, socket: Path) -> None:
    """Have a site do that."""
    program = "import sys\nfrom sitebus.cli.ctl import main\nsys.exit(main())"
    argv = [sys.executable, "-c", program, str(socket), command]
    subprocess.run(argv, env=environment(), check=True, timeout=PATIENCE)


def importers(folder: Path, name: str) -> list[int]:
    """Answer the pid of each process that has imported a module that notes it."""
    file = folder / f"{name}.txt"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


class WarmSite(WorkerSite):
    """A site that is reloaded warm, and libraries of its own."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(folder.parent / "site-packages")])
        super().__init__(folder, env={"PYTHONPATH": path})

    @property
    def keepers(self) -> list[int]:
        """Answer the pid of each process that keeps libraries."""
        return [pid for pid, line in children(self.pid).items() if "--warm" in line]

    @property
    def ahead(self) -> set[int]:
        """Answer the pid of each fork that waits to be used."""
        present = {self.ask()["pid"]}
        return {pid for keeper in self.keepers for pid in children(keeper)} - present

    def wait_until_warm(self) -> int:
        """Wait for a fork that was made ahead, and answer the pid of the process it is of."""
        wait_for(lambda: self.ahead, PATIENCE, "a fork")
        (keeper,) = self.keepers
        return keeper

    def save(self, name: str, text: str) -> None:
        """Put another version of a project's file in place."""
        draft = self.folder.parent / "draft"
        draft.write_text(text)
        draft.replace(self.folder / name)

    def reload(self, version: str) -> dict[str, Any]:
        """Save a version, and answer what the first worker says that has it."""
        self.save("release.py", f"VERSION = {version!r}\n")
        return self.wait_for_told("version", version)

    def wait_for_told(self, name: str, value: object) -> dict[str, Any]:
        """Wait until a worker says that, and answer everything it said."""
        told: list[dict[str, Any]] = []

        def is_so() -> bool:
            told.append(self.ask())
            return bool(told[-1][name] == value)

        wait_for(is_so, PATIENCE, f"{name} to be {value!r}")
        return told[-1]
