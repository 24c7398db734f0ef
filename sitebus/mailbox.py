"""Waking threads that wait, from anywhere, without a lock or a descriptor.

A signal handler may tell; so may a listener, a finalizer, or a thread that holds any lock:
`queue.SimpleQueue.put` is reentrant and a dict is copied in one step.
What the messages mean is the business of those who wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Protocol


class Box(Protocol):
    """Where one waiting thread, or task, finds its messages."""

    def put(self, item: object, /) -> None:
        """Add a message; never waits."""


class Mailboxes:
    """The boxes of everyone who waits at this moment."""

    def __init__(self) -> None:
        self._boxes: dict[int, Box] = {}

    @contextmanager
    def open(self) -> Iterator[SimpleQueue[object]]:
        """Receive every message told from here to the end of the block."""
        box: SimpleQueue[object] = SimpleQueue()
        with self.deliver_to(box):
            yield box

    @contextmanager
    def deliver_to(self, box: Box) -> Iterator[None]:
        """Put every message told meanwhile into *box*."""
        self._boxes[id(box)] = box
        try:
            yield
        finally:
            del self._boxes[id(box)]

    def tell(self, message: object) -> None:
        """Give *message* to everyone who waits."""
        for box in self._boxes.copy().values():
            box.put(message)


def receive(box: SimpleQueue[object], deadline: float | None) -> object | None:
    """Take the next message, or None once *deadline* (`time.monotonic` seconds) has passed."""
    try:
        if deadline is None:
            return box.get()
        return box.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        return None
