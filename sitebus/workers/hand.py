"""One worker process as its supervisor holds it: the process, the link, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sitebus.relay import Link
from sitebus.workers.estate import Heirloom
from sitebus.workers.spawn import Process

Heard = Callable[["Hand", Mapping[str, Any], int | None], object]
Gone = Callable[["Hand"], object]


class Hand:
    """A worker that was started; everything here is done in the poller's thread.

    Attributes:
        mounts: Place, target and framework of each mount, once it is ready.
        is_cut_off: Whether its link has ended.
        has_ended: Whether its process has.
    """

    def __init__(self, serial: int, slot: int, process: Process, link: Link) -> None:
        self.serial = serial
        self.slot = slot
        self.process = process
        self.link = link
        self.mounts: list[tuple[str, str, str]] = []
        self.is_cut_off = False
        self.has_ended = False

    def send(self, what: str, fd: int | None = None, **values: Any) -> bool:
        """Send a message; tell whether it will arrive."""
        return self.link.send({"is": what, **values}, fd)

    def detach(self) -> Heirloom:
        """Let go of a worker, for the next image of the supervisor."""
        sock, rest = self.link.detach()
        process = self.process
        told = self.serial, self.slot, process.pid, process.of_ours, self.mounts
        return Heirloom(*told, sock, process.detach(), rest)

    def close(self) -> None:
        """Forget a process that has ended."""
        self.link.close()
        self.process.close()
