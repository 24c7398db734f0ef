"""Say on the terminal, or in the log, that a site serves, and where."""

from __future__ import annotations

import os
from typing import Protocol

import sitebus
from sitebus.cli.console import Banner, Console, MountLine
from sitebus.config import DEFAULT, Configuration
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority


class Served(Protocol):
    """What a banner needs to know of a site that was put together."""

    configuration: Configuration

    def urls(self) -> tuple[str, ...]:
        """Answer where the site answers, real ports included."""

    def mount_lines(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount."""


class Announcer(Plugin):
    """Print the banner each time the site has started."""

    def __init__(self, bus: Engine, served: Served, console: Console) -> None:
        super().__init__(bus)
        self.served = served
        self.console = console

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Write the banner: for people, or as one record of a log of JSON lines."""
        configuration = self.served.configuration
        banner = Banner(
            version=sitebus.__version__,
            pid=os.getpid(),
            config=str(configuration.path or ""),
            mounts=tuple(MountLine(*line) for line in self.served.mount_lines()),
            urls=self.served.urls(),
            site=configuration.site["name"],
        )
        if configuration.logging["format"] == "json":
            import logging

            logging.getLogger("sitebus").info("serving", extra=banner.record())
        else:
            if configuration.site.value("name").origin == DEFAULT:
                # It would say nothing.
                banner = banner._replace(site="")
            from sitebus.background import is_daemon

            self.console.write(banner.text(self.console, hint=not is_daemon()))
