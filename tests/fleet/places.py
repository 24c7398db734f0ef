"""One host of a fleet, for tests that need no more: this machine, or this machine by ssh."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sitebus import fleet
from sitebus.fleet.host import Host
from tests.fleet.accounts import Account
from tests.fleet.sshd import Loopback

NAME = "web1"


@contextmanager
def host_of(folder: Path, rows: dict[str, object], **secrets: str) -> Iterator[Host]:
    """Have a host for the block, with those rows in its fleet.ini."""
    lines = [f"{key} = {value}" for key, value in {"python": sys.executable, **rows}.items()]
    file = folder / "fleet.ini"
    file.write_text("\n".join(["[fleet]", *lines, "[hosts]", f"{NAME} = 127.0.0.1", ""]))
    with fleet.open(file, **secrets) as opened:  # type: ignore[arg-type]  # of strings alone
        yield opened[NAME]


@contextmanager
def here(folder: Path) -> Iterator[Host]:
    """Have this machine as a host, without anything between."""
    with host_of(folder, {"method": "local"}) as host:
        yield host


def _rows(loopback: Loopback, user: str) -> dict[str, object]:
    return {
        "port": loopback.port,
        "user": user,
        "identity": loopback.identity,
        "known_hosts": loopback.known_hosts,
    }


@contextmanager
def over_ssh(loopback: Loopback, folder: Path) -> Iterator[Host]:
    """Have this machine as a host that is reached by ssh."""
    with host_of(folder, _rows(loopback, loopback.user)) as host:
        yield host


@contextmanager
def by_sudo(account: Account, loopback: Loopback, folder: Path) -> Iterator[Host]:
    """Have it as one where a user comes by ssh, and becomes root with a password."""
    # The one that runs this may be where that user may not look.
    python = shutil.which("python3", path="/usr/bin:/bin") or pytest.fail("no /usr/bin/python3")
    become = {"become": "root", "become_method": "sudo"}
    rows = {**_rows(loopback, account.name), **become, "python": python}
    with host_of(folder, rows, become_password=account.password) as host:
        yield host
