"""Who may connect: those whose public keys are among the peers'; asked by libzmq, answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.auth.base import Authenticator
from zmq.utils import z85

from sitebus.relay._zeromq_wires import DOMAIN, Room, fileno, is_readable
from sitebus.relay.poller import READ

if TYPE_CHECKING:
    from sitebus.relay.keys import Keys

_ADDRESS, _FRAMES = 3, 7


class _Users(Authenticator):
    """Has the user of each message be the key, which says whose it is as long as it is known."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        super().__init__(context)
        self.keys = keys
        self.configure_curve_callback("*", self)
        self.configure_curve_callback(DOMAIN.decode(), self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether somebody with this key may come in."""
        return self.keys.name_of(key) is not None

    def curve_user_id(self, client_public_key: bytes) -> str:
        """Answer the key in Z85."""
        return z85.encode(client_public_key).decode()


class Gate:
    """Answers libzmq's questions, in the poller's thread."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._users = _Users(room.context, room.settings.keys)
        self._users.start()
        self._socket = self._users.zap_socket
        self._fd = fileno(self._socket)
        room.poller.watch(self._fd, READ, self._ready)
        # Its descriptor tells nothing before somebody has looked in vain.
        self._ready(READ)

    def close(self) -> None:
        """Answer no more."""
        self._room.poller.unwatch(self._fd)
        self._users.stop()

    def _ready(self, events: int) -> None:
        while is_readable(self._socket):
            self._answer(self._socket.recv_multipart(zmq.NOBLOCK))

    def _answer(self, asked: list[bytes]) -> None:
        answering = self._users.handle_zap_message(asked)
        try:
            # It awaits nothing, for no callback of ours does.
            answering.send(None)
        except StopIteration:
            pass
        if len(asked) == _FRAMES and self._users.keys.name_of(z85.encode(asked[-1])) is None:
            key = z85.encode(asked[-1]).decode()
            who = asked[_ADDRESS].decode("ascii", "replace")
            self._room.refused(who, f"its key is none of a peer's: {key}")
