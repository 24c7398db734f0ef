"""List the CPythons of this machine that sitebus supports: version and path, one a line."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
NAME = re.compile(r"python3(\.\d+t?)?")
ASK = """\
import platform, sys
if platform.python_implementation() == "CPython" and sys.version_info >= {oldest}:
    print(platform.python_version())
"""


def candidates() -> Iterator[Path]:
    """Answer every file that may be an interpreter, those of version managers first."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(home.glob("versions/*/bin/python3"))
    for folder in os.get_exec_path():
        yield from sorted(Path(folder).glob("python3*"))


def version_of(python: Path) -> str:
    """Ask *python* for its version; empty if it is none that we support, or no interpreter."""
    if not NAME.fullmatch(python.name) or not os.access(python, os.X_OK):
        return ""
    ask = [str(python), "-c", ASK.format(oldest=OLDEST)]
    answer = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def main() -> None:
    """Print each version once, the ones left out aside."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--except", dest="known", action="append", default=[])
    known = set(parser.parse_args().known)
    for python in candidates():
        version = version_of(python)
        if version and version not in known:
            known.add(version)
            sys.stdout.write(f"{version} {python}\n")


if __name__ == "__main__":
    main()
