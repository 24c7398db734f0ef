"""Which files the process opens, told by the interpreter itself.

An audit hook hears of every file that Python code opens for reading: the templates a site really
uses, its configuration, its modules. An audit hook cannot be removed, so there is one per process,
added when the first reloader starts, and it is next to nothing while none runs. It asks the system
for nothing, takes no lock and never raises: it runs inside other people's ``open``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TEMPLATES = frozenset(
    (
        ".html",
        ".htm",
        ".xhtml",
        ".jinja",
        ".jinja2",
        ".j2",
        ".mako",
        ".mak",
        ".pt",
        ".zpt",
        ".tmpl",
        ".tpl",
        ".xml",
    )
)
#: What is served as it is; the rest of a site's static files does not matter to a page's look.
STATIC = frozenset(
    (
        ".css",
        ".js",
        ".mjs",
        ".svg",
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".webp",
        ".avif",
        ".ico",
        ".woff",
        ".woff2",
    )
)
CONFIG = frozenset((".ini", ".toml", ".yaml", ".yml", ".cfg", ".env"))
ARCHIVES = frozenset((".zip", ".egg", ".whl", ".pyz"))
PYTHON = frozenset((".py", ".pyc", ".pyw"))

ENDINGS = TEMPLATES | STATIC | CONFIG | ARCHIVES | PYTHON

#: A site may open any number of files; no more are noted.
MOST_NOTED = 10_000
#: One that serves uploaded pictures will: they leave room for what is opened after them.
MOST_STATIC = 5_000

_WRITING = 3  # os.O_WRONLY | os.O_RDWR


#: The clock that file systems take their times from, if mostly only its ticks.
now = time.time_ns


class Opened:
    """What was opened for reading while somebody wanted to know.

    Attributes:
        times: Paths as they were given, and when each was first opened, in nanoseconds.
    """

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        self._news = False
        self._bells: tuple[Callable[[], object], ...] = ()
        self._wanted = 0
        self._deaf: set[int] = set()
        self._installed = False
        self._changing = threading.Lock()

    def start(self) -> None:
        """Listen, until `stop` was called as often."""
        with self._changing:
            self._wanted += 1
            if not self._installed:
                sys.addaudithook(_hook(self))
                self._installed = True

    def stop(self) -> None:
        """Undo one `start`; what was noted is forgotten with the last."""
        with self._changing:
            self._wanted -= 1
            if not self._wanted:
                self.times.clear()

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Open files without noting it, in this thread."""
        me = threading.get_ident()
        if me in self._deaf:
            yield
            return
        self._deaf.add(me)
        try:
            yield
        finally:
            self._deaf.discard(me)

    @property
    def news(self) -> bool:
        """Whether something was opened since this was last set to False."""
        return self._news

    @news.setter
    def news(self, is_so: bool) -> None:
        self._news = is_so
        if is_so:
            self.tell()

    def tell(self) -> None:
        """Ring, since there may be other files to watch."""
        for ring in self._bells:
            ring()

    def connect(self, ring: Callable[[], object]) -> None:
        """Have *ring* called, once each time, by any thread, whenever something may be new.

        It is called in the middle of anything: it must not wait, take a lock, or open a file.
        """
        with self._changing:
            if ring not in self._bells:
                self._bells += (ring,)

    def disconnect(self, ring: Callable[[], object]) -> None:
        """Undo `connect`."""
        with self._changing:
            self._bells = tuple(each for each in self._bells if each != ring)

    @property
    def wanted(self) -> bool:
        """Whether somebody listens."""
        return self._wanted > 0


def _hook(opened: Opened) -> Callable[[str, tuple[Any, ...]], None]:
    times, deaf, ident = opened.times, opened._deaf, threading.get_ident

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        try:
            if event == "open":
                path = arguments[0]
                if (
                    opened._wanted
                    and path not in times
                    and (ending := path[path.rfind(".") :]) in ENDINGS
                    and not arguments[2] & _WRITING
                    and ident() not in deaf
                    and len(times) < (MOST_STATIC if ending in STATIC else MOST_NOTED)
                ):
                    times[path] = now()
                    opened.news = True
            elif (event == "exec" or event == "import") and opened._wanted:
                # A module is among the modules by the time its code runs; one without code of its
                # own, an extension or a namespace, will be soon.
                opened.tell()
        except Exception:  # noqa: BLE001 - a descriptor, bytes, anything: not of interest
            pass

    return hook


#: The one of this process: there is one audit hook.
OPENED = Opened()
