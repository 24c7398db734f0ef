"""Serve a configuration from the main thread until the process is told to end.

What ``sitebus-serve`` and ``quickstart`` have in common: signals, the banner, and that nothing is
left on the bus whatever happens.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sitebus import assembly
from sitebus.assembly.parts import actions
from sitebus.cli import streams
from sitebus.cli.banner import Announcer
from sitebus.cli.console import Console
from sitebus.config import Configuration
from sitebus.errors import UsageError
from sitebus.mounts import Site
from sitebus.plugins import Plugin
from sitebus.plugins.signals import SignalHandler, require_main_thread
from sitebus.process import Engine

if TYPE_CHECKING:
    from sitebus.assembly import Assembly
    from sitebus.workers.launch import Launch
    from sitebus.workers.supervision import Supervision


def run(
    call: str,
    configuration: Configuration,
    engine: Engine,
    site: Site,
    console: Console | None,
    launch: Launch | None = None,
) -> int:
    """Serve until the process is told to end, and answer its exit status.

    Args:
        call: What the operator called, for messages.
        configuration: What is served.
        engine: The bus.
        site: What may have mounts already.
        console: Where the banner goes, if anywhere.
        launch: How worker processes find the same configuration; None if they cannot.

    Raises:
        NotMainThread: Signals reach the main thread only; nothing was touched.
        SitebusError: It could not start; nothing is left of it.
    """
    require_main_thread(call)
    assembled = _assemble(call, configuration, engine, site, launch)
    signals = SignalHandler(engine, actions=actions(configuration))
    if (supervisor := engine.workers) is not None:
        supervisor.answer(signals, unless=actions(configuration))
    guests: list[Plugin] = [signals]
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


def _assemble(
    call: str, configuration: Configuration, engine: Engine, site: Site, launch: Launch | None
) -> Assembly | Supervision:
    count, reload = configuration.one("workers")["count"], configuration.one("reload")["enabled"]
    # The trial of a restart loads what the workers would: there it is one process that does. And
    # what is in this process already is reloaded by running it again.
    alone = launch is None or not reload or not hasattr(os, "pidfd_open")
    if engine.trying or (count == 0 and alone):
        return assembly.assemble(configuration, engine, site)
    if launch is None:
        raise UsageError(
            f"{call} serves what is in this process, and has no workers; "
            "have sitebus-serve import the application"
        )
    from sitebus.workers.supervision import number, supervise

    if number(configuration) == 0:
        return assembly.assemble(configuration, engine, site)
    return supervise(configuration, engine, launch)
