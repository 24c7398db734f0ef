"""What a process of the site becomes when its supervisor has told it what it is.

Common to a worker that loads its applications itself, and to the one that loads them for others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus import assembly, references, trial
from sitebus.assembly.environment import forget, set_defaults
from sitebus.config import Override
from sitebus.errors import ChannelFailures, NoDirectory, SitebusError, StartFailed, status_of
from sitebus.plugins import BUILT_IN, OF_SUPERVISOR
from sitebus.sockets import handdown
from sitebus.workers.tally import Tally
from sitebus.workers.uplink import LogUplink

if TYPE_CHECKING:
    from sitebus.assembly import Assembly
    from sitebus.config import Configuration
    from sitebus.mounts import Site
    from sitebus.process import Engine

Message = Mapping[str, Any]

#: The longest text that is sent, of stacks or a traceback, in characters.
MOST_TEXT = 40_000
#: How many files that were not there are named.
MOST_MISSING = 100
#: The longest sentence that says why a process cannot serve.
MOST_REASON = 4_000


def prepare(engine: Engine, boot: Message) -> Configuration:
    """Be what the supervisor was told to be: same directory, path, arguments and sockets.

    Raises:
        SitebusError: The configuration cannot be read any more, or its directory is gone.
    """
    try:
        os.chdir(boot["directory"])
    except FileNotFoundError as error:
        raise NoDirectory(boot["directory"]) from error
    sys.path[:] = boot["path"]
    sys.argv[:] = boot["argv"]
    take_sockets(engine, boot)
    forget()
    set_defaults(boot["env_file"])
    path = boot["config"]
    return assembly.read(
        Path(path) if path else None,
        overrides=[Override(*each) for each in boot["overrides"]],
        environ=os.environ,
    )


def take_sockets(engine: Engine, boot: Message) -> None:
    """Have the engine find the listening sockets that came with this process, and no others."""
    for fd, _ in boot["sockets"]:
        os.set_inheritable(int(fd), False)  # what applications start need not have them
    handdown.announce([(int(fd), str(name)) for fd, name in boot["sockets"]], os.environ)
    engine.sockets.fixed = True


class Loaded(NamedTuple):
    """A site as a worker has it, and what counts its requests."""

    assembly: Assembly
    tally: Tally


def put_together(
    engine: Engine, site: Site, configuration: Configuration, *, lenient: bool = False
) -> Loaded:
    """Put the site together as a worker has it.

    Args:
        engine: The process's bus.
        site: What the applications are mounted on.
        configuration: What it says.
        lenient: Whether to serve why the site does not load, if it does not and is reloaded.

    Raises:
        SitebusError: A part is missing or fails to be made.
    """
    of_workers = frozenset(BUILT_IN) - OF_SUPERVISOR
    tally = Tally(engine)
    role = assembly.Role(lambda _, bus: LogUplink(bus), of_workers, True, tally.around, lenient)
    return Loaded(assembly.assemble(configuration, engine, site, role), tally)


def refusal(error: Exception) -> dict[str, Any]:
    """Answer the message that says why this process cannot serve."""
    if not isinstance(error, (SitebusError, ChannelFailures)):
        error = StartFailed(error, trial.text_of(error))
    first = error.exceptions[0] if isinstance(error, ChannelFailures) else error
    text = trial.text_of(first)
    # What a listener raises the bus logs itself.
    logged = isinstance(first, StartFailed) and not text
    if isinstance(first, StartFailed) and logged:
        text = references.traceback_of(first.error).rstrip()
    return {
        "is": "unfit",
        "reason": " ".join(str(first).split())[:MOST_REASON],
        "status": status_of(first),
        "text": text[-MOST_TEXT:],
        "logged": logged,
        "missing": sorted(trial.missing(first))[:MOST_MISSING],
    }
