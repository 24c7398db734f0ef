"""``sitebus.quickstart``: serve from code what ``sitebus-serve`` serves from the command line.

For a tutorial, a test, a single application; it goes the same way, from settings through the option
table to an assembly, and ends like the command does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sitebus import assembly
from sitebus.cli.banner import Announcer
from sitebus.cli.console import Console, wants_colour
from sitebus.cli.serve import report
from sitebus.config import Override
from sitebus.errors import AlreadyRunning, ChannelFailures, SitebusError
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine

if TYPE_CHECKING:
    from sitebus.mounts import Site


def run(engine: Engine, site: Site, settings: Mapping[str, Any]) -> None:
    """Serve *site* until the process is told to end.

    Args:
        engine: The process's bus.
        site: What is mounted already.
        settings: Values of the option table by ``section.key``; None leaves the default.

    Raises:
        SystemExit: It could not start, or did not end well; the reason was printed.
    """
    try:
        status = _serve(engine, site, settings)
    except (SitebusError, ChannelFailures) as error:
        status = report(error)
    if status:
        raise SystemExit(status)


def _serve(engine: Engine, site: Site, settings: Mapping[str, Any]) -> int:
    if engine.state != engine.machine.initial:
        raise AlreadyRunning("sitebus.quickstart()", engine.state)
    given = {place: value for place, value in settings.items() if value is not None}
    configuration = assembly.read(None, overrides=[_override(*each) for each in given.items()])
    assembled = assembly.assemble(configuration, engine, site)
    signals = SignalHandler(engine)
    signals.subscribe()
    Announcer(engine, assembled, Console(sys.stderr, wants_colour(sys.stderr, "auto"))).subscribe()
    try:
        return assembled.run()
    finally:
        signals.unsubscribe()


def _override(place: str, value: object) -> Override:
    section, _, key = place.rpartition(".")
    # A dollar sign in code is only that.
    return Override(section, key, str(value).replace("$", "$$"), f"quickstart({key}=)")
