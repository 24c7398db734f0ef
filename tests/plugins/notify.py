"""systemd's end of a notify socket, for tests of who speaks to it."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from typing import NamedTuple, Self

from tests.helpers import PATIENCE


class News(NamedTuple):
    """One datagram, who sent it, and the descriptors that came with it."""

    fields: dict[str, str]
    pid: int
    fds: tuple[int, ...]


class Manager:
    """systemd's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.seen: list[News] = []

    def next(self, timeout: float = PATIENCE) -> News:
        """Answer the next datagram."""
        self.socket.settimeout(timeout)
        space = socket.CMSG_SPACE(struct.calcsize("3i")) + socket.CMSG_SPACE(64)
        data, ancillary, _, _ = self.socket.recvmsg(4096, space)
        pid, fds = 0, array.array("i")
        for _, kind, value in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
            else:
                pid = struct.unpack("3i", value)[0]
        fields = dict(line.split("=", 1) for line in data.decode().split("\n"))
        news = News(fields, pid, tuple(fds))
        self.seen.append(news)
        return news

    def until(self, name: str, value: str = "1") -> News:
        """Answer the next datagram that says so; what comes before it is in `seen`."""
        end = time.monotonic() + PATIENCE
        while (news := self.next()).fields.get(name) != value:
            assert time.monotonic() < end, f"no {name}={value} in {self.seen}"
        return news

    def said(self) -> list[str]:
        """Answer what was seen so far, but for statuses and signs of life, in a word each."""
        words = ("READY", "RELOADING", "STOPPING", "MAINPID", "FDSTORE", "FDSTOREREMOVE")
        return [word for news in self.seen for word in words if word in news.fields]

    def rest(self) -> list[News]:
        """Answer what is still in the queue."""
        rest = []
        self.socket.setblocking(False)
        while True:
            try:
                rest.append(self.next(0))
            except BlockingIOError:
                return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        self.socket.close()

    def forget(self) -> None:
        """Close what was stored."""
        while self.seen:
            for fd in self.seen.pop().fds:
                os.close(fd)
