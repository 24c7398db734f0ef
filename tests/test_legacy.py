"""What one image of the process leaves to the next."""

from __future__ import annotations

import os

import pytest

from sitebus import legacy
from tests.helpers import open_descriptors


def test_what_was_written_is_read_once() -> None:
    """Nothing is left open, and nothing on disk."""
    before = open_descriptors()
    fd = legacy.write({"snapshot": {"since": 3}})
    assert legacy.read(fd) == {"snapshot": {"since": 3}}
    assert open_descriptors() == before


def test_what_is_no_file_is_left_alone() -> None:
    """The number may have become another's, who would be waited for or lose it."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(ValueError, match="no file"):
            legacy.read(reading)
        os.fstat(reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_closed_is_said_to_be_unreadable() -> None:
    """A reload goes on without it."""
    fd = legacy.write({})
    os.close(fd)
    with pytest.raises(ValueError, match="descriptor"):
        legacy.read(fd)
