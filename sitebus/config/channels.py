"""Which channels are a process's own, and which patterns may name others."""

from __future__ import annotations

import re

from sitebus.config.kinds import BadValue, Context, Kind, Listing
from sitebus.listeners import Pattern

#: A life and its news: what happens to one process, or is done to it.
LIFECYCLE = frozenset(
    (
        "start",
        "started",
        "stop",
        "stopped",
        "exit",
        "exited",
        "graceful",
        "restart",
        "log",
        "main",
        "trial",
        "execv",
        "restart_refused",
    )
)

#: What is told of threads, files, signals, workers and peers of one process, or one site.
_OF_ONE_SITE = tuple(
    map(
        Pattern,
        (
            "SIG*",
            "worker.*",
            "rolling.*",
            "relay.*",
            "stuck",
            "unstuck",
            "acquire_thread",
            "release_thread",
            "start_thread",
            "stop_thread",
            "files_changed",
            "files_refreshed",
            "reload_failed",
            "reload_mended",
        ),
    )
)


def is_own(name: str) -> bool:
    """Tell whether a channel is each process's own, and is never heard in others by a pattern."""
    return name in LIFECYCLE or any(each.matches(name) for each in _OF_ONE_SITE)


def is_of_workers(name: str) -> bool:
    """Tell whether a channel, or a pattern, is one on which a supervisor tells of its workers."""
    return name.startswith(("worker.", "rolling."))


class ChannelPattern(Kind[str]):
    """The name of a channel, or a pattern of names."""

    expected = "a channel, or a pattern such as cache.*"
    metavar = "CHANNEL"

    def parse(self, text: str, context: Context) -> str:
        """Check the spelling only.

        Raises:
            BadValue: It has a space, or what only headings have.
        """
        if not re.fullmatch(r"[^\s,\[\]]+", text):
            raise BadValue(f"expected {self.expected}")
        return text


CHANNELS: Kind[tuple[str, ...]] = Listing(ChannelPattern())
