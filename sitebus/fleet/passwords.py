"""Passwords for ssh and sudo: from a file, from the caller, from the environment; never the ini."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sitebus.errors import AccessDenied
from sitebus.fleet.inventory import HostEntry

#: What the environment may say, for all hosts whose files say nothing.
PASSWORD = "SITEBUS_FLEET_PASSWORD"
BECOME_PASSWORD = "SITEBUS_FLEET_BECOME_PASSWORD"
NAMES = frozenset({PASSWORD, BECOME_PASSWORD})

_MOST = 4096


class Passwords(NamedTuple):
    """What is given for hosts that have no file of their own."""

    password: str | None = None
    become_password: str | None = None

    @classmethod
    def given(
        cls, password: str | None, become_password: str | None, environ: Mapping[str, str]
    ) -> Passwords:
        """Answer what the caller has given, or else the environment."""
        return cls(
            password or environ.get(PASSWORD) or None,
            become_password or environ.get(BECOME_PASSWORD) or None,
        )

    def of(self, entry: HostEntry) -> tuple[str | None, str | None]:
        """Answer a host's passwords, for ssh and for becoming another user.

        Raises:
            AccessDenied: A file that should have one is not fit for that.
        """
        return (
            _read(entry, entry.password_file) or self.password,
            _read(entry, entry.become_password_file) or self.become_password,
        )


def _read(entry: HostEntry, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            text = file.read(_MOST)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        sentence = f"cannot read the password in {path}: {(reason or '').lower()}; name another"
        raise AccessDenied(entry.name, sentence) from None
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid()):
        sentence = f"others may read the password in {path}; run: chmod 600 {path}"
        raise AccessDenied(entry.name, sentence)
    return text.rstrip("\r\n") or None
