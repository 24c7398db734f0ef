"""Ports that the system may give to anybody who connects to somewhere.

Who connects again and again to such a port on its own machine may be given that very port: it then
talks to itself, and holds the port so that nobody can listen there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sitebus.sockets.addresses import Address

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def ephemeral() -> range:
    """Answer the ports that the system gives away; none if it does not say."""
    with suppress(OSError, ValueError):
        first, last = map(int, _RANGE.read_text().split())
        return range(first, last + 1)
    return range(0)


def doubts_about(addresses: Iterable[str]) -> Iterator[str]:
    """Answer a sentence for each address whose port may be given to somebody else."""
    given = ephemeral()
    for address in addresses:
        if not address.startswith("tcp://"):
            continue
        port = Address.parse(address.removeprefix("tcp://")).port
        if port in given:
            yield (
                f"{address} has a port that the system gives to others as well "
                f"({given.start} to {given.stop - 1}); one below {given.start} stays free"
            )
