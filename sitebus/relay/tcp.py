"""Where nodes meet over TCP: addresses read and judged; nothing is opened here.

Without keys nobody is told from anybody, and all is readable on the way: so it is for one host
alone.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from sitebus.errors import BadAddress, BadRelayAddress, KeysNeeded
from sitebus.sockets.addresses import EVERYWHERE, Address

if TYPE_CHECKING:
    from sitebus.relay.keys import Keys

SCHEME = "tcp://"


def read(address: str, *, connects: bool = False) -> Address:
    """Answer host and port of *address*.

    Raises:
        BadRelayAddress: It has none, or nobody can connect to it.
    """
    try:
        found = Address.parse(address.removeprefix(SCHEME))
    except BadAddress as error:
        raise BadRelayAddress(address, error.reason) from error
    if found.kind != "tcp" or not address.startswith(SCHEME):
        raise BadRelayAddress(address, "it is no address of TCP")
    if connects and not found.port:
        raise BadRelayAddress(address, "nobody listens on port 0")
    if connects and found.host in EVERYWHERE:
        raise BadRelayAddress(address, "that is every interface, and no host to connect to")
    return found


def written(found: Address) -> str:
    """Answer how an address is written."""
    return f"{SCHEME}{found}"


def is_loopback(host: str) -> bool:
    """Tell whether what goes to *host* stays on this one, whatever a resolver says."""
    numeric = number_of(host)
    return host == "localhost" if numeric is None else ip_address(numeric).is_loopback


def number_of(host: str) -> str | None:
    """Answer *host* without its interface if it is a numeric address."""
    bare = host.partition("%")[0]
    try:
        ip_address(bare)
    except ValueError:
        return None
    return bare


def check(address: str, keys: Keys | None, *, connects: bool = False) -> Address:
    """Answer host and port of *address* if nodes may meet there.

    Args:
        address: It.
        keys: The keys of this node, if it has some.
        connects: Others listen there, and this one connects.

    Raises:
        BadRelayAddress: It is none.
        KeysNeeded: It is not of this host alone, and there are no keys.
    """
    found = read(address, connects=connects)
    if keys is None and not is_loopback(found.host):
        raise KeysNeeded(address)
    return found
