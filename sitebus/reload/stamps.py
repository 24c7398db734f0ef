"""Has a file changed? What it looked like, kept over a re-exec.

A file has changed if its time, size or inode are others *and* so is its content: a touch, or a
checkout there and back, is no change. What counts as the content that runs is what the file had
when it was first opened, so that an edit during a start is not lost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sitebus.reload.bytecode import is_outdated
from sitebus.reload.opened import OPENED, now

#: How often a file is read that is being written; if that goes on there will be more to tell.
_MOST_TRIES = 5

#: Larger files are not read to find out whether a touch was only that.
MOST_READ = 16 << 20

#: The clock that file systems take their times from may be late by so much: what changed so
#: recently may change again without showing it. Nanoseconds.
_TICK = 10_000_000


class Stamp(NamedTuple):
    """What the system says about a file without reading it."""

    modified: int
    size: int
    inode: int
    #: When the system last changed anything about it: a write that restores the time shows here.
    touched: int


class State(NamedTuple):
    """What a file was like; one that is not there has no stamp."""

    stamp: Stamp | None
    digest: str = ""


ABSENT = State(None)

#: What was loaded is not there any more: no file has this stamp.
LOST = State(Stamp(0, -1, 0, 0))


class Listing(NamedTuple):
    """The names in a directory, and whether a later change of it would show in its time."""

    modified: int
    settled: bool
    names: frozenset[str]


EMPTY = Listing(-1, False, frozenset())


class Snapshot:
    """What every watched file was like when it was loaded, or when its change was last told.

    Args:
        since: Files that were loaded before anybody watched were loaded after that, in
            nanoseconds. If that is not known they are taken as they were at `began`.

    Attributes:
        began: When the watching began, in nanoseconds; the first look may come later.
    """

    def __init__(self, since: int | None = None) -> None:
        self.since = since
        self.began: int | None = None
        self.states: dict[str, State] = {}
        self.listings: dict[str, Listing] = {}
        self._earlier: dict[str, State] = {}
        self._begun = False

    def changes(
        self, paths: Iterable[str], opened: Callable[[], Mapping[str, int]] = dict
    ) -> dict[str, State]:
        """Answer which of *paths* have changed, and what they are like now.

        They go on being changed until `accept` is told. A path that was not asked about before is
        taken as it was when it was first *opened*.
        """
        found: dict[str, State] = {}
        times: Mapping[str, int] | None = None
        states = self.states
        for path in paths:
            status = _status(path)
            known = states.get(path)
            if known is None:
                if times is None:
                    times = opened()
                known = states[path] = self._first(path, status, times.get(path))
            old = known.stamp
            if status is None:
                if old is not None:
                    found[path] = ABSENT
            elif old != (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns):
                self._compare(path, known, found)
        self._begun = True
        return found

    def accept(self, changes: Mapping[str, State]) -> None:
        """Take *changes* as told: the same states are no changes any more."""
        self.states.update((path, _kept(state)) for path, state in changes.items())

    def new_names(self, folders: Mapping[str, Callable[[str], bool]]) -> list[str]:
        """Answer the paths of files that appeared in *folders* since the last call."""
        found: list[str] = []
        for folder, matters in folders.items():
            known = self.listings.get(folder)
            present = _listing(folder, known)
            if present is known:
                continue
            self.listings[folder] = present
            if known is not None:
                new = sorted(present.names - known.names)
                found += [os.path.join(folder, name) for name in new if matters(name)]
        return found

    def _compare(self, path: str, known: State, found: dict[str, State]) -> None:
        present = look(path)
        if _is_same(present, known):
            self.states[path] = _kept(present)
        else:
            found[path] = present

    def _first(self, path: str, status: os.stat_result | None, opened: int | None) -> State:
        """Answer what *path* was like when it was loaded."""
        earlier = self._earlier.pop(path, None)
        if status is None:
            return ABSENT
        if earlier is not None and earlier.stamp == _stamp(status):
            return earlier
        # What counts from here on is what was read, not the status of a moment ago.
        present = look(path)
        if present.stamp is None:
            return LOST
        if earlier is not None and earlier.digest and earlier.digest == present.digest:
            return _kept(present)
        if self._touched_since_loaded(path, present.stamp, opened, earlier):
            return LOST
        return _kept(present)

    def _touched_since_loaded(
        self, path: str, stamp: Stamp, opened: int | None, earlier: State | None
    ) -> bool:
        touched = _touched(stamp)
        if opened is not None:
            # In the same tick of the file system's clock, what was compiled can tell. And what the
            # trial of this image compiled may have been loaded, though the source is another now.
            same_tick = touched > opened - _TICK
            if touched > opened or (same_tick and not path.endswith(".py")):
                return True  # one restart too many, if it was written just before it was opened
            doubtful = same_tick or earlier is not None
            return doubtful and _is_outdated(path, stamp, True)
        if self._begun:
            return False  # named by somebody just now
        if earlier is not None:
            return True
        if self.since is not None:
            return touched > self.since - _TICK
        late = self.began is not None and touched > self.began
        return late or _is_outdated(path, stamp, False)

    # Kept over a re-exec.

    def dump(self) -> dict[str, Any]:
        """Answer all of it in JSON's types."""
        states = {path: (*state.stamp, state.digest) for path, state in self._all() if state.stamp}
        names = {path: sorted(each.names) for path, each in self.listings.items()}
        return {"since": now(), "states": states, "names": names}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Take over what `dump` answered, in the image before this one."""
        self.since = int(dumped["since"])
        for path, (*stamp, digest) in dumped["states"].items():
            self._earlier[path] = State(Stamp(*map(int, stamp)), str(digest))
        for path, names in dumped["names"].items():
            self.listings[path] = Listing(-1, False, frozenset(map(str, names)))

    def _all(self) -> list[tuple[str, State]]:
        return [*(self._earlier | self.states).items()]


def look(path: str) -> State:
    """Answer what *path* is like now, with its content's digest."""
    import hashlib

    if _status(path) is None:
        return ABSENT
    try:
        with OPENED.unheard(), open(path, "rb", buffering=0) as file:
            after = _stamp(os.fstat(file.fileno()))
            if after.size > MOST_READ:
                return State(after)
            digest = ""
            for _ in range(_MOST_TRIES):
                before = after
                file.seek(0)
                digest = hashlib.blake2b(file.read(MOST_READ), digest_size=16).hexdigest()
                after = _stamp(os.fstat(file.fileno()))
                if before == after:
                    return State(after, digest)
            return State(after._replace(touched=-1), digest)
    except (OSError, ValueError):
        pass
    status = _status(path)
    return ABSENT if status is None else State(_stamp(status))  # not ours to read


