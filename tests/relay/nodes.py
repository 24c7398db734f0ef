"""Nodes of a relay in one process, which meet at a socket in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from sitebus.process import Engine
from sitebus.relay.plugin import Relay


class Node:
    """A bus, its relay, and what was heard of both."""

    def __init__(self, name: str, **told: Any) -> None:
        self.bus = Engine(id=name)
        self.logged: list[tuple[int, str]] = []
        self.news: list[tuple[Any, ...]] = []
        self.heard: list[tuple[Any, ...]] = []
        self.bus.subscribe("log", lambda text, level: self.logged.append((level, text)))
        self.bus.overhear("relay.*", lambda *news: self.news.append(news))
        told.setdefault("heartbeat", 0.1)
        self.relay = Relay(self.bus, node=name, **told)

    def hears(self, *channels: str) -> Self:
        """Keep what is published on these channels of its bus."""
        for channel in channels:
            self.bus.overhear(channel, self._hear)
        return self

    def _hear(self, channel: str, /, *args: Any, **kwargs: Any) -> None:
        self.heard.append((channel, *args, *sorted(kwargs.items())))


@contextmanager
def meeting(*nodes: Node) -> Iterator[tuple[Node, ...]]:
    """Run nodes until they know each other, all that are connected, and afterwards."""
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node.relay)
        for node in nodes:
            assert node.relay.wait_peers(timeout=10), node.relay.picture()
        yield nodes


def socket_in(folder: Path) -> str:
    """Answer the address of a socket in a folder."""
    return f"unix:{folder}/relay.sock"
