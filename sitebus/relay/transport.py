"""What carries messages between nodes, as seen by the mesh; and which address needs which.

A transport knows nothing of what is in a message. It makes connections, keeps them, says who is at
the other end if it can tell, and takes no more for a peer than it was told to hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sitebus.config.relay import HIGH_WATER
from sitebus.errors import BadRelayAddress

if TYPE_CHECKING:
    from sitebus.relay.poller import Poller

#: Where explicit publishers and subscribers meet if nobody says otherwise.
DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"


class Connection(Protocol):
    """One way to one node; made by a transport, used in the poller's thread alone.

    What is sent arrives whole and in order, or is lost with the connection.
    """

    @property
    def name(self) -> str | None:
        """The node that it must be: whose key it has, or that was to be connected to by name.

        None where neither is known; then the node says so itself.
        """

    @property
    def address(self) -> str:
        """Where it leads, for people."""

    def send(self, data: bytes) -> bool:
        """Send one message.

        Returns:
            Whether it is on its way; not if too much waits already, or the connection is gone.
        """

    def close(self, why: str) -> None:
        """End it; the hearer is not told that it `left`.

        A transport that had connected tries again, after a pause that grows.
        """


class Hearer(Protocol):
    """What a transport tells, in the poller's thread."""

    def joined(self, connection: Connection) -> None:
        """A connection is there, and data can be sent.

        Something is, at once: some transports learn of a connection by what first comes by it.
        """

    def heard(self, connection: Connection, data: bytes) -> None:
        """A message has come."""

    def left(self, connection: Connection, why: str) -> None:
        """A connection is gone."""

    def refused(self, who: str, why: str) -> None:
        """Somebody without the right to connect was turned away, or spoke no such protocol."""


class Transport(Protocol):
    """Makes connections; any thread may call these, but `look_again`."""

    def listen(self, address: str) -> str:
        """Let others connect; answer the address that it really is.

        Raises:
            RelayBindError: It cannot be had.
            BadRelayAddress: It is none.
        """

    def connect(self, address: str, name: str | None = None) -> None:
        """Connect, and again whenever the connection is gone, until `close`.

        Args:
            address: Where to.
            name: The node that it must be.

        Raises:
            BadRelayAddress: It is none.
        """

    def look_again(self) -> None:
        """End the connections of those who may not have one any more.

        It is called with every beat, in the poller's thread.
        """

    def close(self, linger: float) -> None:
        """End all connections; what waits to be sent has *linger* seconds.

        In another thread than the poller's this waits until all is closed.
        """


class Settings(NamedTuple):
    """What a transport is told.

    Attributes:
        node: The name of this one.
        high_water: How many messages may wait for a peer that does not read.
        keys: The keys of this node and of those that may connect; for transports that have such.
        uids: The users, besides root and this one, who may connect; for unix sockets.
    """

    node: str
    high_water: int = HIGH_WATER
    keys: Any = None
    uids: tuple[int, ...] = ()


def scheme(address: str) -> str:
    """Answer what carries messages to *address*: ``unix`` or ``tcp``.

    Raises:
        BadRelayAddress: Nothing does.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return "unix"
    if address.startswith("tcp://") and len(address) > len("tcp://"):
        return "tcp"
    raise BadRelayAddress(address, "it is no address of a relay")


def open(address: str, poller: Poller, hearer: Hearer, settings: Settings) -> Transport:  # noqa: A001
    """Answer the transport for addresses such as this one; it serves any number of them.

    Raises:
        BadRelayAddress: There is none.
        MissingExtra: It needs a library that is not installed.
    """
    if scheme(address) == "unix":
        from sitebus.relay.unix import UnixTransport

        return UnixTransport(poller, hearer, settings)
    from sitebus.relay.zeromq import ZeroMQTransport

    return ZeroMQTransport(poller, hearer, settings)
