"""A process that keeps the libraries a site has imported, and forks workers that have them already.

It has nothing of the project: a fork does all that a worker does that was started by itself, and
imports the project anew. What it depends on besides - which configuration, which libraries - it
says when it has loaded, so that it can be replaced when that changes.

A fork may be made ahead, and waits for what it is to be.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from sitebus import assembly
from sitebus.assembly.environment import prepare as set_up
from sitebus.config import Override
from sitebus.errors import SitebusError
from sitebus.relay.frames import Decoder
from sitebus.reload import modules
from sitebus.reload.modules import is_library
from sitebus.workers.inside import prepare
from sitebus.workers.libraries import folders, keep
from sitebus.workers.purity import Purity
from sitebus.workers.stamps import stamps_of
from sitebus.workers.zygote import Message, Zygote, other_threads

#: What replaces parts of other libraries is meant to be imported before those.
PATCHING = frozenset({"gevent.monkey", "eventlet.patcher"})

#: Bytes of a frame that say how many follow.
_HEADER = 4


class Warm(Zygote):
    """Keeps libraries; it is told their names after it was told what workers are told."""

    def load(self, boot: Message) -> Message:
        """Be what workers are before they import anything.

        Raises:
            SitebusError: The configuration cannot be read.
        """
        self._boot = boot
        self._refused = frozenset(boot["refused"])
        self._configuration = configuration = prepare(self.engine, boot)
        set_up(configuration)
        self._path = tuple(sys.path)
        self._stamps = stamps_of([*configuration.files, *filter(is_library, sys.path)])
        return {}

    def hear(self, message: Message) -> None:
        """Import what is named, and say whether this can be forked now."""
        if message.get("is") != "load":
            return
        reason = self._objection(message["names"])
        if not reason:
            before = _open_here()
            with Purity(self._refused) as purity:
                purity.load(message["names"])
            reason = _what_forks_cannot_share(before)
        if reason:
            self.send("cold", reason=reason)
            return
        self._rehearse()
        self._stamp()
        keep()
        self.settle()
        self.send("warm", tainted=sorted(purity.tainted), stamps=self._stamps)

    def _stamp(self) -> None:
        """Note how the modules are that are kept now; of those of before that is known."""
        known = {path for path, *_ in self._stamps}
        self._stamps += stamps_of(sorted({*folders()} - known))

    def _objection(self, names: Iterable[str]) -> str:
        """Answer why libraries of these *names* cannot be kept; nothing if they can."""
        for each in self._configuration.plugins:
            if each.name == "drop_privileges" and each["enabled"]:
                return "libraries would be imported with privileges that workers drop"
        patching = PATCHING.intersection(names)
        return f"{', '.join(sorted(patching))} changes other libraries" if patching else ""

    def be_worker(self, told: Message, sock: socket.socket) -> int:
        """Wait for what the supervisor says, and be that."""
        self._rehearse()
        boot = _first_message(sock)
        if boot is None:
            sock.close()
            return 0
        _forget_project()
        from sitebus.workers.worker import Worker

        return Worker(self.engine, self.site, sock).run(
            {**boot, "path": self._with_additions(boot)}
        )

    def _rehearse(self) -> None:
        """Do once what each worker will do first, if it has no effect.

        What is remembered of it is shared; and done in a fork that waits, it has the memory copied
        that the fork would otherwise copy page by page when it is in a hurry.
        """
        overrides = [Override(*each) for each in self._boot["overrides"]]
        with suppress(SitebusError):
            assembly.read(self._boot["config"], overrides=overrides, environ=os.environ)
        modules.imported()

    def _with_additions(self, boot: Message) -> list[str]:
        """Answer the import path with what libraries have added to it."""
        path = list(boot["path"])
        added = [each for each in sys.path if each not in self._path and each not in path]
        return path + added


def _what_forks_cannot_share(before: Counter[str]) -> str:
    """Answer what libraries have made that is not to be in two processes; nothing if they have not.

    A connection, or the descriptor of an event loop, is one for all forks.
    """
    if threads := other_threads():
        return f"a library starts {', '.join(threads)} on import"
    opened = sorted((_open_here() - before).elements())
    return f"a library opens {', '.join(opened)} on import" if opened else ""


def _open_here() -> Counter[str]:
    """Answer what is open that is no file: sockets, pipes, and what waits for others."""
    found: Counter[str] = Counter()
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{entry}")] += 1
    return Counter({name: count for name, count in found.items() if not name.startswith("/")})


def _forget_project() -> None:
    """Forget what was seen of the project's directories while libraries were looked for."""
    for place in tuple(sys.path_importer_cache):
        if not is_library(place):
            del sys.path_importer_cache[place]


def _first_message(sock: socket.socket) -> Mapping[str, Any] | None:
    """Take the first message off a link, and nothing of what follows; None at its end."""
    head = _exactly(sock, _HEADER)
    messages = Decoder().feed(head + _exactly(sock, int.from_bytes(head, "big")))
    return messages[0] if messages else None


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data
