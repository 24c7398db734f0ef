"""Watch files for a test, in a thread that hands over every answer."""

from __future__ import annotations

import importlib
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from sitebus.reload import notices
from sitebus.reload.named import Named
from sitebus.reload.notices import Native, Notices, Polling
from sitebus.reload.opened import OPENED
from sitebus.reload.sources import Sources
from sitebus.reload.stamps import Snapshot
from sitebus.reload.watcher import Changes, Watcher

#: All ways of hearing of changes, and those in which the system tells.
WAYS = pytest.mark.parametrize("way", ["polling", "inotify", "watchfiles"])
TOLD = pytest.mark.parametrize("way", ["inotify", "watchfiles"])

PATIENCE = 10.0


class Watching:
    """A watcher at work; its answers are names, without their directories."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.logged: list[str] = []
        self._answers: queue.SimpleQueue[Changes | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        try:
            while (changes := self.watcher.wait()) is not None:
                self._answers.put(changes)
        except BaseException as error:
            self._answers.put(error)
        finally:
            self.watcher.close()

    def next(self) -> Changes:
        """Answer the next changes."""
        found = self._answers.get(timeout=PATIENCE)
        if isinstance(found, BaseException):
            raise found
        return found

    def names(self) -> list[str]:
        return [Path(each).name for each in self.next().paths]

    @property
    def quiet(self) -> bool:
        return self._answers.empty()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.watcher.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextmanager
def watching(
    files: Iterable[str | Path] = (),
    *,
    way: str | Callable[[float], Notices] = "native",
    match: str = "nothing at all",
    watch: Iterable[str] = (),
    ignore: Iterable[str] = (),
    snapshot: Snapshot | None = None,
    frequency: float = 0.03,
    debounce: float = 0.03,
    failing: bool = False,
    ready: Callable[[Watcher], object] | None = None,
) -> Iterator[Watching]:
    """Watch, when the block begins; whatever changes in it is told."""
    named = files if isinstance(files, set) else Named(str(each) for each in files)
    sources = Sources(lambda: named, lambda: match, watch, ignore)
    sources.failing = failing
    logged: list[str] = []
    watcher = Watcher(
        sources,
        snapshot or Snapshot(),
        lambda: frequency,
        debounce,
        way == "polling",
        logged.append,
        made(way) if isinstance(way, str) else way,
    )
    OPENED.start()
    try:
        assert watcher.look() is None  # what is there now is not news
        with Watching(watcher) as found:
            found.logged = logged
            # Native watches are there before the first wait; a look has no need of them.
            _wait_until_covered(watcher)
            assert way not in ("inotify", "watchfiles") or kind(watcher) == way
            yield found
    finally:
        OPENED.stop()


def made(way: str) -> Callable[[float], Notices]:
    """Answer what makes notices that have the system tell in that *way*."""
    if way == "watchfiles":
        pytest.importorskip("watchfiles")
        return Native
    if way == "inotify" and sys.platform != "linux":
        pytest.skip("not Linux")
    return notices.native


def kind(watcher: Watcher) -> str:
    """Answer in which way *watcher* hears of changes."""
    names = {Native: "watchfiles", Polling: "polling"}
    return names.get(type(watcher._notices), "inotify")


def _wait_until_covered(watcher: Watcher) -> None:
    from tests.helpers import wait_for

    wait_for(lambda: watcher._notices is not None)


@contextmanager
def importable(folder: Path, *names: str) -> Iterator[None]:
    """Import *names* from *folder*, and forget them at the end."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        for name in names:
            importlib.import_module(name)
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in {each.partition(".")[0] for each in names}:
                del sys.modules[name]
        importlib.invalidate_caches()
