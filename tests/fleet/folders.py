"""Folders for hosts, and what is left in them, or runs from them, of those who were killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

#: Sites of these tests have it in their environment; their folder follows.
MARK = "SHOP_ROOT"


def started_below(folder: Path, mark: str = MARK) -> set[int]:
    """Answer the processes whose *mark* is in that folder, whoever has started them."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if f"\0{mark}={folder}/".encode() in b"\0" + (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Have a folder with a short name; those that killed processes left are removed first."""
    place = Path(gettempdir())
    for left in place.glob("sb-fleet-*-*"):
        if not os.path.exists(f"/proc/{left.name.split('-')[2]}"):
            _unmount(left)
            kill(started_below(left))
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=f"sb-fleet-{os.getpid()}-", dir=place) as name:
        # Others log in as well, and their list of keys is read as them.
        os.chmod(name, 0o755)
        yield Path(name)


def _unmount(folder: Path) -> None:
    """Free the folder of what tests have mounted in it."""
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False, timeout=30)
