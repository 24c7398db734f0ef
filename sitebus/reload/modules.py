"""From what is imported to files: a module's source, its archive, its extension's library.

``sys.modules`` holds anything: modules without a file, objects that are no modules, names in the
middle of an import. What cannot be read is left out.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any, NamedTuple

from sitebus.reexec import STARTED_IN

#: A module name pattern that asks for no choice: the site's own modules, whatever their names.
ANY = ".*"

_PACKAGES = re.compile(r"[/\\](?:site|dist)-packages(?:[/\\]|$)")


class Imported(NamedTuple):
    """What is imported now, of the modules that matter."""

    #: Sources, archives and libraries.
    files: frozenset[str]
    #: Directories of packages: a new module in one may be found by the package itself.
    packages: frozenset[str]
    #: Directories from which these were imported.
    roots: frozenset[str]


def imported(match: str = ANY) -> Imported:
    """Find the files of everything imported whose name begins as the expression *match* says.

    The default is the site's own: neither the standard library nor what was installed. A
    development install is the site's own; and a *match* of one's own decides alone.
    """
    files, packages, roots = set(), set(), set()
    wanted = re.compile(match).match
    for name, module in sys.modules.copy().items():
        if not wanted(name):
            continue
        for each in _files_of(module):
            if match == ANY and is_library(os.path.dirname(each)):
                continue
            files.add(each)
            roots.add(_root(name, each))
        for each in _search_path(module):
            if match != ANY or not is_library(each):
                packages.add(each)
    return Imported(frozenset(files), frozenset(packages), frozenset(roots))


@functools.lru_cache(4096)
def is_library(directory: str) -> bool:
    """Tell whether *directory* belongs to the standard library or to installed packages."""
    if _PACKAGES.search(directory):
        return True
    # The path may be spelled through a link.
    paths = {directory, os.path.realpath(directory)}
    return any(_within(path, root) for path in paths for root in _library())


@functools.cache
def _library() -> tuple[str, ...]:
    standard = os.path.dirname(os.__file__)
    zipped = os.path.join(os.path.dirname(standard), "python{}{}.zip".format(*sys.version_info))
    return (standard, os.path.realpath(standard), zipped)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root + os.sep)


def _root(name: str, file: str) -> str:
    """Answer the directory on the search path from which *file* was imported as *name*."""
    depth = name.count(".") + (os.path.basename(file).rpartition(".")[0] == "__init__")
    for _ in range(depth):
        file = os.path.dirname(file)
    return os.path.dirname(file)


def _attributes(module: object) -> dict[str, Any]:
    # The module's own `__getattr__`, which could import or raise anything, is not asked.
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _files_of(module: object) -> Iterator[str]:
    attributes = _attributes(module)
    spec = attributes.get("__spec__")
    spec = spec if isinstance(spec, ModuleSpec) else None
    loader = attributes.get("__loader__") or (spec and spec.loader)
    archive = _attributes(loader).get("archive")
    if isinstance(archive, str):
        yield _absolute(archive)
        return
    origin = spec.origin if spec and spec.has_location else None
    for path in (attributes.get("__file__"), origin):
        if isinstance(path, str) and not path.startswith("<"):
            yield source(_absolute(path))
            return


def source(path: str) -> str:
    """Answer the source of a compiled file, if it is there; anything else as it is."""
    if not path.endswith(".pyc"):
        return path
    candidates = [path[:-1]]
    if os.path.basename(os.path.dirname(path)) == "__pycache__":
        folder = os.path.dirname(os.path.dirname(path))
        candidates = [os.path.join(folder, os.path.basename(path).partition(".")[0] + ".py")]
        # The tag is the last part but one; a name may have dots of its own.
        stem = os.path.basename(path)[: -len(".pyc")]
        stem = re.sub(r"\.opt-\w+$", "", stem).rpartition(".")[0]
        candidates.insert(0, os.path.join(folder, stem + ".py"))
    return next(filter(os.path.exists, candidates), path)


def _absolute(path: str) -> str:
    return os.path.normpath(os.path.join(STARTED_IN, path))


def _search_path(module: object) -> list[str]:
    try:
        found = [each for each in _attributes(module).get("__path__", ()) if isinstance(each, str)]
    except Exception:  # noqa: BLE001 - a namespace's path is computed by whatever finders there are
        return []
    return [each for each in map(_absolute, found) if os.path.isdir(each)]
