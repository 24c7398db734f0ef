"""Tell how much of what was sent a client has not taken.

A socket can be written to again when a third of what waits in it has gone, and that may be a
megabyte. Until then only this tells a client that reads slowly from one that reads nothing.
"""

from __future__ import annotations

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
