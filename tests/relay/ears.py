"""Somebody who hears what a transport tells, and keys for the nodes of a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sitebus.relay import Poller
from sitebus.relay import keys as keys_
from sitebus.relay.keys import Keys
from sitebus.relay.transport import Connection, Settings
from sitebus.relay.zeromq import ZeroMQTransport
from tests.helpers import wait_for

ANYWHERE = "tcp://127.0.0.1:0"


class Ear:
    """A hearer that remembers; what it is told it may also answer."""

    def __init__(self, answer: Callable[[Connection, bytes], object] | None = None) -> None:
        self.answer = answer
        self.connections: list[Connection] = []
        self.heard_: list[bytes] = []
        self.said: list[tuple[str | None, bytes]] = []
        self.gone: list[tuple[Connection, str]] = []
        self.turned_away: list[tuple[str, str]] = []

    def joined(self, connection: Connection) -> None:
        self.connections.append(connection)

    def heard(self, connection: Connection, data: bytes) -> None:
        assert connection in self.connections
        self.heard_.append(data)
        self.said.append((connection.name, data))
        if self.answer is not None:
            self.answer(connection, data)

    def left(self, connection: Connection, why: str) -> None:
        self.connections.remove(connection)
        self.gone.append((connection, why))

    def refused(self, who: str, why: str) -> None:
        self.turned_away.append((who, why))

    def wait_for_peers(self, count: int = 1) -> None:
        wait_for(lambda: len(self.connections) == count)

    def wait_for_words(self, *words: bytes) -> None:
        wait_for(lambda: self.heard_ == list(words), what=repr(words[:9]))


class Node:
    """A transport with its ear."""

    def __init__(
        self,
        poller: Poller,
        keys: Keys | None = None,
        high_water: int = 10_000,
        ear: Ear | None = None,
    ) -> None:
        self.poller = poller
        self.ear = ear or Ear()
        self.transport = ZeroMQTransport(poller, self.ear, Settings("n", high_water, keys))

    def send(self, *words: bytes) -> list[bool]:
        """Send to its only peer."""
        sent: list[bool] = []
        connection = self.ear.connections[0]
        self.poller.call_soon(lambda: sent.extend(connection.send(word) for word in words))
        wait_for(lambda: len(sent) == len(words))
        return sent

    def close(self, linger: float = 1.0) -> None:
        self.transport.close(linger)


def make_keys(folder: Path, *names: str) -> dict[str, Keys]:
    """Make keys for nodes that all know each other."""
    for name in names:
        keys_.generate(folder / name, name)
    for name in names:
        introduce(folder, name, *(each for each in names if each != name))
    return {name: keys_.load(folder / name, name) for name in names}


def introduce(folder: Path, name: str, *others: str) -> None:
    """Have a node know others."""
    for other in others:
        shutil.copy(folder / other / f"{other}.key", folder / name / "peers")
