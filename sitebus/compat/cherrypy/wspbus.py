"""Every public name of ``cherrypy.process.wspbus``.

`bus` is the bus of this process, ``sitebus.engine``: whoever imports this module gives it the
manners of wspbus, which are those of `Bus`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import sitebus
from sitebus.errors import ChannelFailures
from sitebus.machine import states
from sitebus.process import Engine
from sitebus.walk import Command

__all__ = ["Bus", "ChannelFailures", "bus", "max_files", "states"]

#: The limit of open files. Kept for programs that ask; a restart closes what is not handed down,
#: however many that are.
max_files: int = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 0


class Bus(Engine):
    """An `Engine` that may be started again after an exit, as test suites do with wspbus.

    Attributes:
        max_cloexec_files: Kept for programs that set it; see `max_files`.
    """

    max_cloexec_files: int = max_files

    def __dir__(self) -> Iterable[str]:
        # CherryPy's checker reads every attribute there is, which would start the event loop's
        # thread, and with that thread the process could not be daemonized any more.
        return [name for name in super().__dir__() if name != "loop"]

    def subscribe(
        self,
        channel: str,
        callback: Callable[..., Any] | None = None,
        priority: float | None = None,
    ) -> Any:
        """Run *callback* for every message on *channel*; see `sitebus.Bus.subscribe`."""
        return super().subscribe(channel, callback, priority)

    def unsubscribe(self, channel: str, callback: Callable[..., Any]) -> None:
        """Stop running *callback* for *channel*; no harm if it never did."""
        super().unsubscribe(channel, callback)

    def start(self, stay: bool = False) -> None:
        """Start everything, also after an exit; see `sitebus.Engine.start`."""
        if self.ended:
            self.renew()
        super().start(stay)

    def graceful(self) -> None:
        """Tell everyone to reload in place; told when it returns, also to a request that asks."""
        if threading.get_ident() not in self.serving_threads:
            super().graceful()
            return
        # Nothing here waits for requests, as a stop would.
        command = Command(action=self._publish_graceful)
        self._commands.append(command)
        self._serve(command)
        command.outcome()

    def block(self, interval: float = 0.1) -> int:
        """Do as `sitebus.Engine.block` does, and raise an exit status that is not 0.

        Programs written for wspbus do not look at what it answers, and would claim success.

        Raises:
            SystemExit: Something has failed.
        """
        status = super().block(interval)
        if self.stragglers:
            # The interpreter would wait for them for ever. They had their time, and were named.
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(status)
        if status:
            raise SystemExit(status)
        return status


bus: Engine = sitebus.engine
if not isinstance(bus, Bus):
    bus.__class__ = Bus
