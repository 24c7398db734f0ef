"""A supervisor that has had many workers is as it was with the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.workers.chaos import descriptors
from tests.workers.site import WorkerSite, write


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_generations_leave_the_supervisor_as_it_was(tmp_path: Path) -> None:
    """Descriptors and memory; the issue of a hundred and sixty workers."""
    write(tmp_path, preload="yes", count=4)
    with WorkerSite(tmp_path) as site:
        for _ in range(4):
            site.roll()
        before, resident = descriptors(site.pid), memory(site.pid)
        for _ in range(36):
            site.roll()
        wait_for(lambda: descriptors(site.pid) <= before, PATIENCE)
        assert memory(site.pid) <= resident * 1.1


def memory(pid: int) -> int:
    """Answer the pages that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
