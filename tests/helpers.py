"""What the tests share, beyond what `sitebus.testing` has for everybody.

Nothing here knows how sitebus works inside; a child is judged by what it prints, answers and
leaves behind, as its user would.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sitebus import testing
from sitebus.testing.leftovers import nothing_left, open_descriptors
from sitebus.testing.processes import PATIENCE
from sitebus.testing.waiting import wait_for

__all__ = [
    "PATIENCE",
    "ROOT",
    "RUNTIME",
    "URL",
    "WARNINGS",
    "Child",
    "SiteProcess",
    "environment",
    "nothing_left",
    "open_descriptors",
    "wait_for",
]

ROOT = Path(__file__).parent.parent

#: In a site as well, warnings are errors; WebOb imports cgi where it still exists.
WARNINGS = "error,ignore:'cgi' is deprecated:DeprecationWarning"

#: Where sites under test have their control sockets, rather than among those of this machine.
RUNTIME = tempfile.mkdtemp(prefix="sitebus-tests-")
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)

URL = re.compile(r"https?://[^\s/]+:\d+|unix:\S+")


def environment(**extra: str) -> dict[str, str]:
    """Answer an environment in which a child finds this sitebus, and nothing of the caller's."""
    foreign = ("SITEBUS_", "LISTEN_", "NOTIFY_", "PYTHON", "COV_", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    return kept | ours | {"XDG_RUNTIME_DIR": RUNTIME} | extra


class Child(testing.Child):
    """A program under test, in such an environment."""

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return environment(**extra)


class SiteProcess(testing.SiteProcess, Child):
    """``sitebus-serve`` with *arguments*, in such an environment, bound as these say."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] = {},
        options: Sequence[str] = (),
    ) -> None:
        told = {"PYTHONWARNINGS": WARNINGS, **env}
        super().__init__(*arguments, cwd=cwd, env=told, options=options, bind=None)
