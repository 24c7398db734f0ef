"""Keeps the project out of a process that imports only libraries, and notes which would need it.

A library may import a module of the project, or read a file of it, when it is imported: what it
keeps of that would be old after the next change. It may also do so if it can and do without if it
cannot, so that a mere refusal would leave it different from what a worker has. So whoever asks, and
whoever had asked for that one, is `tainted`: such modules have to be imported by each worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from itertools import islice
from types import FrameType, ModuleType
from typing import Self

from sitebus.reload.modules import is_library
from sitebus.reload.opened import OPENED, PYTHON
from sitebus.workers.libraries import is_library_spec

#: What the code of a module is called while it runs.
_BODY = "<module>"


class Purity:
    """Refuses all that is no library's, as a context.

    Args:
        refused: Libraries that are known to need the project.

    Attributes:
        tainted: Those that turned out to.
    """

    def __init__(self, refused: Collection[str]) -> None:
        self.refused = refused
        self.tainted: set[str] = set()
        self._opened = 0

    def __enter__(self) -> Self:
        sys.meta_path.insert(0, self)
        OPENED.start()
        self._opened = len(OPENED.times)
        OPENED.connect(self._look_at_opened)
        return self

    def __exit__(self, *_: object) -> None:
        OPENED.disconnect(self._look_at_opened)
        OPENED.stop()
        sys.meta_path.remove(self)

    def load(self, names: Iterable[str]) -> None:
        """Import libraries; those that fail are tainted as well."""
        for name in names:
            if name in self.refused or name in sys.modules:
                continue
            try:
                import_module(name)
            # A stranger's code: in the worker it did not fail, so something is not as it is there.
            except BaseException:  # noqa: BLE001
                self.tainted.add(name)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as a worker would.

        Raises:
            ModuleNotFoundError: It is none of a library, or one that is refused.
        """
        spec = None if name in self.refused else _find(self, name, path, target)
        if spec is None and name not in self.refused:
            return None
        if spec is None or not is_library_spec(spec):
            self._taint()
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)
        return spec

    def _taint(self) -> None:
        self.tainted |= set(_modules(_frames()))

    def _look_at_opened(self) -> None:
        # Called inside open().
        opened = len(OPENED.times)
        new = islice(reversed(OPENED.times), opened - self._opened)
        self._opened = opened
        if any(map(_is_of_project, list(new))):
            self._taint()


def _find(
    but: object, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in tuple(sys.meta_path):
        find = getattr(finder, "find_spec", None)  # what an old finder has instead is not used
        if finder is not but and find is not None:
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return spec
    return None


def _is_of_project(path: str) -> bool:
    """Tell whether a file, no module, is one of the project's."""
    if os.path.splitext(path)[1] in PYTHON:
        return False
    folder = os.path.dirname(os.path.abspath(path))
    return not is_library(folder) and any(_within(folder, root) for root in _projects())


def _projects() -> Iterator[str]:
    yield os.getcwd()
    yield from (each for each in map(os.path.abspath, sys.path) if not is_library(each))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _modules(frames: Iterable[FrameType]) -> Iterator[str]:
    """Answer the names of the modules whose code *frames* run."""
    for frame in frames:
        name = frame.f_globals.get("__name__")
        if frame.f_code.co_name == _BODY and isinstance(name, str) and name != "__main__":
            yield name