def _status(path: str) -> os.stat_result | None:
    """Answer what the system says about a file.

    A directory has no content of its own, and to open a pipe would be to wait for its writer.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _kept(state: State) -> State:
    """Answer *state* as it can be relied on: another write within the tick would not show."""
    if state.stamp is None or now() - _touched(state.stamp) > _TICK:
        return state
    return state._replace(stamp=state.stamp._replace(touched=-1))


def _is_same(present: State, known: State) -> bool:
    if present.stamp is None or known.stamp is None:
        return False
    if present.digest and known.digest:
        return present.digest == known.digest
    # Too large to be read, or not ours to read.
    return present.stamp[:3] == known.stamp[:3]


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)


def _touched(stamp: Stamp) -> int:
    # A copy may keep an old time of modification; that it was made then shows in the other one,
    # which on Windows is the time of creation.
    return max(stamp.touched, stamp.modified) if os.name == "nt" else stamp.touched


def _is_outdated(path: str, stamp: Stamp, thoroughly: bool) -> bool:
    return is_outdated(path, stamp.modified // 10**9, stamp.size, thoroughly)


def _listing(folder: str, known: Listing | None) -> Listing:
    try:
        modified = os.stat(folder).st_mtime_ns
        if known is not None and known.settled and known.modified == modified:
            return known
        settled = now() - modified > _TICK
        return Listing(modified, settled, frozenset(os.listdir(folder)))
    except OSError:
        return EMPTY
