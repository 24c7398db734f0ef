"""``sitebus.quickstart``: serve from code what ``sitebus-serve`` serves from the command line.

For a tutorial, a test, a single application; it goes the same way, from settings through the option
table to an assembly, and ends like the command does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sitebus import assembly
from sitebus.assembly.environment import forget
from sitebus.cli import streams
from sitebus.cli.console import Console, wants_colour
from sitebus.cli.reports import QUICKSTART, report
from sitebus.cli.run import run as serve
from sitebus.config import Override
from sitebus.errors import AlreadyRunning, ChannelFailures, SitebusError, UsageError
from sitebus.plugins.signals import require_main_thread
from sitebus.process import Engine

if TYPE_CHECKING:
    from sitebus.mounts import Application, Site

CALL = "sitebus.quickstart()"

#: Arguments that have another name than their option.
ARGUMENTS = {
    "logging.level": "log_level",
    "logging.access": "access_log",
    "reload.enabled": "reload",
}


def run(
    engine: Engine,
    site: Site,
    settings: Mapping[str, Any],
    app: Application | None = None,
    path: str = "/",
) -> None:
    """Serve *site* until the process is told to end.

    Args:
        engine: The process's bus.
        site: What is mounted already.
        settings: Values of the option table by ``section.key``; None leaves the default.
        app: An application to mount for this time.
        path: Where.

    Raises:
        SystemExit: It could not start, or did not end well; the reason was printed, and is the
            cause of this exception if it was an error of ours.
    """
    streams.open_missing()
    forget()
    cause = None
    try:
        status = _serve(engine, site, settings, app, path)
    except (SitebusError, ChannelFailures) as error:
        status, cause = report(error), error
    if status:
        raise SystemExit(status) from cause


def _serve(
    engine: Engine, site: Site, settings: Mapping[str, Any], app: Application | None, path: str
) -> int:
    if engine.state != engine.machine.initial:
        raise AlreadyRunning(CALL, engine.state)
    require_main_thread(CALL)
    if app is None and not site.mounts:
        raise UsageError("nothing is mounted; pass an application, or call sitebus.mount() first")
    given = {place: value for place, value in settings.items() if value is not None}
    mounted = None if app is None else site.mount(app, path)
    try:
        given = _suiting(site) | given
        configuration = assembly.read(None, overrides=[_override(*each) for each in given.items()])
        console = Console(sys.stderr, wants_colour(sys.stderr, "auto"))
        return serve(CALL, configuration, engine, site, console)
    finally:
        if mounted is not None:
            mounted.unmount()


def _suiting(site: Site) -> dict[str, Any]:
    """Answer what suits the applications better than the defaults, if nobody has said it."""
    from importlib.util import find_spec

    said = {name.removeprefix("SITEBUS_").lower() for name in os.environ}
    if site.speech() == "wsgi" or said & {"server__adapter", "server_main__adapter"}:
        return {}
    return {"server.adapter": "uvicorn"} if find_spec("uvicorn") else {}


def _override(place: str, value: object) -> Override:
    section, _, key = place.partition(".")
    name = ARGUMENTS.get(place, key)
    # A dollar sign in code is only that.
    text = str(value).replace("$", "$$")
    return Override(section, key, text, "", f"{QUICKSTART}({name}=)")
