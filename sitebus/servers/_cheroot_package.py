"""Imports cheroot's package without the search for its version.

All that its ``__init__`` does is to ask `importlib.metadata` for the version of cheroot, which is
to import what reads archives, tables and mail: a third of what the import of cheroot's server takes
in all. The same version stands in the name of the directory beside the package where installers
keep what they know of it. If the package does more one day, is installed in another way, or is
found by somebody else's import hook, it is imported as any other is.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec

NAME = "cheroot"
#: What the package's own code names. Were there anything else, it would be run.
KNOWN = frozenset({"__doc__", "__version__", "Exception", "importlib", "metadata", "version"})


def load() -> None:
    """Have the package be there, unless it has to be imported, or somebody has done so."""
    if NAME in sys.modules:
        return
    spec = find_spec(NAME)
    if spec is None or type(spec.loader) is not SourceFileLoader:
        return
    code, version = spec.loader.get_code(NAME), installed_version(spec.loader.path)
    if code is None or version is None or not KNOWN.issuperset(code.co_names):
        return
    module = module_from_spec(spec)
    vars(module)["__version__"] = version
    # Whole, so that no other thread sees it without; and not in place of what another has imported.
    sys.modules.setdefault(NAME, module)


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
