"""Which files a running site is made of: its modules, what it opens, and what it was told.

Modules come from `modules`, templates and configuration from `opened`, the rest from sets and
patterns. A file that the site opened counts if it is the site's own: below the directory that it
was started in or below one of those its modules come from, and neither temporary, hidden, nor part
of an installed package.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from typing import NamedTuple

from sitebus.reexec import STARTED_IN
from sitebus.reload import modules
from sitebus.reload.globs import SKIPPED, Glob, Ignored
from sitebus.reload.named import Named
from sitebus.reload.opened import ARCHIVES, CONFIG, OPENED, PYTHON, STATIC, TEMPLATES
from sitebus.reload.sight import OWN, Sight

#: Mako names what it generates after the template, and says inside which that is.
_GENERATED = tuple(f"{ending}.py" for ending in sorted(TEMPLATES))
_MADE_FROM = re.compile(r"""^_template_filename = (['"])(.+)\1$""", re.MULTILINE)

_SUFFIXES = (".py", *EXTENSION_SUFFIXES)


class Subject(NamedTuple):
    """What is watched: files, directories where new ones matter, and what was chosen by hand."""

    files: frozenset[str] = frozenset()
    #: Directories, and whether a new name in one matters.
    folders: Mapping[str, Callable[[str], bool]] = {}
    #: Files that somebody named or that are code: they are never merely refreshed.
    listed: frozenset[str] = frozenset()
    #: What is not there, and would be a directory of a pattern, or may be one that was named.
    missing: frozenset[str] = frozenset()


def is_soft(path: str) -> bool:
    """Tell whether *path* is a template or a static file, by its name."""
    return ending(path) in TEMPLATES or is_static(path)


def is_static(path: str) -> bool:
    """Tell whether *path* is served as it is, by its name."""
    return ending(path) in STATIC


def ending(path: str) -> str:
    """Answer the last dot of *path* and what follows."""
    return path[path.rfind(".") :]


class Sources:
    """Find out what is to be watched.

    Args:
        files: Asked each time for the files that were named by hand.
        match: Asked each time; see `sitebus.reload.modules.imported`.
        watch: Patterns of files that were named by hand.
        ignore: Patterns of files to leave alone.
        sight: What is asked what the site is made of; this process, if it is left out.

    Attributes:
        extra: Files that matter for now: those of a failed trial.
        ready: When the site was up, in nanoseconds; configuration opened later is the
            application's data.
        failing: A module that is created anywhere on the site's own path may be the missing one.
        appeared: Directories that were created where modules matter: packages, perhaps.
    """

    def __init__(
        self,
        files: Callable[[], Collection[str]],
        match: Callable[[], str] = lambda: modules.ANY,
        watch: Iterable[str] = (),
        ignore: Iterable[str] = (),
        sight: Sight = OWN,
    ) -> None:
        self.sight = sight
        self.files = files
        self.match = match
        self.extra: frozenset[str] = frozenset()
        self.ready: int | None = None
        self.failing = False
        self.appeared: set[str] = set()
        self._watch = tuple(watch)
        self._globs: list[Glob] = []
        self._ignored = Ignored(ignore, STARTED_IN)
        self._roots: frozenset[str] = frozenset()
        self._noted = 0
        self._source: Mapping[str, int] = {}
        self._times: dict[str, int] = {}
        self._own: dict[str, bool] = {}
        self._generated: dict[str, str | None] = {}
        self._seen: tuple[object, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether the next `find` may find something else; cheap enough to ask all the time."""
        return self.sight.news or self._seen != self._wishes()

    @property
    def told(self) -> bool:
        """Whether the sight tells whenever this may become stale; else it is to be asked."""
        return isinstance(self.files(), Named)

    def _wishes(self) -> tuple[object, ...]:
        named = frozenset(self.files()), frozenset(self.sight.named)
        return self.sight.size, named, self.match(), self.extra, self.failing

    def find(self) -> Subject:
        """Answer what is to be watched from now on."""
        self.sight.news = False
        self._seen = self._wishes()
        code = self.sight.code(self.match())
        self._globs = list(self._patterns())
        # First: what comes meanwhile was missing.
        missing = frozenset(self._missing())
        roots = {STARTED_IN, *code.roots}
        self._set_roots(frozenset(filter(_narrow, roots | set(map(os.path.realpath, roots)))))
        opened = set(self._opened())
        named, folders = self._named()
        listed = code.files | named | self.extra
        packages = code.packages | frozenset(roots if self.failing else ())
        folders += [(each, _modules_in(each)) for each in self._with_new_packages(packages)]
        templates = {os.path.dirname(each) for each in opened if ending(each) in TEMPLATES}
        folders += [(each, _is_template) for each in templates]
        files = frozenset(each for each in listed | opened if each not in self._ignored)
        folders += [(os.path.dirname(each), partial(_leads_to, each)) for each in missing]
        return Subject(files, self._heeding(folders), frozenset(listed), missing)

    def matches(self, path: str) -> bool:
        """Tell whether *path* is named by a pattern."""
        return path not in self._ignored and any(glob.matches(path) for glob in self._globs)

    def first_opened(self) -> dict[str, int]:
        """Answer, by absolute path, when each file was first opened; for a source, in any form."""
        times = self.sight.times
        noted = list(times.items())
        if times is not self._source:
            self._source, self._times, self._noted = times, {}, 0
        elif len(noted) < self._noted:
            self._noted = 0  # it was cleared
        for path, when in noted[self._noted :]:
            path = modules.source(os.path.normpath(os.path.join(STARTED_IN, path)))
            self._times[path] = min(when, self._times.get(path, when))
        self._noted = len(noted)
        return self._times

    def _patterns(self) -> Iterator[Glob]:
        # Anew each time: what was nothing may be a directory by now, which stands for its content.
        for each in self._watch:
            yield Glob.of(each, STARTED_IN)
        for each in filter(os.path.isdir, self._paths()):
            yield Glob.of(each, STARTED_IN)

    def _paths(self) -> list[str]:
        paths = (*self.files(), *self.sight.named)
        return [os.path.normpath(os.path.join(STARTED_IN, each)) for each in paths if each]

    def _missing(self) -> Iterator[str]:
        yield from filter(None, (glob.missing for glob in self._globs))
        yield from (path for path in self._paths() if not os.path.exists(path))

    def _named(self) -> tuple[frozenset[str], list[tuple[str, Callable[[str], bool]]]]:
        """Answer the files that were named, alone or by patterns, and where more may appear."""
        files = {modules.source(path) for path in self._paths() if not os.path.isdir(path)}
        folders: list[tuple[str, Callable[[str], bool]]] = []
        for glob in self._globs:
            found, where = glob.walk()
            files |= found
            folders += [(folder, _matching(glob, folder)) for folder in where]
        return frozenset(files), folders

    def _with_new_packages(self, folders: frozenset[str]) -> set[str]:
        found = set(folders)
        for each in sorted(self.appeared):  # what is above comes first
            if os.path.dirname(each) in found and os.path.isdir(each):
                found.add(each)
        return found

    def _heeding(
        self, folders: Iterable[tuple[str, Callable[[str], bool]]]
    ) -> dict[str, Callable[[str], bool]]:
        """Answer each folder once: a name in it may matter for one reason or another."""
        reasons: dict[str, list[Callable[[str], bool]]] = {}
        for folder, matters in folders:
            reasons.setdefault(folder, []).append(matters)
        return {folder: self._heed(folder, each) for folder, each in reasons.items()}

    def _heed(self, folder: str, reasons: list[Callable[[str], bool]]) -> Callable[[str], bool]:
        def heed(name: str) -> bool:
            matters = any(each(name) for each in reasons)
            return matters and os.path.join(folder, name) not in self._ignored

        return heed

    def _opened(self) -> Iterator[str]:
        for path, when in list(self.first_opened().items()):
            kind = ending(path)
            if kind in PYTHON:
                template = self._template_of(path)
                if template and self._is_own(template):
                    yield template
            elif kind in ARCHIVES:
                continue  # what was imported from one is known as a module
            elif kind in CONFIG and self.ready is not None and when > self.ready:
                continue
            elif self._is_own(path):
                yield path

    def _template_of(self, path: str) -> str | None:
        """Answer the template from which the module *path* was generated."""
        if not path.endswith(_GENERATED):
            return None
        if path not in self._generated:
            self._generated[path] = _read_template_name(path)
        return self._generated[path]

    def _set_roots(self, roots: frozenset[str]) -> None:
        if roots != self._roots:
            self._roots = roots
            self._own.clear()

    def _is_own(self, path: str) -> bool:
        own = self._own.get(path)
        if own is None:
            own = self._own[path] = self._lies_in_roots(path)
        return own

    def _lies_in_roots(self, path: str) -> bool:
        for root in self._roots:
            if not path.startswith(root + os.sep):
                continue
            inside = path[len(root) :].split(os.sep)[1:-1]
            if any(part in SKIPPED or part.startswith(".") for part in inside):
                continue
            # Temporary files are nobody's, unless all of the site is temporary.
            if any(_below(path, each) and not _below(root, each) for each in _temporary()):
                continue
            return True
        return False


def _modules_in(folder: str) -> Callable[[str], bool]:
    def matters(name: str) -> bool:
        # Editors' drafts and locks have other characters in their names.
        suffix = name[name.find(".") :] if "." in name else ""
        if not name.removesuffix(suffix).isidentifier():
            return False
        if suffix:
            return suffix in _SUFFIXES
        return name not in SKIPPED and os.path.isdir(os.path.join(folder, name))

    return matters


def _is_template(name: str) -> bool:
    return ending(name) in TEMPLATES and not name.startswith((".", "#"))


def _matching(glob: Glob, folder: str) -> Callable[[str], bool]:
    def matches(name: str) -> bool:
        path = os.path.join(folder, name)
        return glob.matches(path) or (glob.deep and os.path.isdir(path))

    return matches


def _leads_to(path: str, name: str) -> bool:
    return name == os.path.basename(path)


def _read_template_name(path: str) -> str | None:
    try:
        with OPENED.unheard(), open(path, encoding="utf-8", errors="replace") as file:
            found = _MADE_FROM.search(file.read(4096))
    except OSError:
        return None
    return found and found[2]


def _narrow(root: str) -> bool:
    """Tell whether *root* says anything: the whole machine is not a project."""
    return os.path.dirname(root) != root


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + os.sep)


def _temporary() -> tuple[str, ...]:
    named = (os.environ.get(each) for each in ("TMPDIR", "TEMP", "TMP"))
    return ("/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run", *filter(None, named))


def started() -> int:
    """Answer when this process was started, in nanoseconds: no module was read before."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        # Counted in whole ticks, and an interpreter takes some before it reads anything: what was
        # saved just before the start is no change.
        began = (ticks + 3) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, AttributeError):
        return _LOADED
    return time.time_ns() - max(0, int(age * 1e9))


_LOADED = time.time_ns()
