"""What operators are shown of a relay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sitebus.relay.peers import PeerPicture

#: What is counted: messages sent and received, known to be lost, dropped, and refused.
COUNTS = ("tx", "rx", "gap", "drop", "bad")


class RelayPicture(NamedTuple):
    """A relay as it was at one moment.

    Attributes:
        node: Its name.
        epoch: Of this life; empty while it does not run.
        addresses: Where others connect.
        peers: The other nodes, each with how it stands.
        counts: By name, see `COUNTS`.
    """

    node: str
    epoch: str
    addresses: tuple[str, ...]
    peers: tuple[PeerPicture, ...]
    counts: Mapping[str, int]
