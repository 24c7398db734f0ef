"""Serve a configuration from the main thread until the process is told to end.

What ``sitebus-serve`` and ``quickstart`` have in common: signals, the banner, and that nothing is
left on the bus whatever happens.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from sitebus import assembly
from sitebus.assembly.parts import actions
from sitebus.cli import streams
from sitebus.cli.banner import Announcer
from sitebus.cli.console import Console
from sitebus.config import Configuration
from sitebus.mounts import Site
from sitebus.plugins import Plugin
from sitebus.plugins.signals import SignalHandler, require_main_thread
from sitebus.process import Engine


def run(
    call: str, configuration: Configuration, engine: Engine, site: Site, console: Console | None
) -> int:
    """Serve until the process is told to end, and answer its exit status.

    Args:
        call: What the operator called, for messages.
        configuration: What is served.
        engine: The bus.
        site: What may have mounts already.
        console: Where the banner goes, if anywhere.

    Raises:
        NotMainThread: Signals reach the main thread only; nothing was touched.
        SitebusError: It could not start; nothing is left of it.
    """
    require_main_thread(call)
    assembled = assembly.assemble(configuration, engine, site)
    guests: list[Plugin] = [SignalHandler(engine, actions=actions(configuration))]
    if console is not None:
        guests.append(Announcer(engine, assembled, console))
    with ExitStack() as leaving:
        leaving.callback(assembled.close)
        for guest in guests:
            leaving.callback(guest.unsubscribe)
            guest.subscribe()
        status = assembled.run()
    if engine.stragglers:
        # The interpreter would wait for them for ever. They had their time, and were named.
        streams.settle()
        os._exit(status)
    return status
