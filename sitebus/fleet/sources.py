"""The agent's modules, as they are sent to hosts."""

from __future__ import annotations

import re
from pathlib import Path

#: What they are a package of on hosts, where sitebus may be installed as well.
PACKAGE = "sitebus_agent"
_SIBLING = re.compile(rb"(?m)(?<=^from )sitebus\.fleet(?=\.agent\w* import )")


def agent_sources() -> dict[str, tuple[str, bytes]]:
    """Answer the agent's modules, by the names that they have on hosts."""
    folder = Path(__file__).parent
    found = {PACKAGE: (str(folder / "__init__.py"), b"")}
    for path in folder.glob("agent*.py"):
        # Each other they import by the name that they have here.
        source = _SIBLING.sub(PACKAGE.encode(), path.read_bytes())
        found[f"{PACKAGE}.{path.stem}"] = str(path), source
    return found
