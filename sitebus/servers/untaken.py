"""Tell how much of what was sent a client has not taken.

A socket can be written to again when a third of what waits in it has gone, and that may be a
megabyte. Until then only this tells a client that reads slowly from one that reads nothing.
"""

from __future__ import annotations

import io
import socket
import sys
from typing import Any


def untaken(sock: Any) -> int:
    """Answer how many bytes the other side has not taken; 0 if the system does not tell."""
    try:
        import fcntl
        import termios

        told = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (ImportError, OSError, ValueError):
        return 0
    return int.from_bytes(told, sys.byteorder)


class Outlet(io.RawIOBase):
    """What is sent to a client, which may read as slowly as it likes, but not nothing.

    Args:
        sock: The connection; its timeout is the seconds in which the client takes something.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Send what goes; raises TimeoutError when the client has taken nothing in its time."""
        while True:
            before = untaken(self._socket)
            try:
                return self._socket.send(data)
            except TimeoutError:
                if untaken(self._socket) >= before:
                    raise
