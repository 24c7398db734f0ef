"""What applications find when they are imported: environment, import path, directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from sitebus.config import Configuration

#: The variables that a configuration has set: the next one, after a restart, may set others.
VARIABLE = "SITEBUS_ENV"


def prepare(configuration: Configuration) -> None:
    """Set what applications find when they are imported."""
    set_defaults(configuration.env)
    for directory in reversed(configuration.site["python_path"]):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    if configuration.site["working_dir"] is not None:
        os.chdir(configuration.site["working_dir"])


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set *variables* where they are not set by somebody else."""
    new = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in new})
    if new:
        os.environ[VARIABLE] = " ".join([*os.environ.get(VARIABLE, "").split(), *new])


def forget() -> None:
    """Take away what a configuration had set before this process was restarted.

    A restart hands the environment on; a variable that the file says otherwise now, or not at all,
    would have the old value for ever.
    """
    for name in os.environ.pop(VARIABLE, "").split():
        os.environ.pop(name, None)
