"""Restart the process when a file it is made of changes.

When, and what else may do, is decided by `sitebus.plugins.reloader`. A bus that tries the new code
first may refuse a restart: then the old code keeps serving.
"""

from __future__ import annotations

from collections.abc import Iterable

from sitebus.plugins.reloader import Reloader
from sitebus.process import Engine, Watched
from sitebus.reload import modules
from sitebus.reload.opened import OPENED
from sitebus.reload.watcher import Changes


class Autoreloader(Reloader):
    """Watch the site's files while the bus runs, and restart it when one changes.

    Watched are the imported modules that are the site's own, the templates, static and
    configuration files that it opens, and what is named here.

    Args:
        bus: The bus.
        frequency: Seconds between two looks, where the system does not tell of changes.
        match: Module names to watch begin as this expression says. The default leaves out the
            standard library and installed packages; one of your own decides alone.
        watch: Patterns of more files, such as ``templates/**/*.html``.
        ignore: Patterns of files to leave alone.
        force_polling: Look again and again, even if the system might tell.
        debounce: How long no change may come before a burst of them is over, in seconds.
        since: When the site's files began to be loaded, in nanoseconds, if that was before this
            plugin was subscribed: changes since then are noticed.

    Attributes:
        failure: Why the last change was not taken up; None when what is on disk is what runs.
    """

    def __init__(
        self,
        bus: Engine,
        frequency: float = 1,
        match: str = modules.ANY,
        *,
        watch: Iterable[str] = (),
        ignore: Iterable[str] = (),
        force_polling: bool = False,
        debounce: float = 0.05,
        since: int | None = None,
    ) -> None:
        super().__init__(
            bus,
            frequency,
            watch=watch,
            ignore=ignore,
            force_polling=force_polling,
            debounce=debounce,
            since=since,
        )
        self.match = match
        # Another reloader that takes the place of the bus's own has its files as well.
        shared = getattr(bus, "autoreload", None)
        held = getattr(shared, "_watched", shared)
        self._watched: Watched = Watched() if held is None else held
        self._hears = False

    @property
    def files(self) -> set[str]:
        """Paths that are watched besides what is found: those of the bus, where it keeps any."""
        return self._watched.files

    @files.setter
    def files(self, paths: set[str]) -> None:
        self._watched.files = paths
        OPENED.tell()

    @property
    def match(self) -> str:
        """Module names to watch begin as this expression says."""
        return self._match

    @match.setter
    def match(self, expression: str) -> None:
        self._match = expression
        OPENED.tell()

    @property
    def mtimes(self) -> dict[str, float | None]:
        """When each watched file was modified as far as is known; None for one that is gone."""
        states = self._snapshot.states.copy()
        return {
            path: state.stamp.modified / 1e9 if state.stamp else None
            for path, state in states.items()
        }

    def sysfiles(self) -> set[str]:
        """Answer the files of the imported modules that are watched."""
        return set(modules.imported(self.match).files)

    def run(self) -> None:
        """Look once, and restart if something has changed; the first look is for comparison."""
        if self._watcher is None:
            self._listen()
            self._watcher = self._new_watcher()
        changes = self._watcher.look()
        if changes is not None:
            self._answer(changes)

    def _renew(self, name: str, changes: Changes) -> None:
        self.bus.log(f"Restarting because {name} changed.")
        self._restart()

    def _listen(self) -> None:
        if not self._hears and not getattr(self.bus, "trying", False):
            self._hears = True
            OPENED.start()

    def _deafen(self) -> None:
        if self._hears:
            self._hears = False
            OPENED.stop()
