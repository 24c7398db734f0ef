"""Plugins of ours that can be subclassed as those of wspbus and magicbus are.

Theirs listen with every method that is named like a channel, START in magicbus and start in wspbus;
ours with the methods that are marked. What is made here does both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from sitebus.plugins import Mark, Plugin


class Named(Plugin):
    """Listen with what is marked, and with methods of a stranger's that are named like channels.

    A marked method gives way to one of the same object that is named like the channel: whoever
    overrides START is heard, with its priority.
    """

    #: What a plugin does at another channel than the part it plays says, where the bus has it.
    CHANNELS: ClassVar[Mapping[str, str]] = {}

    def _listeners(self) -> Iterator[tuple[Mark, str, Callable[..., Any]]]:
        known = getattr(self.bus, "listeners", {})
        taken = set()
        for mark, plain, method in super()._listeners():
            other = self.CHANNELS.get(mark.channel, plain)
            channel = other if other in known else plain
            taken.add(channel)
            yield mark, channel, getattr(self, channel, method)
        for channel in tuple(known):
            named: Any = getattr(self, channel, None)
            if channel not in taken and _is_a_strangers(named):
                yield Mark(channel, None), channel, named


def _is_a_strangers(method: Any) -> bool:
    """Ours say which channel they are for; to be named like one is no mark of them."""
    module = getattr(method, "__module__", None) or ""
    return callable(method) and not module.startswith("sitebus.")
