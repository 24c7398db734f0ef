"""A command whose standard streams are closed, or full, does what it can and says so once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, environment

pytestmark = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no full device"
)

#: Serves until it serves, then ends.
BRIEF = """\
import sys, sitebus
from sitebus.cli.serve import main
sitebus.engine.subscribe("started", lambda: sitebus.engine.call_in_main(sitebus.engine.exit))
sys.exit(main(sys.argv[1:]))
"""


def shell(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run *command*, in which ``serve`` is sitebus-serve and ``brief`` ends once it serves."""
    (directory / "brief.py").write_text(BRIEF)
    python = f"'{sys.executable}'"
    functions = (
        "unset NO_COLOR\n"
        f'serve() {{ {python} -m sitebus "$@"; }}\n'
        f'brief() {{ {python} brief.py -b 127.0.0.1:0 hello:app "$@"; }}\n'
    )
    return subprocess.run(
        ["/bin/sh", "-c", functions + command],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("flag", ["--print-config", "--list-mounts", "--check", "--help"])
def test_what_cannot_be_printed_is_status_73(directory: Path, flag: str) -> None:
    """Half a configuration in a file must not look like a whole one."""
    done = shell(directory, f"serve hello:app {flag} > /dev/full")
    assert done.stderr == (
        "sitebus-serve: cannot write to standard output: no space left on device\n"
    )
    assert done.returncode == 73


def test_a_message_that_cannot_be_written_keeps_its_status(directory: Path) -> None:
    """It is all that a service manager gets to know then."""
    assert shell(directory, "serve gone.ini 2> /dev/full").returncode == 66
    assert shell(directory, "serve gone.ini 2>&-").returncode == 66


@pytest.mark.parametrize("streams", ["2>&-", ">&-", "<&- >&- 2>&-", "2> /dev/full"])
def test_a_site_serves_without_streams(directory: Path, streams: str) -> None:
    """Whoever closed them did not ask for less of a site."""
    done = shell(directory, f"brief {streams}")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_a_log_on_a_full_disk_costs_one_line(directory: Path) -> None:
    """At the end of the process too."""
    done = shell(directory, "brief -q -o logging.error=/dev/full -o logging.level=info")
    assert done.stderr == (
        "sitebus: cannot write the log '/dev/full': [Errno 28] No space left on device\n"
    )
    assert done.returncode == 0
