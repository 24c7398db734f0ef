"""Every public name of ``magicbus.plugins.signalhandler``."""

from __future__ import annotations

from typing import Any

from sitebus.plugins import signals
from sitebus.servers.base import channel_for

__all__ = ["SignalHandler"]

#: Daemonizing at 65 comes first.
SUBSCRIBE = 70


class SignalHandler(signals.SignalHandler):
    """Answer signals from the first transition on; see `sitebus.plugins.signals`."""

    def subscribe(self) -> None:
        """Wait for the bus to be entered."""
        self.bus.subscribe(_entrance(self.bus), self.subscribe_handlers, SUBSCRIBE)

    def subscribe_handlers(self) -> None:
        """Take the signals over."""
        super().subscribe()

    def unsubscribe(self) -> None:
        """Give the signals back."""
        self.bus.unsubscribe(_entrance(self.bus), self.subscribe_handlers)
        super().unsubscribe()

    def handle_SIGTERM(self) -> None:  # noqa: N802 - the name that magicbus gave it
        """Exit in order."""
        self._exit()


def _entrance(bus: Any) -> str:
    return "ENTER" if "ENTER" in bus.listeners else channel_for(bus, "start")
