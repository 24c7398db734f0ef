"""Which modules of a process are not the project's: those that a change of the project leaves.

What a worker has imported of these, a process can keep and hand to the next worker. Sitebus is one
of them wherever it lies.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from sitebus.reload.modules import is_library
from sitebus.workers.stamps import MODULES

#: Those that this process had when it was forked; the supervisor knows of them.
_kept: set[str] = set()

_PYTHON = os.path.join(os.path.dirname(os.__file__), "")
_INSTALLED = "-packages"
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def libraries() -> list[str]:
    """Answer the names of all library modules that were imported, in that order.

    Only what can be imported by that name: neither aliases nor what others put among the modules.
    What was kept for this process is left out.
    """
    modules = tuple(sys.modules.items())
    return [name for name, module in modules if name not in _kept and _is_one(name, module)]


def keep() -> None:
    """Name in forks of this process only what they import themselves."""
    _kept.update(libraries())


def folders() -> set[str]:
    """Answer, as `sitebus.workers.stamps` takes it, the directories that library modules are in.

    Those of the standard library are left out: nobody changes it.
    """
    specs = (getattr(sys.modules.get(name), "__spec__", None) for name in libraries())
    found = {os.path.dirname(spec.origin) for spec in specs if spec is not None and spec.origin}
    return {os.path.join(each, MODULES) for each in found if not _is_standard(each)}


def _is_standard(folder: str) -> bool:
    inside = os.path.join(folder, "").startswith(_PYTHON)
    return inside and _INSTALLED not in folder[len(_PYTHON) - 1 :]


def _is_one(name: str, module: object) -> bool:
    if not isinstance(module, ModuleType):
        return False
    # A module's own `__getattribute__`, which could import or raise anything, is not asked.
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    if not isinstance(spec, ModuleSpec) or spec.name != name or not spec.has_location:
        return False
    return spec.origin is not None and is_library_file(spec.origin)


def is_library_file(path: str) -> bool:
    """Tell whether the module at *path* is a library's."""
    folder = os.path.dirname(path)
    return is_library(folder) or folder == _OWN or folder.startswith(_OWN + os.sep)


def is_library_spec(spec: ModuleSpec) -> bool:
    """Tell whether a module that was found is a library's; of a namespace all parts have to be."""
    if spec.has_location and spec.origin is not None:
        return is_library_file(spec.origin)
    return all(is_library_file(os.path.join(each, "")) for each in _portions(spec))


def _portions(spec: ModuleSpec) -> list[str]:
    return list(spec.submodule_search_locations or ())
