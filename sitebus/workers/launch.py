"""What a worker is told when it starts: which site it serves, from where, and on which sockets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sitebus.assembly.environment import original
from sitebus.config import Override
from sitebus.reexec import interpreter_options


class Launch(NamedTuple):
    """How a site was called for; each worker reads its configuration anew from this.

    Attributes:
        config: The ``site.ini``, if there is one.
        overrides: What the command line says besides.
        env_file: What a file says of the environment, where nobody else does.
    """

    config: Path | None
    overrides: Sequence[Override] = ()
    env_file: Mapping[str, str] = {}


class Terms(NamedTuple):
    """What every worker of a supervisor is told alike.

    Attributes:
        drain_timeout: How long it may take to finish once its supervisor is gone; seconds.
        idle_beat: How long it may be silent while nothing happens; seconds.
    """

    launch: Launch
    drain_timeout: float
    idle_beat: float

    def boot(self, serial: int, slot: int, sockets: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """Answer the first message to a worker."""
        config = self.launch.config
        return {
            "is": "boot",
            "serial": serial,
            "slot": slot,
            "directory": os.getcwd(),
            "path": [*sys.path],
            "argv": [*sys.argv],
            "config": None if config is None else str(config.absolute()),
            "overrides": [list(each) for each in self.launch.overrides],
            "env_file": dict(self.launch.env_file),
            "sockets": [list(each) for each in sockets],
            "drain_timeout": self.drain_timeout,
            "idle_beat": self.idle_beat,
        }


def command_line(option: str, fd: int, *told: str) -> list[str]:
    """Answer how a process of the site is run; *told* is for people who look at processes."""
    options = interpreter_options(sys.orig_argv)
    return [sys.executable, *options, "-m", "sitebus.workers", f"{option}={fd}", *told]


def environment() -> dict[str, str]:
    """Answer the environment of a worker: ours, as it was before the configuration was read."""
    return original()
