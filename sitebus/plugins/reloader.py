"""What to do about files that have changed, whoever is made of them.

Decides when, and what: templates may only need a listener that clears a cache; code is compiled,
its old bytecode removed, and what runs is renewed. How that is done is up to who inherits: one
restarts this process, another replaces its workers. If the new code is refused the old one keeps
serving, and the next good save renews. What is watched, and how, is up to `sitebus.reload`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable
from typing import Any

from sitebus import legacy
from sitebus.errors import CannotRestart, TrialFailed, Unreachable
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine
from sitebus.reload import bytecode, modules
from sitebus.reload.guard import MOST, Guard
from sitebus.reload.opened import now
from sitebus.reload.sight import OWN, Sight
from sitebus.reload.sources import Sources
from sitebus.reload.stamps import ABSENT, Snapshot, State
from sitebus.reload.watcher import Changes, Watcher

WARNING = 30

#: The name under which the engine hands down what is known of the files.
_LEGACY = "reload"

#: How long a failure of our own puts off the next look, and the most that it may become; seconds.
FIRST_DELAY, LONGEST_DELAY = 1.0, 64.0

#: A change so soon after the start is the site's own doing, or may be; seconds.
SOON = 1.0

#: How long the watching waits for a start, which may never end, to have the processor for itself,
#: and then for the first requests; seconds. What changes meanwhile is seen afterwards.
LONGEST_START, FIRST_REQUESTS = 2.0, 0.05

#: How long a stop waits for the thread, which is told to end; seconds.
PATIENCE = 5.0


class Reloader(Plugin):
    """Watch files while the bus runs, and renew what is made of them when one changes.

    Args:
        bus: The bus.
        frequency: Seconds between two looks, where the system does not tell of changes.
        watch: Patterns of more files, such as ``templates/**/*.html``.
        ignore: Patterns of files to leave alone.
        force_polling: Look again and again, even if the system might tell.
        debounce: How long no change may come before a burst of them is over, in seconds.
        since: When the site's files began to be loaded, in nanoseconds, if that was before this
            plugin was subscribed: changes since then are noticed.
        sight: What sees the site; this process, if it is left out.

    Attributes:
        failure: Why the last change was not taken up; None when what is on disk is what runs.
    """

    #: How long the watching waits for a start; seconds, or None for as long as that takes.
    longest_start: float | None = LONGEST_START

    def __init__(
        self,
        bus: Engine,
        frequency: float = 1,
        *,
        watch: Iterable[str] = (),
        ignore: Iterable[str] = (),
        force_polling: bool = False,
        debounce: float = 0.05,
        since: int | None = None,
        sight: Sight = OWN,
    ) -> None:
        super().__init__(bus)
        self.frequency = frequency
        self.watch = tuple(watch)
        self.ignore = tuple(ignore)
        self.force_polling = force_polling
        self.debounce = debounce
        self.sight = sight
        self.failure: TrialFailed | CannotRestart | None = None
        self.thread: threading.Thread | None = None
        self._guard = Guard()
        self._up = threading.Event()
        self._up_since: float | None = None
        self._snapshot = Snapshot(since)
        self._watcher: Watcher | None = None
        #: What the code that runs was loaded from, for files that have changed since.
        self._running: dict[str, State] = {}
        #: Whether putting these back would mend a failure.
        self._revertible = False
        self._restarting = False

    @property
    def files(self) -> Collection[str]:
        """Paths that are watched besides what is found."""
        found: Collection[str] = self.bus.autoreload.files
        return found

    @property
    def match(self) -> str:
        """Module names to watch begin as this expression says."""
        return modules.ANY

    def subscribe(self) -> None:
        """Listen to the bus, and from now on to what the process opens."""
        super().subscribe()
        # Not marked: on a bus that only has "start", the name would be taken for a slip.
        if (machine := getattr(self.bus, "machine", None)) is not None:
            self.bus.subscribe(machine.channel("started"), self.started)
        self._listen()

    def unsubscribe(self) -> None:
        """Watch nothing any more."""
        self.stop()
        self._deafen()
        super().unsubscribe()
        if (machine := getattr(self.bus, "machine", None)) is not None:
            self.bus.unsubscribe(machine.channel("started"), self.started)

    @listens("start", priority=70)
    def start(self) -> None:
        """Watch, in a thread of its own; what the image before this one knew is known."""
        if self.frequency <= 0 or (self.thread is not None and self.thread.is_alive()):
            return
        self._listen()
        self._inherit()
        self._watcher = self._new_watcher()
        self._snapshot.began = now()
        self._up.clear()
        self._up_since = None
        if not hasattr(self.bus, "machine"):
            self.started()  # nobody will say when it is up
        self.thread = threading.Thread(target=self._keep_watching, daemon=True)
        self.thread.name = type(self).__name__
        self.thread.start()

    def started(self) -> None:
        """From here on, configuration that is opened is the application's data."""
        self._up_since = time.monotonic()
        if self._watcher is not None:
            self._watcher.sources.ready = now()
        self._up.set()

    @listens("stop")
    def stop(self) -> None:
        """End the thread; if the process is about to run itself again, leave it what is known."""
        watcher, thread = self._watcher, self.thread
        if watcher is not None:
            watcher.stop()
        self._up.set()
        own = thread is threading.current_thread() or self._restarting
        if thread is not None and not own:
            thread.join(PATIENCE)
        self._watcher = self.thread = None
        if getattr(self.bus, "execv", False):
            self._leave()

    @listens("exit")
    def exit(self) -> None:
        """Hear no more of what is opened."""
        self._deafen()

    # The thread.

    def _keep_watching(self) -> None:
        watcher = self._watcher
        delay = FIRST_DELAY
        self._up.wait(self.longest_start)
        if watcher is not None:
            watcher.rest(FIRST_REQUESTS)
        try:
            while watcher is not None and not watcher.stopped:
                try:
                    changes = watcher.wait()
                    self._attend()
                    if changes is not None:
                        self._answer(changes)
                    delay = FIRST_DELAY
                # Without this thread no change would be seen any more, whatever goes wrong.
                except Exception:  # noqa: BLE001
                    self.bus.log(f"Error while reloading; going on in {delay:g} s", ERROR, True)
                    watcher.close()  # what it waits with may be what is broken
                    watcher.rest(delay)
                    delay = min(2 * delay, LONGEST_DELAY)
        finally:
            if watcher is not None:
                watcher.close()

    def _new_watcher(self) -> Watcher:
        sources = Sources(
            lambda: self.files, lambda: self.match, self.watch, self.ignore, self.sight
        )
        if self.failure is not None:
            self._look_out_for(self.failure, sources)
        return Watcher(
            sources,
            self._snapshot,
            lambda: self.frequency,
            self.debounce,
            self.force_polling,
            self._warn,
        )

    def _attend(self) -> None:
        """Do what has come up besides changes; whoever has something calls the watcher."""

    def _warn(self, message: str) -> None:
        self.bus.log(message, WARNING)

    # What is done about a change.

    def _answer(self, changes: Changes) -> None:
        if not (changes.soft and self._is_dealt_with(changes)):
            self._reload(changes)

    def _is_dealt_with(self, changes: Changes) -> bool:
        """Tell listeners of templates and static files; one that answers True spares a restart."""
        answers = self._publish("files_changed", changes.paths)
        dealt_with = changes.served or any(answer is True for answer in answers)
        if dealt_with:
            self._publish("files_refreshed", changes.paths)
        return dealt_with

    def _reload(self, changes: Changes) -> None:
        for path in changes.paths:
            self._running.setdefault(path, changes.before.get(path, ABSENT))
        if self._is_as_it_was():
            self._mended()
            return
        name = changes.paths[0]
        if not self._calm_down(name):
            return
        try:
            # Those of before as well: a mistake may be left in another file.
            bytecode.check(path for path in sorted(self._running) if path.endswith(".py"))
        except TrialFailed as error:
            self._refuse(error, now())
        else:
            bytecode.forget(self._running)
            if self._is_soon():
                self._guard.note()
            self._renew(name, changes)

    def _renew(self, name: str, changes: Changes) -> None:
        """Have the new code run; *name* is the file to blame."""
        raise NotImplementedError

    def _restart(self) -> None:
        """Restart this process, if it will."""
        self._restarting = True
        began = now()
        try:
            self.bus.restart()
        except (CannotRestart, TrialFailed) as error:
            self._fail(error, began)
        except Unreachable:
            pass  # the process ends anyway
        finally:
            self._restarting = False

    def _is_soon(self) -> bool:
        return self._up_since is None or time.monotonic() - self._up_since < SOON

    def _calm_down(self, name: str) -> bool:
        """Wait, if this looks like a loop; False if there is nothing to do any more."""
        watcher = self._watcher
        if not self._is_soon():
            self._guard.relent()
            return True
        pause = self._guard.pause()
        if not pause or watcher is None:
            return True
        if self._guard.first:
            self._warn(
                f"{name} changed again after {MOST} reloads in a short time; if it is the site "
                f"that changes it, ignore it. Reloads are put off, by {pause:g} s and more"
            )
        if not watcher.rest(pause):
            return False
        more = watcher.look()
        if more is not None:
            for path in more.paths:
                self._running.setdefault(path, more.before.get(path, ABSENT))
        return True

    def _refuse(self, error: TrialFailed, began: int) -> None:
        """Say what a restart says that is refused, and keep the old code."""
        self._publish("restart_refused", error)
        self._fail(error, began)

    def _fail(self, error: TrialFailed | CannotRestart, began: int) -> None:
        """Keep the old code, say why, and look out for the mending."""
        watcher = self._watcher
        if watcher is None or watcher.stopped:
            return
        self._revertible = True
        self.failure = error
        for path in getattr(error, "files", ()):
            # As if opened by us: what the trial met there may be mended before the first look.
            self.sight.note(path, began)
        self._look_out_for(error, watcher.sources)
        self.bus.log(self._said(error), ERROR)
        self._publish("reload_failed", error)

    def _said(self, error: TrialFailed | CannotRestart) -> str:
        """Answer what is logged of a failure."""
        return f"{error}\n{getattr(error, 'text', '')}".rstrip()

    @listens("restart_refused")
    def restart_refused(self, error: TrialFailed | CannotRestart) -> None:
        """Look out for the mending, whoever asked for the restart."""
        if self._restarting:
            return
        self._revertible = False
        self.failure = error
        if self._watcher is not None:
            self._look_out_for(error, self._watcher.sources)

    def _look_out_for(self, error: TrialFailed | CannotRestart, sources: Sources) -> None:
        # What was changed, too: it may be new, and not imported by what runs.
        sources.extra = frozenset((*getattr(error, "files", ()), *self._running))
        sources.failing = True
        self.sight.tell()

    def _is_as_it_was(self) -> bool:
        """Tell whether, after a failure, every file is again what the code that runs came from."""
        if not (self._revertible and isinstance(self.failure, TrialFailed)):
            return False
        states = self._snapshot.states
        return all(
            (old.digest or old.stamp is None) and states[path].digest == old.digest
            for path, old in self._running.items()
        )

    def _mended(self) -> None:
        self._forget_failure()
        self.bus.log("Not restarting: the files are again what is running.")
        self._publish("reload_mended")

    def _forget_failure(self) -> None:
        """What is on disk is what runs."""
        self.failure = None
        self._running.clear()
        if self._watcher is not None:
            self._watcher.sources.extra = frozenset()
            self._watcher.sources.failing = False

    def _publish(self, channel: str, *values: object) -> list[Any]:
        try:
            return self.bus.publish(channel, *values)
        # A listener's failure, which the bus has logged; and any bus has errors of its own.
        except Exception:  # noqa: BLE001
            return []

    # From image to image.

    def _inherit(self) -> None:
        sockets = getattr(self.bus, "sockets", None)
        fd = sockets.claim(_LEGACY) if sockets is not None else None
        if fd is None:
            return
        try:
            known = legacy.read(fd)
            self._snapshot.load(known["snapshot"])
            self._guard.load(**known["guard"])
        except (ValueError, TypeError, KeyError):
            self._warn("What the reloader knew before the restart cannot be read")

    def _leave(self) -> None:
        legacies = getattr(self.bus, "legacies", None)
        if legacies is None:
            return
        known = {"snapshot": self._snapshot.dump(), "guard": self._guard.dump()}
        try:
            fd = legacy.write(known)
        except OSError as error:
            self._warn(f"What the reloader knows cannot be left to the next image: {error}")
            return
        if (old := legacies.pop(_LEGACY, None)) is not None:
            os.close(old)
        legacies[_LEGACY] = fd

    def _listen(self) -> None:
        """Begin to see what is opened; more than once does no harm."""

    def _deafen(self) -> None:
        """Undo that."""
