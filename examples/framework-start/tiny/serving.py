"""How a tiny site is served: `run` chooses the parts of sitebus, and adds one of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import sitebus
from sitebus.plugins import Plugin, listens
from sitebus.plugins.autoreload import Autoreloader
from sitebus.plugins.loggers import StderrLogger
from sitebus.plugins.signals import SignalHandler
from sitebus.servers.cheroot import CherootServer
from tiny import App, Templates


class FreshTemplates(Plugin):
    """Have the reloader watch *templates*, and read them again when one has changed."""

    def __init__(self, bus: sitebus.Engine, templates: Templates) -> None:
        super().__init__(bus)
        self.templates = templates

    @listens("start")
    def start(self) -> None:
        self.bus.autoreload.files.add(str(self.templates.folder))

    @listens("files_changed")
    def files_changed(self, paths: tuple[str, ...]) -> bool:
        """Answer True if that is all there is to do: then the program is not run again."""
        if not all(Path(path).is_relative_to(self.templates.folder) for path in paths):
            return False
        self.templates.forget()
        return True


def parts(
    bus: sitebus.Engine, app: App, bind: str, reload: bool
) -> Iterator[Plugin | CherootServer]:
    """Make what a tiny site needs around it."""
    yield SignalHandler(bus)
    # Watched, so that SIGQUIT shows which thread serves what.
    yield CherootServer(bus, bus.serving.watch(app), binds=[bind])
    if reload:
        yield Autoreloader(bus)
        yield FreshTemplates(bus, app.templates)


def run(app: App, bind: str = "127.0.0.1:8080", *, reload: bool = True) -> int:
    """Serve *app* until Ctrl-C or SIGTERM, and answer the exit status."""
    bus = sitebus.engine
    StderrLogger(bus, logging.INFO, "%(message)s\n").subscribe()
    try:
        for part in parts(bus, app, bind, reload):
            part.subscribe()
        bus.start()
    except sitebus.SitebusError as error:
        bus.log(f"This site does not start: {error}", logging.ERROR)
        return error.status
    return bus.block()
