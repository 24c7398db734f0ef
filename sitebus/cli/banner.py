"""Say on the terminal, or in the log, that a site serves, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import sitebus
from sitebus.cli.console import Banner, Console, MountLine
from sitebus.config import DEFAULT, Configuration
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from sitebus.plugins.logs import LogBridge

#: The name under which the engine hands the banner down.
NAME = "banner"


class Served(Protocol):
    """What a banner needs to know of a site that was put together."""

    configuration: Configuration
    bridge: LogBridge

    def urls(self) -> tuple[str, ...]:
        """Answer where the site answers, real ports included."""

    def mount_lines(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount."""


class Announcer(Plugin):
    """Print the banner each time the site has started.

    On a terminal, a restart is one line, unless it has changed what is served or where: neither the
    steps of it nor the same banner are news to who has just saved a file.
    """

    def __init__(self, bus: Engine, served: Served, console: Console) -> None:
        super().__init__(bus)
        self.served = served
        self.console = console
        self._before: str | None = None
        self._shown = ""

    def subscribe(self) -> None:
        """Listen, and have the steps of a restart left out of what is logged on a terminal."""
        super().subscribe()
        self.served.bridge.is_detail = self._is_restarting

    def unsubscribe(self) -> None:
        """Leave it all as it was."""
        super().unsubscribe()
        self.served.bridge.is_detail = None

    def _is_restarting(self) -> bool:
        return (self.bus.execv or self._before is not None) and self._is_brief

    @property
    def _is_brief(self) -> bool:
        text = self.served.configuration.logging["format"] == "text"
        return text and self.served.bridge.is_for_people and self.console.stream.isatty()

    @listens("start", priority=0)
    def start(self) -> None:
        """Take what the image before this one has shown."""
        fd = self.bus.sockets.claim(NAME)
        if fd is not None:
            from sitebus import legacy

            with suppress(ValueError):
                self._before = str(legacy.read(fd).get("shown"))

    @listens("execv")
    def execv(self) -> None:
        """Leave what is shown to the next image."""
        if self._is_brief:
            from sitebus import legacy

            with suppress(OSError):  # it shows it all once more, then
                self.bus.legacies[NAME] = legacy.write({"shown": self._shown})

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Write the banner: for people, or as one record of a log of JSON lines."""
        self._announce()

    @listens("rolling.done")
    def rolling_done(self, facts: Mapping[str, object]) -> None:
        """Write it again if workers that came for a change of the code serve something else."""
        if facts["kind"] == "reload":
            self._announce(again=True)

    def _announce(self, *, again: bool = False) -> None:
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
            if again:
                return
            import logging

            logging.getLogger("sitebus").info("serving", extra=banner.record())
        else:
            if configuration.site.value("name").origin == DEFAULT:
                # It would say nothing.
                banner = banner._replace(site="")
            from sitebus.background import is_daemon

            self._show(banner, hint=not is_daemon(), again=again)

    def _show(self, banner: Banner, hint: bool, again: bool) -> None:
        text = banner.text(self.console, hint)
        if again and text == self._shown:
            return
        same = self._is_restarting() and text == self._before
        self.console.write(banner.short(self.console) if same else text)
        self._shown, self._before = text, None
