"""A site whose workers are forked from a zygote goes on whatever happens, and is whole then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.chaos import survive


# In two files: tests of one run one after the other.
@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_site_survives_whatever_happens(seed: int, tmp_path: Path) -> None:
    """Requests fail only where a worker was killed while it had them; in the end all is well."""
    survive(seed, "yes", tmp_path)
