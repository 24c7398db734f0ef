"""Connections between hosts, by ZeroMQ: encrypted, and with those alone whose keys are known.

A node that listens has one ``ROUTER``; whoever connects has a ``DEALER`` for each peer. So each
peer has a queue of its own, which no other fills, and is known by its key. pyzmq is imported when
there is something to connect, and nothing is made before: a process may fork until then.

`sitebus.relay._zeromq` does the work, in the poller's thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sitebus.errors import KeysNeeded, MissingExtra, NameNeeded, RelayBindError
from sitebus.relay import tcp
from sitebus.sockets.addresses import Address

if TYPE_CHECKING:
    from sitebus.relay._zeromq import Engine
    from sitebus.relay.poller import Poller
    from sitebus.relay.transport import Hearer, Settings

T = TypeVar("T")


class ZeroMQTransport:
    """Listens and connects with the keys in *settings*, or on this host alone without any.

    Raises:
        MissingExtra: pyzmq is not installed.
    """

    def __init__(self, poller: Poller, hearer: Hearer, settings: Settings) -> None:
        self._poller = poller
        self._keys = settings.keys
        self._engine = _engine(poller, hearer, settings)

    def listen(self, address: str) -> str:
        """Let others connect; answer the address that it really is.

        Raises:
            RelayBindError: It cannot be had.
            BadRelayAddress: It is none.
            KeysNeeded: It is not of this host alone, and there are no keys.
        """
        asked = tcp.check(address, self._keys)
        place = asked._replace(host=_own_address(address, asked))
        if self._keys is None and not tcp.is_loopback(place.host):
            raise KeysNeeded(address)
        return self._ask(lambda: self._engine.listen(address, place))

    def connect(self, address: str, name: str | None = None) -> None:
        """Connect, and again whenever the connection is gone, until `close`.

        Raises:
            BadRelayAddress: It is no address.
            KeysNeeded: It is not of this host alone, and there are no keys.
            NameNeeded: There are keys, and nobody said whose this one must have.
        """
        place = tcp.check(address, self._keys, connects=True)
        if self._keys is not None and name is None:
            raise NameNeeded(address)
        self._ask(lambda: self._engine.connect(address, place, name))

    def look_again(self) -> None:
        """End the connections of those whose keys are not known any more."""
        self._engine.look_again()

    def close(self, linger: float) -> None:
        """End all connections; what waits to be sent has *linger* seconds.

        In another thread than the poller's this waits until nothing is left of them.
        """
        if self._poller.is_current:
            self._engine.close(linger)
            return
        if not self._poller.call_soon(lambda: self._engine.close(linger)):
            # Nobody is there any more who could wait.
            self._engine.close(0.0)
        self._engine.closed.wait()

    def _ask(self, work: Callable[[], T]) -> T:
        """Answer what *work* does in the poller's thread."""
        if self._poller.is_current:
            return work()
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def do() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                errors.append(error)
            done.set()

        if not self._poller.call_soon(do):
            raise RelayBindError("tcp", "the relay has been stopped", "start it first")
        done.wait()
        if errors:
            raise errors[0]
        return results[0]


def _engine(poller: Poller, hearer: Hearer, settings: Settings) -> Engine:
    try:
        import zmq  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtra("pyzmq", "relay") from error
    from sitebus.relay._zeromq import Engine

    return Engine(poller, hearer, settings)


def _own_address(address: str, asked: Address) -> str:
    """Answer the numeric address of this host that *asked* means."""
    if tcp.number_of(asked.host) is not None:
        return asked.host
    try:
        found = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)
    except OSError as error:
        reason = f"no address is known for the host {asked.host!r}"
        raise RelayBindError(address, reason, "check the spelling, or write a number") from error
    return str(found[0][4][0])


def refusal(address: str, place: Address, number: int) -> RelayBindError:
    """Answer the error for an address that the system would not give."""
    from sitebus.sockets import refusals

    said = refusals.refused(place, OSError(number, os.strerror(number)), *_family(place))
    remedy = said.remedy.replace("--bind ", tcp.SCHEME)
    return RelayBindError(address, said.reason, remedy, errno=number)


def _family(place: Address) -> tuple[int, str]:
    return (socket.AF_INET6 if ":" in place.host else socket.AF_INET), place.host
