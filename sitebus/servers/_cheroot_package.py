"""Imports cheroot's package without the search for its version.

All that its ``__init__`` does is to ask `importlib.metadata` for the version of cheroot, which is
to import what reads archives, tables and mail: a third of what the import of cheroot's server takes
in all. The same version stands in the name of the directory beside the package where installers
keep what they know of it. If the package does more one day, or is installed in another way, it is
imported as any other is.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

NAME = "cheroot"
#: What the package's own code names. Were there anything else, it would be run.
KNOWN = frozenset({"__doc__", "__version__", "Exception", "importlib", "metadata", "version"})


class _Loader(SourceFileLoader):
    """Loads the package by what is known of it, if that is all there is."""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(self.name)
        version = installed_version(self.path)
        if code is None or version is None or not KNOWN.issuperset(code.co_names):
            super().exec_module(module)
        else:
            vars(module)["__version__"] = version


class _Finder:
    """Finds the package alone, where it would be found anyway."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name) if name == NAME else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def installed_version(path: str) -> str | None:
    """Answer the version of the package whose ``__init__`` has that *path*, if it can be told."""
    packages = os.path.dirname(os.path.dirname(path))
    beginning, end = f"{NAME}-", ".dist-info"
    try:
        found = [each for each in os.listdir(packages) if each.startswith(beginning)]
    except OSError:
        return None
    versions = [each[len(beginning) : -len(end)] for each in found if each.endswith(end)]
    return versions[0] if len(versions) == 1 else None


def load() -> None:
    """Import the package, unless somebody has.

    Raises:
        ImportError: It is not there.
    """
    if NAME in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        __import__(NAME)
    finally:
        sys.meta_path.remove(finder)
