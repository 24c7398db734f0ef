"""Who may be believed: addresses and networks as values, written, read and asked; pure.

The forms are ``10.0.0.0/8``, ``192.0.2.7``, ``2001:db8::/32``, ``::1``, ``unix`` (whoever connects
to a unix socket, and so has no address) and ``*`` (anybody at all).
An IPv4 address that an IPv6 socket shows as ``::ffff:192.0.2.7`` is 192.0.2.7.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from sitebus.errors import BadNetwork

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

UNIX = "unix"
ANYBODY = "*"

#: How many addresses' answers are remembered; clients choose some of them, so there is an end.
_REMEMBERED = 1024


def normal_network(text: str) -> str:
    """Answer the one way to write the network, or the single address, that *text* says.

    Raises:
        BadNetwork: It is neither an address, nor a network, ``unix`` or ``*``.
    """
    text = text.strip().lower()
    if text in (UNIX, ANYBODY):
        return text
    network = _network(text)
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Answer the address that *text* is, without its interface, and as IPv4 if it is that."""
    import ipaddress

    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class Networks:
    """A set of addresses, which knows for each address as text whether it is one of them.

    Args:
        parts: Addresses, networks, ``unix`` or ``*``; several in one text have commas between.

    Raises:
        BadNetwork: One of *parts* is none of these.
    """

    def __init__(self, parts: Iterable[str] = ()) -> None:
        # A text is an iterable of texts too, of its characters.
        parts = parts.split(",") if isinstance(parts, str) else parts
        self.parts = tuple(map(normal_network, parts))
        self._anybody = ANYBODY in self.parts
        self._unix = self._anybody or UNIX in self.parts
        self._networks = [_network(part) for part in self.parts if part not in (UNIX, ANYBODY)]
        self._has = lru_cache(_REMEMBERED)(self._look_up)

    def __contains__(self, address: str) -> bool:
        """Tell whether *address* is in; "" is one that has none, on a unix socket."""
        # A long text is no address, and nothing to remember.
        return self._has(address) if len(address) < 100 else self._anybody

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        return ", ".join(self.parts)

    def _look_up(self, text: str) -> bool:
        if not text:
            return self._unix
        if self._anybody:
            return True
        address = address_of(text)
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> IPv4Network | IPv6Network:
    import ipaddress

    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadNetwork(text, "it is no address and no network") from None
    if str(network.network_address) != str(ipaddress.ip_interface(text).ip):
        raise BadNetwork(text, "the address goes on where the network ends", str(network))
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
