"""What workers are made of, as they tell their supervisor: it imports none of that itself.

In a worker a `Sighting` hears what is imported and opened, and sends what is new of it: all of it
when the worker is ready or says why it is not, and little by little before and afterwards. In the
supervisor `Sightings` puts together what the workers have told, and is a `sitebus.reload` sight.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sitebus.process import Engine
from sitebus.reexec import STARTED_IN
from sitebus.relay import Poller
from sitebus.reload import modules
from sitebus.reload.agenda import Agenda
from sitebus.reload.modules import Imported
from sitebus.reload.opened import CONFIG, OPENED, now
from sitebus.reload.sources import ending
from sitebus.workers.libraries import libraries

#: How often a worker tells what it has come to while it boots; seconds.
BOOTING = 0.5

#: How much goes into one message: paths, and bytes that they may come to.
_MOST_PATHS, _MOST_BYTES = 500, 150_000

Send = Callable[..., object]


class Sighting:
    """Tells what this process is made of.

    Args:
        engine: The bus, whose ``autoreload.files`` are told as well.
        poller: In whose thread it looks.
        send: Sends a message; may be called in any thread.
        libraries: Whether to name what is imported besides what is watched, once all of it is.
    """

    def __init__(
        self, engine: Engine, poller: Poller, send: Send, *, libraries: bool = False
    ) -> None:
        self._libraries = libraries
        self._engine = engine
        self._poller = poller
        self._send = send
        self._agenda = Agenda()
        self._telling = threading.Lock()
        self._told: dict[str, set[str]] = {}
        self._named: frozenset[str] = frozenset()
        self._noted = 0
        self._ready: int | None = None
        self._cancel: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Hear from now on; to be called before anything of the user's is imported."""
        OPENED.start()
        self._cancel = self._poller.call_at(time.monotonic() + BOOTING, self._look_early)

    def ready(self) -> None:
        """Tell everything, and from now on whatever comes to it."""
        self._ready = now()
        self.tell()
        OPENED.connect(self._ring)
        self._ring()
        self._poller.call_soon(self._plan)

    def stop(self) -> None:
        """Hear no more."""
        self._cancel()
        OPENED.disconnect(self._ring)
        OPENED.stop()

    def again(self) -> None:
        """Tell everything once more: who hears it now has not heard it before."""
        with self._telling:
            self._told.clear()
            self._named, self._noted = frozenset(), 0
        self.tell()

    def tell(self) -> None:
        """Tell what has not been told yet."""
        with self._telling:
            for message in _portions(list(self._news())):
                self._send("seen", **message)
            named = frozenset(self._engine.autoreload.files)
            if named != self._named:
                self._named = named
                self._tell_named(sorted(named))

    def _tell_named(self, paths: list[str]) -> None:
        # All of them each time: there are few, and some may not be meant any more.
        first = True
        for message in _portions([("named", path, 0) for path in paths]) or [{"named": []}]:
            self._send("seen", **message, anew=first)
            first = False

    def _news(self) -> Iterator[tuple[str, str, int]]:
        code = modules.imported()
        # Whoever hears of a file is to know already when it was read.
        yield from self._opened()
        for kind, paths in zip(Imported._fields, code, strict=True):
            told = self._told.setdefault(kind, set())
            yield from ((kind, path, 0) for path in paths - told)
            told |= paths
        if self._libraries and self._ready is not None:
            told = self._told.setdefault("libraries", set())
            # In the order in which they were imported.
            names = [name for name in libraries() if name not in told]
            yield from (("libraries", name, 0) for name in names)
            told.update(names)

    def _opened(self) -> Iterator[tuple[str, str, int]]:
        opened = list(OPENED.times.items())
        noted, self._noted = opened[self._noted :], len(opened)
        for path, when in noted:
            if self._matters(path, when):
                yield "times", path, when

    def _matters(self, path: str, when: int) -> bool:
        if self._ready is not None and when > self._ready and ending(path) in CONFIG:
            return False  # the application's data
        return not modules.is_library(os.path.dirname(os.path.join(STARTED_IN, path)))

    # In the poller's thread.

    def _look_early(self) -> None:
        if self._ready is None:
            self.tell()
            self._cancel = self._poller.call_at(time.monotonic() + BOOTING, self._look_early)

    def _ring(self) -> None:
        """Hear, in the middle of anything, that there may be something to tell."""
        if self._agenda.ring():
            self._poller.call_soon(self._plan)

    def _plan(self) -> None:
        self._cancel()
        left = self._agenda.left()
        if left is not None:
            self._cancel = self._poller.call_at(time.monotonic() + left, self._look)

    def _look(self) -> None:
        if self._agenda.come():
            self.tell()
        self._plan()


