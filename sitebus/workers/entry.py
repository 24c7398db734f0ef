"""Where a process of a site begins: it finds its link, or says that it is not for people."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from sitebus.errors import EX_USAGE
from sitebus.workers.spawn import release

if TYPE_CHECKING:
    from sitebus.mounts import Site
    from sitebus.process import Engine

USAGE = "sitebus.workers: started by sitebus-serve, for a site with [workers] count of 1 or more\n"
LINK, ZYGOTE, WARM = "--link=", "--zygote=", "--warm="


def main(argv: Sequence[str], engine: Engine, site: Site) -> int:
    """Be a worker, or the zygote of some, and answer the exit status."""
    # Until it has handlers: what an operator sends is for the supervisor. Truly ignored, it would
    # be so in all that applications start.
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
        signal.signal(getattr(signal, name), _leave_to_the_supervisor)
    # Before there are threads: they, and what is started by them, would inherit the block.
    release()
    word = argv[0] if argv else ""
    sock = _link(word.partition("=")[2])
    if sock is None:
        sys.stderr.write(USAGE)
        return EX_USAGE
    if word.startswith(ZYGOTE):
        from sitebus.workers.zygote import Preloading

        return Preloading(engine, site, sock).run()
    if word.startswith(WARM):
        from sitebus.workers.warm import Warm

        return Warm(engine, site, sock).run()
    from sitebus.workers.worker import Worker

    return Worker(engine, site, sock).run()


def _leave_to_the_supervisor(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _link(number: str) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=int(number))
        os.set_inheritable(sock.fileno(), False)
    except (ValueError, OSError):
        return None
    return sock if sock.family == socket.AF_UNIX else None
