"""What a serving process has imported: cheroot's modules, ours, and next to nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.helpers import PATIENCE, URL, Child, environment

#: What the command needs beyond cheroot: its arguments, ``python -m`` and signals. Where gettext is
#: not cheroot's already, it brings the locale.
COMMAND = {"argparse", "gettext", "locale", "_locale", "runpy", "signal"}
#: What ``sitebus.quickstart`` needs beyond cheroot: neither arguments nor ``python -m``.
QUICK = {"signal"}
#: Of ours, what a site without a file does not need.
FOR_FILES = {"sitebus.config.sources", "sitebus.config.tokens"}
FOR_THE_COMMAND = {"sitebus.cli.arguments", "sitebus.cli.serve"}

APPLICATION = """\
import sys


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\\n".join(sorted(sys.modules)).encode()]
"""
QUICKSTART = (
    APPLICATION
    + """\


if __name__ == "__main__":
    import sitebus

    sitebus.quickstart(app, bind="127.0.0.1:0")
"""
)


@pytest.fixture(scope="module")
def with_cheroot() -> set[str]:
    """The modules of a process that could serve by cheroot alone."""
    program = "import json, sys, cheroot.wsgi, cheroot.ssl; print(json.dumps(list(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return set(json.loads(answer.stdout))


def modules_of(site: Child) -> set[str]:
    """Answer what the application of *site* saw."""
    with urlopen(site.wait_for_output(URL).group(), timeout=PATIENCE) as response:
        return set(response.read().decode().split())


def of_the_library(modules: set[str]) -> set[str]:
    """Answer those of the standard library, packages for their parts."""
    return {name.partition(".")[0] for name in modules} & sys.stdlib_module_names


def test_the_command_imports_little_beyond_cheroot(tmp_path: Path, with_cheroot: set[str]) -> None:
    """Each module more is waited for at every start, and at every restart."""
    (tmp_path / "said.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "sitebus", "-b", "127.0.0.1:0", "said:app"]
    with Child(command, tmp_path) as site:
        modules = modules_of(site)
    assert of_the_library(modules - with_cheroot) <= COMMAND
    assert not FOR_FILES & modules


def test_quickstart_imports_less_than_the_command(tmp_path: Path, with_cheroot: set[str]) -> None:
    """A program that serves itself has no arguments of ours to read."""
    program = tmp_path / "said.py"
    program.write_text(QUICKSTART)
    with Child([sys.executable, program], tmp_path) as site:
        modules = modules_of(site)
    assert of_the_library(modules - with_cheroot) <= QUICK
    assert not (FOR_FILES | FOR_THE_COMMAND) & modules