def _portions(news: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Divide what is to be told into messages that are not too large."""
    portions: list[dict[str, Any]] = []
    size = count = 0
    for kind, path, when in news:
        # In JSON a character may take six bytes, and more than one if it is a rare one.
        length = 12 * len(path) + 40
        if not portions or count >= _MOST_PATHS or size + length > _MOST_BYTES:
            portions.append({})
            size = count = 0
        size += length
        count += 1
        if kind == "times":
            portions[-1].setdefault(kind, {})[path] = when
        else:
            portions[-1].setdefault(kind, []).append(path)
    return portions


class Seen:
    """What one worker has told of itself."""

    def __init__(self) -> None:
        self.code = {kind: set[str]() for kind in Imported._fields}
        self.times: dict[str, int] = {}
        self.named: set[str] = set()
        self.gone = False

    def take(self, message: Mapping[str, Any]) -> None:
        for kind, paths in self.code.items():
            paths.update(map(str, message.get(kind, ())))
        for path, when in message.get("times", {}).items():
            self.times.setdefault(str(path), int(when))
        if "named" in message:
            if message["anew"]:
                self.named = set()
            self.named.update(map(str, message["named"]))


class Sightings:
    """What all workers have told; a sight for `sitebus.reload.sources.Sources`.

    One thread may be told while another looks.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Seen] = {}
        self._noted: dict[str, int] = {}
        self._changing = threading.Lock()
        self._bells: tuple[Callable[[], object], ...] = ()
        self._size = 0
        self.news = True
        self._put_together()

    def take(self, serial: int, message: Mapping[str, Any]) -> None:
        """Take what a worker tells."""
        with self._changing:
            self._seen.setdefault(serial, Seen()).take(message)
            self._put_together()
        self.tell()

    def gone(self, serial: int) -> None:
        """Hear that a worker is gone; what it told counts until `forget`."""
        with self._changing:
            if serial in self._seen:
                self._seen[serial].gone = True

    def forget(self) -> None:
        """Let what those told who are gone count no more."""
        with self._changing:
            self._seen = {serial: seen for serial, seen in self._seen.items() if not seen.gone}
            self._noted.clear()
            self._put_together()
        self.tell()

    def _put_together(self) -> None:
        # New objects each time: whoever looks has the old ones or the new.
        times = dict(self._noted)
        for seen in self._seen.values():
            for path, when in seen.times.items():
                times[path] = min(when, times.get(path, when))
        self._times = times
        self._named = frozenset().union(*(seen.named for seen in self._seen.values()))
        self._code = Imported(
            *(
                frozenset().union(*(seen.code[kind] for seen in self._seen.values()))
                for kind in Imported._fields
            )
        )
        self._size += 1

    # What a sight is asked.

    @property
    def times(self) -> Mapping[str, int]:
        """When each file was first opened by a worker that counts."""
        return self._times

    @property
    def named(self) -> Collection[str]:
        """The files that were named in workers."""
        return self._named

    @property
    def size(self) -> object:
        """Another number whenever something was told."""
        return self._size

    def code(self, match: str) -> Imported:
        """Answer what is imported by workers; they choose what to tell."""
        return self._code

    def note(self, path: str, when: int) -> None:
        """Take *path* as opened at that time, unless it was before."""
        with self._changing:
            self._noted.setdefault(path, when)
            self._put_together()

    def tell(self) -> None:
        """Ring, since there may be other files to watch."""
        for ring in self._bells:
            ring()

    def connect(self, ring: Callable[[], object]) -> None:
        """Have *ring* called whenever something was told."""
        with self._changing:
            if ring not in self._bells:
                self._bells += (ring,)

    def disconnect(self, ring: Callable[[], object]) -> None:
        """Undo `connect`."""
        with self._changing:
            self._bells = tuple(each for each in self._bells if each != ring)
