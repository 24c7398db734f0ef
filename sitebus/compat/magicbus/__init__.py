"""``magicbus`` over this package's own classes: the same names, to be had from here."""

from __future__ import annotations

from sitebus.compat.magicbus.base import Bus, ChannelFailures
from sitebus.compat.magicbus.process import ProcessBus

__all__ = ["Bus", "ChannelFailures", "ProcessBus", "bus"]

#: The bus of a process in the states of magicbus; ``sitebus.engine`` is another.
bus = ProcessBus()
