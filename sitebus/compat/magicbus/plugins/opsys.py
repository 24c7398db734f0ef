"""Every public name of ``magicbus.plugins.opsys``: the plugins of `sitebus.plugins`.

They can be subclassed as magicbus' can: by overriding START, ENTER and EXIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from sitebus.compat.named import Named
from sitebus.plugins import SimplePlugin, daemon, pidfile, privileges

__all__ = ["Daemonizer", "DropPrivileges", "PIDFile", "SimplePlugin", "grp", "pwd"]

pwd: ModuleType | None
grp: ModuleType | None
try:
    import grp
    import pwd
except ImportError:  # Windows has neither
    pwd, grp = None, None


class DropPrivileges(Named, privileges.DropPrivileges, SimplePlugin):
    """Become another user once everything that needs root is done."""

    START = privileges.DropPrivileges.start


class Daemonizer(Named, daemon.Daemonizer, SimplePlugin):
    """Leave the terminal."""

    CHANNELS: ClassVar[Mapping[str, str]] = {"start": "ENTER"}
    ENTER = daemon.Daemonizer.start


class PIDFile(Named, pidfile.PIDFile, SimplePlugin):
    """Keep the process's number in a file."""

    CHANNELS: ClassVar[Mapping[str, str]] = {"start": "ENTER"}
    ENTER = pidfile.PIDFile.start
    EXIT = pidfile.PIDFile.exit
