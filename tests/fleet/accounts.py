"""A user of this machine for as long as a test takes, who becomes root with a password."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.helpers import wait_for

SUDOERS = Path("/etc/sudoers.d")
_OURS = re.compile(r"^(sbu(\d+)x\d+)$")


class Account(NamedTuple):
    """A user, and the password that sudo asks of this user."""

    name: str
    password: str


def missing() -> str:
    """Answer why there can be none; empty if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root makes users"
    found = [name for name in ("sudo", "useradd", "chpasswd") if shutil.which(name) is None]
    return f"not installed: {', '.join(found)}" if found else ""


@contextmanager
def sudoer(password: str = "open sesame") -> Iterator[Account]:
    """Have a user with a shell and no home, who may do anything by ``sudo`` with a password."""
    sweep()
    taken = {path.name for path in SUDOERS.iterdir()}
    name = next(name for n in range(1000) if (name := f"sbu{os.getpid()}x{n}") not in taken)
    rule = SUDOERS / name
    try:
        _run("useradd", "--no-create-home", "--shell", "/bin/sh", "--home-dir", "/", name)
        _run("chpasswd", told=f"{name}:{password}\n")
        rule.write_text(f"Defaults:{name} !lecture\n{name} ALL=(ALL) ALL\n")
        rule.chmod(0o440)
        yield Account(name, password)
    finally:
        _remove(name)


def sweep() -> None:
    """Remove whom processes left here that are no more."""
    for path in SUDOERS.iterdir():
        found = _OURS.match(path.name)
        if found and not os.path.exists(f"/proc/{found[2]}"):
            _remove(found[1])


def _remove(name: str) -> None:
    (SUDOERS / name).unlink(missing_ok=True)
    with suppress(AssertionError):
        _run("userdel", "--force", name)


def _run(*command: str, told: str = "") -> None:
    """Run one of the commands that lock the list of users, as soon as nobody else does."""

    def done() -> bool:
        result = subprocess.run(command, input=told, capture_output=True, text=True, timeout=30)
        assert "lock" in result.stderr or result.returncode == 0, result.stderr
        return result.returncode == 0

    wait_for(done, 20, f"{command[0]} to get its lock")
