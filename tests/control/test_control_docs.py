"""The page of the control socket names what there is, and nothing else."""

from __future__ import annotations

import re

from sitebus.cli.ctl_arguments import COMMANDS
from sitebus.control.api import ROUTES
from sitebus.control.server import MOST_CLIENTS
from sitebus.control.wire import MOST_BODY, MOST_HEAD
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "reference" / "control.rst").read_text()


def test_every_path_is_told() -> None:
    """Whoever writes a client reads the page."""
    told = set(re.findall(r"^``(GET|POST) (/v1/\S+)``", PAGE, re.MULTILINE))
    assert told == {(route.method, route.path) for route in ROUTES}


def test_every_command_is_told() -> None:
    """In the table of sitebus-ctl."""
    rows = re.findall(r"^(``[a-z]+.*?)  ", PAGE.partition("sitebus-ctl\n-----")[2], re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"``([a-z]+)", row)}
    assert told == set(COMMANDS)


def test_the_limits_are_told() -> None:
    """A client that meets one has read of it."""
    for limit in (f"above {MOST_BODY >> 10} kB", f"above {MOST_HEAD >> 10} kB", f"({MOST_CLIENTS}"):
        assert limit in PAGE
