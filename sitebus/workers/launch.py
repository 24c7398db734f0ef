"""What a worker is told when it starts: which site it serves, from where, and on which sockets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from sitebus.assembly.environment import original
from sitebus.config import Override
from sitebus.reexec import STARTED_IN, interpreter_options


class Launch(NamedTuple):
    """How a site was called for; each worker reads its configuration anew from this.

    Attributes:
        config: The ``site.ini``, if there is one.
        overrides: What the command line says besides.
        env_file: What a file says of the environment, where nobody else does.
        env_path: Where that file is, if there is one.
    """

    config: Path | None
    overrides: Sequence[Override] = ()
    env_file: Mapping[str, str] = {}
    env_path: Path | None = None


class Terms(NamedTuple):
    """What every worker of a supervisor is told alike.

    Attributes:
        drain_timeout: How long it may take to finish once its supervisor is gone; seconds.
        idle_beat: How long it may be silent while nothing happens; seconds.
        directory: Where the site was started, by the name that the shell gave it: once
            ``current`` leads to another release, new workers come up there, and stay there.
        real: What that name meant then.
        reload: Whether workers are replaced as soon as their code changes.
        warm: Whether a process keeps the libraries that workers say they have imported.
        release: Answers which code a worker that starts now has, for who compares two of them;
            empty if nobody does.
    """

    launch: Launch
    drain_timeout: float
    idle_beat: float
    directory: str
    real: str
    reload: bool = False
    warm: bool = False
    release: Callable[[], str] = str

    @classmethod
    def here(
        cls,
        launch: Launch,
        drain_timeout: float,
        idle_beat: float,
        *,
        reload: bool = False,
        warm: bool = False,
        release: Callable[[], str] = str,
    ) -> Self:
        """Answer the terms of a site that is started in the present directory."""
        real = os.getcwd()
        named = STARTED_IN if os.path.realpath(STARTED_IN) == real else real
        return cls(launch, drain_timeout, idle_beat, named, real, reload, warm, release)

    def boot(
        self, serial: int, slot: int, sockets: Sequence[tuple[int, str]], lenient: bool
    ) -> dict[str, Any]:
        """Answer the first message to a worker; one that is *lenient* has nobody to fall back on.

        Such a one serves the reason why the site does not load, if it does not.
        """
        config = self.launch.config
        # A release that is left stays as it is for who has begun with it: what such a one imports
        # late, or reads when it is asked for, is not the next one's. Who watches for changes goes
        # by the names that it knows, and sees the link move.
        now: Callable[[str], str] = str if self.reload else _where
        return {
            "is": "boot",
            "serial": serial,
            "slot": slot,
            "lenient": lenient,
            "reload": self.reload,
            "warm": self.warm,
            "release": self.release(),
            "directory": now(self.directory),
            "path": [now(self.directory if each == self.real else each) for each in sys.path],
            "argv": [*sys.argv],
            "config": None if config is None else _file(Path(self.directory, config), now),
            "overrides": [list(each) for each in self.launch.overrides],
            "env_file": dict(self.launch.env_file),
            "sockets": [list(each) for each in sockets],
            "drain_timeout": self.drain_timeout,
            "idle_beat": self.idle_beat,
        }


def _where(path: str) -> str:
    """Answer where a directory really is now; the interpreter's own keep their names."""
    own = not path or path.startswith((sys.prefix, sys.base_prefix))
    return path if own else os.path.realpath(path)


def _file(path: Path, now: Callable[[str], str]) -> str:
    """Answer a file's path; one that is a link itself belongs where its name is."""
    return os.path.join(now(str(path.parent)), path.name)


def command_line(option: str, fd: int, *told: str) -> list[str]:
    """Answer how a process of the site is run; *told* is for people who look at processes."""
    options = interpreter_options(sys.orig_argv)
    return [sys.executable, *options, "-m", "sitebus.workers", f"{option}={fd}", *told]


def environment() -> dict[str, str]:
    """Answer the environment of a worker: ours, as it was before the configuration was read."""
    return original()
