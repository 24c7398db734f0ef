"""Every public name of ``magicbus.base``."""

from __future__ import annotations

from sitebus.bus import Bus
from sitebus.errors import ChannelFailures
from sitebus.machine import Graph

__all__ = ["Bus", "ChannelFailures", "Graph", "State", "StateEnum"]


class State:
    """A state with a name. No bus needs it; any value may be a state."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"State({self.name!r})"


class StateEnum:
    """An object whose attributes are states."""
