"""One bus, many processes: how messages go from one to another and back.

`frames` says what a message looks like on the wire, `poller` is the one thread that waits for
whatever may come, `link` sends and receives over a socket that two processes share. What the
messages mean is for those who send them to know.

`Relay` joins the buses of several sites; processes that have none do not wait for its import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitebus.relay.frames import LIMIT, Decoder, encode
from sitebus.relay.link import NOTHING, Link, Rest
from sitebus.relay.poller import READ, WRITE, Poller

if TYPE_CHECKING:
    from sitebus.relay.plugin import DEFAULT_ADDRESS, Relay

__all__ = [
    "DEFAULT_ADDRESS",
    "LIMIT",
    "NOTHING",
    "READ",
    "WRITE",
    "Decoder",
    "Link",
    "Poller",
    "Relay",
    "Rest",
    "encode",
]

_LATER = ("DEFAULT_ADDRESS", "Relay")


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sitebus.relay import plugin

    return getattr(plugin, name)
