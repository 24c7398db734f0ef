"""The other end of a link, as a process of its own: ``peer.py DESCRIPTOR``.

It answers what it is asked by the key ``is``, and leaves with status 0 at the end of the stream.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
from typing import Any

from sitebus.relay import Link, Poller


def lowest_free() -> int:
    """Answer the number that the next descriptor will have, if it may."""
    number = os.dup(0)
    os.close(number)
    return number


class Peer:
    def __init__(self, fd: int) -> None:
        self.poller = Poller()
        self.ended = threading.Event()
        self.socket = socket.socket(fileno=fd)
        self.numbers: list[int] = []
        self.poller.call_soon(self.join)

    def join(self) -> None:
        """In the poller's thread, so that no message comes before the link has its name."""
        self.link = Link(self.socket, self.poller, self.hear, lambda link: self.ended.set())

    def hear(self, message: dict[str, Any], fd: int | None) -> None:
        getattr(self, message["is"])(message, fd)

    def echo(self, message: dict[str, Any], fd: int | None) -> None:
        self.link.send(message)

    def number(self, message: dict[str, Any], fd: int | None) -> None:
        self.numbers.append(message["number"])

    def numbered(self, message: dict[str, Any], fd: int | None) -> None:
        self.link.send(
            {"count": len(self.numbers), "ordered": sorted(self.numbers) == self.numbers}
        )

    def write(self, message: dict[str, Any], fd: int | None) -> None:
        if fd is not None:
            os.write(fd, message["text"].encode())
        self.link.send({"wrote": fd is not None})

    def open(self, message: dict[str, Any], fd: int | None) -> None:
        reading, writing = os.pipe()
        self.link.send({"is": "opened"}, reading)
        os.write(writing, f"from {os.getpid()}".encode())
        os.close(writing)

    def count(self, message: dict[str, Any], fd: int | None) -> None:
        self.link.send({"descriptors": len(os.listdir("/proc/self/fd"))})

    def limit(self, message: dict[str, Any], fd: int | None) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (message["to"] or lowest_free(), hard))
        self.link.send({"limited": True})

    def die(self, message: dict[str, Any], fd: int | None) -> None:
        for number in range(message["words"]):
            self.link.send({"number": number, "text": "x" * 500})
        self.link.close(flush=10)
        self.poller.call_soon(self.gone)

    def gone(self) -> None:
        """Die as soon as all is said."""
        if self.link.fileno() == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.poller.call_soon(self.gone)


if __name__ == "__main__":
    peer = Peer(int(sys.argv[1]))
    peer.ended.wait()
