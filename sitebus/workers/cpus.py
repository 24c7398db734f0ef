"""How many processors this process may use, so that ``count = auto`` suits a container as well."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

#: Where Linux shows control groups, of both versions.
GROUPS = Path("/sys/fs/cgroup")


def count(own: Path = Path("/proc/self/cgroup"), groups: Path = GROUPS) -> int:
    """Answer how many workers suit the processors: those of the affinity, within every quota.

    A quota of one and a half processors is two workers: one could not use it up.
    """
    quota = min(_quotas(own, groups), default=math.inf)
    return max(1, math.ceil(min(_affinity(), quota)))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(own: Path, groups: Path) -> Iterator[float]:
    """Answer the quota of each group that this process is in, in processors."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # A container sees its own group as the root, whatever the path says.
        for place in {PurePosixPath(path), PurePosixPath("/")}:
            if number == "0" and not controllers:
                yield from _unified(groups, place)
            elif "cpu" in controllers.split(","):
                yield from _classic(groups / controllers, place)
                yield from _classic(groups / "cpu", place)


def _unified(groups: Path, path: PurePosixPath) -> Iterator[float]:
    """Version 2: ``cpu.max`` of the group and of all above it."""
    for each in (path, *path.parents):
        with suppress(OSError, ValueError):
            quota, period = (groups / str(each).lstrip("/") / "cpu.max").read_text().split()
            yield int(quota) / int(period)


def _classic(groups: Path, path: PurePosixPath) -> Iterator[float]:
    """Version 1: two files, and -1 for no quota."""
    for each in (path, *path.parents):
        directory = groups / str(each).lstrip("/")
        with suppress(OSError, ValueError):
            quota = int((directory / "cpu.cfs_quota_us").read_text())
            period = int((directory / "cpu.cfs_period_us").read_text())
            if quota > 0 and period > 0:
                yield quota / period
