"""The sockets of ZeroMQ in the poller: made there, used there, and closed there.

A descriptor of ZeroMQ's tells that something has changed, once, and every call may be the one that
learns of it. So whatever was done with a socket, it ends with a look at what is there now
(`Wire.settle`).

A socket that connects is used for one connection: then what comes by it is never an earlier one's,
and libzmq, which gives up for good after some failures, is not asked to try again.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from sitebus.errors import RelayBindError
from sitebus.relay import tcp
from sitebus.relay._zeromq_ends import Bound, Dialed
from sitebus.relay._zeromq_gate import Gate
from sitebus.relay._zeromq_wires import Room
from sitebus.relay.zeromq import refusal
from sitebus.sockets.addresses import Address

if TYPE_CHECKING:
    from sitebus.relay.poller import Poller
    from sitebus.relay.transport import Hearer, Settings

#: Seconds from one attempt to connect to the next, which grow.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: An attempt that has led to nothing by then has failed; seconds.
_ATTEMPT = 6.0
#: Pauses begin anew after a connection that held so long; seconds.
_STEADY = 1.0


class Engine:
    """All sockets of one transport.

    Attributes:
        closed: Nothing is left of it.
    """

    def __init__(self, poller: Poller, hearer: Hearer, settings: Settings) -> None:
        self.closed = threading.Event()
        self._poller = poller
        self._hearer = hearer
        self._settings = settings
        self._room: Room | None = None
        self._gate: Gate | None = None
        self._bound: Bound | None = None
        self._dialers: list[Dialer] = []
        self._until: float | None = None

    def listen(self, address: str, place: Address) -> str:
        """Let others connect.

        Raises:
            RelayBindError: The system would not give the address.
        """
        if self._bound is None:
            self._bound = Bound(self._open())
        try:
            return tcp.written(self._bound.listen(place))
        except zmq.ZMQError as error:
            raise refusal(address, place, error.errno or 0) from error

    def connect(self, address: str, place: Address, name: str | None) -> None:
        """Connect, until `close`."""
        self._dialers.append(Dialer(self._open(), address, place, name))

    def look_again(self) -> None:
        """End the connections of those whose keys are not known any more."""
        keys = self._settings.keys
        if keys is not None:
            known = keys.peers()
            for wire in self._wires():
                wire.look_again(known)

    def close(self, linger: float) -> None:
        """End all connections, when what waits has been sent, or in *linger* seconds."""
        if self._until is not None:
            return
        self._until = time.monotonic() + linger
        for dialer in self._dialers:
            dialer.stop()
        self._look()

    def _open(self) -> Room:
        if self._until is not None:
            raise RelayBindError("tcp", "the relay has been stopped", "start another one")
        if self._room is None:
            context = zmq.Context()
            self._room = Room(self._poller, context, self._hearer, self._settings)
            if self._settings.keys is not None:
                self._gate = Gate(self._room)
        return self._room

    def _look(self) -> None:
        """Close as soon as nothing waits, or the time is over."""
        assert self._until is not None
        left = self._until - time.monotonic()
        waits = [each for each in self._wires() if each.waits]
        if waits and left > 0:
            waits[0].when_sent(self._look, self._until)
        else:
            self._finish(max(0.0, left))

    def _wires(self) -> list[Bound | Dialed]:
        dialed = [each.wire for each in self._dialers if each.wire is not None]
        return [*dialed, *([self._bound] if self._bound is not None else [])]

    def _finish(self, linger: float) -> None:
        for wire in self._wires():
            wire.close(linger)
        if self._gate is not None:
            self._gate.close()
        room, self._room = self._room, None
        if room is None:
            self.closed.set()
            return
        # It waits for what the system has yet to take, and the poller must not.
        threading.Thread(
            target=self._end, args=(room,), name="sitebus relay end", daemon=True
        ).start()

    def _end(self, room: Room) -> None:
        try:
            room.context.term()
        finally:
            self.closed.set()


class Dialer:
    """Connects to one address, as long as it is wanted."""

    def __init__(self, room: Room, address: str, place: Address, name: str | None) -> None:
        self.wire: Dialed | None = None
        self._room = room
        self._address = address
        self._place = place
        self._name = name
        self._pause = _FIRST_PAUSE
        self._attempts = 0
        self._complaint = ""
        self._cancel: Callable[[], None] = lambda: None
        self._stopped = False
        self._look_up()

    def stop(self) -> None:
        """Try no more; a connection that is there stays."""
        self._stopped = True
        self._cancel()
        if self.wire is not None and self.wire.line is None:
            self.wire.close(0)
            self.wire = None

    def _look_up(self) -> None:
        host = self._place.host
        if tcp.number_of(host) is not None:
            self._begin(host)
            return
        # Which may take long, and is done in the thread of whoever asks.
        threading.Thread(
            target=self._resolve, args=(host,), name="sitebus relay resolver", daemon=True
        ).start()

    def _resolve(self, host: str) -> None:
        try:
            found = socket.getaddrinfo(host, self._place.port, type=socket.SOCK_STREAM)
        except OSError:
            found = []
        hosts = [str(each[4][0]) for each in found]
        self._room.poller.call_soon(lambda: self._resolved(hosts))

    def _resolved(self, hosts: list[str]) -> None:
        if self._room.settings.keys is None:
            hosts = [each for each in hosts if tcp.is_loopback(each)]
        if hosts:
            self._begin(hosts[self._attempts % len(hosts)])
        else:
            self._again()

    def _begin(self, host: str) -> None:
        if self._stopped:
            return
        self._attempts += 1
        key = self._key()
        if self._room.settings.keys is not None and key is None:
            self._complain(f"there is no key of {self._name} among those of the peers")
            self._again()
            return
        self.wire = Dialed(self._room, self._address, self._name, key, self._ended)
        self._cancel = self._room.poller.call_at(time.monotonic() + _ATTEMPT, self._give_up)
        self.wire.dial(self._place._replace(host=host))

    def _key(self) -> bytes | None:
        keys = self._room.settings.keys
        return None if keys is None else keys.peers().get(self._name)

    def _give_up(self) -> None:
        if self.wire is not None and self.wire.line is None:
            self._ended("there was no answer", 0.0)

    def _ended(self, complaint: str, lasted: float) -> None:
        """The wire has come to its end, and is closed here."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close(0)
        self._cancel()
        if lasted >= _STEADY:
            self._pause = _FIRST_PAUSE
        if lasted:
            self._complaint = ""
        elif complaint:
            self._complain(complaint)
        self._again()

    def _complain(self, why: str) -> None:
        """Tell why it is of no use to try, until it is of use or for another reason."""
        if why != self._complaint:
            self._complaint = why
            self._room.refused(self._name or self._address, why)

    def _again(self) -> None:
        if self._stopped:
            return
        pause = self._pause * random.uniform(0.75, 1.25)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._cancel = self._room.poller.call_at(time.monotonic() + pause, self._look_up)
