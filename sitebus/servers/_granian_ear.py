"""Hears what granian says of connections that it was refused, and has it find out who listens.

granian logs by pyo3-log, which keeps each logger that it has found. If two threads look for the
same one at the same time, what the first has found is replaced by what the second has; and if the
first was about to use it again, it is the last to let go of it, without the interpreter's lock.
That ends the process, by ``abort()``: when there are no descriptors, and several doors where
clients wait. So before there are any doors a worker at a door of its own, which nobody knows, is
refused once; from then on granian knows the logger.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from sitebus.servers._granian_crew import Loop, Worker, scheduler
from sitebus.servers._granian_sockets import dead_listener
from sitebus.servers.connections import EXHAUSTED, Door

#: Where granian says, to nobody as a rule, that it could not accept; and how it says why.
_LOGGER, _WHY = "_granian.workers", re.compile(r"code: (\d+)")
#: How long granian may take to say so the first time, and to end a worker without clients; seconds.
_PATIENCE = 1.0

_lock = threading.Lock()

Make = Callable[[Door, socket.socket, Callable[[Door], Any]], Worker]


class Ear(logging.Logger):
    """Hears what granian says of refusals.

    That is kept from everybody else, as nobody asks for it: a record of it would also make a thread
    object for each of granian's threads, which stays.
    """

    told: ClassVar[set[Callable[[], object]]] = set()
    #: Something was said, whatever it was: granian knows its logger.
    heard: ClassVar[threading.Event] = threading.Event()

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return level == logging.DEBUG or super().isEnabledFor(level)

    def makeRecord(self, name: str, level: int, fn: str, lno: int, msg: Any, *more: Any) -> Any:  # noqa: N802
        if level > logging.DEBUG:
            return super().makeRecord(name, level, fn, lno, msg, *more)
        self.heard.set()
        why = _WHY.search(str(msg))
        if why is not None and int(why.group(1)) in EXHAUSTED:
            for tell in tuple(self.told):
                tell()
        return None

    def handle(self, record: logging.LogRecord | None) -> None:
        if record is not None:
            super().handle(record)


def prepare(make: Make) -> bool:
    """Have granian know its logger, once in this process; tell whether it says what it is refused.

    It does not where it cannot be kept from being refused: it would say so without end.

    Args:
        make: Makes a worker on a door, with another socket that stands for it when it rests, and
            what is called for its requests.
    """
    # Elsewhere the kernel does not tell who watches a socket.
    if sys.platform != "linux":
        return False
    with _lock:
        if not Ear.heard.is_set():
            # Without loopback, or descriptors, a site does without this as well.
            with suppress(OSError):
                _prepare(make)
        return Ear.heard.is_set()


def _prepare(make: Make) -> None:
    with (
        dead_listener(socket.AF_INET) as door,
        dead_listener(socket.AF_INET) as dead,
        # Nobody can be accepted where nobody listens.
        socket.socket() as deaf,
        socket.socket() as client,
    ):
        worker = make(Door(door, "", ""), dead, _nobodys)
        try:
            if worker.can_rest:
                # For good: granian remembers that it is heard.
                logging.getLogger(_LOGGER).__class__ = Ear
                worker.show(deaf)
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect(door.getsockname())
                Ear.heard.wait(_PATIENCE)
                worker.show(door)
        finally:
            worker.end()
            worker.wait_ended(_PATIENCE)


def _nobodys(door: Door) -> Any:
    """Answer what is called for the requests of somebody who has found the door: nothing is."""
    return scheduler(Loop(), lambda watcher: watcher.done())
