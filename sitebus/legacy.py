"""What a process leaves to its next image: JSON in a file without a name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any


def write(content: Mapping[str, Any]) -> int:
    """Answer the descriptor of a new file that holds *content*."""
    import json

    data = json.dumps(content).encode()
    fd = _nameless()
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> dict[str, Any]:
    """Answer what *fd* holds, and close it if it is a file.

    Raises:
        ValueError: It is not ours, or of another version.
    """
    import json

    try:
        # If it was closed the number may be another's: to read that could take for ever.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no file")
        with open(fd, "rb") as file:
            content = json.loads(file.read())
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict):
        raise ValueError("not ours")
    return content


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sitebus")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
