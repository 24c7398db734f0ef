"""Which process listens at an address, as far as ``/proc`` tells this user.

The answer only makes an error message better: it comes within a fraction of a second or not at all,
and nothing here ever raises.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator

from sitebus.errors import Holder

PATIENCE = 0.25
LONGEST_COMMAND = 100
_LISTENING = "0A"
_ACCEPTS = 0x10000


def of_tcp(family: int, host: str, port: int) -> Holder | None:
    """Answer who listens where *host* and *port*, both numeric, would conflict with it."""
    tables = ("tcp6", "tcp") if family == socket.AF_INET6 else ("tcp", "tcp6")
    try:
        wanted = _kernel_form(family, host)
        rows = [row for table in tables for row in _listening(table, f"{port:04X}")]
        rows.sort(key=lambda row: row[0] != wanted)  # the very address first, then all interfaces
        anywhere = not wanted.strip("0")
        inodes = [i for a, i in rows if a == wanted or anywhere or not a.strip("0")]
    except (OSError, ValueError):
        return None
    return _first_holder(inodes)


def of_unix(path: str) -> Holder | None:
    """Answer who listens at *path*; an abstract name starts with ``@``."""
    try:
        with open("/proc/net/unix", errors="surrogateescape") as table:
            next(table)
            rows = [line.rstrip("\n").split(None, 7) for line in table]
        inodes = [r[6] for r in rows if len(r) == 8 and r[7] == path and int(r[3], 16) & _ACCEPTS]
    except (OSError, ValueError, StopIteration):
        return None
    return _first_holder(inodes)


def _kernel_form(family: int, host: str) -> str:
    """Write an address as ``/proc/net/tcp`` does: words in the byte order of the machine."""
    packed = socket.inet_pton(family, host.partition("%")[0])
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _listening(table: str, port: str) -> Iterator[tuple[str, str]]:
    """Yield (local address, inode) of the listening sockets on *port*."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{table}") as lines:
        next(lines, None)
        for line in lines:
            columns = line.split(None, 10)
            # They stand before the connections, of which there may be a hundred thousand.
            if columns[3] != _LISTENING:
                return
            address, _, at = columns[1].partition(":")
            if at == port:
                yield address, columns[9]


def _first_holder(inodes: list[str]) -> Holder | None:
    deadline = time.monotonic() + PATIENCE
    targets = {f"socket:[{inode}]" for inode in inodes}
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return None
    for pid in pids if targets else ():
        if time.monotonic() > deadline:
            return None
        if _has_one_of(pid, targets):
            return Holder(pid, _command(pid))
    return None


def _has_one_of(pid: int, targets: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False  # another user's, or gone
    return any(_target(f"{folder}/{name}") in targets for name in names)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(4096)
    except OSError:
        return ""
    text = raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= LONGEST_COMMAND else shown[: LONGEST_COMMAND - 3] + "..."
