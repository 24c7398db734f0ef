"""What applications find when they are imported: environment, import path, directory, file mask."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from sitebus import trial
from sitebus.config import Configuration

#: The process whose configuration has set variables, and which: the next one, after a restart, may
#: set others.
VARIABLE = "SITEBUS_ENV"


def prepare(configuration: Configuration) -> None:
    """Set what applications find when they are imported, and all that is written from here on."""
    set_umask(configuration)
    set_defaults(configuration.env)
    for directory in reversed(configuration.site["python_path"]):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    if configuration.site["working_dir"] is not None:
        os.chdir(configuration.site["working_dir"])


def original() -> dict[str, str]:
    """Answer the environment without what a configuration has set: a worker reads it anew."""
    own = {*_names(), VARIABLE}
    return {name: value for name, value in os.environ.items() if name not in own}


def set_umask(configuration: Configuration) -> None:
    """Set the mask that goes with another user now: logs and pid file are opened as the first."""
    for settings in configuration.plugins:
        wanted = settings.name == "drop_privileges" and settings["enabled"]
        if wanted and settings["umask"] is not None:
            os.umask(settings["umask"])


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set *variables* where they are not set by somebody else."""
    new = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in new})
    if new:
        _note(_names() + new)


def keep() -> None:
    """Go on with what was set before this process became a daemon, which has an id of its own."""
    if names := _names():
        _note(names)


def forget() -> None:
    """Take away what a configuration had set before this process was restarted.

    A restart hands the environment on; a variable that the file says otherwise now, or not at all,
    would have the old value for ever. What an application starts keeps what it was given.
    """
    owner, names = os.environ.get(VARIABLE, "").partition(" ")[0], _names()
    os.environ.pop(VARIABLE, None)
    if owner == str(os.getpid()) or trial.is_one():
        for name in names:
            os.environ.pop(name, None)


def _names() -> list[str]:
    return os.environ.get(VARIABLE, "").split()[1:]


def _note(names: list[str]) -> None:
    os.environ[VARIABLE] = " ".join([str(os.getpid()), *names])
