"""Wait until files may have changed: told by the system, or by looking again and again.

On Linux `inotify` has the kernel tell, and nothing wakes up while nothing happens. Elsewhere
`Native` does, through the library `watchfiles`, which has no way of waiting but to look at its own
list every *debounce* seconds: 20 times a second, at the default of 0.05 s. `Polling` is woken every
*frequency* seconds.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Protocol

from sitebus.errors import CannotWatch, MissingExtra
from sitebus.reload.places import Places, silent

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

#: A change is told at the latest so long after the first of a burst; seconds.
LONGEST = 0.3

#: So many events at once may be more than the system could keep.
_MANY = 500


#: Who is not asked for so many steps stood still, as a program that was suspended does.
_STANDSTILL = 10


class Notices(Protocol):
    """What tells that files may have changed.

    Attributes:
        eager: Whether to tell as soon as a burst begins, where that can be done.
    """

    eager: bool

    def cover(self, places: Places, matters: Mapping[str, Callable[[str], bool]]) -> None:
        """Tell of changes in *places* from now on, and of new names that matter in directories.

        Raises:
            CannotWatch: The system has no more watches to give.
        """

    def wait(self, timeout: float | None) -> bool:
        """Return when something may have changed, after *timeout*, or when woken.

        Returns:
            Whether something may have changed.
        """

    def wake(self) -> None:
        """Have `wait` return soon; any thread may call it, in the middle of anything."""

    def close(self) -> None:
        """Give back what the system gave."""


class Polling:
    """Look every *frequency* seconds."""

    eager = False

    def __init__(self, frequency: Callable[[], float]) -> None:
        self._frequency = frequency
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def cover(self, places: Places, matters: Mapping[str, Callable[[str], bool]]) -> None:
        """Every file is looked at anyway."""

    def wait(self, timeout: float | None) -> bool:
        """Return after *timeout*, or when it is time to look again."""
        try:
            self._bell.get(timeout=self._frequency() if timeout is None else timeout)
        except queue.Empty:
            return True
        return False

    def wake(self) -> None:
        """End a wait."""
        self._bell.put(None)

    def close(self) -> None:
        """Nothing is held."""


class Native:
    """Have the system tell through `watchfiles`, of the directories that matter only.

    Args:
        debounce: How long nothing may come before a burst is over, in seconds.

    Raises:
        MissingExtra: `watchfiles` is not installed.
    """

    eager = False

    def __init__(self, debounce: float) -> None:
        self._make = _rust_notify()
        self._step = max(1, round(debounce * 1000))
        self._woken = self._stood_still = False
        self._asked = 0.0
        self._notify: RustNotify | None = None
        self._places = Places({}, frozenset())
        self._matters: Mapping[str, Callable[[str], bool]] = {}

    def cover(self, places: Places, matters: Mapping[str, Callable[[str], bool]]) -> None:
        """Watch other directories, if they are others."""
        before, self._places = self._places, places
        self._matters = {os.path.realpath(folder): each for folder, each in matters.items()}
        if self._notify is not None and before.folders == places.folders:
            return
        # First the new, then the end of the old: between them nothing is lost.
        old, self._notify = self._notify, self._watch(list(places.folders))
        if old is not None:
            old.close()

    def wait(self, timeout: float | None) -> bool:
        """Return when a name that matters was touched, after *timeout*, or when woken."""
        assert self._notify is not None
        longest = round(LONGEST * 1000)
        limit = 0 if timeout is None else max(1, round(timeout * 1000))
        while not self._woken:
            self._asked, self._stood_still = time.monotonic(), False
            told = self._notify.watch(longest, self._step, limit, self)
            if isinstance(told, str):
                if told != "stop" or self._stood_still:
                    return self._stood_still
            elif self._matter(path for _, path in told):
                return True
        self._woken = False
        return False

    def is_set(self) -> bool:
        """Answer `watchfiles`, which asks whether to end the wait."""
        before, self._asked = self._asked, time.monotonic()
        # Meanwhile more may have happened than the system keeps, and the library does not say.
        self._stood_still = (self._asked - before) * 1000 > _STANDSTILL * self._step
        return self._woken or self._stood_still

    def wake(self) -> None:
        """End a wait."""
        self._woken = True

    def close(self) -> None:
        """Watch nothing any more."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None

    def _matter(self, paths: Iterable[str]) -> bool:
        for count, path in enumerate(paths):
            folder, name = os.path.split(path)
            if name in self._places.names or path in self._places.folders or count > _MANY:
                return True
            matters = self._matters.get(folder)
            if matters is not None and matters(name):
                return True
        return False

    def _watch(self, folders: list[str]) -> RustNotify:
        while True:
            # One that is not ours to read would fail as a limit does.
            folders = [each for each in folders if os.access(each, os.R_OK)]
            try:
                return self._make(folders, False, False, 0, False, False)
            except FileNotFoundError:
                continue  # it went a moment ago; whoever asks again will ask for what is above it
            except (OSError, RuntimeError) as error:
                raise CannotWatch(len(folders), error) from error


def native(debounce: float) -> Notices:
    """Answer what has the system tell: the kernel's own way if there is one, else `watchfiles`.

    Raises:
        MissingExtra: There is neither.
        CannotWatch: The system tells as many as it may.
    """
    if sys.platform == "linux":
        try:
            from sitebus.reload.inotify import Inotify

            return Inotify(debounce)
        except (ImportError, OSError, AttributeError):
            pass  # Python can call no library, or neither library nor kernel knows of it
    return Native(debounce)


def choose(
    places: Places,
    frequency: Callable[[], float],
    debounce: float,
    log: Callable[[str], object],
    way: Callable[[float], Notices] | None = native,
) -> Notices:
    """Answer *way* if it will do for *places*, else polling; if that was not asked for, say why."""
    if way is None:
        return Polling(frequency)
    why = why_silent(places.folders)
    if why is None:
        try:
            return _covering(way(debounce), places)
        except (MissingExtra, CannotWatch) as error:
            why = str(error)
    log(f"Looking for changed files every {frequency():g} s: {why}")
    return Polling(frequency)


def _covering(found: Notices, places: Places) -> Notices:
    try:
        found.cover(places, {})
    except CannotWatch:
        found.close()
        raise
    return found


def why_silent(folders: Iterable[str]) -> str | None:
    """Answer, for people, which of *folders* nobody tells of; None if there is none."""
    found = silent(folders)
    if found is None:
        return None
    folder, kind = found
    return f"{folder} is on a file system ({kind}) that does not tell of every change"


def _rust_notify() -> type[RustNotify]:
    """Answer the part of `watchfiles` that is needed; the package itself would import asyncio."""
    name = "watchfiles._rust_notify"
    if name not in sys.modules:
        package = importlib.util.find_spec("watchfiles")
        where = package and package.submodule_search_locations
        spec = PathFinder.find_spec(name, where) if where else None
        if spec is None or spec.loader is None:
            raise MissingExtra("watchfiles", "reload")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # Should the site use the package itself, it finds this one.
        sys.modules[name] = module
    found: type[RustNotify] = sys.modules[name].RustNotify
    return found
