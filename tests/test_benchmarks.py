"""What benchmarks print is what the kernel said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import processes

#: As Linux 6.18 writes it: several fields begin alike.
ROLLUP = b"""\
55d0c8a00000-7ffd5b3f2000 ---p 00000000 00:00 0                          [rollup]
Rss:               69660 kB
Pss:               21203 kB
Pss_Dirty:         20761 kB
Pss_Anon:          20761 kB
Pss_File:            442 kB
Pss_Shmem:             0 kB
Shared_Clean:       4748 kB
Shared_Dirty:      55196 kB
Private_Clean:       512 kB
Private_Dirty:      9716 kB
SwapPss:               7 kB
"""


@pytest.mark.parametrize(
    ("field", "kilobytes"),
    [
        ("Rss", 69660),
        ("Pss", 21203),
        ("Pss_Anon", 20761),
        ("Private_Clean", 512),
        ("Private_Dirty", 9716),
        ("SwapPss", 7),
        ("Private", 0),
    ],
)
def test_a_field_is_read_by_its_whole_name(field: str, kilobytes: int) -> None:
    """Parts of a sum begin like the sum, and are in it already."""
    assert processes.kilobytes(ROLLUP, field) == kilobytes


def test_nothing_is_read_of_a_process_that_has_ended() -> None:
    assert processes.kilobytes(b"", "Pss") == 0


def test_a_process_is_no_larger_than_what_it_has_in_use() -> None:
    """Its own, with its share of what it shares; and what is its own is a part of that."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("only Linux says so")
    own = os.getpid()
    assert 0 < processes.private([own]) <= processes.pss([own]) <= processes.resident(own)
