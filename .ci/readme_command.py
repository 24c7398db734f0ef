"""Print one of the README's two commands, named by what it does: ``serve`` or ``test``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: A shell block is a directive, an empty line, and one indented line.
BLOCK = re.compile(r"^\.\. code-block:: sh\n\n    (.+)\n(?!    )", re.MULTILINE)
MARKS = {"serve": "sitebus-serve ", "test": "pytest"}


def main() -> None:
    """Find the one block that holds the mark."""
    readme = Path(__file__).parent.parent / "README.rst"
    mark = MARKS[sys.argv[1]]
    found = [command for command in BLOCK.findall(readme.read_text()) if mark in command]
    if len(found) != 1:
        sys.exit(f"README.rst has {len(found)} commands with {mark!r} in them, and must have one")
    sys.stdout.write(f"{found[0]}\n")


if __name__ == "__main__":
    main()
