"""Watch what a running site is made of, and answer what has changed.

One thread waits; nothing here starts one. A burst of changes is one answer: it is over when nothing
came for the length of a debounce, or after a while in any case.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from sitebus.errors import CannotWatch
from sitebus.reload import notices, places
from sitebus.reload.agenda import Agenda
from sitebus.reload.notices import LONGEST, Notices, Polling
from sitebus.reload.sources import Sources, Subject, is_soft, is_static
from sitebus.reload.stamps import ABSENT, EMPTY, Snapshot, State, look

#: What is watched may become other directories while it begins to be.
_MOST_TRIES = 5


class Changes(NamedTuple):
    """What has changed since the last answer."""

    #: Sorted; those that are gone, too.
    paths: tuple[str, ...]
    #: Only templates and static files have changed.
    soft: bool
    #: Only static files have, and nobody named them: whoever asks gets the new ones anyway.
    served: bool
    #: What they were like before, those that were there.
    before: Mapping[str, State]


class Watcher:
    """Watch *sources*, from the first `look` or `wait` to `close`.

    Args:
        sources: What to watch.
        snapshot: What it was like when it was loaded.
        frequency: Asked for the seconds between two looks, where the system does not tell.
        debounce: How long nothing may come before a burst is over, in seconds.
        force_polling: Look, even if the system might tell.
        log: Told once, if there is no other way than looking.
        way: What has the system tell.
    """

    def __init__(
        self,
        sources: Sources,
        snapshot: Snapshot,
        frequency: Callable[[], float],
        debounce: float,
        force_polling: bool,
        log: Callable[[str], object],
        way: Callable[[float], Notices] = notices.native,
    ) -> None:
        self.sources = sources
        self.snapshot = snapshot
        self.frequency = frequency
        self.debounce = debounce
        self.force_polling = force_polling
        self.log = log
        self.way = way
        #: Asked before each wait whether a burst is to be told as soon as it begins.
        self.eager: Callable[[], bool] = lambda: False
        self._ended = threading.Event()
        self._called = False
        self.subject = Subject()
        self._notices: Notices | None = None
        self._covered: dict[str, tuple[int, int]] = {}
        self._agenda = Agenda()
        self._new: set[str] = set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._ended.is_set()

    @property
    def polls(self) -> bool:
        """Whether it looks again and again because the system does not tell."""
        return isinstance(self._notices, Polling)

    def look(self) -> Changes | None:
        """Answer what has changed, at once."""
        self._find()
        changed = self._changed()
        return self._told(changed) if changed else None

    def wait(self) -> Changes | None:
        """Answer what has changed, when something has; None once `stop` or `call` was called."""
        self.sources.sight.connect(self._ring)
        self._cover()
        settled = False
        while not self._is_over:
            changed = self._changed()
            if changed:
                changed = self._settled(changed, settled)
            if changed and not self.stopped:
                return self._told(changed)
            self._rest()
            settled = not self.polls
            if self.sources.stale:
                self._cover()
            else:
                self._cover_again()
        self._called = False
        return None

    @property
    def _is_over(self) -> bool:
        return self._called or self.stopped

    def forget(self) -> None:
        """Forget what files were like that nothing is made of now; whoever needs one reads it."""
        self._find()
        for path in self.snapshot.states.keys() - self.subject.files:
            del self.snapshot.states[path]

    def call(self) -> None:
        """Have `wait` end soon, and not for good; any thread may call it."""
        self._called = True
        if (waited_for := self._notices) is not None:
            waited_for.wake()

    def rest(self, seconds: float) -> bool:
        """Wait without answering anything; False if `stop` was called."""
        return not self._ended.wait(seconds)

    def stop(self) -> None:
        """Have `wait` end soon; any thread may call it."""
        self._ended.set()
        if self._notices is not None:
            self._notices.wake()

    def close(self) -> None:
        """Give back what the system gave; the next `wait` takes it again."""
        self.sources.sight.disconnect(self._ring)
        if not self.polls:
            self._release()

    def _release(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None
            self._covered = {}

    # What is watched.

    def _find(self) -> None:
        known, found = self.subject, self.sources.find()
        # What is gone is to be told, though no pattern finds it any more.
        gone = frozenset(filter(self._is_gone, known.files - found.files))
        self.subject = found._replace(files=found.files | gone, listed=found.listed | gone)
        for folder in known.folders.keys() - found.folders.keys():
            self._forget(folder)
        # What is in a new directory is new.
        new = filter(self._is_new, found.folders.keys() - known.folders.keys())
        self.snapshot.listings.update(dict.fromkeys(tuple(new), EMPTY))

    def _is_gone(self, path: str) -> bool:
        state = self.snapshot.states.get(path, ABSENT)
        return state.stamp is not None and self.sources.matches(path) and not os.path.exists(path)

    def _forget(self, folder: str) -> None:
        """If *folder* is not there any more, it is new when it comes again."""
        listings = self.snapshot.listings
        above = listings.get(os.path.dirname(folder))
        if above is not None and not os.path.isdir(folder):
            names = above.names - {os.path.basename(folder)}
            listings[os.path.dirname(folder)] = above._replace(settled=False, names=names)

    def _is_new(self, folder: str) -> bool:
        """Tell whether *folder* was not there when what is above it was listed."""
        while (above := os.path.dirname(folder)) != folder:
            listing = self.snapshot.listings.get(above)
            if listing is not None:
                return os.path.basename(folder) not in listing.names
            folder = above
        return False

    def _cover(self) -> None:
        """Watch what there is to watch now."""
        self._find()
        self._cover_again()

    def _cover_again(self) -> None:
        """Watch the same: a directory may be another one now."""
        for _ in range(_MOST_TRIES):
            if self.polls:
                return
            where = places.of(self.subject.files, self.subject.folders)
            self._cover_places(where)
            # A link, or a directory, may have been replaced just before it was watched.
            before, self._covered = self._covered, where.folders
            if before == where.folders:
                return

    def _cover_places(self, where: places.Places) -> None:
        if self._notices is None:
            self._notices = self._choose(where)
        # A template may be opened, late, on another file system than the rest.
        elif (why := self._why_silent_now(where)) is not None:
            self._poll(why)
        try:
            self._notices.cover(where, self.subject.folders)
        except CannotWatch as error:
            self._poll(str(error))

    def _choose(self, where: places.Places) -> Notices:
        way = None if self.force_polling else self.way
        return notices.choose(where, self.frequency, self.debounce, self.log, way)

    def _why_silent_now(self, where: places.Places) -> str | None:
        more = where.folders.keys() - self._covered.keys()
        return notices.why_silent(more) if more else None

    def _poll(self, why: str) -> None:
        self.log(f"Looking for changed files every {self.frequency():g} s: {why}")
        self._release()
        self._notices = Polling(self.frequency)

    def _ring(self) -> None:
        """Hear, in the middle of anything, that there may be other files to watch."""
        waiting = self._agenda.ring()
        if waiting and (waited_for := self._notices) is not None:
            waited_for.wake()

    # What has changed.

    def _changed(self) -> dict[str, State]:
        self._note_new()
        opened = self.sources.first_opened
        changed = self.snapshot.changes(self.subject.files, opened)
        if self._new:
            changed |= self._unread(opened())
        return changed

    def _note_new(self) -> None:
        while new := {*self.snapshot.new_names(self.subject.folders), *self._come()}:
            folders = set(filter(os.path.isdir, new))
            self._new.update(new - folders)
            if not folders:
                return
            self.snapshot.listings.update(dict.fromkeys(folders, EMPTY))
            self.sources.appeared |= folders
            self._find()
            if self._notices is not None:
                self._cover_again()

    def _come(self) -> Iterator[str]:
        """Answer the directories that were missing."""
        # Whatever the listing says: it may be older than the finding that they are missing.
        return filter(os.path.isdir, self.subject.missing)

    def _unread(self, opened: Mapping[str, int]) -> dict[str, State]:
        """Answer the new files; what the site itself has read already is not news to it."""
        states = {path: look(path) for path in self._new if path not in opened}
        found = {path: state for path, state in states.items() if state.stamp}
        self._new.intersection_update(found)
        return found

    def _settled(self, changed: dict[str, State], quiet: bool) -> dict[str, State]:
        """Answer what has changed when a burst is over; what is gone may be about to come back."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end and not self.stopped:
            if quiet and not any(state.stamp is None for state in changed.values()):
                break
            self._pause(self.debounce)
            before, changed = changed, self._changed()
            quiet = changed == before
        return changed

    def _told(self, changed: Mapping[str, State]) -> Changes:
        states = self.snapshot.states
        before = {path: states[path] for path in changed if path in states}
        self.snapshot.accept(changed)
        # What is new may be gone before it is found.
        self.subject = self.subject._replace(files=self.subject.files.union(changed))
        self._new.clear()
        soft = all(map(is_soft, changed)) and not self.sources.extra.intersection(changed)
        served = all(map(is_static, changed)) and not self.subject.listed.intersection(changed)
        return Changes(tuple(sorted(changed)), soft, soft and served, before)

    # How it waits.

    def _rest(self) -> None:
        """Wait until something may have changed, or there are other files to watch."""
        assert self._notices is not None
        self._notices.eager = self.eager()
        while not self._is_over:
            if not self.sources.told:
                self._agenda.ring()
            if self._notices.wait(None if self.polls else self._agenda.left()):
                return
            if self._agenda.come() and self.sources.stale:
                return

    def _pause(self, seconds: float) -> None:
        """Wait until something may have changed, but no longer."""
        assert self._notices is not None
        self._notices.eager = False
        end = time.monotonic() + seconds
        while not self.stopped and (left := end - time.monotonic()) > 0:
            if self._notices.wait(left):
                return
